"""Where the repository and its data lie."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


CAMVID_ROOT = REPOSITORY.parent / "shared" / "data"
