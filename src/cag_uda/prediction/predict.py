"""Predict label maps of images, folders of images, and videos, and write them to a folder."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2

from cag_uda.data.files.images import DEFAULT
from cag_uda.errors import DataError, UserError
from cag_uda.files import LOCK, owned, remove_parts
from cag_uda.models.segmentation import Picture, Segmentation, write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.models.views import WHOLE, Views
from cag_uda.prediction.jobs import Job, find_jobs, refuse_overwriting
from cag_uda.prediction.log import PredictionLog
from cag_uda.prediction.opening import computing_in, open_model
from cag_uda.prediction.pictures import FOR_LOOKING, PAINTERS, video_file
from cag_uda.prediction.shapes import WRITABLE, LabelFile, write_shapes
from cag_uda.prediction.stream import (
    BATCH_SIZE,
    Behind,
    opened_video,
    read_frames,
    read_video,
    segment,
)
from cag_uda.runs.console import shown
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.prediction import PredictionSettings

Sink: TypeAlias = Callable[[int, Picture], None]
"""Takes the number of a video's frame and a picture of it."""

_SHOWN = 20
_WRITERS = 4
_LEAST_SHARE_OF_FRAMES = 0.95
"""Least share of a video's announced frames that must be decoded: the announced number may be a
little wrong, but a video with fewer frames is damaged."""
_MOST_FRAMES = 10**8
_MOST_FRAMES_PER_S, _USUAL_FRAMES_PER_S = 1000.0, 25.0


def predict_files(
    model: str | Path | Segmenter,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    kinds: Sequence[str] = ("overlay",),
    *,
    overwrite: bool = False,
    views: Views = WHOLE,
    accelerator: str = "auto",
    precision: str = "32",
    progress: Progress | bool | None = None,
) -> dict[Path, dict[str, Path]]:
    """Segment files, folders, globs and videos; outputs mirror the paths of their inputs.

    What an earlier command has done is skipped, if input, network and settings are the same.

    Args:
        model: a model folder, a run, or a hub id; or a network, which stays where it is.
        inputs: files, folders (all images and videos below) and globs, one or more.
        out: the output folder; with several kinds, each has a folder in it.
        kinds: what to write, of `PAINTERS`, or forms of annotation tools, of `WRITABLE`, which
            stand beside PNGs of train ids.
        overwrite: predict everything anew, whatever the folder holds.
        views: whose logits to average.
        accelerator: auto, cpu or cuda.
        precision: 32 or bf16.
        progress: told how far the work is; as in `cag_uda.adapt`.

    Returns:
        For each input what its predictions are, by kind: a PNG, a video, or a folder of PNGs.

    Raises:
        UserError: for inputs or a model that cannot be used; and at the end, naming them, for
            images that could not be read, when the predictions of all others are written.
    """
    known = (*PAINTERS, *WRITABLE)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise UserError(f"--as is one or more of {', '.join(known)}, got {', '.join(unknown)}")
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    jobs, out = find_jobs([str(each) for each in given], Path(out)), Path(out)
    outputs = {job: list(output_names(job, out, kinds).values()) for job in jobs}
    refuse_overwriting(jobs, outputs, out)
    segmenter = model if isinstance(model, Segmenter) else open_model(str(model), accelerator)
    if "label-ids" in kinds and segmenter.classes.label_ids is None:
        raise UserError(f"the classes of {model} have no label ids; use --as train-ids")
    settings = PredictionSettings(
        format=1,
        model=fingerprint(segmenter),
        kinds=sorted(kinds),
        precision=precision,
        views=asdict(views),
    )
    told = shown(progress)
    with owned(out / LOCK, "predictions are being written"), computing_in(precision, segmenter):
        log = PredictionLog(out, settings, overwrite)
        remaining = [job for job in jobs if not log.is_done(job, outputs[job])]
        log.refuse_others({job: outputs[job] for job in remaining})
        log.begin()
        remove_parts(out)
        predictor = _Predictor(segmenter, out, kinds, views, log, told)
        predictor.run(remaining)
    _write_shapes(jobs, out, kinds, segmenter)
    done = len(remaining) - len(predictor.broken)
    skipped = len(jobs) - len(remaining)
    there = f", {skipped} were there already" if skipped else ""
    told.note(f"{done} predictions in {out}{there}")
    predictor.refuse_broken()
    return {Path(job.source): outputs_of(job, out, kinds) for job in jobs}


def _write_shapes(jobs: Sequence[Job], out: Path, kinds: Sequence[str], network: Segmenter) -> None:
    """Write the files of annotation tools of all images that have a prediction, from its PNG."""
    for kind in kinds:
        if kind not in WRITABLE:
            continue
        labels = [
            LabelFile(path, job.place, job.place + job.extension)
            for job in jobs
            if not job.is_video and (path := outputs_of(job, out, kinds)[kind]).is_file()
        ]
        folder = out / kind if len(kinds) > 1 else out
        write_shapes(kind, folder, labels, network.classes.names)


