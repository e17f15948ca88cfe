"""File patterns: which images there are, and where the label of each stands.

A pattern is a path below a root with wildcards: `*` stands for any part of a name, `?` for one
character, `[…]` for one of several, and `**`, as a whole folder, for any number of folders. `{a,b}`
stands for `a` where that finds something, or else for `b`: releases of one data set differ in their
folders. The extension of an image may be left out. `[[]` is a bracket.
Hidden files, and folders that systems and disks make for themselves, are never found. Names are
compared in Unicode's composed form, since systems differ in it. Knows names, opens no file.
"""

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cag_uda.errors import DataError

# Lossless formats first: where several files share a stem, the label is the first of these.
IMAGE_EXTENSIONS = (
    *(".png", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".pbm", ".webp"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif", ".jpg", ".jpeg", ".jfif", ".jpe"),
)
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information"),
    *("lost+found", "@tmp", "@recycle", "__pycache__", "thumbnails.cache"),
}
"""Folders, in small letters, that network disks and systems make beside people's files."""

_WILDCARD = re.compile(r"\*\*|\*|\?|\[\]\]|\[[^\]/]+\]")
_MOST_ALTERNATIVES = 1000
"""Patterns that the braces of one may stand for."""
_BRACES = re.compile(r"(?<!\[)\{([^{}]*,[^{}]*)\}")
_ESCAPED = re.compile(r"\[([*?\[\]{}])\]")


@dataclass(frozen=True)
class FoundImage:
    """An image that a pattern matched."""

    path: Path
    key: str
    """Path below the root without the extension, with forward slashes."""
    captured: tuple[str, ...]
    """Text that each `*` and `**` of the pattern stood for, in order."""


def composed(name: str) -> str:
    """Bring a name into Unicode's composed form (NFC); macOS, for one, decomposes names."""
    return unicodedata.normalize("NFC", name)


def endings(path: str) -> list[str]:
    """Return the composed ends of a path, the longest first: a/b/c, b/c and c."""
    parts = composed(path).split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def expanded(path: str) -> str:
    """Put the home folder for ~ and environment variables for $NAME into a path."""
    return os.path.expanduser(os.path.expandvars(path))


def escaped(name: str) -> str:
    """Make a pattern that stands for a name alone."""
    return re.sub(r"[*?\[\]{}]", lambda match: f"[{match.group()}]", name)


def is_no_data(name: str) -> bool:
    """Tell whether a file or folder is hidden, or made by a system for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def files_below(root: Path) -> list[Path]:
    """List all files below a folder, sorted, but for those that are `is_no_data`."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if not any(map(is_no_data, path.relative_to(root).parts)) and path.is_file()
    ]


def alternatives(pattern: str) -> tuple[str, ...]:
    """Return the patterns without braces that a pattern stands for, in the order of preference."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return (pattern,)
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return tuple(
        plain for choice in braces[1].split(",") for plain in alternatives(before + choice + after)
    )


def pattern_problem(pattern: str) -> str | None:
    """Say what is wrong with a pattern, or None. It may not leave the root nor be ambiguous."""
    count = math.prod(choices.count(",") + 1 for choices in _BRACES.findall(pattern))
    if count > _MOST_ALTERNATIVES:
        return (
            f"braces that stand for {count:,} patterns; want {_MOST_ALTERNATIVES:,} at most, or a "
            "wildcard in their place"
        )
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
    """Say what is wrong with a path that shall lie below a root, or None."""
    if "\\" in path:
        return f"{path!r}: separate folders with /, not with a backslash"
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path):
        return f"{path!r} is not relative to the root; leave out everything up to the root's folder"
    if ".." in path.split("/"):
        return f"{path!r} leaves the root; set `root` to a folder that holds everything"
    return None


def label_pattern_problem(pattern: str, images: str) -> str | None:
    """Say what keeps a label pattern from following an image pattern, or None."""
    problems = (
        _plain_label_pattern_problem(plain, plain_images)
        for plain in alternatives(pattern)
        for plain_images in alternatives(images)
    )
    return next((problem for problem in problems if problem), None)


def _plain_label_pattern_problem(pattern: str, images: str) -> str | None:
    if any(token[0] in "?[" for token in _WILDCARD.findall(_ESCAPED.sub("", pattern))):
        return f"{pattern!r}: a label pattern takes only * and **"
    own, wanted = _stars(pattern), _stars(images)
    if own != wanted:
        return (
            f"{pattern!r} has the wildcards {own or '(none)'} and the images {images!r} have "
            f"{wanted or '(none)'}; the n-th of one stands for the n-th of the other"
        )
    if pattern == images:
        return f"{pattern!r} is the pattern of the images too"
    return None


def find_images(
    root: Path, pattern: str, extensions: Sequence[str] = IMAGE_EXTENSIONS
) -> list[FoundImage]:
    """Find the images below a root that a pattern matches, in no particular order.

    Files with other extensions than these, in small letters with the dot, are passed over. Raises
    DataError if a folder cannot be listed.
    """
    for plain in alternatives(pattern):
        if found := list(_find_plain(root, plain, extensions)):
            return found
    return []


def _find_plain(root: Path, pattern: str, extensions: Sequence[str]) -> Iterator[FoundImage]:
    folders, name = _segments(pattern)
    names_extension = PurePosixPath(name).suffix.lower() in extensions
    expression = _expression(name.removesuffix(".*"))
    for folder, captured in _folders(root, folders, ()):
        for entry in _entries(folder):
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() not in extensions or entry.name.startswith("."):
                continue
            match = expression.fullmatch(composed(entry.name if names_extension else stem))
            # A broken link is an image that cannot be read, which must not pass unseen.
            if match and not entry.is_dir():
                path = Path(entry.path)
                key = path.relative_to(root).with_suffix("").as_posix()
                yield FoundImage(path, key, captured + match.groups())


@dataclass
class LabelFinder:
    """Finds label files below a root; lists every folder once."""

    root: Path
    extensions: Sequence[str] = IMAGE_EXTENSIONS
    """Extensions of label files, the preferred first, where several files have the same stem."""
    _listed: dict[str, dict[str, Path]] = field(default_factory=dict, init=False)

    def find(self, pattern: str, captured: tuple[str, ...]) -> Path | None:
        """Find an image's label by a pattern, with or without extension; None if there is none.

        `captured` is what the wildcards of the image's pattern stood for.
        """
        for plain in alternatives(pattern):
            folder, _, name = fill(plain, captured).rpartition("/")
            if folder not in self._listed:
                place = _existing_folder(self.root, folder)
                self._listed[folder] = _names_and_stems(place, self.extensions)
            if path := self._listed[folder].get(composed(name)):
                return path
        return None


def fill(pattern: str, captured: tuple[str, ...]) -> str:
    """Put what the image pattern's wildcards stood for into a label pattern without braces."""
    values = iter(captured)

    def stands_for(token: re.Match[str]) -> str:
        return token.group(1) if token.group(1) is not None else next(values)

    tokens = rf"{_ESCAPED.pattern}|\*\*?"
    filled = re.sub(tokens, stands_for, pattern.removesuffix(".*"))
    return "/".join(part for part in filled.split("/") if part not in ("", "."))


