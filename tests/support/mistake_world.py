"""A folder in which every mistake of `test_user_mistakes` can be made: data, networks, runs."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from cag_uda.methods.source_only import SourceOnly, SourceOnlyConfig
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.training.checkpoint import Progress, save_checkpoint
from tests.support.trees import COLOURS, NAMES, read_pixels, write_domain, write_recipe

OTHER_NAMES = ("wall", "door", "roof", "lawn")


class Hostile:
    """Makes a folder when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hostile-code-ran",)


def write_world(folder: Path) -> None:
    """Write sound data, recipe, networks and runs, and damaged ones beside them."""
    write_recipe(folder)
    write_domain(folder, "plain", labels=False, seed=3)
    _write_models(folder)
    _write_runs(folder)
    _write_odd_files(folder)
    _write_odd_data(folder)


def _segmenter(decoder: str, names: tuple[str, ...] = NAMES) -> Segmenter:
    palette = tuple((r, g, b) for r, g, b in COLOURS.tolist())
    config = SegmenterConfig(backbone="resnet-tiny", decoder=decoder)
    return Segmenter(config, Classes(names=names, palette=palette))


def _write_models(folder: Path) -> None:
    for name, names in {"model": NAMES, "other-model": OTHER_NAMES}.items():
        _segmenter("light", names).save_pretrained(folder / name)
    model = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    config, weights = model["config.json"], model["model.safetensors"]
    wider = config.replace(b'"decoder": "light"', b'"decoder": "deeplab-v2"')
    damaged: dict[str, dict[str, bytes]] = {
        "without-config": {"model.safetensors": weights},
        "without-weights": {"config.json": config},
        "cut-off-weights": {"config.json": config, "model.safetensors": weights[:5000]},
        "cut-off-config": {"config.json": config[:90], "model.safetensors": weights},
        "of-the-future": {
            "config.json": config.replace(b'"format": 1', b'"format": 9'),
            "model.safetensors": weights,
        },
        "unfitting": {"config.json": wider, "model.safetensors": weights},
    }
    for name, files in damaged.items():
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)


def _write_runs(folder: Path) -> None:
    recipe = load_recipe(folder / "tiny.toml")
    for name in ("run", "run-of-old", "run-cut-off"):
        RunFolder(folder / name).create(recipe)
    RunFolder(folder / "run-scores").create(recipe)
    (folder / "run-scores" / "scores.json").write_text('{"stages": [')
    for name in ("run-of-old", "run-cut-off"):
        (folder / name / "stages" / "0-source-only").mkdir(parents=True)
    old = folder / "run-of-old" / "stages" / "0-source-only" / "checkpoint"
    method = SourceOnly(_segmenter("segformer"), SourceOnlyConfig())
    save_checkpoint(old, method, {}, Progress(step=1, elapsed_s=1.0))
    cut_off = folder / "run-cut-off" / "stages" / "0-source-only" / "checkpoint"
    cut_off.mkdir()
    (cut_off / "state.pt").write_bytes((old / "state.pt").read_bytes()[:500])


def _write_odd_files(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no image at all")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff cut off")
    whole = (folder / "tiny.toml").read_text()
    (folder / "cut-off.toml").write_text(whole[: whole.index("day.toml") + 3])
    (folder / "latin.toml").write_bytes('name = "Straße"'.encode("latin-1"))
    torch.save({"state_dict": Hostile()}, folder / "hostile.pth")
    (folder / "hostile.pkl").write_bytes(pickle.dumps({"state_dict": Hostile()}))
    torch.save({"hello": "world"}, folder / "no-weights.pth")
    torch.save({"some.layer.weight": torch.zeros(2, 2)}, folder / "strange.pth")


def _write_odd_data(folder: Path) -> None:
    """Copies of the day with one thing wrong in the data of each."""
    dusk = (folder / "dusk.toml").read_text()
    (folder / "heaven.toml").write_text(dusk.replace('name = "sky"', 'name = "heaven"'))
    for name in ("corrupt", "unknown-id", "palette", "colours", "jpeg", "larger", "unpaired"):
        write_domain(folder, name, count=2, seed=1)
    (folder / "corrupt/images/001.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    cv2.imwrite(str(folder / "unknown-id/labels/001.png"), np.full((48, 64), 34, np.uint8))
    for path in (folder / "palette/labels").iterdir():
        picture = Image.fromarray(read_pixels(path), "P")
        picture.putpalette(COLOURS.tobytes())
        picture.save(path)
    for path in (folder / "colours/labels").iterdir():
        cv2.imwrite(str(path), (COLOURS[read_pixels(path)] // 2)[..., ::-1])
    for path in (folder / "jpeg/labels").iterdir():
        cv2.imwrite(str(path.with_suffix(".jpg")), read_pixels(path))
        path.unlink()
    cv2.imwrite(str(folder / "larger/labels/001.png"), np.zeros((96, 96), np.uint8))
    (folder / "unpaired/labels/001.png").unlink()
