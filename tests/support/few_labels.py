"""Small trees of which the target has labels that may be trained on: two images of four."""

from pathlib import Path

from tests.support.trees import RECIPE, hold_out, write_recipe

FEW = ("000", "002")
"""The images whose labels the recipe names."""
STAGES = """
[[stages]]
name = "cag-plus"
steps = 3
method = { name = "cag-plus" }
"""


def write_few_labels(folder: Path, text: str = RECIPE + STAGES) -> Path:
    """Write a recipe that trains on labels of FEW, and its domains; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(folder, text.replace('"dusk.toml"', '"dusk.toml"\nlabelled = "few"'))
    dusk = folder / "dusk.toml"
    hold_out(dusk)
    images, labels = ([f"{part}/{name}" for name in FEW] for part in ("images", "labels"))
    dusk.write_text(f"{dusk.read_text()}[splits.few]\nimages = {images}\nlabels = {labels}\n")
    return recipe
