"""Copy the files that a run's recipe names into its folder: domain files, pack, initial network.

A run folder that is moved to another machine so still describes its data, and needs no other run.
"""

import os
import tomllib
from filecmp import cmp
from pathlib import Path
from typing import Any

import tomli_w

from cag_uda.data.domains.domain_file import read_domain_file
from cag_uda.data.files.patterns import expanded
from cag_uda.errors import ModelError
from cag_uda.files import copy_file, digest, write_text
from cag_uda.models.pack import read_pack_header
from cag_uda.models.storage import WEIGHTS, copy_model, locate
from cag_uda.recipes import Recipe

DOMAINS, PACK, START = "domains", "pack.safetensors", "start"


def is_file(domain: str) -> bool:
    """Tell whether a recipe names a domain by a file, or a pack, not a built-in one by its name."""
    return domain.endswith(".toml") or _is_pack(domain)


def name_of(domain: str) -> str:
    """Return the name of a domain without its folders."""
    return Path(domain).stem if is_file(domain) else domain


def source_words(recipe: Recipe) -> str:
    """Name a recipe's source: domains and splits, "gta5/train + synthia/train", or their pack.

    Raises:
        ModelError: if it has a pack that cannot be read.
    """
    if recipe.pack is not None:
        return f"pack of {read_pack_header(Path(recipe.pack)).source}"
    return " + ".join(f"{name_of(entry.domain)}/{entry.split}" for entry in recipe.source)


def copy_domains(recipe: Recipe, run: Path) -> Recipe:
    """Copy domain files to RUN/domains, a pack to RUN/pack.safetensors; returns such a recipe.

    A domain file's copy has two roots: the absolute path on this machine, and the one in the file,
    which another machine looks for below the data root.

    Raises:
        UserError: if a domain file or the pack cannot be used, or the folder cannot be written.
    """
    folder = run.resolve() / DOMAINS
    copies: dict[str, str] = {}

    def own(domain: str) -> str:
        if not is_file(domain):
            return domain
        if _is_pack(domain):
            read_pack_header(Path(domain))
            copy_file(Path(domain), run / PACK, sealed=True)
            return str(run.resolve() / PACK)
        if domain not in copies:
            taken = {Path(path).stem for path in copies.values()}
            stem, number = Path(domain).stem, 2
            while stem in taken:
                stem, number = f"{Path(domain).stem}-{number}", number + 1
            write_text(folder / f"{stem}.toml", _described(Path(domain)), sealed=True)
            copies[domain] = str(folder / f"{stem}.toml")
        return copies[domain]

    return recipe.with_files(own)


def copy_start(recipe: Recipe, run: Path) -> Recipe:
    """Copy the network of `segmenter.start`, if any, into RUN/start; returns such a recipe."""
    start = recipe.segmenter.start
    if start is None:
        return recipe
    copy = run.resolve() / START / _model_name(start)
    copy_model(locate(start), copy)
    return recipe.with_start(str(copy))


def is_same(domain: str, other: str) -> bool:
    """Tell whether two names or files mean the same domain, wherever its images lie.

    Two packs are the same if their contents are.
    """
    if domain == other:
        return True
    if not (is_file(domain) and is_file(other)) or _is_pack(domain) != _is_pack(other):
        return False
    if _is_pack(domain):
        return all(map(os.path.isfile, (domain, other))) and cmp(domain, other, shallow=False)
    return _without_root(Path(domain)) == _without_root(Path(other))


def is_same_start(start: str, other: str) -> bool:
    """Tell whether two models have the same weights, wherever they lie."""
    if start == other:
        return True
    try:
        return digest(locate(start) / WEIGHTS) == digest(locate(other) / WEIGHTS)
    except (ModelError, OSError):
        return False


def _model_name(start: str) -> str:
    """Return the name of a model without its folders; for RUN/model, the name of the run."""
    parts = [part for part in Path(start).parts if part not in ("/", "..", ".")]
    is_inside = len(parts) > 1 and parts[-1] == "model"
    return (parts[-2] if is_inside else parts[-1]) if parts else "network"


def _is_pack(name: str) -> bool:
    return name.endswith(".safetensors")


def _described(path: Path) -> str:
    """Return the text of a domain file with the absolute path of its images added."""
    read_domain_file(path)
    table = _table(path)
    if "root" in table:
        names = [table["root"]] if isinstance(table["root"], str) else list(table["root"])
        folders = [str((path.parent / expanded(name)).resolve()) for name in names]
        table["root"] = list(dict.fromkeys([*folders, *names]))
    return tomli_w.dumps(table)


def _without_root(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _table(path).items() if key != "root"}


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"path": str(path)}
