"""The run folder: where everything of a run lies. Knows paths and JSON, not networks."""

import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cag_uda.errors import RunError
from cag_uda.files import LOCK, SUMS, is_part, is_sound, owned, remove_parts, seal, write_text
from cag_uda.recipes import Recipe, dump_recipe, load_recipe
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import ENVIRONMENT, SCORES, Environment, Scores, read_scores

_RECIPE = "recipe.toml"
_AUTO = {"accelerator": "auto", "precision": "auto", "channels_last": "auto"}


class RunFolder:
    """One run on disk.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        """Where the delivered network lies."""
        return self.path / "model"

    def stage(self, index: int, name: str) -> Path:
        """The folder of a stage."""
        return self.path / "stages" / f"{index}-{name}"

    def refuse_what_is_in_the_way(self) -> None:
        """Raise RunError if the folder holds something already.

        What a run left that was killed before it had begun is not in the way.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose a new folder by --out")
        begins_with = {self.path / name for name in (ENVIRONMENT, SUMS, LOCK)}
        if self.path.exists() and any(
            path not in begins_with and not is_part(path) for path in self.path.iterdir()
        ):
            raise RunError(
                f"{self.path} exists already; go on with --resume, or choose another --out"
            )

    def owned(self) -> AbstractContextManager[None]:
        """Own the folder: one process at a time. Raises InUseError, naming the other one."""
        return owned(self.path / LOCK, "this run is going on")

    def create(self, recipe: Recipe) -> None:
        """Begin a run; it has begun when the recipe is there.

        Raises:
            RunError: if the folder holds something already, or cannot be written.
        """
        self.refuse_what_is_in_the_way()
        write_record(self.path / ENVIRONMENT, environment())
        self.write_recipe(recipe)

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe."""
        write_text(self.path / _RECIPE, dump_recipe(recipe), sealed=True)

    def resume(self, recipe: Recipe) -> Recipe:
        """The recipe that the run goes on with.

        It must be the one that the run began with, but for what was "auto" and for what changes
        nothing of what has been done: devices, loader processes, what is computed again in the
        backward pass, how often checkpoints are made, who is told of it, and what is done about
        unreadable files and losses that are not finite.

        Raises:
            RunError: if there is no run here, or it is of another recipe.
        """
        path = self.path / _RECIPE
        if not path.is_file():
            raise RunError(f"nothing to resume: {path} does not exist; leave out --resume")
        begun = load_recipe(path)
        going_on = _with_free_settings(begun, recipe)
        was, asked = going_on.model_dump(), recipe.model_dump()
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
        """Make a run's folder ready to go on: nothing unfinished, and the recipe that goes on.

        Args:
            recipe: as `resume` gave it.
            note: told if the recipe in the folder was changed by another hand.
        """
        remove_parts(self.path)
        path = self.path / _RECIPE
        if is_sound(path) is False:
            note(f"{path} was edited, or damaged, since the run wrote it: the run goes on by it")
            seal(path)
        if load_recipe(path) != recipe:
            self.write_recipe(recipe)

    def read_scores(self) -> Scores | None:
        """Read what has been scored so far, None for nothing. Raises RunError if it is damaged."""
        return read_scores(self.path)

    def write_scores(self, scores: Scores) -> None:
        """Replace what has been scored."""
        write_record(self.path / SCORES, scores)


def _with_free_settings(begun: Recipe, asked: Recipe) -> Recipe:
    """The recipe of a run with another's settings where these are free to change on the way."""
    loading = {name: getattr(asked.loading, name) for name in ("workers", "on_unreadable")}
    compute = {name: getattr(asked.compute, name) for name in ("devices", "checkpointing")}
    stages = tuple(
        stage.model_copy(
            update={name: getattr(other, name) for name in ("checkpoint_every", "on_nonfinite")}
        )
        for stage, other in zip(begun.stages, asked.stages, strict=False)
    )
    return begun.model_copy(
        update={
            "compute": begun.compute.model_copy(update=compute),
            "loading": begun.loading.model_copy(update=loading),
            "tracking": asked.tracking,
            "stages": stages + begun.stages[len(stages) :],
        }
    )


def environment() -> Environment:
    """Find versions, machine, command and commit: what one needs to repeat a run."""
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
    """The commit of the source tree, where the package runs from one."""
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
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
