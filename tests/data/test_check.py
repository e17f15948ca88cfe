from pathlib import Path

import numpy as np
import pytest

from cag_uda.data.domains.domain import Domain
from cag_uda.data.inspection.check import check_domain
from cag_uda.errors import DataError
from tests.support.domain_trees import TWO_CLASSES, open_domain, write_label, write_photo

SPLITS = """
[splits.train]
images = "images/*"
labels = "labels/*"
[splits.test]
images = "test/*"
"""


def write_pair(data: Path, stem: str, ids: object, height: int = 2, width: int = 4) -> None:
    write_photo(data / "images" / f"{stem}.png", height, width)
    write_label(data / "labels" / f"{stem}.png", ids)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sound source of two images, and one unlabelled image to test on."""
    write_pair(tmp_path / "data", "a", [[0, 0, 0, 1], [0, 0, 255, 255]])
    write_pair(tmp_path / "data", "b", [[0, 0, 0, 0], [0, 0, 0, 0]])
    write_photo(tmp_path / "data/test/c.png", 3, 5)
    return tmp_path / "data"


def test_sound_data_are_counted(data: Path) -> None:
    domain = open_domain(data.parent, TWO_CLASSES + SPLITS)
    progress: list[tuple[int, int]] = []
    report = check_domain(domain, on_progress=lambda done, total: progress.append((done, total)))
    assert report.problems == []
    assert report.warnings == ()
    assert (report.domain, report.class_names) == ("mine", ("road", "car"))
    train, test = report.splits
    assert (train.images, train.labelled, train.image_sizes) == (2, 2, {(2, 4): 2})
    assert train.class_pixels.tolist() == [13, 1]
    assert train.class_images.tolist() == [2, 1]
    assert train.ignored_pixels == 2
    assert (test.images, test.labelled, test.image_sizes) == (1, 0, {(3, 5): 1})
    assert test.class_pixels.size == 0
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_everything_that_is_wrong_is_found(data: Path) -> None:
    (data / "images/a.png").write_bytes(b"")
    write_pair(data, "d", [[0, 0, 9, 9], [0, 0, 0, 7]])
    write_pair(data, "e", [[9, 0], [0, 0]])
    write_photo(data / "images/f.png")
    (data / "labels/f.png").write_text("no label")
    domain = open_domain(data.parent, TWO_CLASSES + SPLITS)
    report = check_domain(domain)
    train = report.splits[0]
    assert (train.images, train.labelled) == (5, 1)
    assert set(train.unreadable) == {"images/a", "images/f"}
    assert "0 bytes" in train.unreadable["images/a"]
    assert set(train.mismatched) == {"images/e"}
    assert train.unmapped == {"9": 3, "7": 1}
    text = "\n".join(report.problems)
    assert len(report.problems) == 3
    assert "train: 2 of 5 images cannot be read: " in text
    assert "1 of 5 images differ in size from their labels: " in text
    assert "9 (3 px), 7 (1 px); in [labels] of" in text


def test_files_that_are_not_there_are_a_problem_of_their_split(data: Path) -> None:
    (data / "labels/b.png").unlink()
    (data / "test/c.png").unlink()
    report = check_domain(open_domain(data.parent, TWO_CLASSES + SPLITS))
    assert [split.images for split in report.splits] == [2, 0], "what is there is read all the same"
    assert len(report.problems) == 2
    assert "1 of 2 images" in report.problems[0]
    assert "finds no image" in report.problems[1]


def test_a_target_can_be_checked_without_its_labels(data: Path) -> None:
    (data / "labels/b.png").unlink()
    (data / "labels/a.png").write_text("never read")
    domain = open_domain(data.parent, TWO_CLASSES + SPLITS)
    report = check_domain(domain, "train", with_labels=False)
    assert report.problems == []
    (train,) = report.splits
    assert (train.images, train.labelled) == (2, 0)


def test_what_may_be_meant_is_a_warning(tmp_path: Path) -> None:
    write_pair(tmp_path / "data", "a", np.zeros((200, 201)), 200, 200)
    text = TWO_CLASSES + SPLITS.replace('"test/*"', '["images/*"]')
    report = check_domain(open_domain(tmp_path, text))
    assert report.problems == []
    assert report.splits[0].resized == 1
    joined = "\n".join(report.warnings)
    assert "train: 1 labels differ by a few pixels" in joined
    assert "train: classes that never occur: car" in joined
    assert "1 images are in both train and test" in joined


def test_an_unknown_split_is_an_error(data: Path) -> None:
    with pytest.raises(DataError, match="no split 'val'"):
        check_domain(open_domain(data.parent, TWO_CLASSES + SPLITS), "val")


def test_a_failure_stops_the_reading(data: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_domain(open_domain(data.parent, TWO_CLASSES + SPLITS), on_progress=fail)


def test_camvid_is_sound(camvid_root: Path) -> None:
    report = check_domain(Domain.open("camvid-dusk", camvid_root), "test")
    assert report.problems == []
    (test,) = report.splits
    assert test.class_pixels.sum() + test.ignored_pixels == 62 * 360 * 480
