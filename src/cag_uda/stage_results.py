"""What a stage leaves behind: network, scores, anchors, pseudo-label quality, sample pictures."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from cag_uda.adaptation.anchors import CategoryAnchors
from cag_uda.data.augment import Image
from cag_uda.data.domain import Item
from cag_uda.errors import RunError
from cag_uda.evaluation.evaluate import Evaluation, evaluate, load_frames
from cag_uda.evaluation.pseudo_label_scores import PseudoLabelTally
from cag_uda.files import write_json, write_with
from cag_uda.methods.base import Method
from cag_uda.models.inference import label_map, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.progress import Progress
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.run_folder import RunFolder
from cag_uda.scenario import Scenario

_SAMPLES = 5
_FLOOR = "source-only"
"""The stage over which gains are reported."""


class Results:
    """Keeps the results of a run's stages, on the main process.

    Args:
        recipe: of the run.
        run: its folder; what it holds already is taken over.
        scenario: whose test split is scored.
        progress: told how far evaluation is.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, scenario: Scenario, progress: Progress
    ) -> None:
        self._recipe, self._run, self._scenario, self._progress = recipe, run, scenario, progress
        target = recipe.target
        is_scored = scenario.is_scored
        self.scores: dict[str, Any] = run.read_scores() or {
            "recipe": recipe.name,
            "source": " + ".join(f"{entry.domain}/{entry.split}" for entry in recipe.source),
            "target": f"{target.domain}/{target.test}" if is_scored else None,
            "classes": list(scenario.label_space.names),
            "palette": scenario.label_space.palette.tolist(),
            "stages": [],
        }

    def has(self, stage: str) -> bool:
        """Whether a stage is done."""
        return any(entry["name"] == stage for entry in self.scores["stages"])

    def quick_scores(self, method: Method) -> dict[str, Any]:
        """Score a method's predictor in the middle of a stage; empty without target labels."""
        if not self._scenario.is_scored:
            return {}
        return {"miou": self._evaluate(method.predictor(), "evaluation").scores.miou}

    def keep_labelling(self, method: Method, folder: Path) -> None:
        """Keep the anchors that a method has made and the quality of its pseudo-labels."""
        for module in method.children():
            if isinstance(module, CategoryAnchors):
                _write_anchors(folder / "anchors.safetensors", module)
        quality = self._pseudo_label_quality(method)
        if quality:
            write_json(folder / "pseudo_labels.json", quality)

    def keep(
        self, index: int, stage: Stage, start: str, method: Method, folder: Path, elapsed_s: float
    ) -> None:
        """Keep a stage's network, its scores and its sample pictures; the stage is then done."""
        segmenter = method.predictor()
        segmenter.save_pretrained(folder / "model")
        entry: dict[str, Any] = {
            "folder": folder.name,
            "name": stage.name,
            "method": stage.method.name,
            "start": start,
            "steps": stage.steps,
            "elapsed_s": elapsed_s,
            "miou": None,
            "iou": None,
        }
        if self._scenario.is_scored:
            evaluation = self._evaluate(segmenter, f"scoring {stage.name}")
            evaluation.save_frames(folder / "frames.npz")
            entry |= evaluation.scores.to_dict()
            entry |= self._gain(evaluation)
        self._keep_samples(segmenter, folder)
        self.scores["stages"].append(entry)
        self._run.write_scores(self.scores)
        miou = entry["miou"]
        scored = "" if miou is None else f": mIoU {100 * miou:.1f}"
        self._progress.note(f"{stage.name}{scored} ({elapsed_s:.0f} s of training)")

    def _evaluate(self, segmenter: Segmenter, label: str) -> Evaluation:
        split = str(self._scenario.test_split)
        return evaluate(
            segmenter,
            self._scenario.test,
            split,
            progress=lambda done, total: self._progress.update(label, done, total),
        )

    def _gain(self, evaluation: Evaluation) -> dict[str, Any]:
        """The gain in mIoU points over the source-only stage, with a 95 % interval over frames."""
        for entry in self.scores["stages"]:
            if entry["name"] == _FLOOR:
                floor = load_frames(self._run.path / "stages" / entry["folder"] / "frames.npz")
                interval = evaluation.gain_over(floor)
                points = {
                    "points": 100 * interval.difference,
                    "low": 100 * interval.low,
                    "high": 100 * interval.high,
                }
                return {"gain": {"over": _FLOOR, **points}}
        return {}

    def _pseudo_label_quality(self, method: Method) -> dict[str, Any]:
        """Precision and coverage of each kind on the test split; coverage alone without labels."""
        if self._scenario.test_split is None:
            return {}
        domain = self._scenario.test
        tallies: dict[str, PseudoLabelTally] = {}
        device = next(method.parameters()).device
        for item in domain.items(self._scenario.test_split):
            image = prepare(domain.read_image(item), self._recipe.loading.width_px)
            labels = method.pseudo_labels(image.to(device).float() / 255)
            if not labels:
                return {}
            truth = None
            if self._scenario.is_scored:
                truth = torch.from_numpy(domain.read_label(item)).long()[None].to(device)
            for kind, pseudo in labels.items():
                tally = tallies.setdefault(
                    kind, PseudoLabelTally(self._scenario.label_space.num_classes)
                )
                tally.update(pseudo, truth)
        return {kind: tally.scores() for kind, tally in tallies.items()}

    def _keep_samples(self, segmenter: Segmenter, folder: Path) -> None:
        """Coloured predictions of a few test images; the images and truths once for the run."""
        domain, space = self._scenario.test, self._scenario.label_space
        for number, item in enumerate(self._samples()):
            image = domain.read_image(item)
            colours = space.colorize(label_map(segmenter, image))
            _write_picture(folder / "samples" / f"{number}.png", colours)
            shared = self._run.path / "samples" / str(number)
            if not (shared / "image.jpg").exists():
                if self._scenario.is_scored:
                    _write_picture(shared / "truth.png", space.colorize(domain.read_label(item)))
                _write_picture(shared / "image.jpg", image)

    def _samples(self) -> list[Item]:
        split = self._scenario.test_split or self._recipe.target.train
        items = self._scenario.test.items(split)
        chosen = np.linspace(0, len(items) - 1, min(_SAMPLES, len(items))).round().astype(int)
        return [items[index] for index in chosen]


def _write_anchors(path: Path, anchors: CategoryAnchors) -> None:
    tensors = {"vectors": anchors.vectors, "counts": anchors.counts}
    on_host = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_with(path, lambda temporary: save_file(on_host, temporary))


def _write_picture(path: Path, picture: Image) -> None:
    ok, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RunError(f"cannot encode the picture {path}")
    write_with(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))
