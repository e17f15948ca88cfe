"""Make the README's picture from a run: image, source-only, last stage and truth of its samples.

Usage: python docs/strip.py RUN OUT.png [SAMPLE …]
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

_GAP_PX = 6
_CAPTION_PX = 26


def strip(run: Path, samples: list[int]) -> np.ndarray:
    """One row a sample, under captions, (H, W, 3) uint8 BGR."""
    stages = json.loads((run / "scores.json").read_text())["stages"]
    floor = next(stage for stage in stages if stage["name"] == "source-only")
    last = stages[-1]
    captions = [
        "target image (no labels)",
        f"source only: mIoU {100 * floor['miou']:.1f}",
        f"adapted: mIoU {100 * last['miou']:.1f}",
        "truth",
    ]
    rows = []
    for number in samples:
        files = [
            run / "samples" / str(number) / "image.jpg",
            run / "stages" / floor["folder"] / "samples" / f"{number}.png",
            run / "stages" / last["folder"] / "samples" / f"{number}.png",
            run / "samples" / str(number) / "truth.png",
        ]
        rows.append(_side_by_side([cv2.imread(str(path)) for path in files]))
    header = np.full((_CAPTION_PX, rows[0].shape[1], 3), 255, np.uint8)
    width = (rows[0].shape[1] + _GAP_PX) // len(captions)
    for index, caption in enumerate(captions):
        place = (index * width + 4, _CAPTION_PX - 9)
        cv2.putText(
            header, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA
        )
    spaced = [part for row in rows for part in (row, _gap(_GAP_PX, row.shape[1]))]
    return np.vstack([header, *spaced[:-1]])


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    spaced = [part for each in pictures for part in (each, _gap(each.shape[0], _GAP_PX))]
    return np.hstack(spaced[:-1])


def _gap(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


if __name__ == "__main__":
    chosen = [int(each) for each in sys.argv[3:]] or [0, 2, 4]
    cv2.imwrite(sys.argv[2], strip(Path(sys.argv[1]), chosen))
