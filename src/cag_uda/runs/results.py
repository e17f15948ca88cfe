"""Results of a stage: network, scores, anchors, pseudo-label quality, sample pictures."""

from collections.abc import Iterator
from pathlib import Path

import torch

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.domains.domain import Item
from cag_uda.data.files.resizing import Image
from cag_uda.errors import DataError, RunError
from cag_uda.evaluation.evaluate import Evaluation, evaluate, load_frames, merge
from cag_uda.evaluation.pseudo_label_scores import PseudoLabelTally
from cag_uda.files import seal
from cag_uda.methods.base import Method
from cag_uda.models.inference import prepare
from cag_uda.models.label_maps import label_map
from cag_uda.models.segmentation import write_picture
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs.anchor_files import ANCHORS, save_anchors
from cag_uda.runs.criteria import Criteria
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.own_files import name_of, source_words
from cag_uda.runs.pictures import evenly, side_by_side, write_features, write_pseudo_labels
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import INITIAL, Given, Scores, StageScores
from cag_uda.runs.records.stage import METRICS, PSEUDO_LABELS, PseudoLabelScores, StagePseudoLabels
from cag_uda.runs.scenario import Scenario
from cag_uda.runs.verdict import baseline
from cag_uda.training.loggers import Loggers
from cag_uda.training.processes import Processes

_SAMPLES = 5
_SOURCE_SAMPLES = 8
_FLOOR = "source-only"
"""The stage over which gains are reported, whatever its method; without one, the verdict's."""


