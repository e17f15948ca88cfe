"""The documentation keeps its word: links lead somewhere; commands, code and settings are valid."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

import cag_uda
from cag_uda.cli.app import app
from cag_uda.data.annotations import cvat
from cag_uda.data.annotations.drawing import Shape
from cag_uda.data.domains.domain_file import parse_domain_file
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes.schema import Recipe
from cag_uda.scenes import render, render_folder
from tests.support.places import REPOSITORY
from tests.support.trees import RECIPE, read_pixels

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *PAGES,
    *sorted((REPOSITORY / "examples").rglob("*.md")),
]
ROOT = typer.main.get_command(app)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\s|`)(cag-uda(?: [^`|&#\n]*)?)")
LARGEST_PICTURE_BYTES = 250_000

by_page = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text_of(path)) if name == language]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The module that writes generated pages."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors_of(text: str) -> set[str]:
    """What a link may name behind #, as the site's headings do."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@by_page
def test_links_lead_somewhere(path: Path, reference: ModuleType) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(path))):
        if link.startswith(("https://", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{path.name} links to {link}"
        if path in PAGES:
            assert target.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor:
            known = anchors_of(reference.on_page_markdown(text_of(target)))
            assert anchor in known, f"{path.name} links to {link}"


def test_every_page_is_in_the_navigation_once() -> None:
    def listed(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for child in node.values() if isinstance(node, dict) else node:
            if not isinstance(node, str):
                yield from listed(child)

    site = yaml.safe_load(text_of(REPOSITORY / "mkdocs.yml"))
    found = list(listed(site["nav"]))
    assert sorted(found) == [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert site["theme"]["font"] is False


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load(text_of(REPOSITORY / "CITATION.cff"))
    assert citation["version"] == cag_uda.__version__
    newest = re.search(r"^## (\S+) \((\S+)\)$", text_of(REPOSITORY / "CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (cag_uda.__version__, str(citation["date-released"]))
    described = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))
    assert described["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "cag_uda.__version__"


def test_the_image_copies_what_is_there_and_not_ignored() -> None:
    recipe = text_of(REPOSITORY / "Dockerfile")
    sources = [
        name
        for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE)
        for name in line.split()
    ]
    kept = [
        line.removeprefix("!")
        for line in text_of(REPOSITORY / ".dockerignore").splitlines()
        if line.startswith("!")
    ]
    assert sorted(sources) == sorted(kept)
    assert all((REPOSITORY / name).exists() for name in sources)
    extras = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))["project"][
        "optional-dependencies"
    ]
    (asked,) = re.findall(r"/src\[(.*)\]", recipe)
    assert set(asked.split(",")) <= set(extras)


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that some words call, and what is left of them for it."""
    command: Any = ROOT
    while words and hasattr(command, "commands"):
        if words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        elif "show" in command.commands and not words[0].startswith("-"):
            command = command.commands["show"]
        else:
            break
    return command, words


@by_page
def test_commands_of_code_blocks_parse(path: Path) -> None:
    for block in blocks(path, "") + blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            code = re.sub(r"\s#.*|\s\$[A-Z]+\b", "", line)
            code = re.sub(r"(?<= )N\b", "1", code)
            for found in COMMAND.findall(code):
                command, words = leaf(shlex.split(found)[1:])
                if hasattr(command, "commands") and not command.invoke_without_command:
                    assert words == ["COMMAND"], f"no command in {line!r}"
                else:
                    command.make_context("cag-uda", words)  # Raises for what it cannot read.


@by_page
def test_commands_in_the_text_have_the_options_that_it_names(path: Path) -> None:
    for found in re.findall(r"`(cag-uda [^`]*)`", FENCE.sub("", text_of(path))):
        words = re.sub(r"[\[\]…]", " ", found).split()[1:]
        command, rest = leaf(words)
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        asked = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert asked <= known, f"`{found}` in {path.name}: there is no {asked - known}"
        assert command is not ROOT or rest[:1] in ([], ["COMMAND"], ["--help"]), (
            f"`{found}` in {path.name}"
        )


def test_the_reference_has_every_command_and_option(reference: ModuleType) -> None:
    page = reference.commands_page()
    assert len(dict(reference.commands())) >= 15
    for name, command in reference.commands():
        section = page.partition(f"# {name}\n")[2].partition("\n## ")[0]
        assert command.help in section
        for parameter in command.params:
            shown = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
            assert f"`{shown}`" in section or f"`{shown.upper()}`" in section, name


def test_the_reference_has_every_setting(reference: ModuleType) -> None:
    page = reference.settings_page("recipe")
    for key in (*Recipe.model_fields, "crop_px", "backbone", "learning_rate", "prior_portion"):
        assert f"| `{key}` |" in page
    assert "## Method cag\n" in page
    assert "`resnet-101`" in page
    assert "| `encoding` | `ids` or `palette` or `rgb` or `channel` or `npy` or `coco`" in (
        reference.settings_page("domain")
    )


def two_columns(block: str) -> list[str]:
    """One file, or two that stand side by side under their names."""
    names = [found.start() for found in re.finditer(r"# \S+\.toml", block.partition("\n")[0])]
    if len(names) < 2:
        return [block]
    lines = block.splitlines()
    return [
        "\n".join(line[: names[1]] for line in lines),
        "\n".join(line[names[1] :] for line in lines),
    ]


@by_page
def test_settings_are_valid(path: Path) -> None:
    for block in (file for body in blocks(path, "toml") for file in two_columns(body)):
        table = tomllib.loads(block)
        if table.keys() <= Recipe.model_fields.keys():
            whole = tomllib.loads(RECIPE)
            whole.update(table)
            if "pack" in table:
                del whole["source"]
            assert Recipe.model_validate(whole).stages
        else:
            head = "" if "name" in table else 'name = "x"\nroot = "x"\nlabel_space = "camvid-11"\n'
            assert parse_domain_file(head + block, path.name).name == (table.get("name") or "x")


@by_page
def test_python_compiles(path: Path) -> None:
    for block in blocks(path, "python"):
        assert compile(block, str(path), "exec").co_names, "it names what it uses"


@by_page
def test_python_runs(
    path: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but what wants an exported network, which the test of the quick start runs."""
    some = [block for block in blocks(path, "python") if "onnxruntime" not in block]
    if not some:
        return
    monkeypatch.chdir(tmp_path)
    segmenter.save_pretrained("run/model")
    cv2.imwrite("photo.jpg", np.full((48, 64, 3), 90, np.uint8))
    features = torch.rand(1, 256, 4, 6)
    batches = [(features, torch.randint(19, (1, 4, 6)))]
    given = {"source_batches": batches, "target_features": features}
    for block in some:
        names = dict(given)
        exec(block, names)
        assert names.keys() > {*given, "__builtins__"}, "it ran, and left names of its own"


def test_the_readme_is_one_screen_and_shows_what_the_demo_makes() -> None:
    text = text_of(REPOSITORY / "README.md")
    assert len(text.splitlines()) <= 80
    assert "](docs/pictures/demo.png)" in text.partition("\n## ")[0]


def test_questions_of_users_of_the_peers_are_answered() -> None:
    questions = re.findall(r"^\*\*(.+?)\*\*", text_of(DOCS / "faq.md"), re.MULTILINE)
    questions += re.findall(r"^## (.+)$", text_of(DOCS / "faq.md"), re.MULTILINE)
    for asked in (
        "my own images",
        "out of memory",
        "killed",
        "several GPUs",
        "have labels",
        "16 and 13",
    ):
        assert any(asked in question for question in questions), asked


def test_pictures_are_small() -> None:
    for path in (DOCS / "pictures").iterdir():
        assert path.stat().st_size <= LARGEST_PICTURE_BYTES, path.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_start_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From two folders to labels by an ONNX file: what the pages say, with a network made small."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    render_folder(Path("my-game"), "clean", range(6), 0, 72, 144)
    Path("my-street").mkdir()
    for index in range(6):
        cv2.imwrite(f"my-street/{index}.jpg", render(0, index, "hard", 72, 144)[0][:, :, ::-1])
    small = ["--steps", "2", "--set", "loading.workers=0"]
    section = text_of(DOCS / "index.md").partition("## Your own two folders\n")[2]
    lines = FENCE.findall(section)[0][1].splitlines()
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] in ("plan", "adapt"):
            words += small
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}: {done.output}{done.exception}"
    assert len(list(Path("predictions").glob("*.png"))) == 6
    Path("my-street/0.jpg").rename("photo.jpg")
    (code,) = [block for block in blocks(DOCS / "using.md", "python") if "onnxruntime" in block]
    exec(code, {})
    segmenter = cag_uda.load("run")
    wanted = np.array(segmenter.classes.palette)[segmenter.predict("photo.jpg")]
    assert (read_pixels("painted.png") == wanted).all(axis=2).mean() > 0.99


