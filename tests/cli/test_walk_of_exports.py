"""From a tool's export to an adapted network, without a file being edited: as from plain PNGs."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from cag_uda.data.domains.domain import Domain
from tests.support.command_line import run
from tests.support.tool_exports import EXPORTS, drawings, ids_of, write_photographs, write_pngs

SMALL = ["--steps", "1", "--accelerator", "cpu", "--precision", "32"]
SMALL += ["--set", "segmenter={backbone='resnet-tiny', decoder='light'}"]
SMALL += ["--set", "loading.workers=0", "--set", "compute.channels_last=false"]


def described(folder: Path) -> Path:
    """The domain file of a folder, as `domains new` writes it and `check` passes it."""
    file = folder.parent / f"{folder.name}.toml"
    run("domains", "new", folder, "--out", file)
    assert "nothing is wrong" in run("check", file)
    return file


def adapted(game: Path, street: Path) -> tuple[str, dict[str, Tensor]]:
    """What `recipes new` and `adapt` make of two domains: the table of scores, and the network."""
    recipe, out = game.parent / "recipe.toml", game.parent / "run"
    run("recipes", "new", game, street, "--test", game, "--out", recipe)
    printed = run("adapt", recipe, "--out", out, *SMALL)
    assert "mIoU on game/train" in printed
    scores = (out / "scores.json").read_text()
    return scores, load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("tool", EXPORTS)
def test_labels_of_an_export_are_those_that_were_drawn(tool: str, tmp_path: Path) -> None:
    drawn = drawings()
    EXPORTS[tool](tmp_path / "game", drawn)
    domain = Domain.open(described(tmp_path / "game"))
    assert domain.label_space is not None
    items = domain.items(domain.splits[0])
    for item, shapes in zip(items, drawn, strict=True):
        wanted = ids_of(shapes, domain.label_space.names)
        assert (domain.read_label(item) == wanted).all(), item.key


@pytest.mark.slow
@pytest.mark.parametrize("tool", EXPORTS)
def test_adapting_from_an_export_is_adapting_from_pngs(tool: str, tmp_path: Path) -> None:
    drawn = drawings()
    one, other = tmp_path / "tool", tmp_path / "plain"
    EXPORTS[tool](one / "game", drawn)
    write_photographs(one / "street", drawn, light=0.5)
    game, street = described(one / "game"), described(one / "street")
    space = Domain.open(game).label_space
    assert space is not None
    write_pngs(other / "game", drawn, space.names)
    shutil.copytree(one / "street", other / "street")
    found = adapted(game, street)
    plain = adapted(described(other / "game"), described(other / "street"))
    assert found[1].keys() == plain[1].keys()
    assert all(value.equal(plain[1][name]) for name, value in found[1].items())
    assert iou_of(found[0]) == iou_of(plain[0])


def iou_of(scores: str) -> list[str]:
    """The lines of a record of scores that hold a figure of quality."""
    return [line for line in scores.splitlines() if "iou" in line.lower()]
