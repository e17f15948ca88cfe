"""`cag-uda report`: the page of a run or a comparison."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not, or a comparison.")],
) -> None:
    """Write the page of a run or a comparison anew from what its folder holds."""
    from cag_uda.report import write_comparison, write_report

    tables = [run / "comparison.json", run / "ablation.json"]
    pages = [write_comparison(table) for table in tables if table.is_file()]
    for page in pages or [write_report(run)]:
        typer.echo(str(page))
