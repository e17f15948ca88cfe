"""Domains whose scenes are rendered when they are asked for."""

import re
from pathlib import Path

import numpy as np
import pytest

from cag_uda import scenes as rendering
from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError
from tests.support.domain_trees import write_label, write_photo


def test_scenes_are_rendered_when_asked_for_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[range] = []

    def render_folder(
        folder: Path, look: str, indices: range, seed: int, height_px: int, width_px: int
    ) -> None:
        assert (look, seed, height_px, width_px) == ("hard", 3, 32, 48)
        calls.append(indices)
        for index in indices:
            write_photo(folder / f"images/{index:06d}.png", height_px, width_px)
            write_label(folder / f"labels/{index:06d}.png", np.zeros((height_px, width_px)))

    monkeypatch.setattr(rendering, "render_folder", render_folder)
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "streets.toml"
    path.write_text(
        'name = "streets"\nlabel_space = "camvid-11"\n[rendered]\nlook = "hard"\nheight_px = 32\n'
        "width_px = 48\nseed = 3\n[splits.train]\nscenes = [0, 3]\n[splits.val]\nscenes = [2, 4]\n"
    )
    domain = Domain.open(path)
    assert domain.is_labelled("train")
    assert calls == []
    items = domain.items("train")
    assert [item.key for item in items] == [f"images/{index:06d}" for index in range(3)]
    folder = items[0].image.parents[1]
    assert folder.parent == tmp_path / "cache/rendered"
    assert re.fullmatch("hard-32x48-seed3-[0-9a-f]{8}", folder.name)
    assert domain.read_pair(items[0])[1].shape == (32, 48)
    assert domain.items("train") == items
    assert calls == [range(3)]
    assert [item.label for item in domain.items("val", with_labels=False)] == [None, None]
    assert calls == [range(3), range(2, 4)]


SCENES = """
name = "streets"
label_space = "camvid-11"
[rendered]
look = "clean"
height_px = 32
width_px = 48
[splits.train]
scenes = [4, 6]
"""


def test_the_renderer_and_the_domain_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "streets.toml").write_text(SCENES)
    domain = Domain.open(tmp_path / "streets.toml")
    image, label = domain.read_pair(domain.items("train")[1])
    assert image.shape == (32, 48, 3)
    assert set(np.unique(label)) <= {*range(11), 255}


def test_a_cache_that_cannot_be_written_is_answered_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    monkeypatch.setenv("CAG_UDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "streets.toml").write_text(SCENES)
    with pytest.raises(DataError, match=r"(?s)cannot write .*CAG_UDA_CACHE"):
        Domain.open(tmp_path / "streets.toml").items("train")
