"""Find the images and videos that a command line names, and the output path of each prediction.

Knows paths; opens no image. A prediction's path below the output folder is its input's path below
the folder that was given, or below the deepest folder that holds all inputs.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cag_uda.data.files.patterns import IMAGE_EXTENSIONS, is_no_data
from cag_uda.errors import UserError

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

FROM_STDIN = "-"
"""Name that stands for a list of inputs on standard input."""

_SHOWN = 5
_LONGEST_NAME = 220
"""Most bytes of an output's name: file systems take 255, with the extensions that it has while it
is being written."""


@dataclass(frozen=True)
class Job:
    """One input and where its prediction goes."""

    source: str
    """Absolute path, as text: objects of paths cost seconds for many thousand inputs."""
    place: str
    """Path of the prediction below the output folder, without extension, with forward slashes."""

    @property
    def is_video(self) -> bool:
        """True if the input is a video, by its extension."""
        return self.extension.lower() in VIDEO_EXTENSIONS

    @property
    def extension(self) -> str:
        """The input's extension, with its dot."""
        return os.path.splitext(self.source)[1]


def find_jobs(inputs: Sequence[str], out: Path) -> list[Job]:
    """Find all inputs, sorted within each folder, each once.

    They are files, folders (all images and videos below, hidden ones left out) and globs. What is
    in the output folder is no input, even where that lies inside an input folder. Raises UserError,
    naming every input that is not there or holds no image.
    """
    bases: dict[str, str] = {}
    problems = []
    for given in inputs:
        base, found = _files_of(given, out)
        if not found:
            problems.append(
                f"no image at {given}; give files, folders or globs of images "
                f"({', '.join(IMAGE_EXTENSIONS)}) or videos ({', '.join(VIDEO_EXTENSIONS)})"
            )
        bases.update(dict.fromkeys(found, base))
    if problems:
        raise UserError(_first(problems))
    if not bases:
        raise UserError(
            "no inputs: the list on standard input is empty; write one file, folder or glob a line"
        )
    root = os.path.commonpath(set(bases.values()))
    within = root.rstrip(os.sep) + os.sep  # All are absolute and below it: faster than relpath.
    places = _distinct_places([path.removeprefix(within) for path in bases])
    return [Job(path, place) for path, place in zip(bases, places, strict=True)]


def split_list(text: str) -> list[str]:
    """Split a list from standard input into inputs: one a line, or separated by NUL."""
    lines = text.split("\0") if "\0" in text else text.splitlines()
    return [line.strip("\r") for line in lines if line.strip()]


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise UserError if an output folder holds something that may not be replaced."""
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out, or give --overwrite")


def refuse_overwriting(jobs: Iterable[Job], outputs: Mapping[Job, list[str]], out: Path) -> None:
    """Raise UserError if an output would replace a job's input or leave `out` by a link."""
    real_path = _quick_realpath()
    inputs = {real_path(job.source) for job in jobs}
    holding = {os.path.dirname(path) for path in inputs}
    inside = real_path(out)

    @cache
    def is_inside(folder: str) -> bool:
        return os.path.commonpath((real_path(folder), inside)) == inside

    for job, paths in outputs.items():
        for path in paths:
            real = real_path(path)
            if real in inputs or real in holding:
                raise UserError(
                    f"{path} is an input and would be overwritten; choose another --out"
                )
            if not is_inside(os.path.dirname(path)):
                raise UserError(
                    f"the prediction of {job.source} would leave {out} through a link, to {real}; "
                    "choose another --out"
                )


def _quick_realpath() -> Callable[[str | Path], str]:
    """Make an `os.path.realpath` for many files in few folders that reads each folder once."""

    @cache
    def known(folder: str) -> tuple[str, frozenset[str]]:
        """Return the real path of a folder and the names in it that are links."""
        try:
            with os.scandir(folder or os.curdir) as entries:
                links = frozenset(entry.name for entry in entries if entry.is_symlink())
        except OSError:  # Not there yet, or no folder: holds no link.
            links = frozenset()
        return os.path.realpath(folder), links

    def real_path(path: str | Path) -> str:
        folder, name = os.path.split(path)
        real_folder, links = known(folder)
        if name in ("", "..") or name in links:
            return os.path.realpath(path)
        return os.path.join(real_folder, name)

    return real_path


def _files_of(given: str, out: Path) -> tuple[str, list[str]]:
    """Return the folder that an input's paths are relative to, and its files, both absolute."""
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path):
        if os.path.realpath(path) == os.path.realpath(out):
            raise UserError(
                f"--out {out} is an input folder, whose images might be overwritten; choose another"
            )
        return path, _without_outputs(_below(path), out, path)
    if os.path.isfile(path):
        return os.path.dirname(path), [path]
    base = _literal_folder(path)
    matched = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
    return base, _without_outputs(filter(_is_known, matched), out, base)


def _below(folder: str) -> Iterator[str]:
    """Yield images and videos in a folder and all below it; links to a folder above are skipped."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(root))
        folders[:] = sorted(
            name
            for name in folders
            if not is_no_data(name) and os.path.realpath(os.path.join(root, name)) not in seen
        )
        for name in sorted(names):
            if _is_known(name) and not name.startswith("."):
                yield os.path.join(root, name)


def _is_known(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)


def _without_outputs(files: Iterable[str], out: Path, base: str) -> list[str]:
    """Leave out earlier outputs: what is in the output folder, where that lies in the base."""
    real, inside = os.path.realpath(base), os.path.realpath(out)
    if inside == real or os.path.commonpath((real, inside)) != real:
        return list(files)
    return [
        file for file in files if os.path.commonpath((os.path.realpath(file), inside)) != inside
    ]


def _literal_folder(pattern: str) -> str:
    """Return the folder of an absolute pattern up to its first wildcard."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def _distinct_places(relative: list[str]) -> list[str]:
    """Take the extensions off the paths; paths that would then be the same keep theirs."""
    places = [os.path.splitext(path)[0] for path in relative]
    # An extension that is kept can meet a stem that looks like it, so until nothing changes.
    while shared := {place for place, count in Counter(places).items() if count > 1}:
        places = [
            path if place in shared else place for path, place in zip(relative, places, strict=True)
        ]
    return [_shortened(place).replace(os.sep, "/") for place in places]


def _shortened(place: str) -> str:
    """Shorten a name that leaves no room for an extension to its beginning and a digest."""
    folder, name = os.path.split(place)
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return place
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    kept = encoded[: _LONGEST_NAME - len(digest) - 1].decode("utf-8", "ignore")
    return os.path.join(folder, f"{kept}~{digest}")


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return problems if more <= 0 else [*problems[:_SHOWN], f"… and {more} more such inputs"]
