"""Run folders such as `cag-uda adapt` leaves behind, of drawn streets, for tests of the report."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from cag_uda.report.metrics_log import Metrics
from cag_uda.report.run_folder import StageRecord
from cag_uda.runs.records.run import StageScores

CLASSES = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
]  # fmt: skip
PALETTE = [
    [70, 130, 180], [70, 70, 70], [192, 192, 128], [128, 64, 128], [244, 35, 232], [107, 142, 35],
    [220, 220, 0], [190, 153, 153], [0, 0, 142], [220, 20, 60], [119, 11, 32],
]  # fmt: skip
STAGES = (
    ("source-only", "source-only", "initial", 900, 0.312),
    ("warm-up", "adversarial", "initial", 600, 0.368),
    ("stage-1", "cag", "warm-up", 400, 0.431),
    ("stage-2", "cag", "stage-1", 400, 0.483),
)


@cache
def scene(seed: int, width_px: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A street: image (H, W, 3) uint8 and train ids (H, W) uint8, seen from the driver's seat."""
    rng = np.random.default_rng(seed)
    height_px = width_px * 3 // 4
    y, x = np.mgrid[0 : 1 : height_px * 1j, 0 : 1 : width_px * 1j]
    ids = np.where(y < 0.5, 0, 4).astype(np.uint8)
    centre = 0.5 + rng.uniform(-0.1, 0.1)
    ids[np.abs(x - centre) < 0.5 * (y - 0.42)] = 3
    for left in np.arange(0, 1, 0.12):
        top = rng.uniform(0.08, 0.4) + 0.25 * (np.abs(left + 0.06 - centre) < 0.12)
        ids[(x >= left) & (x < left + 0.12) & (y > top) & (y < 0.58)] = rng.choice([1, 1, 5, 7])
    for kind, wide, high in ((8, 0.2, 0.14), (8, 0.12, 0.1), (9, 0.035, 0.2), (10, 0.05, 0.17)):
        left, bottom = rng.uniform(0.05, 0.8), rng.uniform(0.6, 0.85)
        ids[(x >= left) & (x < left + wide) & (y > bottom - high) & (y < bottom)] = kind
    pole = rng.uniform(0.1, 0.9)
    ids[(np.abs(x - pole) < 0.008) & (y > 0.1) & (y < 0.66)] = 2
    ids[(np.abs(x - pole) < 0.035) & (y > 0.1) & (y < 0.18)] = 6
    dusk = 0.45 + 0.35 * (1 - y[..., None])
    image = (np.array(PALETTE)[ids] * 0.55 + 60) * dusk + rng.normal(0, 9, (*ids.shape, 3))
    return image.clip(0, 255).astype(np.uint8), ids


def coloured(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array(PALETTE, dtype=np.uint8)[ids % len(PALETTE)])


