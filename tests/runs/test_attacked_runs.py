"""Every file of a run damaged in many ways: an error that names it, or the undamaged result."""

import contextlib
import io
import logging
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cag_uda.cli.app import main
from cag_uda.files import SUMS
from cag_uda.recipes import load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.records.base import write_record
from cag_uda.runs.records.run import SCORES, read_scores
from cag_uda.runs.runner import adapt
from tests.support.run_folders import contents
from tests.support.trees import write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHANGES = [
    "stages.*.evaluate_every=2",
    "stages.*.keep_networks=true",
    "stages.*.checkpoint_every=2",
    'deliver="infomax"',
]
LEFT_ALONE = {"report.html", "README.md", ".lock"}
"""What no command reads."""
ALIKE = re.compile(r"tensorboard|stages/[12]-|samples/[1-9]|pseudo_labels/[1-9]")
"""Files like others: of the stages in between, and of all sample images but the first."""
SEEN = re.compile(r"pictures? left out")
LISTED = re.compile(
    "cannot be understood and is left out|was changed after|edited or damaged"
    "|model.safetensors is damaged"
)


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]


def swap_digits(data: bytes, rng: np.random.Generator) -> bytes:
    places = [place for place, byte in enumerate(data) if byte in b"12345678"]
    place = places[int(rng.integers(len(places)))] if places else 0
    return data[:place] + bytes([data[place] + 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "flip": flip,
    "cut": lambda data, rng: data[: int(rng.integers(len(data)))],
    "digit": swap_digits,
    "empty": lambda data, rng: b"",
    "number": lambda data, rng: b"3\n",
    "object": lambda data, rng: b"{}\n",
    "latin": lambda data, rng: b"\xff\xfe" + data,
    "deep": lambda data, rng: b"[" * 20_000,
}


def command(words: list[str]) -> tuple[int, str]:
    """Run a command in this process; its exit status and all that it says."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    before, sys.argv = sys.argv, ["cag-uda", *words]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        status = 1
        said.write(traceback.format_exc())
    finally:
        sys.argv = before
        logging.getLogger().removeHandler(handler)
    return status, said.getvalue()


def outcome(run: Path, name: str, damaged: str | None = None) -> Callable[[], tuple[int, str, Any]]:
    """One command on a run: its status, its words, and what it made, without its times.

    Of the damaged file itself nothing is compared, if the command leaves it as it is.
    """
    out = run.parent / f"{run.name}-{name}"
    dusk = ["--domain", str(run.parent / "dusk.toml"), "--split", "test"]
    words = {
        "report": ["report", str(run)],
        "select": ["select", str(run), "--json", str(out)],
        "evaluate": ["evaluate", str(run), "--json", str(out), *dusk],
        "predict": ["predict", str(run), str(run.parent / "dusk/images"), "--out", str(out)],
        "resume": ["adapt", str(run / "recipe.toml"), "--out", str(run), "--resume"],
    }[name]

    def take() -> tuple[int, str, Any]:
        status, said = command(words)
        made: Any = None
        if status == 0 and name == "report":
            made = re.sub(r"\d+(\.\d+)?[\u202f ](s|min)\b", "", (run / "report.html").read_text())
        elif status == 0 and name == "resume":
            if damaged is not None:
                (run / damaged).unlink(missing_ok=True)
            made = contents(run)
        elif status == 0 and name == "predict":
            made = {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}
        elif status == 0:
            made = out.read_text().replace(str(run), "RUN")
        return status, said, made

    return take


DAMAGES_PER_FILE = 3
"""Of a text file; any other takes two. All of them, on every file, take ten minutes."""
COMMANDS = ("report", "select", "evaluate", "predict", "resume")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and the same one that was stopped when its last stage was trained."""
    folder = tmp_path_factory.mktemp("attacked")
    recipe = load_recipe(write_recipe(folder), CHANGES)
    finished = adapt(recipe, folder / "finished", progress=False).folder
    stopped = folder / "stopped"
    shutil.copytree(finished, stopped)
    scores = read_scores(stopped)
    assert scores is not None
    last = RunFolder(stopped).stage(3, "stage-1")
    write_record(stopped / SCORES, scores.with_changes(stages=scores.stages[:-1]))
    shutil.rmtree(last / "model")
    shutil.rmtree(stopped / "model")
    return finished, stopped


def attacks(
    run: Path, names: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[str, str, str]]:
    """Yield every file with its damages, each with the command that then reads the run.

    Text files take damages and commands in turn, so that over all of them every pair comes up.
    """
    pairs = cycle(
        [
            (how, names[(index + turn) % len(names)])
            for turn in range(len(names))
            for index, how in enumerate(DAMAGES)
        ]
    )
    others = cycle(names)
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if not path.is_file() or path.name in LEFT_ALONE or ALIKE.search(name):
            continue
        if path.suffix in (".json", ".jsonl", ".toml") or path.name == SUMS:
            yield from ((name, *pair) for pair in islice(pairs, DAMAGES_PER_FILE))
        else:
            for how in rng.permutation(["flip", "cut", "empty"])[:2]:
                yield name, str(how), next(others)


def silent(name: str, command_name: str, before: Any, after: Any, said: str) -> bool:
    """Whether a command that succeeded gave another result without naming the damaged file."""
    file = Path(name).name
    if command_name == "resume":
        differing = {
            key for key in {*before, *after} if before.get(key) != after.get(key) and key != name
        }
        return bool(differing) and file not in said
    if before == after:
        return False
    # A damaged list of checksums is seen as damage of what it lists.
    is_seen = SEEN.search(str(after)) or (file == SUMS and LISTED.search(said + str(after)))
    return file not in said and file not in str(after) and not is_seen


@pytest.mark.parametrize("which", [0, 1], ids=["finished", "stopped"])
def test_damage_is_named_or_mended(runs: tuple[Path, Path], which: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(which)
    names = COMMANDS if which == 0 else ("resume", "report")
    for domain in ("day", "dusk"):
        shutil.copytree(runs[0].parent / domain, tmp_path / domain)
        shutil.copy(runs[0].parent / f"{domain}.toml", tmp_path)
    place = tmp_path / "run"

    def afresh() -> None:
        for path in tmp_path.glob("run*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(runs[which], place)

    reference = {}
    for each in names:
        afresh()
        status, said, made = outcome(place, each)()
        assert status == 0, said
        reference[each] = made
    met, problems = [], []
    for name, how, each in attacks(runs[which], names, rng):
        afresh()
        whole = (place / name).read_bytes()
        damaged = DAMAGES[how](whole, rng) if whole else b"x"
        if damaged == whole:
            continue
        (place / name).write_bytes(damaged)
        status, said, made = outcome(place, each, name)()
        met.append((how, each))
        told = f"{how} of {name}: {each}: status {status}: {said[-600:]}"
        if status not in (0, 2) or "Traceback" in said:
            problems.append(f"TRACEBACK {told}")
        elif status == 2 and Path(name).parent.name not in said and name not in said:
            problems.append(f"UNNAMED {told}")
        elif status == 0 and silent(name, each, reference[each], made, said):
            problems.append(f"SILENT {told}")
    print(f"{len(met)} commands on damaged runs, {len(problems)} problems")
    assert len(met) >= 120
    assert set(met) >= set(product(DAMAGES, names))
    assert not problems, "\n".join(problems)
