"""Where things are kept that are made once and can be made again: rendered scenes, class counts."""

import os
from pathlib import Path

VARIABLE = "CAG_UDA_CACHE"
"""The environment variable that names another folder."""


def cache_folder() -> Path:
    """The folder, which need not be there yet."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "cag-uda"
