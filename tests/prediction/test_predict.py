"""`predict`: what it takes, where it writes, what it skips, and what it never overwrites."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.errors import UserError
from cag_uda.files import LOCK, owned
from cag_uda.models.inference import class_logits, inference, most_likely, prepare, upsample
from cag_uda.models.label_maps import most_likely_with_confidence
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.jobs import find_jobs, refuse_overwriting
from cag_uda.prediction.log import PredictionLog
from cag_uda.prediction.predict import output_names
from cag_uda.runs.records.prediction import PredictionSettings
from tests.support.command_line import failure, run
from tests.support.predictions import LOG, files_in, predict, write_model, write_photo
from tests.support.trees import read_pixels


@pytest.fixture
def model(segmenter: Segmenter, tmp_path: Path) -> Path:
    return write_model(segmenter, tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photographs of two sizes in two folders, and files that are none."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for index, name in enumerate(["a.png", "b.jpg", "deep/a.png", "deep/c.png", ".hidden/x.png"]):
        write_photo(folder / name, index, (40, 48) if index % 2 else (48, 40))
    write_photo(folder / ".d.png", 9)
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def test_a_folder_is_mirrored_below_out(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = predict(model, photos, "--out", out, "--as", "train-ids")
    assert files_in(out) == ["a.png", "b.png", "deep/a.png", "deep/c.png", LOG]
    assert "predicting: 4/4" in printed
    network = Segmenter.from_pretrained(model)
    for name in ("a.png", "deep/a.png", "deep/c.png"):
        assert np.array_equal(read_pixels(out / name), network.predict(photos / name))


def test_every_kind_in_one_pass(model: Path, photos: Path, tmp_path: Path) -> None:
    network = Segmenter.from_pretrained(model)
    network.classes = network.classes.model_copy(update={"label_ids": (7, 26, 21, 23)})
    network.save_pretrained(model)
    out, image = tmp_path / "out", photos / "a.png"
    kinds = ["overlay", "color", "train-ids", "label-ids", "confidence"]
    predict(model, image, "--out", out, "--as", "overlay,color", "--as", ",".join(kinds[2:]))
    assert files_in(out) == sorted([*(f"{kind}/a.png" for kind in kinds), LOG])
    label = network.predict(image)
    assert len(np.unique(label)) > 1
    colours = np.array(network.classes.palette)[label]
    assert np.array_equal(read_pixels(out / "train-ids/a.png"), label)
    assert np.array_equal(read_pixels(out / "label-ids/a.png"), np.array([7, 26, 21, 23])[label])
    assert np.array_equal(read_pixels(out / "color/a.png"), colours)
    mixed = (read_pixels(image).astype(int) + colours) / 2
    assert np.abs(read_pixels(out / "overlay/a.png") - mixed).max() <= 1
    with inference(network):
        logits = class_logits(network, prepare(read_pixels(image), None), label.shape)
    probability = logits.softmax(1).amax(1)[0].numpy()
    assert np.abs(read_pixels(out / "confidence/a.png") / 255 - probability).max() < 0.003


def test_an_overlay_with_a_legend(model: Path, photos: Path, tmp_path: Path) -> None:
    predict(model, photos / "a.png", "--out", tmp_path / "out", "--as", "overlay-legend,overlay")
    overlay = read_pixels(tmp_path / "out" / "overlay" / "a.png")
    both = read_pixels(tmp_path / "out" / "overlay-legend" / "a.png")
    assert np.array_equal(both[: len(overlay)], overlay)
    for colour in Segmenter.from_pretrained(model).classes.palette:
        assert (both[len(overlay) :] == colour).all(-1).any()


def test_confidence_is_the_largest_softmax_of_the_mean_of_views() -> None:
    torch.manual_seed(0)
    looks = [torch.randn(2, 5, 6, 7) * 30, torch.randn(2, 5, 12, 9) * 30]
    label, confidence = most_likely_with_confidence(looks, (31, 33))
    mean = (upsample(looks[0], (31, 33)) + upsample(looks[1], (31, 33))) / 2
    assert torch.equal(label, most_likely(looks, (31, 33)))
    assert torch.equal(label.long(), mean.argmax(1))
    assert torch.allclose(confidence, mean.softmax(1).amax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "places"),
    [
        (["photos"], ["a", "b", "deep/a", "deep/c"]),
        (["photos/*"], ["a", "b"]),
        (["photos/**/*.png"], ["a", "deep/a", "deep/c"]),
        (["photos/deep/a.png"], ["a"]),
        (["photos/a.png", "photos/deep/a.png"], ["a", "deep/a"]),
        (["photos/deep", "photos/a.png"], ["a", "deep/a", "deep/c"]),
        (["photos", "photos/a.png"], ["a", "b", "deep/a", "deep/c"]),
        (["photos/../photos/deep/./a.png"], ["a"]),
    ],
)
def test_places_are_relative_to_what_inputs_have_in_common(
    inputs: list[str], places: list[str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    assert sorted(job.place for job in find_jobs(inputs, Path("out"))) == places


def test_files_of_one_stem_keep_their_extensions(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.jpg.bmp", "b.png", "c.mp4", "c.png"):
        (tmp_path / name).touch()
    places = {
        os.path.basename(job.source): job.place
        for job in find_jobs([str(tmp_path)], tmp_path / "out")
    }
    assert places == {
        "a.png": "a.png",
        "a.jpg": "a.jpg",
        "a.jpg.bmp": "a.jpg.bmp",
        "b.png": "b",
        "c.mp4": "c.mp4",
        "c.png": "c.png",
    }


def test_a_list_on_standard_input(model: Path, photos: Path, tmp_path: Path) -> None:
    for text in ("{0}/a.png\n\n{0}/deep/a.png\r\n", "{0}/a.png\0{0}/deep/a.png\0"):
        out = tmp_path / str(len(text))
        arguments = ["predict", model, "-", "--out", out, "--as", "train-ids"]
        done = CliRunner().invoke(app, [str(each) for each in arguments], text.format(photos))
        assert done.exit_code == 0, done.output
        assert files_in(out) == ["a.png", "deep/a.png", LOG]


def test_what_is_done_is_skipped_and_what_changed_is_not(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (model, photos, "--out", out, "--as", "train-ids")
    predict(*arguments)
    before = {
        name: (out / name).stat().st_mtime_ns for name in files_in(out) if name.endswith(".png")
    }
    assert "0 predictions" in predict(*arguments)
    assert "4 were there already" in predict(*arguments)
    write_photo(photos / "deep/c.png", 77)
    (out / "a.png").unlink()
    assert "2 predictions" in predict(*arguments)
    after = {
        name: (out / name).stat().st_mtime_ns for name in files_in(out) if name.endswith(".png")
    }
    assert {name for name in before if before[name] != after[name]} == {"a.png", "deep/c.png"}
    assert "4 predictions" in predict(*arguments, "--overwrite")


def test_a_killed_command_goes_on(model: Path, photos: Path, tmp_path: Path) -> None:
    """Killed while it wrote: a file without a record, and half a line of the log."""
    out = tmp_path / "out"
    arguments = (model, photos, "--out", out, "--as", "train-ids")
    predict(*arguments)
    lines = (out / LOG).read_text().splitlines()
    (out / LOG).write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    assert "2 predictions" in predict(*arguments)
    assert "4 were there already" in predict(*arguments)


def test_one_process_at_a_time_predicts_into_a_folder(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with owned(out / LOCK, "predictions are being written"):
        message = failure(capsys, "predict", model, photos, "--out", out)
    assert "out: predictions are being written in" in message
    (out / ".a.png.x.part").write_bytes(b"left by a killed command")
    predict(model, photos, "--out", out)
    assert not {path.suffix for path in out.iterdir()} & {".lock", ".part"}
    assert not (out / LOCK).exists()


def test_other_settings_and_other_inputs_are_not_mixed(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, one = tmp_path / "out", photos / "a.png"
    predict(model, one, "--out", out, "--as", "train-ids")
    first = (out / "a.png").read_bytes()
    assert "differing: as" in failure(capsys, "predict", model, one, "--out", out)
    same = ("--out", out, "--as", "train-ids")
    assert "views" in failure(capsys, "predict", model, one, *same, "--flip")
    other = photos / "deep" / "a.png"
    message = failure(capsys, "predict", model, other, *same)
    assert "is the prediction of" in message
    assert "--overwrite" in message
    network = Segmenter.from_pretrained(model)
    torch.nn.init.normal_(network.get_parameter("classifier.weight"))
    network.save_pretrained(model)
    assert "differing: model" in failure(capsys, "predict", model, one, *same)
    assert (out / "a.png").read_bytes() == first
    predict(model, other, *same, "--overwrite")
    assert (out / "a.png").read_bytes() != first


def test_no_input_is_ever_overwritten(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (photos / name).read_bytes() for name in files_in(photos)}
    out = tmp_path / "out"
    out.mkdir()
    (out / "deep").symlink_to(photos / "deep")
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "a.png").symlink_to(photos / "a.png")
    for inputs, target in (
        ([photos], photos),
        ([photos], tmp_path / "link"),
        ([photos / "a.png"], photos),
        ([photos / "a.png"], tmp_path / "single"),
        ([photos], out),
    ):
        message = failure(capsys, "predict", model, *inputs, "--out", target, "--overwrite")
        assert "would be overwritten" in message or "might be overwritten" in message
    assert {name: (photos / name).read_bytes() for name in files_in(photos)} == before


def test_no_link_leads_out_of_the_output_folder(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "deep").symlink_to(elsewhere)
    assert "through a link" in failure(capsys, "predict", model, photos, "--out", out)
    assert not list(elsewhere.iterdir())
    assert not files_in(out)


def test_files_that_are_not_ours_stay(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_photo_of_someone = out / "a.png"
    out.mkdir()
    write_photo_of_someone.write_bytes(b"mine")
    assert "exists already" in failure(capsys, "predict", model, photos, "--out", out)
    assert write_photo_of_someone.read_bytes() == b"mine"
    assert files_in(out) == ["a.png"]


def test_predictions_inside_the_input_folder_are_no_inputs(model: Path, photos: Path) -> None:
    arguments = (model, photos, "--out", photos / "out", "--as", "color")
    assert "4 predictions" in predict(*arguments)
    assert "0 predictions" in predict(*arguments)
    assert files_in(photos / "out") == ["a.png", "b.png", "deep/a.png", "deep/c.png", LOG]


def test_broken_images_are_named_at_the_end_and_the_rest_is_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:200])
    (photos / "deep" / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    arguments = ("predict", model, photos, "--out", out, "--as", "train-ids")
    written = failure(capsys, *arguments)
    assert "broken.jpg is damaged" in written
    assert "empty.png is empty" in written
    assert "2 inputs could not be read" in written
    assert files_in(out) == ["a.png", "b.png", "deep/a.png", "deep/c.png", LOG]
    write_photo(photos / "broken.jpg", 5)
    (photos / "deep" / "empty.png").unlink()
    assert "1 predictions" in run(*arguments)


def test_mistakes_are_told_before_any_work(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "overlay, overlay-legend, color" in failure(
        capsys, "predict", model, photos, "--out", out, "--as", "gif"
    )
    missing = failure(capsys, "predict", model, "x.png", photos, "y/*.png", "--out", out)
    assert missing.count("no image at") == 2
    assert "no label ids" in failure(
        capsys, "predict", model, photos, "--out", out, "--as", "label-ids"
    )
    (tmp_path / "empty").mkdir()
    assert "no image at" in failure(capsys, "predict", model, tmp_path / "empty", "--out", out)
    assert not out.exists()


def write_video(path: Path, frames: int = 11) -> None:
    size = (64, 48)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, size)
    for number in range(frames):
        frame = np.full((48, 64, 3), 20 * number, np.uint8)
        frame[:24] = (200, 100, 10 * number)
        writer.write(frame)
    writer.release()


def frames_of(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    while (read_one := capture.read())[0]:
        yield read_one[1][:, :, ::-1]


def test_a_video_becomes_a_video_and_its_ids_numbered_pngs(model: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_video(clip)
    printed = predict(model, clip, "--out", out, "--as", "color,train-ids")
    assert "1 predictions" in printed
    numbered = [f"train-ids/clip.mp4/{number:06}.png" for number in range(11)]
    assert files_in(out) == ["color/clip.mp4", LOG, *numbered]
    network = Segmenter.from_pretrained(model)
    palette = np.array(network.classes.palette)
    written = list(frames_of(out / "color/clip.mp4"))
    assert len(written) == 11
    for name, frame, painted in zip(numbered, frames_of(clip), written, strict=True):
        label = network.predict(np.ascontiguousarray(frame))
        assert np.array_equal(read_pixels(out / name), label)
        # Lossy, but the right frame in the right place.
        assert np.abs(painted - palette[label]).mean() < 20
    rate = cv2.VideoCapture(str(out / "color/clip.mp4")).get(cv2.CAP_PROP_FPS)
    assert rate == pytest.approx(12.5)
    assert "1 were there already" in predict(
        model, clip, "--out", out, "--as", "color", "--as", "train-ids"
    )


def test_a_broken_video_leaves_nothing_behind(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    out = tmp_path / "out"
    written = failure(capsys, "predict", model, tmp_path / "clip.mp4", "--out", out)
    assert "clip.mp4 is damaged" in written
    assert files_in(out) == [LOG]


def test_the_log_says_which_file_each_prediction_is_of(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(model, photos / "deep", "--out", out, "--as", "train-ids")
    settings, *records = map(json.loads, (out / LOG).read_text().splitlines())
    assert settings["as"] == ["train-ids"]
    by_place: dict[str, Any] = {record["place"]: record["input"] for record in records}
    assert by_place == {name: os.path.join(photos, "deep", f"{name}.png") for name in "ac"}


def test_files_from_python(model: Path, photos: Path, tmp_path: Path) -> None:
    network = cag_uda.load(model)
    made = cag_uda.predict_files(network, photos / "deep", tmp_path / "out", ["train-ids"])
    assert {path.name: kinds["train-ids"] for path, kinds in made.items()} == {
        "a.png": tmp_path / "out" / "a.png",
        "c.png": tmp_path / "out" / "c.png",
    }
    for path, kinds in made.items():
        assert np.array_equal(read_pixels(kinds["train-ids"]), network.predict(path))
    again = cag_uda.predict_files(model, [photos / "deep"], tmp_path / "out", ["train-ids"])
    assert again == made


def test_a_video_that_breaks_off_is_no_finished_prediction(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_video(clip, frames=12)
    whole = cv2.VideoCapture
    broken = {"after": 3}

    class BreaksOff:
        def __init__(self, path: str) -> None:
            self._video, self._read = whole(path), 0

        def read(self) -> Any:
            self._read += 1
            return self._video.read() if self._read <= broken["after"] else (False, None)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._video, name)

    monkeypatch.setattr("cag_uda.prediction.stream.cv2.VideoCapture", BreaksOff)
    arguments = ("predict", model, clip, "--out", out, "--as", "train-ids,color")
    message = failure(capsys, *arguments)
    assert "of its 12 frames only the first 3" in message
    assert len([name for name in files_in(out) if name.endswith(".png")]) == 3
    assert len((out / LOG).read_text().splitlines()) == 1
    broken["after"] = 12
    assert "1 predictions" in run(*arguments)
    assert len([name for name in files_in(out) if name.endswith(".png")]) == 12


def test_long_names_are_shortened_and_stay_apart(model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    long = ["é" * 124 + "a.png", "é" * 124 + "b.png", "x" * 251 + ".png"]
    for seed, name in enumerate(long):
        write_photo(folder / name, seed)
    assert "3 predictions" in predict(model, folder, "--out", out, "--as", "train-ids")
    written = [name for name in files_in(out) if name != LOG]
    assert len(written) == 3
    assert all("~" in name for name in written)
    assert "0 predictions" in predict(model, folder, "--out", out, "--as", "train-ids")


def test_paths_that_are_none(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for wrong in ("a\0b.png", "~nobody/a.png", str(tmp_path / "pipe.png"), "/dev/zero", "x" * 5000):
        with pytest.raises(UserError, match="no image at"):
            cag_uda.predict_files(model, [wrong], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.quiet
def test_fifty_thousand_files_begin_within_three_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_photo(folder / "0.png", 0)
    for number in range(1, 50_000):
        os.link(folder / "0.png", folder / f"{number}.png")
    begun_s = time.process_time()
    jobs = find_jobs([str(folder)], tmp_path / "out")
    outputs = {job: list(output_names(job, tmp_path / "out", ["overlay"]).values()) for job in jobs}
    refuse_overwriting(jobs, outputs, tmp_path / "out")
    log = PredictionLog(tmp_path / "out", PredictionSettings(), overwrite=False)
    assert not any(log.is_done(job, outputs[job]) for job in jobs)
    log.refuse_others(outputs)
    assert time.process_time() - begun_s < 3
