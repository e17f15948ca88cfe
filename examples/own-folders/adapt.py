"""The same from Python: adapt to the photographs, then paint what the adapted network sees."""

from pathlib import Path

import numpy as np
from PIL import Image

import cag_uda

run = cag_uda.adapt("my-game-to-my-street.toml", "run")
segmenter = cag_uda.load(run.folder)
palette = np.array(segmenter.classes.palette, np.uint8)
Path("painted").mkdir()
for photo in sorted(Path("my-street").iterdir()):
    labels = segmenter.predict(photo)  # (H, W) uint8 train ids
    Image.fromarray(palette[labels]).save(Path("painted", f"{photo.stem}.png"))
