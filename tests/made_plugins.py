"""Packages with nets and methods, installed as pip leaves them: modules, and a dist-info folder beside them."""

from pages import ROOT, blocks

ENTRIES = {
    "fedmerge.nets": {"demo-net": "demo_nets:build"},
    "fedmerge.methods": {"median": "demo_methods:median", "steady": "demo_methods:STEADY"},
}


def of_the_page():
    """The two modules as the page on extending has them."""
    nets, methods = [b.text for b in blocks("python") if b.page == ROOT / "docs/extending.md"]
    return {"demo_nets": nets, "demo_methods": methods}


def install(folder, *, name="demo-nets", version="1.0", modules=None, entries=None):
    """Write a package into a folder that is, or will be, on `sys.path`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, own in (ENTRIES if entries is None else entries).items()
        for line in (f"[{group}]", *(f"{entry} = {value}" for entry, value in own.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, text in (of_the_page() if modules is None else modules).items():
        (folder / f"{module}.py").write_text(text)
    return folder
