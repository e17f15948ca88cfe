"""Folders as people have them, the domain file for one, and what `check` says of it."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from cag_uda.cli.app import app
from cag_uda.data.domains.domain import Domain

CLASSES = "".join(f'[[classes]]\nname = "{name}"\n' for name in ("road", "car", "tree", "sky"))


def described(
    folder: Path, labels: str = 'encoding = "ids"', split: str = "", extra: str = "", root: str = ""
) -> Path:
    """Write a domain file for folder/images and folder/labels."""
    path = folder.parent / f"{folder.name}.toml"
    split = split or 'images = "images/*"\nlabels = "labels/*"'
    path.write_text(
        f'name = "d"\nroot = "{root or folder.name}"\n{extra}\n[labels]\n{labels}\n'
        f"[splits.train]\n{split}\n{CLASSES}",
        encoding="utf-8",
    )
    return path


def opened(folder: Path) -> Domain:
    return Domain.open(folder.parent / f"{folder.name}.toml")


def read(folder: Path, split: str = "train") -> list[np.ndarray]:
    domain = opened(folder)
    return [domain.read_label(item) for item in domain.items(split)]


def check_fails(path: Path, said: str) -> None:
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 2, done.output
    assert said in done.output
