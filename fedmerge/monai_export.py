"""A fine-tuned model as a MONAI bundle, which MONAI's own tools run: configuration, weights, card, licence.

The folder is as https://monai.readthedocs.io/en/stable/mb_specification.html has it. Nets of MONAI are named by MONAI's
class; others need fedmerge, or the package that they are from, where the bundle is run. Images are prepared by
MONAI's transforms, which do what this model's own site did up to how percentiles and voxels between samples are
interpolated.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmerge import __version__, answers, cards, nets, whole
from fedmerge.cards import Told
from fedmerge.errors import ConfigError
from fedmerge.regions import Regions

VERSION = "0.1.0"  # of a new bundle
PREPARED = ("grids", "clip")  # steps of a model's preparation that MONAI's transforms know, or need not know


def write(folder: Path, net: nn.Module, info: Mapping[str, Any], told: Told, card: str) -> None:
    """Write the bundle.

    Args:
        folder: new or empty.
        net: with the model's weights.
        info: what its file says.
        told: title and licence.
        card: the model's card (`cards.markdown`).

    Raises:
        ConfigError: the model classifies, was made from images that were prepared in ways that MONAI's transforms do
            not know, or the folder is not empty.
    """
    if not answers.of(info["net"]).maps:
        raise ConfigError("a MONAI bundle is written of a model that segments, and this one classifies")
    strange = [step for step in info.get("preparation", {}) if step not in PREPARED]
    if strange:
        raise ConfigError(f"the model's images were prepared by '{strange[0]}', which a MONAI bundle cannot say")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: expected a new or empty folder")
    for name, table in (("metadata", metadata(info, told)), ("inference", inference(info))):
        whole.write(folder / f"configs/{name}.json", json.dumps(table, indent=4).encode() + b"\n")
    with whole.writing(folder / "models/model.pt") as file:
        torch.save({name: value.detach().cpu().clone() for name, value in net.state_dict().items()}, file)
    whole.write(folder / "docs/README.md", card.encode())
    whole.write(folder / "LICENSE", (told.licence or "No licence has been stated.").encode() + b"\n")


def metadata(info: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """What `configs/metadata.json` says."""
    definition = nets.definition(info["net"])
    needed = {"nibabel": _version("nibabel"), "pytorch-ignite": _version("pytorch-ignite")}
    if "." in definition["_target_"]:
        module = definition["_target_"].partition(".")[0]
        package = str(info["net"].get("package", "")).split()
        needed |= {package[0]: package[1]} if package else {module: __version__}
    shape = list(info["patch"])
    labels = {str(k): name for k, name in enumerate(_channels(info))}
    image = {
        "type": "image", "format": "magnitude", "modality": "n/a", "num_channels": len(info["channels"]),
        "spatial_shape": shape, "dtype": "float32", "value_range": [], "is_patch_data": _windows(info),
        "channel_def": {str(k): name for k, name in enumerate(info["channels"])},
    }  # fmt: skip
    pred = {
        "type": "image", "format": "segmentation", "num_channels": len(labels), "spatial_shape": shape,
        "dtype": "float32", "value_range": [], "is_patch_data": _windows(info), "channel_def": labels,
    }  # fmt: skip
    return {
        "version": VERSION,
        "changelog": {VERSION: f"exported by fedmerge {__version__}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": needed,
        "name": told.title,
        "task": f"Segmentation of {', '.join(info['labels'])}",
        "description": f"A segmentation net that fedmerge merged from hospitals' models ({info.get('method')}).",
        "authors": "",
        "copyright": "",
        "license": told.licence or "none stated",
        "intended_use": told.use or cards.USE,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def inference(info: Mapping[str, Any]) -> dict[str, Any]:
    """What `configs/inference.json` says: `python -m monai.bundle run` on the images of `dataset_dir`."""
    channels = len(info["channels"])
    several = [f"f.replace('_0000.nii', '_{k:04d}.nii')" for k in range(channels)]
    first, files = ("*_0000.nii.gz", f"[{', '.join(several)}]") if channels > 1 else ("*.nii.gz", "f")
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": f"$[{{'image': {files}}} for f in sorted(glob.glob(@dataset_dir + '/{first}'))]",
        "network_def": nets.definition(info["net"]),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _before(info)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": _inferer(info),
        "postprocessing": {"_target_": "Compose", "transforms": _after(info)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _after(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From logits to a label map on the image's own voxels, and on disk."""
    regions = _regions(info)
    each = regions is not None
    return [
        {"_target_": "Activationsd", "keys": "pred", **({"sigmoid": True} if each else {"softmax": True})},
        {
            "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
            "nearest_interp": False, "to_tensor": True,
        },
        *(_painted(regions) if regions is not None else [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]),
        {
            "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "",
            "separate_folder": False, "resample": False, "output_dtype": "uint8",
        },
    ]  # fmt: skip


def _painted(regions: Regions) -> list[dict[str, Any]]:
    """The narrowest region that is on says the label: of those that are on the one with the highest rank."""
    rank = [1 + regions.order.index(channel) for channel in range(len(regions.names))]
    label = [0, *(1 + channel for channel in regions.order)]  # by rank
    highest = f"(on * torch.tensor({rank}).to(on.device).reshape(-1, 1, 1, 1)).amax(0, keepdim=True)"
    return [
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {
            "_target_": "Lambdad",
            "keys": "pred",
            "func": f"$lambda on: torch.tensor({label}).to(on.device)[{highest}.long()]",
        },
    ]


def _regions(info: Mapping[str, Any]) -> Regions | None:
    return answers.of(info["net"], info["labels"], info.get("regions")).regions


def _channels(info: Mapping[str, Any]) -> list[str]:
    """What the net's channels are."""
    regions = _regions(info)
    return ["background", *info["labels"]] if regions is None else list(regions.names)


def _before(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From files to the net's input: clipped, normalised, on the net's voxels, and its box around the centre."""
    low, high = info.get("preparation", {}).get("clip", (1, 99))
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True, "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "ClipIntensityPercentilesd", "keys": "image", "lower": low, "upper": high, "channel_wise": True},
        {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
    ]
    if info.get("spacing_mm"):
        steps.append({"_target_": "Spacingd", "keys": "image", "pixdim": list(info["spacing_mm"]), "mode": "bilinear"})
    if not _windows(info):
        steps.append({"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": list(info["patch"])})
    return [*steps, {"_target_": "EnsureTyped", "keys": "image"}]


def _inferer(info: Mapping[str, Any]) -> dict[str, Any]:
    if not _windows(info):
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer", "roi_size": list(info["patch"]), "sw_batch_size": 1,
        "overlap": info.get("overlap", 0.5), "mode": "gaussian",
    }  # fmt: skip


def _windows(info: Mapping[str, Any]) -> bool:
    """Whether the model answers a whole volume window by window."""
    return info.get("field") == "whole"


def _version(package: str) -> str:
    """The version that is here, without its local part; an empty text where there is none."""
    try:
        return version(package).partition("+")[0]
    except ModuleNotFoundError:
        return ""
