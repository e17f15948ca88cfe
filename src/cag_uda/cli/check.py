"""`cag-uda check`: what the data is, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cag_uda.cli.console import OnConsole, begin, make_table, printable
from cag_uda.cli.options import DataRoot
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.data.domains.domain import Domain
    from cag_uda.data.inspection.check import DomainReport, SplitReport
    from cag_uda.models.pack import Pack
    from cag_uda.models.segmenter import Segmenter
    from cag_uda.recipes import Recipe
    from cag_uda.runs.records.run import ClassShares
    from cag_uda.runs.scenario import Scenario


def check(
    recipe_or_domain: Annotated[
        str, typer.Argument(help="A recipe or a domain, built-in or a file.")
    ],
    submission: Annotated[
        Path | None,
        typer.Option(help="Check this folder of label ids for the domain's test server instead."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Also estimate the target's class shares by a network: a run, a model folder, a "
            "pack, or a hub id. Default: the one that the recipe begins with."
        ),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Read all the data before any training and report what is wrong with it."""
    console = begin(f"reading {recipe_or_domain}")
    if submission is not None and network is not None:
        raise UserError("--submission checks files alone, by no network: leave --network out")
    looked = None
    if submission is None and _is_recipe(recipe_or_domain):
        looked = _Looked.at(console, recipe_or_domain, data_root, network)
        problems = _problems_of_data(console, looked.wanted())
    elif network is not None:
        raise UserError(
            "--network compares the class shares of a source and a target: give a recipe, which "
            f"names both, in place of {recipe_or_domain}"
        )
    else:
        from cag_uda.data.domains.domain import Domain
        from cag_uda.evaluation.submission import submission_problems

        opened = Domain.open(recipe_or_domain, data_root)
        if submission is None:
            problems = _problems_of_data(console, [(opened, None, True)])
        else:
            show = partial(OnConsole(console).update, "checking")
            problems = submission_problems(submission, opened, on_progress=show)
    for problem in problems:
        console.print(Text("problem:", "red"), printable(problem), soft_wrap=True)
    if problems:
        typer.echo("error: the data has the problems above; mend them and check again", err=True)
        raise typer.Exit(2)
    if looked is not None:
        _tell_class_shares(console, looked)
    console.print("nothing is wrong")


def _problems_of_data(console: Console, wanted: list[tuple[Domain, str | None, bool]]) -> list[str]:
    """Read every file of domains, of one split or all, and print what is there."""
    from cag_uda.data.inspection.check import check_domain

    reports = []
    for domain, split, with_labels in wanted:
        bars, what = OnConsole(console), f"reading {domain.name}"
        bars.note(what)
        show = partial(bars.update, what)
        reports.append(check_domain(domain, split, with_labels, on_progress=show))
    for report in reports:
        _print_report(console, report)
    return [f"{report.domain}: {each}" for report in reports for each in report.problems]


@dataclass(frozen=True)
class _Looked:
    """A recipe that was opened, and the network by which its class shares are estimated."""

    recipe: Recipe
    scenario: Scenario
    segmenter: Segmenter | None
    name: str
    """Of the network; "" without one."""

    @classmethod
    def at(
        cls, console: Console, name: str, data_root: Path | None, network: str | None
    ) -> _Looked:
        """Open a recipe's domains and the network; its pack is described.

        Raises UserError if one of them cannot be had, or they tell other classes apart.
        """
        from cag_uda.prediction.opening import open_network
        from cag_uda.recipes import load_recipe
        from cag_uda.runs.scenario import Scenario

        recipe = load_recipe(name, data_root=data_root)
        scenario = Scenario.open(recipe)
        if scenario.pack is not None:
            _describe_pack(console, str(recipe.pack), scenario.pack)
        start = recipe.segmenter.start
        # What is on the hub is not fetched unasked.
        own = recipe.pack or (start if start is not None and Path(start).is_dir() else None)
        named = network or own
        if named is None:
            return cls(recipe, scenario, None, "")
        segmenter = open_network(named, "auto")
        learned, wanted = segmenter.classes.names, scenario.label_space.names
        if learned != wanted:
            raise UserError(
                f"the network {named} tells {', '.join(learned)} apart, but the recipe's domains "
                f"{', '.join(wanted)}; choose one of the same classes in the same order"
            )
        return cls(recipe, scenario, segmenter, named)

    def wanted(self) -> list[tuple[Domain, str | None, bool]]:
        """List the recipe's domains, the split of each to read, and whether with labels."""
        target, opened = self.recipe.target, self.recipe.open_domain
        wanted: list[tuple[Domain, str | None, bool]] = [
            (opened(source.domain), source.split, True) for source in self.recipe.source
        ]
        wanted.append((opened(target.domain), target.train, False))
        if target.labelled is not None:
            wanted.append((opened(target.labelled_domain), target.labelled.split, True))
        test, split = opened(target.scored_domain), target.test
        if split in test.splits:
            wanted.append((test, split, test.is_labelled(split)))
        return wanted


