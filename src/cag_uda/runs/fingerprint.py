"""Fingerprint of a run's data: names, sizes and times of their files. Opens none of them."""

from hashlib import sha256
from pathlib import Path

from cag_uda.data.domains.domain import Domain
from cag_uda.recipes import Recipe
from cag_uda.runs.records.run import DataRecord, SplitFiles


def fingerprint(recipe: Recipe) -> DataRecord:
    """Look at the files of every split that a run reads. Raises DataError if one has none."""
    target, splits = recipe.target, {}
    for entry in recipe.source:
        domain = recipe.open_domain(entry.domain)
        splits[f"{domain.name}/{entry.split}"] = _of(domain, entry.split)
    domain = recipe.open_domain(target.domain)
    splits.setdefault(f"{domain.name}/{target.train}", _of(domain, target.train, with_labels=False))
    if target.labelled is not None:
        domain, split = recipe.open_domain(target.labelled_domain), target.labelled.split
        splits[f"{domain.name}/{split}, labelled"] = _of(domain, split)
    domain = recipe.open_domain(target.scored_domain)
    if target.test is not None and target.test in domain.splits:
        is_labelled = domain.is_labelled(target.test)
        splits[f"{domain.name}/{target.test}"] = _of(domain, target.test, with_labels=is_labelled)
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


def _of(domain: Domain, split: str, *, with_labels: bool = True) -> SplitFiles:
    items, root = domain.items(split, with_labels), domain.root()
    names, times = sha256(), sha256()
    count = size = 0
    for path in (each for item in items for each in (item.image, item.label) if each):
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
