"""Compare methods, or variants of CAG, on one pair with one budget, as one table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cag_uda.comparison.cells import Cell, cells_of, run_missing
from cag_uda.comparison.pages import answers_to_markdown, to_csv, to_markdown
from cag_uda.comparison.plan import Entry, base_of, budget_of, plan_ablation, plan_methods
from cag_uda.comparison.questions import Questions, answers
from cag_uda.comparison.settings import (
    FLOOR,
    ORACLE,
    Contender,
    Row,
    choose,
    read_contenders,
    read_variants,
)
from cag_uda.comparison.table import Finished, compared
from cag_uda.errors import RecipeError, UserError
from cag_uda.files import write_text
from cag_uda.recipes import Recipe
from cag_uda.runs.own_files import source_words
from cag_uda.runs.progress import Progress, Silent
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.comparison import ComparisonRecord
from cag_uda.runs.scenario import Scenario

_MEASURED = "RQ1"
"""Variants of this question are measured too, beside the floor and CAG itself."""


@dataclass(frozen=True)
class Comparison:
    """A comparison that is planned."""

    recipe: Recipe
    """The pair, the network, the budget and CAG's own stages."""
    rows: list[Entry]
    wanted: frozenset[str]
    """Names of the rows to run; others are shown too where they have been run."""
    seeds: list[int]
    out: Path
    """The folder of all runs."""
    kind: str
    """"methods" or "ablation"."""
    notes: list[str]
    """Remarks on the figures."""

    @property
    def cells(self) -> list[Cell]:
        """Every run that the rows need."""
        return cells_of(self.entries, self.seeds, self.out)

    @property
    def entries(self) -> list[Entry]:
        """The rows that are wanted."""
        return [entry for entry in self.rows if entry.name in self.wanted]

    @property
    def shown(self) -> list[Entry]:
        """The rows of the table."""
        return [
            entry
            for entry in self.rows
            if entry.name in self.wanted
            or any(cell.is_there for cell in cells_of([entry], self.seeds, self.out))
        ]

    @property
    def stem(self) -> Path:
        """Path of the table without extension."""
        return self.out / ("comparison" if self.kind == "methods" else self.kind)

    def run(self, progress: Progress) -> list[str]:
        """Run what is missing, and measure what the research questions ask of an ablation.

        Returns and raises what `run_missing` does; after a signal, the same call goes on.
        """
        problems = run_missing(self.cells, progress, self.write)
        if self.kind == "ablation":
            self._measure(progress)
        return problems

    def _measure(self, progress: Progress) -> None:
        """Measure the floor, the base and some variants."""
        questions = Questions(self.recipe, progress)
        whole = (FLOOR, base_of(self.recipe))
        asked = [e for e in self.entries if e.name in whole or e.question == _MEASURED]
        for cell in cells_of(asked, self.seeds, self.out):
            if cell.is_finished:
                questions.measure(cell.folder)

    def write(self) -> ComparisonRecord:
        """Put together what has been run and measured, in every form; returns the table."""
        finished = Finished(self.shown, self.seeds, self.out)
        table = ComparisonRecord(
            name=self.recipe.name,
            kind=self.kind,
            source=source_words(self.recipe),
            target=finished.about.target,
            classes=finished.about.classes,
            palette=finished.about.palette,
            floor=FLOOR,
            oracle=ORACLE if ORACLE in finished.by_name else None,
            seeds=self.seeds,
            budget=budget_of(self.recipe),
            notes=self.notes,
            methods=[compared(entry, finished) for entry in finished.entries],
        )
        text = to_markdown(table)
        if self.kind == "ablation":
            every = cells_of(self.shown, self.seeds, self.out)
            told = [(cell.entry.run, cell.folder) for cell in every if cell.entry.run != ORACLE]
            table = table.model_copy(update={"answers": answers(told)})
            text += answers_to_markdown(table.answers, self.shown)
        write_record(self.stem.with_suffix(".json"), table)
        write_text(self.stem.with_suffix(".md"), text)
        write_text(self.stem.with_suffix(".csv"), to_csv(table))
        return table


def plan_comparison(
    recipe: Recipe,
    out: Path,
    *,
    rows: list[str] | None = None,
    seeds: int = 1,
    ablation: bool = False,
    settings: Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Plan a comparison, and check everything that can be checked before the first run.

    Args:
        recipe: the pair, the network, the budget and CAG's own stages.
        out: the folder of all runs.
        rows: methods, or variants, to compare; None for all. Floor and oracle are always there.
        seeds: how many, from the recipe's on.
        ablation: whether variants of CAG are compared, and the research questions measured.
        settings: a file in place of the package's methods.toml or ablation.toml.
        progress: told what is done to the data first.

    Raises:
        UserError: with what is wrong.
    """
    progress = progress or Silent()
    if recipe.compute.devices > 1:
        raise UserError(
            "compare runs on one device; leave out --set compute.devices, and share the work by "
            "giving several processes other --methods and the same --out"
        )
    if recipe.pack is not None:
        raise RecipeError(
            f"a comparison trains its rows on the source, and {recipe.name!r} has a pack in its "
            "place; give a recipe with the source, and --methods cag-plus,cag-plus-source-free"
        )
    scenario = Scenario.open(recipe, progress.note)
    if not scenario.is_scored:
        raise UserError(
            f"{recipe.target.scored_domain!r} has no labelled split {recipe.target.test!r} to "
            "compare methods by; rank the networks of a run by `cag-uda select RUN`"
        )
    contenders = read_contenders(None if ablation else settings)
    notes = ["peak memory: of the GPU, or on a CPU of the whole process without its loaders"]
    if not recipe.open_domain(recipe.target.domain).is_labelled(recipe.target.train):
        del contenders[ORACLE]
        notes.append(f"no oracle: split {recipe.target.train!r} of the target has no labels")
    always = {FLOOR, ORACLE} & set(contenders)
    if ablation:
        base, variants = base_of(recipe), read_variants(settings, base_of(recipe))
        entries = plan_methods(recipe, choose(contenders, [base, *always]))
        place = [entry.name for entry in entries].index(base) + 1
        vary = partial(plan_ablation, entries[place - 1])
        varied = _possible(variants, rows, vary, notes)
        entries[place:place] = vary(varied)
        wanted = {base, *choose(varied, rows)}
    else:
        possible = _possible(contenders, rows, partial(plan_methods, recipe), notes)
        entries = plan_methods(recipe, possible)
        wanted = set(choose(possible, rows))
    return Comparison(
        recipe=recipe,
        rows=entries,
        wanted=frozenset(wanted | always),
        seeds=list(range(recipe.seed, recipe.seed + seeds)),
        out=out,
        kind="ablation" if ablation else "methods",
        notes=notes,
    )


def _possible(
    table: dict[str, Row],
    asked: list[str] | None,
    plan_some: Callable[[dict[str, Row]], object],
    notes: list[str],
) -> dict[str, Row]:
    """Choose the rows that are possible with a recipe; if all are wanted, notes name the others.

    Raises:
        RecipeError: for a row that is asked for by its name, and for a name that is unknown.
    """
    explicit = set(choose(table, asked)) if asked else {FLOOR, ORACLE}
    possible = {}
    for name, row in table.items():
        needed = {name, row.run} if isinstance(row, Contender) else {name}
        try:
            plan_some({each: other for each, other in table.items() if each in needed})
            possible[name] = row
        except RecipeError as error:
            if name in explicit:
                raise
            if not asked:
                notes.append(f"left out: {error.problems[0]}")
    return possible
