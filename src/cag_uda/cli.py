"""The command line. Heavy imports live inside commands, so that --help answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cag_uda.errors import UserError

app = typer.Typer(
    name="cag-uda",
    help="Adapt a semantic segmentation network to images that nobody has labelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder below which built-in domains lie (or CAG_UDA_DATA; default: data)."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY=VALUE changes the recipe, e.g. stages.warmup.steps=500 or seed=1."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of weights, order, augmentation; sets `seed`.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, 32 or bf16; auto measures which is faster.")]
Domain = Annotated[str, typer.Option(help="A built-in domain's name, or a domain file.")]
Split = Annotated[str, typer.Option(help="Which split of the domain.")]


def main() -> None:
    """Run the command line; user errors end with code 2 and one line each."""
    # Loader and network share few cores: a thread that waits must not spin (libgomp reads it once).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)


@app.command()
def adapt(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name, or a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/RECIPE.")] = None,
    data_root: DataRoot = None,
    change: Sets = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    devices: Annotated[int | None, typer.Option(help="Processes, one device each.")] = None,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
) -> None:
    """Adapt a network through every stage of a recipe, warm-up included."""
    changes = list(change or [])
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if devices is None else [f"compute.devices={devices}"]
    changes += [] if accelerator == "auto" else [f"compute.accelerator={accelerator!r}"]
    changes += [] if precision == "auto" else [f"compute.precision={precision!r}"]
    name = Path(recipe).stem
    _adapt(recipe, out or Path("runs") / name, changes, data_root, resume)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo"),
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Render two small domains and adapt from one to the other: no download, no GPU, minutes."""
    _adapt("demo", out, [] if seed is None else [f"seed={seed}"], None, resume)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, a run, or a hub id.")],
    domain: Domain,
    split: Split = "test",
    protocol: Annotated[
        str | None, typer.Option(help="cityscapes-19, synthia-16, synthia-13, synthia-13-ignored.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second model, compared frame by frame.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the scores here too.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image.")] = False,
    data_root: DataRoot = None,
    accelerator: Accelerator = "auto",
    precision: Annotated[str, typer.Option(help="32 or bf16 (about 2 % of labels differ).")] = "32",
) -> None:
    """Score a network on a labelled split: IoU per class and mIoU."""
    from cag_uda.commands.evaluate import evaluate_models

    evaluate_models(
        Console(),
        model,
        against,
        domain=domain,
        split=split,
        protocol=protocol,
        json_file=json_file,
        flip=flip,
        data_root=data_root,
        accelerator=accelerator,
        precision=precision,
    )


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A model folder, a run, or a hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")],
    kind: Annotated[
        str, typer.Option("--as", help="overlay, color, train-ids or label-ids.")
    ] = "overlay",
    accelerator: Accelerator = "auto",
    precision: Annotated[str, typer.Option(help="32 or bf16 (about 2 % of labels differ).")] = "32",
) -> None:
    """Segment images and folders of images."""
    from cag_uda.commands.predict import predict_files

    predict_files(Console(), model, inputs, out, kind, accelerator, precision)


@app.command()
def check(
    recipe_or_domain: Annotated[
        str, typer.Argument(help="A recipe or a domain, built-in or a file.")
    ],
    data_root: DataRoot = None,
) -> None:
    """Read all the data before any training and report what is wrong with it."""
    from cag_uda.commands.check import check_data

    if not check_data(Console(), recipe_or_domain, data_root):
        raise typer.Exit(2)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
) -> None:
    """List the built-in recipes, or print one to start your own from."""
    from cag_uda.recipes import builtin_recipes, dump_recipe, load_recipe

    if name is not None:
        typer.echo(dump_recipe(load_recipe(name)), nl=False)
        return
    table = Table("recipe", "what it does", box=None)
    for each in builtin_recipes():
        table.add_row(each, load_recipe(each).description)
    Console().print(table)


@app.command()
def domains(
    name: Annotated[str | None, typer.Argument(help="Print this domain's file.")] = None,
) -> None:
    """List the built-in domains, or print one to start your own from."""
    from cag_uda.commands.check import describe_domains

    describe_domains(Console(), name)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write RUN/report.html anew from what the run folder holds."""
    from cag_uda.report import write_report

    typer.echo(str(write_report(run)))


def _adapt(name: str, out: Path, changes: list[str], data_root: Path | None, resume: bool) -> None:
    from cag_uda.progress import OnConsole
    from cag_uda.recipes import load_recipe
    from cag_uda.runner import adapt as run_recipe
    from cag_uda.training.interrupt import Interrupted

    console = Console()
    recipe = load_recipe(name, changes, data_root)
    try:
        run = run_recipe(recipe, out, resume=resume, progress=OnConsole(console))
    except Interrupted as interruption:
        sys.stderr.write(f"{interruption}; go on with --resume\n")
        raise typer.Exit(interruption.exit_code) from interruption
    console.print(_stage_table(run.scores))
    console.print(f"network: {run.model}\nreport:  {run.folder / 'report.html'}", highlight=False)


def _stage_table(scores: dict[str, Any]) -> Table:
    """One row a stage: what it started from, its steps, its mIoU and what it gained."""
    table = Table("stage", "from", title=f"{scores['recipe']}: mIoU on {scores['target']}")
    for heading in ("steps", "time", "mIoU", "over source-only"):
        table.add_column(heading, justify="right")
    for stage in scores["stages"]:
        miou = "–" if stage["miou"] is None else f"{100 * stage['miou']:.1f}"
        gain = stage.get("gain")
        gained = f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]" if gain else ""
        table.add_row(
            stage["name"],
            stage["start"],
            str(stage["steps"]),
            f"{stage['elapsed_s']:.0f} s",
            miou,
            gained,
        )
    return table


if __name__ == "__main__":
    main()
