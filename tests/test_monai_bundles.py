"""MONAI bundles: what we write MONAI's own tools run, and what MONAI writes a campaign can start from."""

import json
import pickle
import tomllib

import monai.bundle
import nibabel
import numpy as np
import pytest
import tomli_w
import torch
from commandline import command
from monai.networks.nets import SwinUNETR, UNet
from safetensors.torch import save_file
from small import campaign, hospitals

from fedmerge import cards, monai_export, monai_import, nets, params, wire
from fedmerge.errors import ConfigError, DataError
from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app

PATCH = (16, 16, 16)
NETS = {
    "isensee2017": {"base_filters": 2, "depth": 3},
    "unet": {"base_filters": 2, "depth": 3},
    "segresnet": {"base_filters": 8, "depth": 3},
    "dynunet": {"base_filters": 2, "depth": 3, "residual": True, "coarse_heads": 1},
    "monai": {"arguments": {"channels": [2, 4], "strides": [2], "norm": ["instance", {"affine": True}]}},
}
TOLD = cards.Told("demo", licence="CC-BY-4.0")


def model(path, settings, channels=1, labels=("ball", "cube"), **more):
    """A model file as a campaign leaves one, of a net that nobody has trained."""
    sizes = {"in_channels": channels, "out_channels": len(labels) + ("regions" not in more)}
    net = nets.build(settings, **sizes, seed=3)
    info = {
        "net": nets.canonical(settings, **sizes), "in_channels": channels, "labels": list(labels),
        "channels": [f"C{k}" for k in range(channels)], "patch": list(PATCH), "spacing_mm": None,
        "method": "mean", "sources": ["north", "south"], "contributions": [], "target_cases": 2, "seed": 0, **more,
    }  # fmt: skip
    wire.write_model(params.of(net), info, path)
    return net.eval(), info


@pytest.fixture(params=NETS, scope="module")
def exported(request, tmp_path_factory):
    """A net of each kind, and the bundle that the command wrote of it."""
    folder = tmp_path_factory.mktemp(request.param)
    net, _ = model(folder / "model.safetensors", {"name": request.param, **NETS[request.param]})
    out = folder / "bundle"
    assert command("export", folder / "model.safetensors", "--monai", out, "--licence", "MIT") == 0
    return net, out


def answer(net):
    """Its logits of one image."""
    image = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return net.eval()(image)


def test_monai_loads_the_bundle_and_gets_the_same_logits(exported):
    """`monai.bundle.load` builds the net from our configuration and reads our weights: bit for bit."""
    net, out = exported
    loaded = monai.bundle.load(out.name, bundle_dir=out.parent, workflow_type="inference", device="cpu")
    assert torch.equal(answer(loaded), answer(net))


def test_monai_verifies_the_net_against_the_metadata(exported):
    """Its own check of channels and shapes."""
    _, out = exported
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=str(out / "configs/metadata.json"), config_file=str(out / "configs/inference.json"),
        device="cpu",
    )  # fmt: skip


def test_what_is_written_can_be_read_back(exported):
    """Net and weights are what they were, and MONAI's classes are named by MONAI's names."""
    net, out = exported
    read = monai_import.read(out)
    assert params.digest(read.weights) == params.digest(params.of(net))
    assert read.facts["labels"] == ["ball", "cube"]
    target = json.loads((out / "configs/inference.json").read_text())["network_def"]["_target_"]
    assert target in nets.defined.CLASSES or target == "fedmerge.nets.isensee2017.build"
    assert (out / "LICENSE").read_text() == "MIT\n"
    assert (out / "docs/README.md").read_text().startswith("# model\n")


def images(folder, count, channels, shape):
    """NIfTI files of smooth noise with an oblique affine, named as nnU-Net names channels."""
    folder.mkdir()
    draw = np.random.default_rng(1)
    affine = np.array([[0, -1.1, 0, 4], [1.2, 0, 0, -3], [0, 0, 0.9, 7], [0, 0, 0, 1]])
    for k in range(count):
        for channel in range(channels):
            data = torch.from_numpy(draw.normal(size=(1, 1, *shape)))
            smooth = torch.nn.functional.avg_pool3d(data, 3, 1, 1)[0, 0].numpy().astype(np.float32)
            name = f"case{k}_{channel:04d}.nii.gz" if channels > 1 else f"case{k}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(smooth * 100 + 7, affine), folder / name)
    return sorted(folder.iterdir())


NESTED = {"regions": {"whole": ["ball", "cube"], "core": ["ball"]}}