def as_a_person_corrects(proposals: Path, corrected: Path) -> int:
    """Mend proposals as in CVAT: one image whole, one in a region alone, one deleted altogether."""
    first, second, third, *rest = cvat.read(proposals)
    region = Shape(first.shapes[0].name, (np.array([[8.0, 8], [60, 8], [60, 40], [8, 40]]),))
    drawn = [first, replace(second, shapes=(region,)), replace(third, shapes=()), *rest]
    cvat.write(corrected, drawn, cvat.class_names(proposals))
    return len(drawn) - 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_few_labels_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a run to images worth a label, to their labels out of a tool, to a run with them."""
    monkeypatch.chdir(tmp_path)
    render_folder(Path("my-game"), "clean", range(6), 0, 72, 144)
    Path("my-street").mkdir()
    for index in range(6):
        cv2.imwrite(f"my-street/{index}.jpg", render(0, index, "hard", 72, 144)[0][:, :, ::-1])
    section = text_of(DOCS / "few-labels.md").partition("## From a run to a better one\n")[2]
    before, after = (block.splitlines() for _, block in FENCE.findall(section)[:2])
    start = [
        "domains new my-game",
        "domains new my-street",
        "recipes new my-game.toml my-street.toml",
    ]
    small = ["--steps", "2", "--set", "loading.workers=0"]
    labelled = 0
    for line in [*(f"cag-uda {words}" for words in start), *before, None, *after]:
        if line is None:
            proposals = Path("run/suggestions/cvat/annotations.xml")
            labelled = as_a_person_corrects(proposals, Path("corrected.xml"))
            continue
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "adapt":
            words += small
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}: {done.output}{done.exception}"
    splits = json.loads(Path("run-with-labels/data.json").read_text())["splits"]
    assert splits["my-street-labelled/train, labelled"]["files"] == 2 * labelled
    lines = next(Path("run-with-labels").glob("stages/*-cag-plus/metrics.jsonl")).read_text()
    assert "labelled/ce" in lines


@pytest.mark.slow
def test_the_site_is_built_and_asks_nothing_of_any_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loaded = re.findall(
            r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="([^"]+)"', text_of(page)
        )
        outside = [each for each in loaded if each.startswith(("http:", "https:", "//"))]
        assert not outside, f"{page.name} loads {outside}"
