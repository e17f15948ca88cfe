"""Fingerprint of a run's data: names, sizes and times of their files. Opens none of them."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from cag_uda.data.domains.domain import Domain
from cag_uda.recipes import Recipe
from cag_uda.runs.records.run import DataRecord, SplitFiles


def fingerprint(recipe: Recipe) -> DataRecord:
    """Look at the files of every split that a run reads.

    Raises:
        DataError: if a domain or a split of it cannot be used.
    """
    root = None if recipe.data_root is None else Path(recipe.data_root)
    splits: dict[str, SplitFiles] = {}
    for entry in recipe.source:
        domain = Domain.open(entry.domain, root)
        files = [
            path for item in domain.items(entry.split) for path in (item.image, item.label) if path
        ]
        splits[f"{domain.name}/{entry.split}"] = _of(files, domain.root())
    domain = Domain.open(recipe.target.domain, root)
    images = [item.image for item in domain.items(recipe.target.train, with_labels=False)]
    splits.setdefault(f"{domain.name}/{recipe.target.train}", _of(images, domain.root()))
    if recipe.target.labelled is not None:
        few, split = Domain.open(recipe.target.labelled_domain, root), recipe.target.labelled.split
        files = [path for item in few.items(split) for path in (item.image, item.label) if path]
        splits[f"{few.name}/{split}, labelled"] = _of(files, few.root())
    domain = Domain.open(recipe.target.scored_domain, root)
    if recipe.target.test in domain.splits:
        tested = domain.items(str(recipe.target.test), domain.is_labelled(str(recipe.target.test)))
        files = [path for item in tested for path in (item.image, item.label) if path]
        splits[f"{domain.name}/{recipe.target.test}"] = _of(files, domain.root())
    return DataRecord(splits=splits)


def changes(before: DataRecord, now: DataRecord) -> list[str]:
    """Describe, split by split, the files that have changed."""
    told = []
    for name in dict.fromkeys((*before.splits, *now.splits)):
        old, new = before.splits.get(name), now.splits.get(name)
        if old is None or new is None:
            told.append(f"{name} {'was not read' if old is None else 'is no longer read'}")
        elif old.files != new.files:
            told.append(f"{name} has {new.files} files, and had {old.files}")
        elif old.names_and_sizes != new.names_and_sizes:
            told.append(f"{name} has files of other names or sizes")
        elif old.times != new.times:
            told.append(f"{name} has files of other times, copied or edited")
    return told


def _of(files: Iterable[Path], root: Path) -> SplitFiles:
    names, times = sha256(), sha256()
    count = size = 0
    for path in files:
        state = path.stat()
        name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        names.update(f"{name.as_posix()} {state.st_size}\n".encode())
        times.update(f"{state.st_mtime_ns}\n".encode())
        count, size = count + 1, size + state.st_size
    return SplitFiles(
        files=count,
        bytes=size,
        names_and_sizes=names.hexdigest()[:32],
        times=times.hexdigest()[:32],
    )