def mistaken(ids: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels with about `share` of the picture in blocks of a wrong class."""
    rng = np.random.default_rng(seed)
    wrong = ids.copy()
    height_px, width_px = ids.shape
    for _ in range(round(share * 120)):
        top, left = rng.integers(height_px), rng.integers(width_px)
        block = np.s_[top : top + height_px // 9, left : left + width_px // 9]
        wrong[block] = ids[top, left] if rng.random() < 0.3 else rng.integers(11)
    return wrong


def log_lines(steps: int, seed: int, kinds: tuple[str, ...], miou: float | None) -> str:
    rng = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    for step in range(20, steps + 1, 20):
        noise = 1 + 0.12 * rng.normal(size=len(kinds))
        losses = {
            kind: round(float((2.2 - 0.5 * place) * np.exp(-3 * step / steps) + 0.25) * n, 4)
            for place, (kind, n) in enumerate(zip(kinds, noise, strict=True))
        }
        lines.append({"step": step, "losses": losses, "learning_rate": 0.01,
                      "images_per_s": 12.3, "elapsed_s": step * 0.16})  # fmt: skip
        if miou is not None and step % 200 == 0:
            score = miou * (0.8 + 0.2 * step / steps) + 0.008 * rng.normal()
            lines.append({"step": step, "scores": {"miou": round(float(score), 4)}})
    return "".join(json.dumps(line) + "\n" for line in lines)


def make_run(
    run: Path,
    stages: tuple[tuple[str, str, str, int, float], ...] = STAGES,
    classes: list[str] = CLASSES,
    labels: bool = True,
    width_px: int = 48,
    samples: int = 2,
) -> Path:
    """A finished run such as `cag-uda adapt` leaves behind."""
    run.mkdir()
    listed = []
    for place, (name, method, start, steps, miou) in enumerate(stages):
        folder = run / "stages" / f"{place}-{name}"
        (folder / "samples").mkdir(parents=True)
        rng = np.random.default_rng(place)
        spread = miou + 0.42 * np.linspace(1, -0.6, len(classes)) + 0.03 * rng.normal(size=11)
        iou: list[float | None] = [round(float(v), 4) for v in spread.clip(0, 0.97)]
        iou[-1] = None if place < 2 else iou[-1]
        points = 100 * (miou - stages[0][4])
        gain = {"over": "source-only", "points": points, "low": points - 1.9, "high": points + 2.1}
        listed.append({
            "folder": folder.name, "name": name, "method": method, "start": start, "steps": steps,
            "elapsed_s": steps * 0.17, "miou": miou if labels else None,
            "iou": iou if labels else None,
        } | ({"gain": gain} if place and labels else {}))  # fmt: skip
        kinds = ("source/ce",) if place < 1 else ("source/ce", "target/ce", "target/anchor")
        (folder / "metrics.jsonl").write_text(
            log_lines(steps, place, kinds, miou if labels else None)
        )
        if method == "cag":
            (folder / "pseudo_labels.json").write_text(json.dumps(pseudo_labels(place, labels)))
        write_evidence(folder, place, method, miou, labels, samples, width_px)
        for sample in range(samples):
            _, ids = scene(sample, width_px)
            wrong = mistaken(ids, 0.9 - 1.5 * miou, seed=17 * sample)
            coloured(wrong).save(folder / "samples" / f"{sample}.png")
    for sample in range(samples):
        folder = run / "samples" / str(sample)
        folder.mkdir(parents=True)
        image, ids = scene(sample, width_px)
        Image.fromarray(image).save(folder / "image.jpg", quality=92)
        if labels:
            coloured(ids).save(folder / "truth.png")
    scores = {"recipe": "camvid-day-dusk", "source": "camvid-day/train",
              "target": "camvid-dusk/test" if labels else None,
              "classes": classes, "palette": PALETTE, "stages": listed}  # fmt: skip
    (run / "scores.json").write_text(json.dumps(scores))
    recipe = "".join(
        f'\n[[stages]]\nname = "{name}"\nmethod = "{method}"\nsteps = {steps}\n'
        for name, method, _, steps, _ in stages
    )
    (run / "recipe.toml").write_text(f'name = "camvid-day-dusk"\nseed = 0\n{recipe}')
    (run / "environment.json").write_text(
        json.dumps({"command": ["cag-uda", "adapt", "r.toml"], "packages": {"numpy": "2.1"}})
    )
    return run


def drawn_labels(sample: int, kind: str, width_px: int) -> np.ndarray:
    """Pseudo-labels on a grid of 4 × 4 pixels a cell, the clearer kind with fewer of them."""
    _, ids = scene(sample, width_px)
    cells = mistaken(ids, 0.2, seed=sample)[2::4, 2::4].copy()
    rng = np.random.default_rng(len(kind) + sample)
    cells[rng.random(cells.shape) < (0.3 if kind == "anchor" else 0.6)] = 255
    return cells


def write_evidence(
    folder: Path, place: int, method: str, miou: float, labels: bool, samples: int, width_px: int
) -> None:
    """What a stage keeps for its report: pseudo-labels, features, confusions, criteria."""
    rng = np.random.default_rng(place)
    anchors = rng.normal(0, 3, (11, 2)).astype(np.float32)
    ids = np.arange(220, dtype=np.uint8) % 11
    near = 1.2 - 0.2 * place
    xy = {
        name: (anchors[ids] + rng.normal(shift, near, (220, 2))).astype(np.float32)
        for name, shift in (("source_xy", 0), ("target_xy", 0.8 - 0.2 * place))
    }
    save_file(
        {
            **xy,
            "source_class": ids,
            "target_class": ids,
            "anchors_xy": anchors,
            "distances": np.linalg.norm(anchors[:, None] - anchors, axis=2).astype(np.float32),
            "spread": np.full(11, near, np.float32),
            "shift": np.full(11, 0.8, np.float32),
        },
        folder / "features.safetensors",
        {"target_classes": "truth" if labels else "prediction"},
    )
    criteria = {"entropy": 0.9 - miou, "infomax": miou, "agreement": 0.7}
    record = {"step": 1, "network": "model", "criteria": criteria}
    (folder / "criteria.json").write_text(json.dumps({**criteria, "records": [record]}))
    if labels:
        counts = rng.integers(1, 9, (3, 11, 12)) + 60 * np.eye(11, 12, dtype=np.int64)
        counts[:, :, 11] = 0
        np.savez(folder / "frames.npz", keys=list("abc"), confusions=counts, names=CLASSES)
    if method == "cag":
        (folder / "pseudo_labels").mkdir()
        for sample in range(samples):
            for kind in ("anchor", "confidence"):
                cells = drawn_labels(sample, kind, width_px)
                Image.fromarray(cells).save(folder / "pseudo_labels" / f"{sample}-{kind}.png")


def pseudo_labels(place: int, labels: bool) -> dict[str, Any]:
    def kind(precision: float, coverage: float) -> dict[str, Any]:
        rows = {
            "precision": [precision - 0.03 * c if labels else None for c in range(11)],
            "coverage": [coverage - 0.02 * c for c in range(11)],
        }
        return {"precision": precision if labels else None, "coverage": coverage, "per_class": rows}

    return {
        "anchor": kind(0.76 + 0.02 * place, 0.41 + 0.04 * place),
        "confidence": kind(0.72 + 0.02 * place, 0.38 + 0.05 * place),
    }


def stage_record(name: str) -> StageRecord:
    """A stage of which nothing but the name is known."""
    scores = StageScores(folder=f"0-{name}", name=name, method="cag")
    return StageRecord(scores, True, Path(), Metrics(), {}, {})


def edit_scores(run: Path, **changes: object) -> None:
    scores = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps(scores | changes))


def pictures_in(page: str) -> int:
    """How many pictures the sheet of a page shows."""
    return len(re.findall(r"<img src=\"data:image/", page))


def text_of(page: str) -> str:
    """What a reader sees: no tags, styles or scripts, single spaces."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
