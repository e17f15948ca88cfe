"""`cag-uda evaluate`: scores of a network, alone or against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cag_uda.cli.console import OnConsole, begin, make_console
from cag_uda.cli.options import (
    Accelerator,
    AlignCorners,
    DataRoot,
    Domain,
    ExactPrecision,
    Flip,
    Scales,
    Window,
    views_of,
)
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.data.domains.domain import Domain as ImageDomain
    from cag_uda.evaluation.evaluate import Evaluation
    from cag_uda.evaluation.published import PublishedRow
    from cag_uda.evaluation.scores import Scores


_USUAL = "test"


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, a run, or a hub id.")],
    domain: Domain,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the domain; default: test, or the only labelled one."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="cityscapes-19, synthia-16, synthia-13, synthia-13-ignored.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second model, compared frame by frame.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here too.")
    ] = None,
    flip: Flip = False,
    scale: Scales = None,
    window: Window = None,
    align_corners: AlignCorners = False,
    data_root: DataRoot = None,
    accelerator: Accelerator = "auto",
    precision: ExactPrecision = "32",
) -> None:
    """Score a network on a labelled split: IoU per class and mIoU."""
    console = make_console()
    begin(console, f"reading {model}")
    from cag_uda.data.domains.domain import Domain as DomainOfImages
    from cag_uda.evaluation.evaluate import evaluate as evaluate_split
    from cag_uda.evaluation.protocols import find_protocol
    from cag_uda.files import write_json
    from cag_uda.prediction.opening import as_learned, computing_in, open_model
    from cag_uda.runs.records.run import Evaluated, Gain

    views = views_of(flip, scale, window, align_corners)
    if protocol is not None:
        find_protocol(protocol)
    opened = DomainOfImages.open(domain, data_root)
    split = split or _only_labelled(opened)
    evaluations: dict[str, Evaluation] = {}
    for name in [model] if against is None else [model, against]:
        segmenter = open_model(name, accelerator)
        bars = OnConsole(console)

        def show(done: int, total: int, bars: OnConsole = bars, name: str = name) -> None:
            bars.update(f"evaluating {name}", done, total)

        with computing_in(precision, segmenter):
            evaluations[name] = evaluate_split(
                segmenter, as_learned(opened, segmenter, name), split, views=views, progress=show
            )
    scores = {name: each.scores_by(protocol) for name, each in evaluations.items()}
    _print_scores(console, f"{opened.name}/{split}", scores, opened.name, split)
    result = Evaluated(
        domain=opened.name,
        split=split,
        frames=len(evaluations[model].keys),
        views=asdict(views),
        **scores[model].record().plain(),
    )
    if against is not None:
        gain = evaluations[model].gain_over(evaluations[against])
        points = [100 * value for value in (gain.difference, gain.low, gain.high)]
        console.print(
            "{:+.2f} mIoU points over {} (95 % over frames: {:+.2f} to {:+.2f})".format(
                points[0], against, *points[1:]
            ),
            highlight=False,
        )
        result = result.with_changes(
            gain=Gain(over=against, points=points[0], low=points[1], high=points[2])
        )
    if json_file is not None:
        write_json(json_file, result.plain())


def _only_labelled(domain: ImageDomain) -> str:
    """The split to score where none is named."""
    labelled = [split for split in domain.splits if domain.is_labelled(split)]
    if _USUAL in labelled or not labelled:
        return _USUAL
    if len(labelled) > 1:
        raise UserError(
            f"domain {domain.name!r} has no labelled split {_USUAL!r}, but {', '.join(labelled)}: "
            "name one by --split"
        )
    return labelled[0]


def _print_scores(
    console: Console, title: str, scores: dict[str, Scores], domain: str, split: str
) -> None:
    from cag_uda.evaluation.published import published_rows

    first = next(iter(scores.values()))
    rows = published_rows(domain, split, first.protocol)
    console.print(_table(title, scores, rows))
    for row in rows:
        console.print(
            f"published: {row.method}, {row.source} → Cityscapes {row.split}: {row.reference}",
            highlight=False,
        )
    for name, each in scores.items():
        values = " ".join(_per_cent(value) for value in each.iou)
        console.print(f"{name}: {values} | {_per_cent(each.miou)}", highlight=False, soft_wrap=True)


def _table(title: str, scores: dict[str, Scores], rows: Sequence[PublishedRow]) -> Table:
    """IoU of each class, and their mean, one column a model and one a published method."""
    first = next(iter(scores.values()))
    by_protocol = "" if first.protocol is None else f" by {first.protocol}"
    table = Table("class", title=f"IoU on {title}{by_protocol}, in per cent")
    for name in scores:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_column(f"{row.method} (published)", justify="right", style="dim")
    for index, name in enumerate(first.names):
        published = (f"{row.iou[index]:.1f}" if row.iou else "–" for row in rows)
        table.add_row(name, *(_per_cent(each.iou[index]) for each in scores.values()), *published)
    table.add_section()
    means = (f"{row.miou:.1f}" for row in rows)
    table.add_row("mean", *(_per_cent(each.miou) for each in scores.values()), *means)
    return table


def _per_cent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"
