"""File patterns: which images there are, and where the label of each stands.

A pattern is a path below a root with wildcards: `*` stands for any part of a name, `?` for one
character, `[…]` for one of several, and `**`, as a whole folder, for any number of folders. `{a,b}`
stands for `a` where that finds something, or else for `b`: releases of one data set differ in their
folders. The extension of an image may be left out. Hidden files are never found. Knows names, opens
no file.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cag_uda.errors import DataError

# Lossless formats first: where several files share a stem, the label is the first of these.
IMAGE_EXTENSIONS = (
    *(".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".webp"),
    *(".jpg", ".jpeg"),
)

_WILDCARD = re.compile(r"\*\*|\*|\?|\[[^\]/]+\]")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class FoundImage:
    """An image that a pattern matched."""

    path: Path
    key: str
    """Path below the root without the extension, with forward slashes."""
    captured: tuple[str, ...]
    """What each `*` and `**` of the pattern stood for, in order."""


def alternatives(pattern: str) -> tuple[str, ...]:
    """The patterns without braces that a pattern stands for, in the order of preference."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return (pattern,)
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return tuple(
        plain for choice in braces[1].split(",") for plain in alternatives(before + choice + after)
    )


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, or None. It may not leave the root nor be ambiguous."""
    problems = (_plain_pattern_problem(plain) for plain in alternatives(pattern))
    return next((problem for problem in problems if problem), None)


def _plain_pattern_problem(pattern: str) -> str | None:
    segments = pattern.split("/")
    if problem := outside_problem(pattern):
        return problem
    if not segments[-1] or "" in segments:
        return f"{pattern!r} must end in a file name, without empty folders; for example 'images/*'"
    if segments[-1] == "**":
        return f"{pattern!r} names folders only; write '{pattern}/*' for the files in them"
    if any("**" in segment and segment != "**" for segment in segments):
        return f"{pattern!r}: ** must be a whole folder of the path; for example 'images/**/*'"
    try:
        [_expression(segment) for segment in segments if segment != "**"]
    except re.error as error:
        return f"{pattern!r} has a broken […]: {error}"
    return None


def outside_problem(path: str) -> str | None:
    """What is wrong with a path that shall lie below a root, or None."""
    if "\\" in path:
        return f"{path!r}: separate folders with /, not with a backslash"
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        return f"{path!r} is not relative to the root; leave out everything up to the root's folder"
    if ".." in path.split("/"):
        return f"{path!r} leaves the root; set `root` to a folder that holds everything"
    return None


def label_pattern_problem(pattern: str, images: str) -> str | None:
    """What keeps a label pattern from following an image pattern, or None."""
    problems = (
        _plain_label_pattern_problem(plain, plain_images)
        for plain in alternatives(pattern)
        for plain_images in alternatives(images)
    )
    return next((problem for problem in problems if problem), None)


def _plain_label_pattern_problem(pattern: str, images: str) -> str | None:
    if any(token[0] in "?[" for token in _WILDCARD.findall(pattern)):
        return f"{pattern!r}: a label pattern takes only * and **"
    if _stars(pattern) != _stars(images):
        return (
            f"{pattern!r} has the wildcards {_listed(_stars(pattern))} and the images {images!r} "
            f"have {_listed(_stars(images))}; the n-th of one stands for the n-th of the other"
        )
    if pattern == images:
        return f"{pattern!r} is the pattern of the images too"
    return None


def find_images(root: Path, pattern: str) -> Iterator[FoundImage]:
    """Find the images below a root that a pattern matches, in no particular order.

    Args:
        root: an existing folder.
        pattern: one without a `pattern_problem`.

    Raises:
        DataError: if a folder cannot be listed.
    """
    for plain in alternatives(pattern):
        found = list(_find_plain(root, plain))
        if found:
            return iter(found)
    return iter(())


def _find_plain(root: Path, pattern: str) -> Iterator[FoundImage]:
    folders, name = _segments(pattern)
    names_extension = PurePosixPath(name).suffix.lower() in IMAGE_EXTENSIONS
    expression = _expression(name.removesuffix(".*"))
    for folder, captured in _folders(root, folders, ()):
        for entry in _entries(folder):
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() not in IMAGE_EXTENSIONS or entry.name.startswith("."):
                continue
            match = expression.fullmatch(entry.name if names_extension else stem)
            # A broken link is an image that cannot be read, which must not pass unseen.
            if match and not entry.is_dir():
                path = Path(entry.path)
                key = path.relative_to(root).with_suffix("").as_posix()
                yield FoundImage(path, key, captured + match.groups())


@dataclass
class LabelFinder:
    """Finds label files below a root; lists every folder once."""

    root: Path
    _listed: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def find(self, pattern: str, captured: tuple[str, ...]) -> Path | None:
        """The file that a label pattern means for one image, or None if there is none.

        Args:
            pattern: one without a `label_pattern_problem`; may leave out the extension.
            captured: what the wildcards of the image's pattern stood for.
        """
        for plain in alternatives(pattern):
            folder, _, name = fill(plain, captured).rpartition("/")
            if folder not in self._listed:
                self._listed[folder] = _names_and_stems(self.root / folder)
            if file_name := self._listed[folder].get(name):
                return self.root / folder / file_name
        return None


def fill(pattern: str, captured: tuple[str, ...]) -> str:
    """Put what the image pattern's wildcards stood for into a label pattern without braces."""
    values = iter(captured)
    filled = re.sub(r"\*\*?", lambda _: next(values), pattern.removesuffix(".*"))
    return "/".join(part for part in filled.split("/") if part not in ("", "."))


