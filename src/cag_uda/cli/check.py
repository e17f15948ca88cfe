"""`cag-uda check`: what the data is, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cag_uda.cli.console import OnConsole, begin, make_console, printable
from cag_uda.cli.options import DataRoot
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.data.domains.domain import Domain
    from cag_uda.data.inspection.check import DomainReport, SplitReport


def check(
    recipe_or_domain: Annotated[
        str, typer.Argument(help="A recipe or a domain, built-in or a file.")
    ],
    submission: Annotated[
        Path | None,
        typer.Option(help="Check this folder of label ids for the domain's test server instead."),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Read all the data before any training and report what is wrong with it."""
    console = make_console()
    begin(console, f"reading {recipe_or_domain}")
    if submission is None:
        problems = _problems_of_data(console, recipe_or_domain, data_root)
    else:
        problems = _problems_of_submission(console, recipe_or_domain, submission, data_root)
    for problem in problems:
        console.print(Text("problem:", "red"), printable(problem), soft_wrap=True)
    if problems:
        typer.echo("error: the data has the problems above; mend them and check again", err=True)
        raise typer.Exit(2)
    console.print("nothing is wrong", highlight=False)


def _problems_of_data(console: Console, name: str, data_root: Path | None) -> list[str]:
    """Read every file that a recipe or a domain names, and print what is there."""
    from cag_uda.data.inspection.check import check_domain

    reports = []
    wanted = _wanted(console, name, data_root)
    for domain, split, with_labels in wanted:
        bars = OnConsole(console)
        bars.note(f"reading {domain.name}")

        def show(done: int, total: int, bars: OnConsole = bars, name: str = domain.name) -> None:
            bars.update(f"reading {name}", done, total)

        reports.append(check_domain(domain, split, with_labels, on_progress=show))
    for report in reports:
        _print_report(console, report)
    return [f"{report.domain}: {each}" for report in reports for each in report.problems]


def _problems_of_submission(
    console: Console, domain: str, folder: Path, data_root: Path | None
) -> list[str]:
    """Check a folder of label ids by name, size and id, as a domain's test server would."""
    from cag_uda.data.domains.domain import Domain
    from cag_uda.evaluation.submission import submission_problems

    bars = OnConsole(console)
    return submission_problems(
        folder,
        Domain.open(domain, data_root),
        on_progress=lambda done, total: bars.update("checking", done, total),
    )


def _wanted(
    console: Console, name: str, data_root: Path | None
) -> list[tuple[Domain, str | None, bool]]:
    """Domains, the split of each to read, and whether with labels; a recipe's pack is described."""
    from cag_uda.data.domains.domain import Domain
    from cag_uda.recipes import load_recipe

    if not _is_recipe(name):
        return [(Domain.open(name, data_root), None, True)]
    from cag_uda.runs.scenario import Scenario  # Which imports torch: no domain needs it.

    recipe = load_recipe(name, data_root=data_root)
    pack = Scenario.open(recipe).pack
    if pack is not None:
        seen = int((pack.figures.counts > 0).sum())
        console.print(
            Text(f"{recipe.pack}:", "bold"),
            f"{pack.config.decoder} on {pack.config.backbone}, {len(pack.classes.names)} classes, "
            f"anchors of {seen} by {pack.source}; its checksum holds",
            highlight=False,
            soft_wrap=True,
        )
    root = None if recipe.data_root is None else Path(recipe.data_root)
    wanted: list[tuple[Domain, str | None, bool]] = [
        (Domain.open(source.domain, root), source.split, True) for source in recipe.source
    ]
    target = Domain.open(recipe.target.domain, root)
    wanted.append((target, recipe.target.train, False))
    if recipe.target.labelled is not None:
        few = Domain.open(recipe.target.labelled_domain, root)
        wanted.append((few, recipe.target.labelled.split, True))
    test, split = Domain.open(recipe.target.scored_domain, root), recipe.target.test
    if split in test.splits:
        wanted.append((test, split, test.is_labelled(split)))
    return wanted


def _is_recipe(name: str) -> bool:
    from cag_uda.data.files.toml import parse_toml, text_of
    from cag_uda.recipes import builtin_recipes

    if name in builtin_recipes():
        return True
    if not name.endswith(".toml"):
        return False
    if not Path(name).is_file():
        raise UserError(
            f"no recipe or domain file at {name}; check its path, or see `cag-uda recipes` and "
            "`cag-uda domains` for built-in ones"
        )
    return "stages" in parse_toml(text_of(Path(name), "file"), name)


def _print_report(console: Console, report: DomainReport) -> None:
    for split in report.splits:
        sizes = ", ".join(f"{w}×{h} ({n})" for (h, w), n in list(split.image_sizes.items())[:5])
        values = f"; {split.values}" if split.values else ""
        console.print(
            Text(f"{report.domain}/{split.split}:", "bold"),
            f"{split.images} images, {split.labelled} labelled; {sizes}{values}",
            highlight=False,
            soft_wrap=True,
        )
        if split.labelled:
            console.print(_histogram(split, report.class_names))
    for warning in report.warnings:
        console.print(f"note: {warning}", highlight=False, markup=False, soft_wrap=True)


def _histogram(split: SplitReport, names: tuple[str, ...]) -> Table:
    """Share of pixels and of images in which each class occurs."""
    total = max(1, int(sum(split.class_pixels)) + split.ignored_pixels)
    table = Table("class", box=None)
    for heading in ("pixels", "images"):
        table.add_column(heading, justify="right")
    for name, pixels, images in zip(names, split.class_pixels, split.class_images, strict=True):
        table.add_row(name, f"{100 * pixels / total:.2f} %", str(images))
    table.add_row("(ignored)", f"{100 * split.ignored_pixels / total:.2f} %", "")
    return table
