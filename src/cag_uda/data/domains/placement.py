"""Messages to a user whose folders are not where a domain looks for them.

Names what was looked for, what stands there instead, and where a folder of the wanted name does
stand; opens no file.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cag_uda.data.files.patterns import alternatives, literal_folder

_DEPTH = 3
_FOLDERS_A_LEVEL = 300


def misplaced_root(
    base: Path, names: Sequence[str], patterns: Iterable[str], base_is_data_root: bool
) -> str:
    """Say what to do where none of the accepted roots exists below the folder that was looked in.

    `base` is the parent folder of all data sets, or else the folder of a domain file; `patterns`
    are those of the images that the root should hold.
    """
    held = _contents(base)
    if not base_is_data_root:
        return f"{held}; mend `root`, which is relative to the domain file"
    here = base.resolve()
    for name in names:
        parts = PurePosixPath(name).parts
        if here.parts[-len(parts) :] == parts:
            parent = Path(*here.parts[: -len(parts)])
            return f"{held}; give the parent folder, {parent}, by --data-root or CAG_UDA_DATA"
    for folder in _literal_folders(patterns):
        if (here / folder).is_dir():
            return (
                f"{held}; it is the data set itself by the look of {folder}/: rename it or link "
                f"to it as {here.parent / names[0]}, and give {here.parent} by --data-root or "
                "CAG_UDA_DATA"
            )
    for name in names:
        beside = here.parent / name
        found = _find_below(here, name) or (beside if beside.is_dir() else None)
        if found is not None:
            parent = Path(*found.parts[: -len(PurePosixPath(name).parts)])
            return f"{held}; there is {found}: give {parent} by --data-root or CAG_UDA_DATA"
    return f"{held}; name the folder that holds the data sets by --data-root or CAG_UDA_DATA"


def no_images(root: Path, pattern: str) -> str:
    """Say that an image pattern finds nothing, and what stands where it looked."""
    looked_in = _contents_near(root / next(_literal_folders([pattern])))
    elsewhere = _elsewhere(root, pattern)
    return f"the pattern {pattern!r} finds no image below {root}; {looked_in}{elsewhere}"


def no_label_folder(root: Path, pattern: str) -> str:
    """Say which folder of labels is missing, as the end of a message; nothing if none is."""
    folders = [root / folder for folder in _literal_folders([pattern])]
    if any(folder.is_dir() for folder in folders):
        return ""
    missing = " or ".join(map(str, folders))
    looked_in = _contents_near(folders[0].parent)
    return f"; there is no folder {missing}; {looked_in}{_elsewhere(root, pattern)}"


def _contents_near(folder: Path) -> str:
    """Describe what a folder holds, or the nearest above it that is there."""
    while not folder.is_dir():
        folder = folder.parent
    return _contents(folder)


def _contents(folder: Path) -> str:
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    except OSError:
        return f"there is no folder {folder}"
    return f"{folder} holds {first_of(names)}" if names else f"{folder} is empty"


def first_of(names: list[str], count: int = 5, separator: str = ", ") -> str:
    """Return the first few names, and how many there are."""
    more = f"{separator}… ({len(names)} in all)" if len(names) > count else ""
    return separator.join(names[:count]) + more


def _elsewhere(root: Path, pattern: str) -> str:
    """Say where the folder of a pattern is found, if it lies deeper than it should."""
    for folder in _literal_folders([pattern]):
        found = _find_below(root, folder) if folder else None
        if found is not None:
            return f"; there is {found}, too deep: move it or link to it as {root / folder}"
    return ""


def _literal_folders(patterns: Iterable[str]) -> Iterator[str]:
    """Return the folder of each pattern up to its first wildcard, "" for the root itself."""
    for pattern in patterns:
        yield from (literal_folder(plain) for plain in alternatives(pattern))


def _find_below(folder: Path, wanted: str) -> Path | None:
    """Find the nearest folder below whose path ends as wanted, not counting `folder`/`wanted`."""
    level = [folder]
    for _ in range(_DEPTH):
        level = [child for parent in level for child in _subfolders(parent)][:_FOLDERS_A_LEVEL]
        for child in level:
            if (child / wanted).is_dir():
                return child / wanted
    return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        return sorted(entry for entry in entries if entry.is_dir())
    except OSError:
        return []