class Results:
    """Keeps the results of a run's stages, with the scores that its folder already holds.

    Every process calls every method and scores its share of the images; the first one writes.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        scenario: Scenario,
        processes: Processes,
        progress: Progress,
        loggers: Loggers,
    ) -> None:
        self._recipe, self._run, self._scenario, self._progress = recipe, run, scenario, progress
        self._processes, self._loggers = processes, loggers
        self._criteria = Criteria(recipe, scenario)
        is_named = any(stage.name == _FLOOR for stage in recipe.stages)
        self._floor = _FLOOR if is_named else baseline(recipe)
        target = f"{name_of(recipe.target.scored_domain)}/{recipe.target.test}"
        found = None
        with processes.agreed():
            if processes.is_first:
                try:
                    found = run.read_scores()
                except RunError as error:
                    again = "the stages are taken from their last checkpoints again"
                    progress.note(f"{error.problems[0]}; {again}")
        self.scores = processes.gather(found)[0] or Scores(
            recipe=recipe.name,
            source=source_words(recipe),
            target=target if scenario.is_scored else None,
            classes=list(scenario.label_space.names),
            palette=scenario.label_space.palette.tolist(),
            stages=[],
        )

    def quick_scores(
        self, method: Method, stage: Stage, folder: Path, step: int
    ) -> dict[str, float]:
        """Score a method's predictor in the middle of a stage; empty without target labels.

        Its label-free criteria are recorded, and the network kept if the stage asks for it.
        """
        segmenter = method.predictor()
        network = f"networks/{step}" if stage.keep_networks else None
        with self._processes.agreed():
            if self._processes.is_first:
                if network is not None:
                    segmenter.save_pretrained(folder / network)
                self._criteria.record(folder, segmenter, step, network)
        if not self._scenario.is_scored:
            return {}
        return {"miou": self._evaluate(segmenter, "evaluation").scores.miou}

    def show(self, method: Method, step: int) -> None:
        """Show the loggers what a method's predictor sees in the sample images."""
        with self._processes.agreed():
            if self._loggers:
                for number, image, colours, truth in self._predicted(method.predictor()):
                    picture = side_by_side(image, colours, truth)
                    self._loggers.picture(step, f"samples/{number}", picture)

    def keep_labelling(self, method: Method, folder: Path) -> None:
        """Keep the anchors that a method has made and the quality of its pseudo-labels."""
        quality = self._pseudo_label_quality(method)
        with self._processes.agreed():
            if not self._processes.is_first:
                return
            # The first ones are the source's; a method may have the target's too.
            anchors = [each for each in method.modules() if isinstance(each, CategoryAnchors)]
            if anchors:
                save_anchors(folder / ANCHORS, anchors[0])
            if quality:
                write_record(folder / PSEUDO_LABELS, StagePseudoLabels(quality))
            images = (self._scenario.test.read_image(item) for item in self._samples())
            write_pseudo_labels(folder, method, images)

    def keep(
        self,
        stage: Stage,
        start: str,
        method: Method,
        folder: Path,
        elapsed_s: float,
        peak_memory_mib: float,
    ) -> None:
        """Keep a stage's network, its scores and its sample pictures; the stage is then done.

        `start` is the stage whose network it began with; time and memory are those of training.
        """
        entry = StageScores(
            folder=folder.name,
            name=stage.name,
            method=stage.method.name,
            start=start,
            steps=stage.steps,
            elapsed_s=elapsed_s,
            peak_memory_mib=peak_memory_mib,
            miou=None,
            iou=None,
        )
        scored = self._keep(entry, method.predictor(), folder)
        self._progress.note(f"{stage.name}{scored} ({elapsed_s:.0f} s)")

    def keep_given(self, segmenter: Segmenter, kind: Given) -> None:
        """Keep the network that the run was given as a stage's, to hold the stages against it."""
        entry = StageScores(folder=INITIAL, name=INITIAL, method=kind, steps=0, miou=None, iou=None)
        self._loggers.on_start(self._run.initial, 0)
        scored = self._keep(entry, segmenter, self._run.initial)
        self._progress.note(f"{entry.in_words}, as it is{scored}")

    def _keep(self, entry: StageScores, segmenter: Segmenter, folder: Path) -> str:
        """Keep a network, its criteria, scores and sample pictures; returns its mIoU in words."""
        steps = entry.steps or 0
        evaluation = None
        if self._scenario.is_scored:
            evaluation = self._evaluate(segmenter, f"scoring {entry.name}")
            entry = entry.with_changes(**evaluation.scores.record().plain())
        with self._processes.agreed():
            if self._processes.is_first:
                segmenter.save_pretrained(folder / "model")
                self._criteria.record(folder, segmenter, steps, "model")
                if evaluation is not None:
                    evaluation.save_frames(folder / "frames.npz")
                    entry = self._with_gain(entry, evaluation, segmenter.mean.device)
                self._keep_samples(segmenter, folder, steps)
                self._keep_features(segmenter, folder)
                if (folder / METRICS).exists():
                    seal(folder / METRICS)
                self._run.write_scores(self.scores.with_stage(entry))
                if entry.miou is not None:
                    self._loggers.numbers(steps, {"scores/miou": entry.miou})
        self.scores = self.scores.with_stage(self._processes.gather(entry)[0])
        return "" if entry.miou is None else f": mIoU {100 * entry.miou:.1f}"

    def _evaluate(self, segmenter: Segmenter, label: str) -> Evaluation:
        with self._processes.agreed():
            part = evaluate(
                segmenter,
                self._scenario.test,
                str(self._scenario.test_split),
                progress=lambda done, total: self._progress.update(label, done, total),
                shard=(self._processes.rank, self._processes.count),
            )
        return merge(self._processes.gather(part))

    def _with_gain(
        self, entry: StageScores, evaluation: Evaluation, device: torch.device
    ) -> StageScores:
        """Add the mIoU points over the baseline, with a 95 % interval over frames."""
        floor = None if self._floor is None else self.scores.stage(self._floor)
        if floor is None or floor.name == entry.name:
            return entry
        frames = self._frames_of(self._run.path / "stages" / floor.folder, device)
        return entry.with_changes(gain=evaluation.gain_over(frames).over(floor.in_words))

    def _frames_of(self, folder: Path, device: torch.device) -> Evaluation:
        """Read the evaluation of a finished stage, or make it again where it is damaged."""
        try:
            return load_frames(folder / "frames.npz")
        except DataError as error:
            self._progress.note(f"{error}: the stage's network is evaluated again")
        segmenter = Segmenter.from_pretrained(folder / "model").to(device)
        evaluation = evaluate(segmenter, self._scenario.test, str(self._scenario.test_split))
        evaluation.save_frames(folder / "frames.npz")
        return evaluation

    def _pseudo_label_quality(self, method: Method) -> dict[str, PseudoLabelScores]:
        """Measure each kind on the test split: precision and coverage; without labels, coverage."""
        if self._scenario.test_split is None:
            return {}
        with self._processes.agreed():
            tallies = self._tallies(method, self._scenario.test_split)
        kinds = dict.fromkeys(
            kind for each in self._processes.gather(list(tallies)) for kind in each
        )
        empty = PseudoLabelTally(self._scenario.label_space.num_classes)
        total = self._processes.total
        return {kind: tallies.get(kind, empty).reduced(total).scores() for kind in kinds}

    def _tallies(self, method: Method, split: str) -> dict[str, PseudoLabelTally]:
        """Tally each kind of pseudo-label over this process's share of a split of the target."""
        domain, classes = self._scenario.test, self._scenario.label_space.num_classes
        tallies: dict[str, PseudoLabelTally] = {}
        device = next(method.parameters()).device
        for item in domain.items(split)[self._processes.rank :: self._processes.count]:
            picture, label = self._pair(item)
            pixels = prepare(picture, method.segmenter.config.input_width_px).to(device)
            labels = method.pseudo_labels(pixels)
            if not labels:
                break
            truth = None if label is None else torch.from_numpy(label).long()[None].to(device)
            for kind, pseudo in labels.items():
                cells = None if truth is None else method.segmenter.on_grid(truth, pseudo.label)
                tallies.setdefault(kind, PseudoLabelTally(classes)).update(pseudo, cells)
        return tallies

    def _keep_samples(self, segmenter: Segmenter, folder: Path, step: int) -> None:
        """Write coloured predictions of a few test images; images and truths once for the run."""
        for number, image, colours, truth in self._predicted(segmenter):
            write_picture(folder / "samples" / f"{number}.png", colours, sealed=True)
            self._loggers.picture(step, f"samples/{number}", side_by_side(image, colours, truth))
            shared = self._run.path / "samples" / str(number)
            if not (shared / "image.jpg").exists():
                if truth is not None:
                    write_picture(shared / "truth.png", truth, sealed=True)
                write_picture(shared / "image.jpg", image, sealed=True)

    def _predicted(self, segmenter: Segmenter) -> Iterator[tuple[int, Image, Image, Image | None]]:
        """Yield number, image, coloured prediction and coloured truth, if any, of each sample."""
        space = self._scenario.label_space
        for number, item in enumerate(self._samples()):
            image, label = self._pair(item)
            truth = None if label is None else space.colorize(label)
            yield number, image, space.colorize(label_map(segmenter, image)), truth

    def _keep_features(self, segmenter: Segmenter, folder: Path) -> None:
        """Write the feature map of a few source images and of the sample images."""
        if not self._scenario.sources:
            return
        images = self._scenario.sources[0]
        source = (images.read(index) for index in evenly(len(images), _SOURCE_SAMPLES))
        target = [self._pair(item) for item in self._samples()]
        write_features(folder / "features.safetensors", segmenter, source, target)

    def _pair(self, item: Item) -> tuple[Image, Image | None]:
        """Read a test image, with its label of the same size where the target is scored."""
        domain = self._scenario.test
        if self._scenario.is_scored:
            return domain.read_pair(item)
        return domain.read_image(item), None

    def _samples(self) -> list[Item]:
        split = self._scenario.test_split or self._recipe.target.train
        items = self._scenario.test.items(split, with_labels=self._scenario.is_scored)
        return [items[index] for index in evenly(len(items), _SAMPLES)]
