"""The domain files of a run, copied into it: a run folder that is moved still says what it used.

Knows domain files and recipes, not images.
"""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from cag_uda.data.domains.domain_file import read_domain_file
from cag_uda.files import write_text
from cag_uda.recipes import Recipe

FOLDER = "domains"


def is_file(domain: str) -> bool:
    """Tell whether a recipe names a domain by a file, not a built-in one by its name."""
    return domain.endswith(".toml")


def name_of(domain: str) -> str:
    """Give the name of a domain without the folders of this machine."""
    return Path(domain).stem if is_file(domain) else domain


def with_domains(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """Copy a recipe with other domains.

    Args:
        recipe: which.
        change: what a domain's name or path becomes.
    """
    source = tuple(
        entry.model_copy(update={"domain": change(entry.domain)}) for entry in recipe.source
    )
    target = recipe.target.model_copy(update={"domain": change(recipe.target.domain)})
    return recipe.model_copy(update={"source": source, "target": target})


def copy_domains(recipe: Recipe, run: Path) -> Recipe:
    """Copy the domain files of a recipe into RUN/domains; returns the recipe that names the copies.

    A copy names the folder of its images as it is on this machine, and then as the file has it: on
    another machine that is looked for below the data root.

    Raises:
        DataError: if a domain file cannot be used.
        RunError: if the folder cannot be written.
    """
    folder = run.resolve() / FOLDER
    copies: dict[str, str] = {}

    def own(domain: str) -> str:
        if not is_file(domain):
            return domain
        if domain not in copies:
            taken = {Path(path).stem for path in copies.values()}
            stem, number = Path(domain).stem, 2
            while stem in taken:
                stem, number = f"{Path(domain).stem}-{number}", number + 1
            write_text(folder / f"{stem}.toml", _described(Path(domain)), sealed=True)
            copies[domain] = str(folder / f"{stem}.toml")
        return copies[domain]

    return with_domains(recipe, own)


def is_same(domain: str, other: str) -> bool:
    """Tell whether two names or files mean the same domain, wherever its images lie."""
    if domain == other:
        return True
    if not (is_file(domain) and is_file(other)):
        return False
    return _without_root(Path(domain)) == _without_root(Path(other))


def _described(path: Path) -> str:
    """The domain file with the folder of its images."""
    read_domain_file(path)
    table = _table(path)
    if "root" in table:
        names = [table["root"]] if isinstance(table["root"], str) else list(table["root"])
        folders = [str((path.parent / os.path.expanduser(name)).resolve()) for name in names]
        table["root"] = list(dict.fromkeys([*folders, *names]))
    return tomli_w.dumps(table)


def _without_root(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _table(path).items() if key != "root"}


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"path": str(path)}
