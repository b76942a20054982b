"""Three tiny hospitals of pictures, and a campaign of classification over them, seconds long."""

from pathlib import Path

CLASSES = {"north": ["normal", "ring"], "south": ["normal", "spiculated"], "harbour": ["normal", "ring", "spiculated"]}
ALL = ["normal", "cyst", "ring", "spiculated", "mottled"]


def campaign(folder: Path, *, south=("normal", "spiculated"), harbour=tuple(CLASSES["harbour"]), more="") -> Path:
    """The campaign's file, with `more` at its end; the hospitals are made where it lies when first asked for."""
    classes = {**CLASSES, "south": list(south), "harbour": list(harbour)}
    sites = []
    for name, own in classes.items():
        rest = [one for one in ALL if one not in own]
        parts = "train = 6\nvalidate = 12\n" if name == "harbour" else f"pooled_labels = {list(harbour)}\n"
        sites.append(
            f'[[site]]\nname = "{name}"\nrole = "{"target" if name == "harbour" else "source"}"\n[site.data]\n'
            f'folder = "{name}"\nlayout = "classes"\nphantom = {{ profile = "{name}", cases = 40 }}\n'
            f"labels = {own}\nbackground = {rest}\ntest = 6\n{parts}"
        )
    path = folder / "pictures.toml"
    path.write_text(
        """
[campaign]
name = "pictures"
task = "classification"
precision = "float32"
[net]
name = "resnet"
base_filters = 2
depth = 2
patch = [16, 16]
[train]
steps = 6
batch_size = 4
fisher_cases = 3
[adapt]
steps = 4
validate_every = 2
[finetune]
soup_cycles = 2
steps = 5
validate_every = 2
"""
        + "".join(sites)
        + more
    )
    return path