def _describe_pack(console: Console, path: str, pack: Pack) -> None:
    seen = int((pack.figures.counts > 0).sum())
    console.print(
        Text(f"{path}:", "bold"),
        f"{pack.config.decoder} on {pack.config.backbone}, {len(pack.classes.names)} classes, "
        f"anchors of {seen} by {pack.source}; its checksum holds",
        soft_wrap=True,
    )


def _tell_class_shares(console: Console, looked: _Looked) -> None:
    """Estimate the class shares of both domains by a few images, and print them side by side."""
    from cag_uda.runs.class_shares import estimate_class_shares, settings_for_equal_shares
    from cag_uda.runs.records.run import CLEARLY_APART

    if looked.segmenter is None:
        return
    show = partial(OnConsole(console).update, "class shares")
    found = estimate_class_shares(looked.recipe, looked.scenario, looked.segmenter, show)
    if found is None:
        console.print("no class shares: the source has no labelled pixel", soft_wrap=True)
        return
    console.print(_share_table(found))
    console.print(
        f"target: as {printable(looked.name)} labels {found.target_images} of its images, an "
        "estimate",
        soft_wrap=True,
    )
    apart = f"total variation {100 * found.total_variation:.0f} %"
    if not found.differ:
        console.print(
            f"class shares: much alike ({apart}; above {100 * CLEARLY_APART:.0f} % they count as "
            "different)",
            soft_wrap=True,
        )
        return
    if found.swallowing is not None:
        console.print(
            "note: the network labels nearly all of the target as "
            f"{printable(found.swallowing)}, of which the source has far less: most likely it "
            "fails on these images, and the estimate then says nothing of them; give "
            "--network one that works there",
            soft_wrap=True,
        )
        return
    forced = settings_for_equal_shares(looked.recipe)
    here = f"; this recipe has {', '.join(forced)}: leave that out" if forced else ""
    console.print(
        f"note: the target seems to show the classes in other shares than the source ({apart}): "
        "normalise it by mixed statistics (segmenter.target_share = 0.5), not by its own alone, "
        f"let the source's shares shape no labels{here}; and look at the verdict at the end of "
        "the run, as adaptation may harm",
        soft_wrap=True,
    )


def _share_table(found: ClassShares) -> Table:
    """Show shares of every class, and the target's less the source's in percentage points."""
    table = make_table(("class",), ("source", "target", "points"), box=None)
    for name, source, target in zip(found.classes, found.source, found.target, strict=True):
        change = f"{100 * (target - source):+.1f}"
        table.add_row(name, f"{100 * source:.1f} %", f"{100 * target:.1f} %", change)
    return table


def _is_recipe(name: str) -> bool:
    from cag_uda.data.files.toml import parse_toml, text_of
    from cag_uda.recipes import builtin_recipes

    if name in builtin_recipes() or Path(name, "recipe.toml").is_file():
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
            soft_wrap=True,
        )
        if split.labelled:
            console.print(_histogram(split, report.class_names))
    for warning in report.warnings:
        console.print(f"note: {warning}", soft_wrap=True)


def _histogram(split: SplitReport, names: tuple[str, ...]) -> Table:
    """Show the share of pixels, and of images, in which each class occurs."""
    total = max(1, int(sum(split.class_pixels)) + split.ignored_pixels)
    table = make_table(("class",), ("pixels", "images"), box=None)
    for name, pixels, images in zip(names, split.class_pixels, split.class_images, strict=True):
        table.add_row(name, f"{100 * pixels / total:.2f} %", str(images))
    table.add_row("(ignored)", f"{100 * split.ignored_pixels / total:.2f} %", "")
    return table
