"""Data sets in their published layouts, and what `check` says of misplaced folders."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.data.domains.builtin import domain_files
from cag_uda.data.domains.domain import Domain
from cag_uda.data.inspection.check import check_domain
from cag_uda.errors import DataError
from tests.support import published_trees
from tests.support.domain_trees import write_label, write_photo
from tests.support.published_trees import IGNORE, LAYOUTS, Drawn, Layout, palette_png


@pytest.mark.parametrize("name", domain_files())
def test_every_built_in_file_is_right(name: str, tmp_path: Path) -> None:
    domain = Domain.open(name, tmp_path)
    assert domain.name == name
    assert domain.label_space is not None
    assert domain.splits


def test_an_unknown_name_is_answered_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"did you mean 'camvid-dusk'.*gta5.*\.toml file"):
        Domain.open("camvid-dusc")
    (tmp_path / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"write mine\.toml"):
        Domain.open("mine")


def test_built_in_domains_look_below_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(tmp_path / "GTA5/images/00001.png")
    write_label(tmp_path / "GTA5/labels/00001.png", [[0]])
    monkeypatch.setenv("CAG_UDA_DATA", str(tmp_path))
    assert [item.key for item in Domain.open("gta5").items("train")] == ["images/00001"]
    with pytest.raises(DataError, match=r"give the parent folder, .*, by --data-root"):
        Domain.open("gta5", tmp_path / "GTA5").items("train")
    with pytest.raises(DataError, match=r"there is no folder .*elsewhere; there is .*/GTA5: give"):
        Domain.open("gta5", tmp_path / "elsewhere").items("train")
    with pytest.raises(DataError, match=r"synthia/RAND_CITYSCAPES \(or .*; name the folder that"):
        Domain.open("synthia", tmp_path).items("train")


# ---- what is published ----------------------------------------------------------------------

VARIANTS = {
    **{name: (name, layout) for name, layout in LAYOUTS.items()},
    "synthia in its own folder": (
        "synthia",
        Layout("SYNTHIA/RAND_CITYSCAPES", "GT/LABELS", "RGB", published_trees.write_synthia),
    ),
    "bdd100k in its zip's folder": (
        "bdd100k",
        Layout("bdd100k/bdd100k", "labels", "images", published_trees.write_bdd100k, ("test",)),
    ),
    "bdd100k, older release": (
        "bdd100k",
        Layout("bdd100k", "seg/labels", "seg", published_trees.write_bdd100k_seg, ("test",)),
    ),
    "mapillary v2.0": (
        "mapillary",
        Layout("mapillary", "training", "training", published_trees.write_mapillary_v2, ("test",)),
    ),
}


def read_as_drawn(domain: Domain, drawn: Drawn) -> None:
    by_key = {item.key: item for split in domain.splits for item in domain.items(split)}
    item = by_key[drawn.key]
    np.testing.assert_array_equal(domain.read_label(item), drawn.train_ids)
    image, label = domain.read_pair(item)
    assert image.shape[:2] == label.shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pixel_of_every_label_is_read_as_it_was_drawn(variant: str, tmp_path: Path) -> None:
    name, layout = VARIANTS[variant]
    written = layout.write(tmp_path / layout.folder, 3)
    domain = Domain.open(name, tmp_path)
    assert set(domain.splits) == {*written, *layout.unlabelled}
    for split, drawn in written.items():
        assert domain.is_labelled(split)
        assert [item.key for item in domain.items(split)] == sorted(each.key for each in drawn)
        for each in drawn:
            assert set(np.unique(each.train_ids)) == {*range(19), IGNORE}
            read_as_drawn(domain, each)
    for split in layout.unlabelled:
        assert not domain.is_labelled(split)
        count = 6 if name == "acdc" else 3
        assert [item.label for item in domain.items(split)] == [None] * count
    report = check_domain(domain)
    assert report.problems == []
    assert all("was published with" in note for note in notes(report.warnings))


def notes(warnings: tuple[str, ...]) -> list[str]:
    """What is not meant by the tree itself."""
    expected = ("few pixels", "left out as broken")
    return [each for each in warnings if not any(word in each for word in expected)]


def test_gta5_of_every_size_and_its_blank_frames(tmp_path: Path) -> None:
    written = published_trees.write_gta5(tmp_path / "gta5", 3)["train"]
    domain = Domain.open("gta5", tmp_path)
    sizes = [domain.read_image(item).shape[:2] for item in domain.items("train")]
    assert sizes == [(106, 207), (108, 208), (104, 207)]
    assert [each.train_ids.shape for each in written] == [(106, 207), (109, 208), (104, 207)]
    (train,) = check_domain(domain).splits
    assert (train.images, train.labelled, train.resized) == (3, 3, 1)
    assert "left out as broken in the published data set: images/15188, images/17705" in (
        train.warnings
    )
    assert "the data set was published with 24,966 images, here are 3" in train.warnings


def test_gta5_labels_without_their_palette_hold_the_same_ids(tmp_path: Path) -> None:
    write_photo(tmp_path / "gta5/images/00001.png", 1, 4)
    write_label(tmp_path / "gta5/labels/00001.png", [[7, 33, 34, 0]])
    domain = Domain.open("gta5", tmp_path)
    assert domain.read_label(domain.items("train")[0]).tolist() == [[0, 18, 255, 255]]


def test_cityscapes_ids_are_those_of_the_official_scripts(tmp_path: Path) -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    train_ids = {each.id: 255 if each.ignoreInEval else each.trainId for each in labels}
    ids = np.arange(34, dtype=np.uint8)[None]
    for name, encoded in (("cityscapes", ids), ("gta5", ids)):
        reader = Domain.open(name).labels
        assert reader is not None
        read = reader.label_map.apply(encoded)[0].tolist()
        assert read == [train_ids[number] for number in range(34)]


def test_synthia_ids_by_the_table_of_the_literature() -> None:
    table = (
        "3→0 4→1 2→2 21→3 5→4 7→5 15→6 9→7 6→8 16→9 1→10 10→11 17→12 8→13 18→14 19→15 20→16 "
        "12→17 11→18"
    )
    pairs = (pair.split("→") for pair in table.split())
    expected = {int(stored): int(train) for stored, train in pairs}
    reader = Domain.open("synthia").labels
    assert reader is not None
    read = reader.label_map.apply(np.arange(23, dtype=np.uint16)[None])[0].tolist()
    assert read == [expected.get(number, 255) for number in range(23)]


def test_mapillary_ids_by_the_table_of_the_literature(tmp_path: Path) -> None:
    # RobustNet, datasets/mapillary.py, and benchmark-vfm-ss, datasets/mappings.py, say the same.
    expected = {
        **{13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8},
        **{29: 9, 27: 10, 19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17},
        52: 18,
    }
    write_photo(tmp_path / "mapillary/training/images/a.jpg", 1, 66)
    palette_png(tmp_path / "mapillary/training/labels/a.png", np.arange(66)[None])
    domain = Domain.open("mapillary", tmp_path)
    (item,) = domain.items("train")
    assert domain.read_label(item)[0].tolist() == [
        expected.get(number, 255) for number in range(66)
    ]
    # Labels of v2.0 in the place of those of v1.2 must not be read as if they were.
    palette_png(tmp_path / "mapillary/training/labels/a.png", np.array([[13, 66, 123]]))
    with pytest.raises(DataError, match=r"66 \(1 px\), 123 \(1 px\)"):
        domain.read_label(item)


# ---- folders in the wrong place -------------------------------------------------------------


def check(name: str, data_root: Path) -> str:
    """What `cag-uda check` prints of a problem, without the blanks that wrap it."""
    done = CliRunner().invoke(app, ["check", name, "--data-root", str(data_root)])
    assert done.exit_code == 2, done.output
    return squeezed(done.output)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.fixture(params=sorted(LAYOUTS))
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Layout, Path]:
    """Name, layout, and the folder of a data set below the data root `tmp_path / "data"`."""
    layout = LAYOUTS[request.param]
    root = tmp_path / "data" / layout.folder
    layout.write(root, 1)
    return request.param, layout, root


def test_a_data_set_in_its_place_is_sound(tree: tuple[str, Layout, Path], tmp_path: Path) -> None:
    name = tree[0]
    done = CliRunner().invoke(app, ["check", name, "--data-root", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert "nothing is wrong" in done.output
    assert "was published with" in done.output


def test_a_missing_labels_folder_is_named(tree: tuple[str, Layout, Path], tmp_path: Path) -> None:
    name, layout, root = tree
    shutil.rmtree(root / layout.label_folder)
    printed = check(name, tmp_path / "data")
    assert squeezed(f"there is no folder {root / layout.label_folder}") in printed
    held = (root / layout.label_folder).parent
    assert squeezed(f"{held} holds") in printed
    # A target to adapt to needs no labels.
    domain = Domain.open(name, tmp_path / "data")
    assert all(domain.items(split, with_labels=False) for split in domain.splits)


def test_an_extra_level_of_folders_is_pointed_at(
    tree: tuple[str, Layout, Path], tmp_path: Path
) -> None:
    name, layout, root = tree
    root.rename(tmp_path / "data/unpacked")
    root.mkdir()
    (tmp_path / "data/unpacked").rename(root / "unpacked")
    printed = check(name, tmp_path / "data")
    assert squeezed(f"{root} holds unpacked/; there is {root / 'unpacked'}/") in printed
    assert squeezed(f"too deep: move it or link to it as {root / layout.image_folder}") in printed


def test_labels_a_level_too_deep_are_pointed_at(
    tree: tuple[str, Layout, Path], tmp_path: Path
) -> None:
    name, layout, root = tree
    labels = root / layout.label_folder
    labels.rename(tmp_path / "labels")
    (root / "zip" / layout.label_folder).parent.mkdir(parents=True)
    (tmp_path / "labels").rename(root / "zip" / layout.label_folder)
    printed = check(name, tmp_path / "data")
    assert squeezed(f"there is no folder {labels}") in printed
    assert squeezed(f"there is {root / 'zip' / layout.label_folder}") in printed


def test_a_wrong_root_is_answered_with_the_right_one(
    tree: tuple[str, Layout, Path], tmp_path: Path
) -> None:
    name, _, root = tree
    right = squeezed(f"{tmp_path / 'data'} by --data-root")
    (tmp_path / "data/elsewhere").mkdir()
    # The data set itself, a folder above, a folder beside.
    assert squeezed(f"give the parent folder, {tmp_path / 'data'}, by") in check(name, root)
    for wrong in (tmp_path, tmp_path / "data/elsewhere"):
        assert squeezed(f"there is {root}: give ") + right in check(name, wrong)
    renamed = tmp_path / "data/my copy"
    root.rename(renamed)
    printed = check(name, renamed)
    assert "itisthedatasetitselfbythelookof" in printed
    assert squeezed(f"and give {tmp_path / 'data'} by") in printed
    shutil.rmtree(renamed)
    nothing = check(name, tmp_path / "data")
    assert "namethefolderthatholdsthedatasetsby--data-root" in nothing
    # Once for all splits, not once for each.
    assert nothing.count("problem:") == 1


def test_a_forgotten_download_is_counted(tmp_path: Path) -> None:
    layout = LAYOUTS["cityscapes"]
    root = tmp_path / layout.folder
    layout.write(root, 2)
    shutil.rmtree(root / "gtFine/val")
    (root / "leftImg8bit/test/berlin").rename(root / "berlin")
    problems = "\n".join(check_domain(Domain.open("cityscapes", tmp_path)).problems)
    assert f"val: domain 'cityscapes', split 'val': 2 of 2 images below {root}" in problems
    assert f"there is no folder {root}/gtFine/val; {root}/gtFine holds test/, train/" in problems
    assert "'leftImg8bit/test/*/*_leftImg8bit' finds no image" in problems
    assert f"{root}/leftImg8bit/test is empty" in problems


# ---- CamVid ---------------------------------------------------------------------------------


def test_camvid_day_and_dusk(camvid_root: Path) -> None:
    day, dusk = (Domain.open(f"camvid-{name}", camvid_root) for name in ("day", "dusk"))
    assert len(day.items("train")) == 406
    train, test = dusk.items("train"), dusk.items("test")
    assert (len(train), len(test)) == (62, 62)
    assert (train[0].image.stem, test[-1].image.stem) == ("0001TP_006690", "0001TP_010380")
    image, label = dusk.read_pair(test[0])
    assert image.shape == (360, 480, 3)
    assert set(np.unique(label)) <= {*range(11), 255}
    # The names of the classes say what stands where: sky above, road below.
    assert day.label_space is not None
    first = day.read_label(day.items("train")[0])
    assert day.label_space.names[np.bincount(first[-40:].ravel(), minlength=256)[:11].argmax()] == (
        "road"
    )
    assert sum(len(Domain.open("camvid", camvid_root).items(s)) for s in ("train", "val")) == 468
