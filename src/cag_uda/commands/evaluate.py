"""`cag-uda evaluate`: scores of a network, alone or against another."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cag_uda.commands.models import computing_in, open_model
from cag_uda.data.domain import Domain
from cag_uda.errors import UserError
from cag_uda.evaluation.evaluate import Evaluation
from cag_uda.evaluation.evaluate import evaluate as evaluate_split
from cag_uda.evaluation.protocols import find_protocol
from cag_uda.evaluation.scores import Scores
from cag_uda.files import write_json
from cag_uda.progress import OnConsole


def evaluate_models(
    console: Console,
    model: str,
    against: str | None,
    *,
    domain: str,
    split: str,
    protocol: str | None,
    json_file: Path | None,
    flip: bool,
    data_root: Path | None,
    accelerator: str,
    precision: str,
) -> None:
    """Print the scores of a model, and how far it is above another on the same frames.

    Raises:
        UserError: for a model, domain, split or protocol that cannot be used.
    """
    if protocol is not None:
        find_protocol(protocol)
    opened = Domain.open(domain, data_root)
    evaluations: dict[str, Evaluation] = {}
    for name in [model] if against is None else [model, against]:
        segmenter = open_model(name, accelerator)
        space = opened.label_space
        if space is not None and space.names != segmenter.classes.names:
            raise UserError(
                f"{name} tells {', '.join(segmenter.classes.names)} apart; domain "
                f"{opened.name!r} has {', '.join(space.names)}; use a domain of the same classes"
            )
        bars = OnConsole(console)

        def show(done: int, total: int, bars: OnConsole = bars, name: str = name) -> None:
            bars.update(f"evaluating {name}", done, total)

        with computing_in(precision, segmenter):
            evaluations[name] = evaluate_split(segmenter, opened, split, flip=flip, progress=show)
    scores = {name: each.scores_by(protocol) for name, each in evaluations.items()}
    console.print(_table(f"{opened.name}/{split}", scores))
    result: dict[str, Any] = {
        "domain": opened.name,
        "split": split,
        "frames": len(evaluations[model].keys),
        **scores[model].to_dict(),
    }
    if against is not None:
        gain = evaluations[model].gain_over(evaluations[against])
        points = [100 * value for value in (gain.difference, gain.low, gain.high)]
        console.print(
            "{:+.2f} mIoU points over {} (95 % over frames: {:+.2f} to {:+.2f})".format(
                points[0], against, *points[1:]
            ),
            highlight=False,
        )
        result["gain"] = dict(zip(("points", "low", "high"), points, strict=True))
        result["gain"]["over"] = against
    if json_file is not None:
        write_json(json_file, result)


def _table(title: str, scores: dict[str, Scores]) -> Table:
    """IoU of each class, and their mean, one column a model."""
    first = next(iter(scores.values()))
    table = Table("class", title=f"IoU on {title}, in per cent")
    for name in scores:
        table.add_column(name, justify="right")
    for index, name in enumerate(first.names):
        table.add_row(name, *(_per_cent(each.iou[index]) for each in scores.values()))
    table.add_section()
    table.add_row("mean", *(_per_cent(each.miou) for each in scores.values()))
    return table


def _per_cent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"
