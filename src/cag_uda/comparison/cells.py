"""The runs of a comparison: which are missing, how they are made, what they have in common."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from cag_uda.comparison.plan import Entry
from cag_uda.errors import InUseError, RunError
from cag_uda.files import owned
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import Stage
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.progress import Progress
from cag_uda.runs.records.run import Scores
from cag_uda.runs.runner import adapt

_LEFT_BEHIND = shutil.ignore_patterns("checkpoint", "tensorboard")
"""Files that a finished stage no longer needs."""


@dataclass(frozen=True)
class Cell:
    """One run: a method with a seed."""

    entry: Entry
    seed: int
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """Recipe with the seed of the cell."""
        return self.entry.recipe.model_copy(update={"seed": self.seed})

    @property
    def is_begun(self) -> bool:
        """True if there is a run to go on with."""
        return (self.folder / "recipe.toml").is_file()

    @property
    def is_there(self) -> bool:
        """True if it is finished, and of this very recipe."""
        try:
            return self.is_finished and bool(RunFolder(self.folder).resume(self.recipe))
        except RunError:
            return False

    @property
    def is_finished(self) -> bool:
        """True if every stage is done and the network delivered."""
        done = _names_of(RunFolder(self.folder).read_scores())
        wanted = [stage.name for stage in self.entry.recipe.stages]
        return done == wanted and (RunFolder(self.folder).model / "config.json").is_file()


def cells_of(entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> list[Cell]:
    """List every run that the rows need, once: all rows of one seed before the next seed."""
    runs = {entry.run: entry for entry in entries}
    return [
        Cell(entry, seed, out / f"{run}-{seed}") for seed in seeds for run, entry in runs.items()
    ]


def run_missing(
    cells: Sequence[Cell], progress: Progress, after_each: Callable[[], object]
) -> list[str]:
    """Run what is missing, and call a function after each cell.

    A stage that another cell has taken alike, from the same beginning and seed, is copied. A cell
    that another process is running is left to it.

    Returns:
        What went wrong in which cells; the others were run nevertheless.

    Raises:
        UserError: if a cell was begun with another recipe, or data or device cannot be used.
        Interrupted: on a signal, with everything saved.
    """
    problems: list[str] = []
    for cell in cells:
        if cell.is_begun:
            RunFolder(cell.folder).resume(cell.recipe)  # Raises for another recipe.
    for place, cell in enumerate(cells, start=1):
        try:
            lock = cell.folder.with_name(f".{cell.folder.name}.lock")
            with owned(lock, f"{cell.folder.name} is going on"):
                if cell.is_finished:
                    continue
                progress.note(f"{place}/{len(cells)}: {cell.folder.name}")
                own = _like_the_first(cell, cells)
                if not own.is_begun:
                    _take_over(own, [_like_the_first(other, cells) for other in cells])
                adapt(own.recipe, own.folder, resume=own.is_begun, progress=progress)
        except InUseError as error:
            progress.note(f"{error.problems[0]}; left to it")
            continue
        except RunError as error:
            problems += [f"{cell.folder.name}: {problem}" for problem in error.problems]
            progress.note(f"{cell.folder.name} failed; the others go on")
            continue
        after_each()
    return problems


def _like_the_first(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """Give a cell the device, precision and layout with which the first cell was begun.

    What "auto" finds depends on how busy the machine is; a comparison is made with one of them.
    """
    begun = next((each for each in cells if each.is_begun), None)
    if begun is None:
        return cell
    compute = RunFolder(begun.folder).resume(begun.recipe).compute
    recipe = cell.entry.recipe.model_copy(update={"compute": compute})
    return replace(cell, entry=replace(cell.entry, recipe=recipe))


def _take_over(cell: Cell, others: Sequence[Cell]) -> None:
    """Begin a cell with the first stages of another one, where it would take the same."""
    alike = [
        other
        for other in others
        if other.seed == cell.seed and other.is_begun and _begin_alike(cell.recipe, other.recipe)
    ]
    best = max(alike, key=lambda other: len(_common_stages(cell, other)), default=None)
    common = [] if best is None else _common_stages(cell, best)
    if best is None or not common:
        return
    run, donor = RunFolder(cell.folder), RunFolder(best.folder)
    scores = donor.read_scores()
    assert scores is not None, "stages that are done are scored"
    run.create(cell.recipe)
    names = [stage.name for stage in common]
    for index, stage in enumerate(common):
        shutil.copytree(
            donor.stage(index, stage.name), run.stage(index, stage.name), ignore=_LEFT_BEHIND
        )
    shutil.copytree(donor.path / "samples", run.path / "samples")
    taken = scores.with_changes(
        recipe=cell.recipe.name,
        stages=[stage for stage in scores.stages if stage.name in names],
        taken_from=best.folder.name,
    )
    # Last: without it the run is one that has not finished any stage.
    run.write_scores(taken)


def _begin_alike(one: Recipe, other: Recipe) -> bool:
    """Tell whether two recipes differ in nothing but their stages."""
    free = {"name", "description", "stages"}
    return one.model_dump(exclude=free) == other.model_dump(exclude=free)


def _common_stages(cell: Cell, other: Cell) -> list[Stage]:
    """List the first stages that a cell could take from another, which has done them."""
    done = _names_of(RunFolder(other.folder).read_scores())
    pairs = zip(cell.recipe.stages, other.recipe.stages, strict=False)
    common = takewhile(lambda pair: pair[0] == pair[1] and pair[1].name in done, pairs)
    return [mine for mine, _ in common]


def _names_of(scores: Scores | None) -> list[str]:
    return [stage.name for stage in scores.stages] if scores else []