@pytest.mark.parametrize(("channels", "more"), [(1, {}), (2, {}), (1, NESTED)])
def test_monai_runs_the_bundle_and_segments_as_predict_does(tmp_path, channels, more):
    """`monai.bundle run` from files to label maps: the same grid, and the same label in 99 of 100 voxels and more."""
    model(tmp_path / "model.safetensors", {"name": "unet", **NETS["unet"]}, channels, **more)
    files = images(tmp_path / "images", 2, channels, (19, 14, 18))
    assert command("predict", tmp_path / "model.safetensors", *files, "--out", tmp_path / "ours") == 0
    assert command("export", tmp_path / "model.safetensors", "--monai", tmp_path / "bundle") == 0
    monai.bundle.run(
        config_file=str(tmp_path / "bundle/configs/inference.json"),
        meta_file=str(tmp_path / "bundle/configs/metadata.json"),
        bundle_root=str(tmp_path / "bundle"),
        dataset_dir=str(tmp_path / "images"),
        output_dir=str(tmp_path / "theirs"),
        device="$torch.device('cpu')",
    )
    made = sorted((tmp_path / "ours").glob("case*.nii.gz"))
    assert len(made) == 2
    for path in made:
        (other,) = (tmp_path / "theirs").glob(f"{path.name.partition('.')[0]}*")
        ours, theirs = nibabel.load(path), nibabel.load(other)
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
        first, second = (np.asanyarray(one.dataobj).squeeze() for one in (ours, theirs))
        assert first.shape == second.shape
        assert len(np.unique(first)) > 1
        assert (first == second).mean() >= 0.99


def test_a_bundle_of_regions_names_its_channels_and_no_background(tmp_path):
    """In MONAI's metadata the regions in the order of the channels; read back, they are what the bundle answers."""
    model(tmp_path / "model.safetensors", {"name": "unet", **NETS["unet"]}, **NESTED)
    assert command("export", tmp_path / "model.safetensors", "--monai", tmp_path / "bundle") == 0
    told = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert (told["num_channels"], told["channel_def"]) == (2, {"0": "core", "1": "whole"})
    assert monai_import.read(tmp_path / "bundle").facts["labels"] == ["core", "whole"]


def made_by_monai(folder, net, **definition):
    """A bundle that MONAI's own writer makes of a net, with its definition in place of the template's."""
    monai.bundle.init_bundle(str(folder), network=net)
    path = folder / "configs/inference.json"
    config = json.loads(path.read_text())
    config["network_def"] = definition
    path.write_text(json.dumps(config))
    return folder


UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1}


@pytest.fixture
def made(tmp_path):
    """A small UNet of MONAI, with instance norms and PReLU as it has them by itself, and its bundle."""
    torch.manual_seed(0)
    net = UNet(**UNET)
    return net, made_by_monai(tmp_path / "theirs", net, _target_="UNet", _desc_="ours", **UNET)


def test_a_bundle_of_monai_is_the_start_of_a_campaign(made, tmp_path, capsys):
    """The command prints the table of a campaign that runs, and its ancestor is the bundle's body, bit for bit."""
    net, bundle = made
    start = tmp_path / "start.safetensors"
    assert command("import-bundle", bundle, "--out", start) == 0
    table = tomllib.loads(capsys.readouterr().out)["net"]
    assert table["network"] == "UNet"
    assert table["arguments"]["channels"] == [4, 8]
    plan = campaign(hospitals(tmp_path / "data", cases=7))
    text = tomllib.loads(plan.read_text())
    text["net"] = {**table, "weights": str(start), "patch": [8, 8, 8]}
    plan.write_text(tomli_w.dumps(text))
    out = tmp_path / "out"
    run = {"campaign": str(plan), "out": str(out), "methods": "mean", "workers": 1}
    inprocess.run(server_app, client_app, run, 3, 1)
    assert [row["status"] for row in json.loads((out / "results.json").read_text())["rows"]] == ["ok"] * 2
    own = params.of(net)
    stored = [wire.read(path) for path in (out / "server/contributions").iterdir()]
    body = {name: own[name] for name in stored[0].fisher}  # P and norms: all but the heads
    assert {name.rpartition(".")[0] for name in set(own) - set(body)} == {"model.2.0.conv", "model.2.1.conv.unit0.conv"}
    assert {c.ancestor for c in stored} == {params.digest(body)}


def test_references_are_followed_and_null_is_left_out(made):
    """As bundles of the model zoo have them."""
    net, bundle = made
    path = bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config |= {"classes": {"count": 3}, "dims": "@three", "three": 3}
    config["network_def"] |= {"out_channels": "@classes#count", "spatial_dims": "@dims", "dropout": 0.0, "bias": True}
    path.write_text(json.dumps(config))
    read = monai_import.read(bundle)
    assert read.settings["out_channels"] == 3
    assert params.digest(read.weights) == params.digest(params.of(net))


