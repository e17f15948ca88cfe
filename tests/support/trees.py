"""Small data trees on disk: two domains of coloured blocks, the second darker."""

from pathlib import Path

import cv2
import numpy as np

COLOURS = np.array([[128, 64, 128], [0, 0, 200], [60, 160, 40], [120, 180, 220]], np.uint8)
NAMES = ("road", "car", "tree", "sky")


def draw(rng: np.random.Generator, height: int = 48, width: int = 64) -> np.ndarray:
    """A label map (H, W) of four classes in blocks of at least 8 pixels."""
    coarse = rng.integers(0, 4, (height // 8, width // 8)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8), np.uint8))


def write_domain(
    folder: Path,
    name: str,
    count: int = 6,
    *,
    light: float = 1.0,
    labels: bool = True,
    seed: int = 0,
) -> Path:
    """Write images, labels and the TOML that describes them; returns the TOML's path."""
    rng = np.random.default_rng(seed)
    root = folder / name
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index in range(count):
        label = draw(rng)
        image = COLOURS[label] * light + rng.normal(0, 6, (*label.shape, 3))
        picture = np.clip(image, 0, 255).astype(np.uint8)[:, :, ::-1]
        cv2.imwrite(str(root / "images" / f"{index:03}.png"), picture)
        if labels:
            cv2.imwrite(str(root / "labels" / f"{index:03}.png"), label)
    lines = [f'name = "{name}"', f'root = "{name}"']
    for split in ("train", "test"):
        lines += [f"[splits.{split}]", 'images = "images/*"']
        lines += ['labels = "labels/*"'] if labels else []
    if labels:
        lines += ["[labels]", 'encoding = "ids"']
    for label_name, colour in zip(NAMES, COLOURS.tolist(), strict=True):
        lines += ["[[classes]]", f'name = "{label_name}"', f"color = {colour}"]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def read_pixels(path: Path | str) -> np.ndarray:
    """A stored picture: (H, W), or (H, W, 3) in RGB."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None, path
    return stored if stored.ndim == 2 else cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)


def hold_out(described: Path) -> None:
    """Let the last two images of six be in the test split alone, the others in train alone."""
    text = described.read_text()
    for part in ("images", "labels"):
        for name in ("004", "005"):
            path = described.parent / described.stem / part / f"{name}.png"
            path.rename(path.with_name(f"held-{name}.png"))
        before, after = text.split(f'"{part}/*"', 1)
        text = f'{before}"{part}/0*"' + after.replace(f'"{part}/*"', f'"{part}/held-*"')
    described.write_text(text)


RECIPE = """
name = "tiny"
deliver = "last"
[source]
domain = "day.toml"
[target]
domain = "dusk.toml"
[segmenter]
backbone = "resnet-tiny"
decoder = "light"
[loading]
batch_size = 2
crop_px = [32, 32]
workers = 0
[compute]
accelerator = "cpu"
precision = "32"
channels_last = false
[[stages]]
name = "source-only"
steps = 3
method = { name = "source-only" }
[[stages]]
name = "adabn"
method = { name = "adabn" }
[[stages]]
name = "warmup"
start = "initial"
steps = 3
method = { name = "adversarial", discriminator_channels = 4 }
[[stages]]
name = "stage-1"
steps = 3
method = { name = "cag", labels = ["anchor", "confidence"], margin = { kind = "clearest", value = 0.5 } }
"""  # noqa: E501 - one line of TOML

ANCHORED = """
[[stages]]
name = "stage-2"
steps = 3
method = { name = "cag", margin = { kind = "relative", value = 0.05 } }
"""
"""A second anchor-guided stage, to stand after the recipe's own."""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write a day and a dusk domain and a recipe from one to the other; returns its path."""
    write_domain(folder, "day", seed=1)
    write_domain(folder, "dusk", light=0.4, seed=2)
    path = folder / "tiny.toml"
    path.write_text(text)
    return path