def literal_folder(pattern: str) -> str:
    """Find the folder of a pattern without braces up to its first wildcard, "" for the root."""
    folders, _ = _segments(pattern)
    literal = []
    for segment in folders:
        if _WILDCARD.search(_ESCAPED.sub("", segment)):
            break
        literal.append(_ESCAPED.sub(r"\1", segment))
    return "/".join(literal)


def _segments(pattern: str) -> tuple[tuple[str, ...], str]:
    *folders, name = (segment for segment in pattern.split("/") if segment != ".")
    return tuple(folders), name


def _stars(pattern: str) -> str:
    # The * of a final ".*" stands for an extension and has no counterpart.
    tokens = _WILDCARD.findall(_ESCAPED.sub("", pattern).removesuffix(".*"))
    return " ".join(token for token in tokens if token in ("*", "**"))


def _folders(
    folder: Path, segments: tuple[str, ...], captured: tuple[str, ...]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Find the folders that a pattern's folder part matches, and what its wildcards stand for."""
    if not segments:
        yield folder, captured
        return
    head, rest = segments[0], segments[1:]
    if head == "**":
        for below in _descendants(folder):
            inner = below.relative_to(folder).as_posix()
            yield from _folders(below, rest, (*captured, "" if inner == "." else inner))
    elif not _WILDCARD.search(head):
        yield from _folders(_existing_folder(folder, head), rest, captured)
    elif "*" not in head and (folder / head).is_dir():
        # A folder whose name holds brackets, written as it is.
        yield from _folders(folder / head, rest, captured)
    else:
        expression = _expression(head)
        for entry in _entries(folder):
            match = expression.fullmatch(composed(entry.name))
            if match and not is_no_data(entry.name) and entry.is_dir():
                yield from _folders(Path(entry.path), rest, captured + match.groups())


def _descendants(folder: Path) -> Iterator[Path]:
    """Walk a folder and all below it, but not a link to a folder that holds the link."""
    yield folder
    for entry in _entries(folder):
        if is_no_data(entry.name) or not entry.is_dir():
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


def _existing_folder(folder: Path, below: str) -> Path:
    """Find a folder below another, in whatever form of Unicode its name is written."""
    place = folder / below
    if below.isascii() or place.is_dir():
        return place
    for part in below.split("/"):
        names = [e.name for e in _entries(folder) if composed(e.name) == composed(part)]
        folder /= names[0] if names else part
    return folder


def _names_and_stems(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    """Sort files by composed name and stem; of several with one stem the most lossless."""
    names = [entry.name for entry in _entries(folder) if not entry.name.startswith(".")]
    files = [
        (extensions.index(extension.lower()), stem, stem + extension)
        for stem, extension in map(os.path.splitext, names)
        if extension.lower() in extensions
    ]
    by_stem = {composed(stem): folder / name for _, stem, name in sorted(files, reverse=True)}
    return by_stem | {composed(name): folder / name for _, _, name in files}


def _expression(segment: str) -> re.Pattern[str]:
    """Write the regular expression of one segment, for composed names; each * is a group."""
    segment = composed(segment)
    expression = "" if segment.startswith(".") else r"(?!\.)"
    for token in re.split(f"({_WILDCARD.pattern})", segment):
        if token == "*":
            expression += "(.*)"
        elif token == "?":
            expression += "."
        elif _WILDCARD.fullmatch(token):
            inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            expression += f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
        else:
            expression += re.escape(token)
    return re.compile(expression, re.DOTALL)