def test_weights_in_safetensors_or_in_a_larger_checkpoint_are_read(made):
    """Also under the names of a net that several devices trained."""
    net, bundle = made
    state = net.state_dict()
    wanted = params.digest(params.of(net))
    torch.save({"epoch": 3, "model": {f"module.{name}": v for name, v in state.items()}}, bundle / "models/model.pt")
    assert params.digest(monai_import.read(bundle).weights) == wanted
    (bundle / "models/model.pt").unlink()
    save_file(state, bundle / "models/model.safetensors")
    assert params.digest(monai_import.read(bundle).weights) == wanted


class Runs:
    """What unpickles into a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_something_runs_nothing(made, tmp_path):
    """A plain pickle, and one inside torch's own container: nothing of either is called."""
    _, bundle = made
    witness = tmp_path / "witness"
    (bundle / "models/model.pt").write_bytes(pickle.dumps(Runs(witness)))
    with pytest.raises(DataError, match="cannot be read as bare tensors"):
        monai_import.read(bundle)
    torch.save({"weights": Runs(witness)}, bundle / "models/model.pt")
    with pytest.raises(DataError, match="cannot be read as bare tensors"):
        monai_import.read(bundle)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_target_": "os.system"}, r"expected a net of fedmerge, or MONAI's UNet, .*, got 'os\.system'"),
        ({"_target_": "mine.monai.networks.nets.UNet"}, "expected a net of fedmerge, or MONAI's"),
        ({"channels": "$__import__('os').system('true')"}, "is an expression, and none is evaluated here"),
        ({"strides": "@nothing"}, "refers to '@nothing', which is not there"),
        ({"strides": "@network_def#strides"}, "references behind one another"),
        ({"out_channels": "three"}, "expected a whole number as out_channels, got 'three'"),
        ({"channels": [4, 10**9]}, "expected numbers up to 4096"),
        ({"wings": 2}, r"arguments of UNet expected some of channels, .*, got 'wings'"),
        ({"norm": None}, "expected numbers up to 4096, texts or lists of them, got None"),
        ({"channels": []}, "net monai: it cannot be built: ValueError"),
    ],
)
def test_a_definition_that_is_no_plain_net_is_refused(made, changes, sentence):
    """Before anything of it is built."""
    _, bundle = made
    path = bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config["network_def"] |= changes
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=sentence):
        monai_import.read(bundle)


def test_what_is_no_bundle_or_has_other_weights_is_told(made, tmp_path):
    """With the file and what is missing."""
    _, bundle = made
    with pytest.raises(DataError, match="expected a MONAI bundle, which has a folder 'configs'"):
        monai_import.read(tmp_path)
    torch.save(UNet(**{**UNET, "channels": [4, 6]}).state_dict(), bundle / "models/model.pt")
    with pytest.raises(DataError, match=r"not the weights of the bundle's net: .* expected shape"):
        monai_import.read(bundle)
    torch.save({"a": torch.zeros(1)}, bundle / "models/model.pt")
    with pytest.raises(DataError, match=r"and [0-9]+ more, which are not there"):
        monai_import.read(bundle)
    (bundle / "models/model.pt").unlink()
    with pytest.raises(DataError, match=r"expected model\.safetensors, model\.pt or model\.pth"):
        monai_import.read(bundle)
    (bundle / "configs/inference.json").write_text("{}")
    with pytest.raises(DataError, match="expected 'network_def' in one of"):
        monai_import.read(bundle)


def test_a_model_that_monai_could_not_prepare_images_for_is_not_exported(tmp_path):
    """A bundle that segmented differently from the model would be worse than none."""
    net, info = model(tmp_path / "a.safetensors", {"name": "unet", **NETS["unet"]}, preparation={"bias_field": {}})
    with pytest.raises(ConfigError, match="images were prepared by 'bias_field'"):
        monai_export.write(tmp_path / "a", net, info, TOLD, "")
    net, info = model(tmp_path / "b.safetensors", {"name": "unet", **NETS["unet"]}, field="whole", overlap=0.5)
    monai_export.write(tmp_path / "b", net, info, TOLD, "")
    config = json.loads((tmp_path / "b/configs/inference.json").read_text())
    assert config["inferer"]["_target_"] == "SlidingWindowInferer"
    assert "ResizeWithPadOrCropd" not in str(config["preprocessing"])
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        monai_export.write(tmp_path / "b", net, info, TOLD, "")


def test_transformers_of_monai_are_built_by_their_own_modules():
    """A net that cannot be made without numbers, and whose tables no initialisation here knows."""
    arguments = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    settings = {"name": "monai", "network": "SwinUNETR", "arguments": arguments}
    net = nets.build(settings, in_channels=1, out_channels=2, seed=0)
    assert isinstance(net, SwinUNETR)
    assert params.digest(params.of(nets.build(settings, in_channels=1, out_channels=2, seed=0))) == params.digest(
        params.of(net)
    )
    assert nets.heads(settings, in_channels=1, out_channels=2) == ("out.conv.conv.weight", "out.conv.conv.bias")
