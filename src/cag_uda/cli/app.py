"""The command line. Heavy imports live inside commands, so that --help answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cag_uda.cli.files import domains, recipes
from cag_uda.cli.network import export, predict, pseudo_label
from cag_uda.cli.options import (
    Accelerator,
    AlignCorners,
    DataRoot,
    Domain,
    Flip,
    Precision,
    Scales,
    Seed,
    Sets,
    Split,
    Track,
    Window,
)
from cag_uda.errors import UserError

app = typer.Typer(
    name="cag-uda",
    help="Adapt a semantic segmentation network to images that nobody has labelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it cannot read; it has no public name for it."""


def main() -> None:
    """Run the command line; user errors end with code 2 and one line each."""
    # Loader and network share few cores: a thread that waits must not spin (libgomp reads it once).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except UserError as error:
        problems = error.problems
    except _UsageError as error:
        problems = _usage_problems(error)
    for problem in problems:
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
    track: Track = None,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
) -> None:
    """Adapt a network through every stage of a recipe, warm-up included."""
    from cag_uda.cli.adapt import adapt_recipe

    changes = list(change or [])
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if devices is None else [f"compute.devices={devices}"]
    changes += [] if track is None else [f"tracking.loggers={_names(track)}"]
    changes += _compute(accelerator, precision)
    place = out or Path("runs") / Path(recipe).stem
    adapt_recipe(Console(), recipe, place, changes, data_root, resume)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name, or a TOML file.")],
    methods: Annotated[
        str | None, typer.Option(help="Names with commas; default: all. Floor and oracle are in.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from the recipe's seed on.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all runs; default: runs/compare-RECIPE.")
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Variants of CAG, and the research questions.")
    ] = False,
    settings: Annotated[
        Path | None, typer.Option(help="Your own methods.toml, or ablation.toml.")
    ] = None,
    data_root: DataRoot = None,
    change: Sets = None,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
) -> None:
    """Compare methods, or CAG's variants, on one budget; runs what is missing in --out."""
    from cag_uda.cli.adapt import interruptible
    from cag_uda.cli.compare import compare as compare_rows
    from cag_uda.recipes import load_recipe

    changes = [*(change or []), *_compute(accelerator, precision)]
    rows = None if methods is None else _names(methods)
    place = out or Path("runs") / f"compare-{Path(recipe).stem}"
    loaded = load_recipe(recipe, changes, data_root)
    with interruptible("give the same command again to go on"):
        compare_rows(
            Console(),
            loaded,
            place,
            rows=rows,
            seeds=seeds,
            ablation=ablation,
            settings=settings,
        )


@app.command()
def select(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one pair of domains.")],
    by: Annotated[
        str | None, typer.Option(help="A criterion, or several with +: the mean of their ranks.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the ranking here too.")
    ] = None,
) -> None:
    """Rank the networks of runs without a label of the target."""
    from cag_uda.cli.select import select_networks
    from cag_uda.runs.selection import DEFAULT_CRITERION

    select_networks(Console(), runs, by or DEFAULT_CRITERION, json_file)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo"),
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Render two small domains and adapt from one to the other: no download, no GPU, minutes."""
    from cag_uda.cli.adapt import adapt_recipe

    changes = [] if seed is None else [f"seed={seed}"]
    adapt_recipe(Console(), "demo", out, changes, None, resume)


@app.command()
def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(help="Of step, plus, anchors, growth, cpu; default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of each comparison.")] = 15,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
) -> None:
    """Measure what the engine costs on this device, as ratios within one run."""
    from cag_uda.cli.bench import run_bench

    run_bench(
        Console(),
        parts or [],
        rounds=rounds,
        accelerator=accelerator,
        precision=precision,
        json_file=json_file,
    )


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe's name, or a TOML file.")],
    data_root: DataRoot = None,
    change: Sets = None,
    accelerator: Accelerator = "auto",
    precision: Precision = "auto",
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="GiB of the device that is meant, if not this.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
) -> None:
    """Tell before a run what memory and time its stages take here, and what would fit."""
    from cag_uda.cli.plan import plan_recipe

    changes = [*(change or []), *_compute(accelerator, precision)]
    if not plan_recipe(
        Console(), recipe, changes, data_root, memory_gib=memory, json_file=json_file
    ):
        raise typer.Exit(2)


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
    flip: Flip = False,
    scale: Scales = None,
    window: Window = None,
    align_corners: AlignCorners = False,
    data_root: DataRoot = None,
    accelerator: Accelerator = "auto",
    precision: Annotated[str, typer.Option(help="32 or bf16 (about 2 % of labels differ).")] = "32",
) -> None:
    """Score a network on a labelled split: IoU per class and mIoU."""
    from cag_uda.cli.evaluate import evaluate_models
    from cag_uda.prediction.opening import views_of

    evaluate_models(
        Console(),
        model,
        against,
        domain=domain,
        split=split,
        protocol=protocol,
        json_file=json_file,
        views=views_of(flip, scale, window, align_corners),
        data_root=data_root,
        accelerator=accelerator,
        precision=precision,
    )


app.command()(predict)
app.command("pseudo-label")(pseudo_label)
app.command()(export)


@app.command()
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
    from cag_uda.cli.check import check_data, check_submission

    if submission is not None:
        is_sound = check_submission(Console(), recipe_or_domain, submission, data_root)
    else:
        is_sound = check_data(Console(), recipe_or_domain, data_root)
    if not is_sound:
        typer.echo("error: the data has the problems above; mend them and check again", err=True)
        raise typer.Exit(2)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="Of CAG-UDA, AdaptSegNet, ADVENT or DACS.")],
    out: Annotated[Path, typer.Option(help="The new model folder.")],
    anchors: Annotated[
        Path | None, typer.Option(help="An anchor file of the released CAG-UDA code.")
    ] = None,
    family: Annotated[
        str, typer.Option(help="auto, cag, adaptsegnet, advent or dacs: whose code saved it.")
    ] = "auto",
    domain: Annotated[
        str | None, typer.Option(help="A domain with its classes; default: those of Cityscapes.")
    ] = None,
) -> None:
    """Make a model folder of a checkpoint of other people's released code."""
    from cag_uda.cli.import_weights import import_checkpoint

    import_checkpoint(Console(), checkpoint, out, anchors=anchors, family=family, domain=domain)


app.add_typer(recipes)
app.add_typer(domains)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not, or a comparison.")],
) -> None:
    """Write the page of a run or a comparison anew from what its folder holds."""
    from cag_uda.report import write_comparison, write_report

    tables = [run / "comparison.json", run / "ablation.json"]
    pages = [write_comparison(table) for table in tables if table.is_file()]
    for page in pages or [write_report(run)]:
        typer.echo(str(page))


def _usage_problems(error: Any) -> list[str]:
    """What is wrong with a command line; nothing where the help that was shown says it all."""
    message = str(error.format_message()).strip().rstrip(".")
    command = "cag-uda" if error.ctx is None else error.ctx.command_path
    return [f"{message[0].lower()}{message[1:]}; see `{command} --help`"] if message else []


def _names(text: str) -> list[str]:
    """Names that an option takes with commas between."""
    return [name.strip() for name in text.split(",")]


def _compute(accelerator: str, precision: str) -> list[str]:
    """The changes of a recipe that two options ask for."""
    changes = [] if accelerator == "auto" else [f"compute.accelerator={accelerator!r}"]
    return changes + ([] if precision == "auto" else [f"compute.precision={precision!r}"])


if __name__ == "__main__":
    main()
