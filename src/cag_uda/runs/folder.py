"""The folder in which everything of a run lies. Knows paths and JSON, not networks."""

import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cag_uda.errors import RunError
from cag_uda.files import LOCK, SUMS, is_part, is_sound, owned, remove_parts, seal, write_text
from cag_uda.recipes import Recipe, dump_recipe, load_recipe
from cag_uda.runs.fingerprint import changes
from cag_uda.runs.own_files import (
    DOMAINS,
    PACK,
    START,
    copy_domains,
    copy_start,
    is_file,
    is_same,
    is_same_start,
)
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import (
    DATA,
    ENVIRONMENT,
    INITIAL,
    SCORES,
    DataRecord,
    Environment,
    Scores,
    read_data_record,
    read_scores,
)

_RECIPE = "recipe.toml"
_AUTO = {"accelerator": "auto", "precision": "auto", "channels_last": "auto"}


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def model(self) -> Path:
        """Folder of the delivered network."""
        return self.path / "model"

    def stage(self, index: int, name: str) -> Path:
        """Return the folder of a stage."""
        return self.path / "stages" / f"{index}-{name}"

    @property
    def initial(self) -> Path:
        """The folder of the network that the run was given, if its stages are held against it."""
        return self.path / "stages" / INITIAL

    def refuse_what_is_in_the_way(self) -> None:
        """Raise RunError if the folder holds something already.

        Files of a run that was killed before it had begun are no obstacle.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose a new folder by --out")
        own = (ENVIRONMENT, DATA, DOMAINS, PACK, START, SUMS, LOCK)
        begins_with = {self.path / name for name in own}
        if self.path.exists() and any(
            path not in begins_with and not is_part(path) for path in self.path.iterdir()
        ):
            raise RunError(
                f"{self.path} exists already; go on with --resume, or choose another --out"
            )

    def owned(self) -> AbstractContextManager[None]:
        """Own the folder: one process at a time. Raises InUseError, naming the other one."""
        return owned(self.path / LOCK, "this run is going on")

    def create(self, recipe: Recipe, data: DataRecord | None = None) -> Recipe:
        """Begin a run; it has begun when the recipe is there.

        Returns the recipe with the copies of domain files and initial network in the folder. Raises
        RunError if the folder holds something already, or cannot be written.
        """
        self.refuse_what_is_in_the_way()
        write_record(self.path / ENVIRONMENT, environment())
        if data is not None:
            write_record(self.path / DATA, data)
        recipe = copy_start(copy_domains(recipe, self.path), self.path)
        self.write_recipe(recipe)
        return recipe

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe; files in the folder are named relative to it."""
        own = str(self.path.resolve())

        def relative(name: str) -> str:
            is_inside = Path(name).is_relative_to(own)
            return Path(name).relative_to(own).as_posix() if is_inside else name

        inside = recipe.with_files(lambda name: relative(name) if is_file(name) else name)
        if inside.segmenter.start is not None:
            inside = inside.with_start(relative(inside.segmenter.start))
        write_text(self.path / _RECIPE, dump_recipe(inside), sealed=True)

    def compare_data(self, now: DataRecord, note: Callable[[str], None]) -> None:
        """Say which data have changed since the run began, and record it in the run."""
        try:
            before = read_data_record(self.path)
        except RunError as error:
            note(f"{error.problems[0]}; it is made again")
            before = None
        told = changes(before, now) if before else []
        if told:
            note(f"the data have changed since the run began: {'; '.join(told)}")
        if before is None or told:
            kept = before.changed if before else []
            write_record(self.path / DATA, now.with_changes(changed=[*kept, *told]))

    def resume(self, recipe: Recipe) -> Recipe:
        """Return the recipe with which the run continues.

        It must be the one that the run began with, except for settings that were "auto" and those
        that leave finished work valid: data root, devices, loader processes, activation
        checkpointing, frequency of checkpoints, loggers, and what to do about unreadable files and
        about losses that are not finite.

        Raises:
            RunError: if there is no run here, or it is of another recipe.
        """
        path = self.path / _RECIPE
        if not path.is_file():
            raise RunError(f"nothing to resume: {path} does not exist; leave out --resume")
        begun = load_recipe(path)
        recipe = _with_begun_files(begun, recipe)
        going_on = _with_free_settings(begun, recipe)
        was, asked = going_on.model_dump(), recipe.model_dump()
        asked["data_root"] = was["data_root"]
        for key, value in asked["compute"].items():
            if _AUTO.get(key) == value:
                asked["compute"][key] = was["compute"][key]
        differing = sorted(key for key in was if was[key] != asked[key])
        if differing:
            raise RunError(
                f"{self.path} was begun with another recipe (differing: {', '.join(differing)}); "
                f"resume it with {path}, or choose another --out"
            )
        return going_on

    def reopen(self, recipe: Recipe, note: Callable[[str], None] = lambda text: None) -> None:
        """Prepare a run's folder to continue by the recipe that `resume` gave.

        Removes unfinished files, says what was edited in the folder, and writes the recipe.
        """
        remove_parts(self.path)
        path = self.path / _RECIPE
        for each in (path, *sorted((self.path / DOMAINS).glob("*.toml"))):
            if is_sound(each) is False:
                note(f"{each} was edited, or damaged, since it was written: the run goes on by it")
                seal(each)
        if load_recipe(path) != recipe:
            self.write_recipe(recipe)

    def read_scores(self) -> Scores | None:
        """Read what has been scored so far, None for nothing. Raises RunError if it is damaged."""
        return read_scores(self.path)

    def write_scores(self, scores: Scores) -> None:
        """Write scores.json anew."""
        write_record(self.path / SCORES, scores)


def _with_free_settings(begun: Recipe, asked: Recipe) -> Recipe:
    """Take over from another recipe the settings that may change during a run."""

    def taken(own: Any, other: Any, *names: str) -> Any:
        return own.model_copy(update={name: getattr(other, name) for name in names})

    pairs = zip(begun.stages, asked.stages, strict=False)
    stages = tuple(taken(*pair, "checkpoint_every", "on_nonfinite") for pair in pairs)
    return begun.model_copy(
        update={
            "compute": taken(begun.compute, asked.compute, "devices", "checkpointing"),
            "loading": taken(begun.loading, asked.loading, "workers", "on_unreadable"),
            "tracking": asked.tracking,
            "data_root": asked.data_root or begun.data_root,
            "stages": stages + begun.stages[len(stages) :],
        }
    )


def _with_begun_files(begun: Recipe, asked: Recipe) -> Recipe:
    """Replace files and initial network in a recipe by the run's own copies of the same."""
    asked = asked.with_files(
        lambda name: next((each for each in begun.files if is_same(each, name)), name)
    )
    own, other = begun.segmenter.start, asked.segmenter.start
    if own is None or other is None or not is_same_start(own, other):
        return asked
    return asked.with_start(own)


def environment() -> Environment:
    """Find versions, machine, command and commit, which are needed to repeat a run."""
    packages = ("cag-uda", "torch", "lightning", "transformers", "numpy", "opencv-python-headless")
    return Environment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        commit=_commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        packages={name: _version(name) for name in packages},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Find the commit of the source tree, where the package runs from one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
