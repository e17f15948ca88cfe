"""`cag-uda evaluate`: scores of a network, alone or against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cag_uda.cli import options
from cag_uda.cli.console import OnConsole, begin
from cag_uda.errors import UserError

if TYPE_CHECKING:
    from cag_uda.data.domains.domain import Domain
    from cag_uda.evaluation.evaluate import Evaluation
    from cag_uda.evaluation.published import PublishedRow
    from cag_uda.evaluation.scores import Scores


_USUAL = "test"


def evaluate(
    model: options.Model,
    domain: options.Domain,
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
    json_file: options.JsonFile = None,
    flip: options.Flip = False,
    scale: options.Scales = None,
    window: options.Window = None,
    align_corners: options.AlignCorners = False,
    data_root: options.DataRoot = None,
    accelerator: options.Accelerator = "auto",
    precision: options.ExactPrecision = "32",
) -> None:
    """Score a network on a labelled split: IoU per class and mIoU."""
    console = begin(f"reading {model}")
    from cag_uda.data.domains.domain import Domain
    from cag_uda.evaluation.evaluate import evaluate as evaluate_split
    from cag_uda.evaluation.protocols import find_protocol
    from cag_uda.files import write_json
    from cag_uda.prediction.opening import as_learned, computing_in, open_model
    from cag_uda.runs.records.run import Evaluated

    views = options.views_of(flip, scale, window, align_corners)
    if protocol is not None:
        find_protocol(protocol)
    opened = Domain.open(domain, data_root)
    split = split or _only_labelled(opened)
    evaluations: dict[str, Evaluation] = {}
    for name in [model] if against is None else [model, against]:
        segmenter = open_model(name, accelerator)
        learned = as_learned(opened, segmenter, name)
        show = partial(OnConsole(console).update, f"evaluating {name}")
        with computing_in(precision, segmenter):
            evaluations[name] = evaluate_split(
                segmenter, learned, split, views=views, progress=show
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
        gain = evaluations[model].gain_over(evaluations[against]).over(against)
        console.print(
            f"{gain.points:+.2f} mIoU points over {against} "
            f"(95 % over frames: {gain.low:+.2f} to {gain.high:+.2f})"
        )
        result = result.with_changes(gain=gain)
    if json_file is not None:
        write_json(json_file, result.plain())


def _only_labelled(domain: Domain) -> str:
    """Return the split to score where none is named."""
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
            f"published: {row.method}, {row.source} → Cityscapes {row.split}: {row.reference}"
        )
    for name, each in scores.items():
        values = " ".join(_per_cent(value) for value in each.iou)
        console.print(f"{name}: {values} | {_per_cent(each.miou)}", soft_wrap=True)


def _table(title: str, scores: dict[str, Scores], rows: Sequence[PublishedRow]) -> Table:
    """Show IoU of each class and their mean, one column a model and a published method."""
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