def literal_folder(pattern: str) -> str:
    """The folder of a pattern without braces up to its first wildcard, "" for the root itself."""
    folders, _ = _segments(pattern)
    literal = []
    for segment in folders:
        if _WILDCARD.search(segment):
            break
        literal.append(segment)
    return "/".join(literal)


def _segments(pattern: str) -> tuple[tuple[str, ...], str]:
    *folders, name = (segment for segment in pattern.split("/") if segment != ".")
    return tuple(folders), name


def _stars(pattern: str) -> list[str]:
    # The * of a final ".*" stands for an extension and has no counterpart.
    tokens = _WILDCARD.findall(pattern.removesuffix(".*"))
    return [token for token in tokens if token in ("*", "**")]


def _listed(tokens: list[str]) -> str:
    return " ".join(tokens) or "(none)"


def _folders(
    folder: Path, segments: tuple[str, ...], captured: tuple[str, ...]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The folders that the folder part of a pattern matches, with what its wildcards stood for."""
    if not segments:
        yield folder, captured
        return
    head, rest = segments[0], segments[1:]
    if head == "**":
        for below in _descendants(folder):
            inner = below.relative_to(folder).as_posix()
            yield from _folders(below, rest, (*captured, "" if inner == "." else inner))
    elif not _WILDCARD.search(head):
        yield from _folders(folder / head, rest, captured)
    else:
        expression = _expression(head)
        for entry in _entries(folder):
            match = expression.fullmatch(entry.name)
            if match and entry.is_dir():
                yield from _folders(Path(entry.path), rest, captured + match.groups())


def _descendants(folder: Path) -> Iterator[Path]:
    """A folder and all below it; a link to a folder that holds the link is not followed."""
    yield folder
    for entry in _entries(folder):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        below = Path(entry.path)
        if not (entry.is_symlink() and folder.resolve().is_relative_to(below.resolve())):
            yield from _descendants(below)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error


def _names_and_stems(folder: Path) -> dict[str, str]:
    """File name by name and by stem; of several files with one stem the most lossless."""
    names = [entry.name for entry in _entries(folder) if not entry.name.startswith(".")]
    images = [
        (IMAGE_EXTENSIONS.index(extension.lower()), stem, stem + extension)
        for stem, extension in map(os.path.splitext, names)
        if extension.lower() in IMAGE_EXTENSIONS
    ]
    by_stem = {stem: name for _, stem, name in sorted(images, reverse=True)}
    return by_stem | {name: name for _, _, name in images}


def _expression(segment: str) -> re.Pattern[str]:
    """Regular expression of one segment; each * is a group."""
    parts, end = [], 0
    for wildcard in _WILDCARD.finditer(segment):
        parts.append(re.escape(segment[end : wildcard.start()]))
        end = wildcard.end()
        token = wildcard.group()
        if token == "*":
            parts.append("(.*)")
        elif token == "?":
            parts.append(".")
        else:
            inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            parts.append(f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]")
    parts.append(re.escape(segment[end:]))
    hidden = "" if segment.startswith(".") else r"(?!\.)"
    return re.compile(hidden + "".join(parts), re.DOTALL)