def fingerprint(segmenter: Segmenter) -> str:
    """Digest of a network's weights and configuration, the same on every device."""
    digest = hashlib.sha256(segmenter.config.model_dump_json().encode())
    digest.update(segmenter.classes.model_dump_json().encode())
    for name, value in sorted(segmenter.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def outputs_of(job: Job, out: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Return where each kind of a job's prediction goes: a PNG, a video, or a folder of PNGs."""
    return {kind: Path(name) for kind, name in output_names(job, out, kinds).items()}


def output_names(job: Job, out: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Return the same as text, which is quicker for many thousand jobs."""
    paths = {}
    for kind in kinds:
        folder = os.path.join(out, kind) if len(kinds) > 1 else os.fspath(out)
        ending = ".png"
        if job.is_video:
            ending = ".mp4" if kind in FOR_LOOKING else job.extension
        paths[kind] = f"{folder}{os.sep}{job.place}{ending}"
    return paths


@dataclass
class _Predictor:
    """Takes jobs through a network and writes what comes out."""

    segmenter: Segmenter
    out: Path
    kinds: Sequence[str]
    views: Views
    log: PredictionLog
    progress: Progress
    broken: list[str] = field(default_factory=list)
    """Messages of inputs that could not be read; an exception would keep their pixels alive."""
    done: int = 0
    total: int = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Predict everything; what cannot be read is kept in `broken`."""
        images = [job for job in jobs if not job.is_video]
        videos = [job for job in jobs if job.is_video]
        self.total = len(images)
        self._run_images(images)
        for job in videos:
            try:
                self._run_video(job)
            except DataError as error:
                self.broken.append(str(error))

    def refuse_broken(self) -> None:
        """Say which inputs were left out. Raises UserError naming them, if there are any."""
        if not self.broken:
            return
        problems = self.broken[:_SHOWN]
        if len(self.broken) > _SHOWN:
            problems.append(f"… and {len(self.broken) - _SHOWN} more")
        problems.append(
            f"{len(self.broken)} inputs could not be read and have no prediction; mend or remove "
            "them, then run the same command again: it does only what is missing"
        )
        raise UserError(problems)

    def _run_images(self, jobs: Sequence[Job]) -> None:
        config, by_window = self.segmenter.config, self.views.window_px is not None
        reader = config.images or DEFAULT
        frames = read_frames(
            jobs,
            lambda job: reader.read(Path(job.source), large=by_window),
            config.input_width_px,
            self._leave_out,
        )
        with Behind(_WRITERS, 4 * BATCH_SIZE) as writing:
            for batch in segment(self.segmenter, frames, self.views, "confidence" in self.kinds):
                for job, segmented in batch:
                    writing.call(partial(self._write_image, job, segmented), segmented.label.size)
                self._advance(len(batch))

    def _write_image(self, job: Job, segmented: Segmentation) -> None:
        for kind, path in outputs_of(job, self.out, self.kinds).items():
            write_picture(path, _painted(kind, segmented))
        self.log.add(job)

    def _run_video(self, job: Job) -> None:
        with opened_video(Path(job.source)) as capture, ExitStack() as files:
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            # Formats that do not say tell something negative, or more than there can be.
            announced = announced if 0 < announced < _MOST_FRAMES else 0
            self.total += announced
            frames_per_s = capture.get(cv2.CAP_PROP_FPS)
            if not 0 < frames_per_s < _MOST_FRAMES_PER_S:
                frames_per_s = _USUAL_FRAMES_PER_S
            sinks = {
                kind: files.enter_context(video_file(path, frames_per_s))
                if kind in FOR_LOOKING
                else partial(_write_numbered, path)
                for kind, path in outputs_of(job, self.out, self.kinds).items()
            }
            # One thread: frames are written in their order.
            writing = files.enter_context(Behind(1, 2 * BATCH_SIZE))
            frames = read_video(capture, self.segmenter.config.input_width_px)
            before = self.done
            for batch in segment(self.segmenter, frames, self.views, "confidence" in self.kinds):
                for number, segmented in batch:
                    writing.call(partial(self._write_frame, sinks, number, segmented))
                self._advance(len(batch))
            read = self.done - before
            if not read:
                raise DataError(
                    f"{job.source} has no frame that OpenCV can decode; convert it to MP4"
                )
        if read < _LEAST_SHARE_OF_FRAMES * announced:
            raise DataError(
                f"{job.source} is damaged: of its {announced} frames only the first {read} can be "
                "decoded, whose prediction is written but not recorded as done; copy the video "
                "again, or convert it to MP4"
            )
        self.log.add(job)

    def _write_frame(self, sinks: dict[str, Sink], number: int, segmented: Segmentation) -> None:
        for kind, write in sinks.items():
            write(number, _painted(kind, segmented))

    def _leave_out(self, job: Job, error: DataError) -> None:
        self.broken.append(str(error))
        self._advance(1)

    def _advance(self, count: int) -> None:
        self.done += count
        # Videos announce their frames, not always rightly.
        self.total = max(self.total, self.done)
        self.progress.update("predicting", self.done, self.total)


def _painted(kind: str, segmented: Segmentation) -> Picture:
    return segmented.label if kind in WRITABLE else PAINTERS[kind](segmented)


def _write_numbered(folder: Path, number: int, picture: Picture) -> None:
    write_picture(folder / f"{number:06}.png", picture)
