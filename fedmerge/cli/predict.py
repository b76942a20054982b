"""`fedmerge predict`: label maps of new images, on the images' own grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli import progress, screen
from fedmerge.errors import ConfigError, DataError, FedmergeError, NetError

if TYPE_CHECKING:
    from torch import nn

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANSWERS = {"segmentation": ".nii.gz", "classification": ".json"}


def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A fine-tuned model that a campaign left (safetensors).")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images (NIfTI or MGH), with several channels one patient's files after the other; or pictures.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for the label maps, or for the classes of pictures.")],
    mask: Annotated[
        list[Path] | None,
        typer.Option("--mask", help="Each patient's mask, once a patient, if the model's images were cut to one."),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Mean over the mirrored volumes too: eight times the work.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds already.")] = False,
) -> None:
    """Segment images, each label map (NIfTI) with the grid and affine of its image; or classify pictures."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out expected a folder, got the file {out}")
    masks = list(mask or ())
    for path in (model, *images, *masks):
        if path.is_dir():
            raise DataError(f"{path}: expected a file, got a folder")
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
    with screen.warnings_as_sentences(bool(context.obj)), progress.shown(bool(context.obj)):
        from fedmerge import answers, labelfiles

        net, info = load(model)
        task = answers.of(info["net"], info["labels"], info.get("regions"))
        patients = by_patient(images, info["channels"]) if task.maps else [[image] for image in images]
        if masks and len(masks) != len(patients):
            raise ConfigError(f"--mask expected one file for each of {len(patients)} patients, got {len(masks)}")
        maps = targets(patients, out, ANSWERS[task.name])
        taken = [path for path in maps if path.exists()]
        if task.maps and (other := labelfiles.others(out, info["labels"])):
            taken.append(other)
        if taken and not overwrite:
            raise ConfigError(f"{taken[0]} exists already: --overwrite replaces it")
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before the work
        from sites import predict as site

        answer = {"segmentation": site.predict_file, "classification": site.classify_file}[task.name]
        if task.maps:
            labelfiles.write(out, info["labels"])
        for k, (patient, path) in enumerate(zip(patients, maps)):
            answer(net, info, patient, path, mask=masks[k] if masks else None, flips=flips)
            screen.say(str(path))
    names = [*["background"] * task.maps, *info["labels"]]
    screen.say("labels: " + ", ".join(f"{k} {name}" for k, name in enumerate(names)))


def load(path: Path) -> "tuple[nn.Module, dict[str, Any]]":
    """The net that a model file describes, with its weights, and the file's facts.

    Raises:
        FedmergeError: the file is no model of ours, or does not hold the whole net.
    """
    from fedmerge import answers, nets, params, partition, wire

    weights, info = wire.read_model(path)
    missing = [key for key in ("net", "in_channels", "labels", "channels", "patch") if key not in info]
    if missing and "parameters" not in info:
        raise DataError(f"{path}: expected a model that a campaign left, got a file without '{missing[0]}'")
    try:
        info["net"] = nets.as_here(info["net"], str(path))
        channels = {
            "in_channels": info["in_channels"],
            "out_channels": answers.of(info["net"], info["labels"], info.get("regions")).channels(info["labels"]),
        }
        net = nets.build(info["net"], **channels, seed=0)
        absent = [name for name in params.shapes(net) if name not in weights]
        if absent:
            raise NetError(
                f"'{absent[0]}' and {len(absent) - 1} more parameters are missing: this is a merged body; "
                "fine-tuned models can segment"
            )
        partition.check_buffers(net)  # statistics are not in the file
        params.load(net, weights)
    except FedmergeError as error:
        raise NetError(f"{path}: {error}") from None
    return net, info


def by_patient(images: Sequence[Path], channels: Sequence[str]) -> list[list[Path]]:
    """The images of each patient: one 4D file with all channels, or one file a channel.

    Raises:
        ConfigError: the number of files is no multiple of the number of channels.
    """
    size = 1 if len(channels) == 1 or all(map(_is_4d, images)) else len(channels)
    if len(images) % size:
        raise ConfigError(f"the model reads {size} files a patient ({', '.join(channels)}), got {len(images)} files")
    return [list(images[i : i + size]) for i in range(0, len(images), size)]


def targets(patients: Sequence[Sequence[Path]], out: Path, answer: str = ".nii.gz") -> list[Path]:
    """Where each patient's answer goes: the first image's name, without the channel's number, with its own ending.

    FreeSurfer's images are all called the same: those in `SUBJECT/mri/` take the subject's name.

    Raises:
        ConfigError: two patients' maps would be the same file.
    """
    found: dict[Path, Path] = {}
    for first, *others in patients:
        name = first.name
        if name.endswith((".mgz", ".mgh")) and first.absolute().parent.name == "mri":
            name = first.absolute().parents[1].name
        for ending in ENDINGS:
            name = name.removesuffix(ending)
        path = out / f"{name.removesuffix('_0000') if others else name}{answer}"
        if path in found:
            raise ConfigError(f"{found[path]} and {first} would both become {path}")
        found[path] = first
    return list(found)


def _is_4d(path: Path) -> bool:
    """Whether the header says so; what cannot be read is told later, in words."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
        return len(image.shape) == 4
    except (ImageFileError, OSError, ValueError):
        return False
