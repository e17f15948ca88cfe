"""Who may import whom, and how long files and functions may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY

PACKAGE = REPOSITORY / "src" / "cag_uda"
FILES = sorted(PACKAGE.rglob("*.py"))
BESIDE = sorted([*REPOSITORY.glob("benchmarks/**/*.py"), *REPOSITORY.glob("tests/**/*.py")])

COMMON = {"types", "errors", "files", "records"}
NETWORKS = COMMON | {"adaptation", "models", "methods"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "files": {"errors"},
    "records": {"errors", "files"},
    "adaptation": COMMON,
    "scenes": COMMON,
    "data": COMMON | {"scenes"},
    # One function reads an image for training, Python and the commands: `data.files.images`.
    "models": COMMON | {"adaptation", "data.files"},
    "methods": NETWORKS,
    "training": COMMON | {"methods"},
    "evaluation": COMMON | {"data", "models"},
    "recipes": COMMON | {"data", "models", "methods", "training"},
    "report": COMMON,
    "runs": NETWORKS | {"data", "training", "evaluation", "recipes", "report"},
    "comparison": NETWORKS | {"data", "evaluation", "recipes", "runs"},
    "prediction": NETWORKS | {"scenes", "data", "training", "evaluation", "recipes", "runs"},
}
"""What each part may import besides itself. `cli` may import all, and nothing imports it."""
INSIDE_DATA: dict[str, set[str]] = {
    "files": set(),
    "annotations": {"files"},
    "domains": {"files", "annotations"},
    "loading": {"files", "domains"},
    "inspection": {"files", "domains", "annotations"},
}
"""What each folder of `data` may import of the others."""
RECORDS = Path("runs/records")
HEAVY = {"torch", "lightning", "transformers", "cv2", "matplotlib", "numpy", "pydantic"}


def part_of(path: Path) -> str:
    """The part of a file; the records of a run, which all write and read, are one of their own."""
    inside = path.relative_to(PACKAGE)
    if inside.is_relative_to(RECORDS):
        return "records"
    return inside.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    if part in ("cli", "__init__", "__main__"):
        return
    for module in imports(ast.parse(path.read_text())):
        if module.startswith("cag_uda."):
            is_record = module.startswith("cag_uda.runs.records")
            other = "records" if is_record else module.split(".")[1]
            room = ".".join(module.split(".")[1:3])
            assert other == part or {other, room} & ALLOWED[part], f"{part} imports {module}"


def test_every_folder_has_its_place() -> None:
    entries = {part_of(path) for path in FILES} - {"__init__", "__main__"}
    assert entries == {*ALLOWED, "cli"}
    assert len(entries - {"records"}) <= 16
    inside = {
        path.relative_to(PACKAGE / "data").parts[0] for path in (PACKAGE / "data").rglob("*.py")
    }
    doors = {"domain.py", "reading.py"}
    assert inside - doors - {"__init__.py"} == set(INSIDE_DATA)


def test_the_places_that_users_import_from_stay() -> None:
    from cag_uda.data import domain, reading
    from cag_uda.models.inference import as_rgb

    assert as_rgb is reading.as_rgb
    assert domain.Domain.open("camvid-day").name == "camvid-day"
    assert reading.read_image is not None
    assert {"ImageReader", "LabelReader", "as_rgb", "read_image"} == set(reading.__all__)


@pytest.mark.parametrize("folder", INSIDE_DATA)
def test_the_folders_of_data_import_each_other_one_way(folder: str) -> None:
    for path in (PACKAGE / "data" / folder).rglob("*.py"):
        for module in imports(ast.parse(path.read_text())):
            if module.startswith("cag_uda.data."):
                other = module.split(".")[2]
                assert other == folder or other in INSIDE_DATA[folder], f"{path} imports {module}"


def test_training_knows_only_the_base_of_methods() -> None:
    for path in (PACKAGE / "training").glob("*.py"):
        for module in imports(ast.parse(path.read_text())):
            if module.startswith("cag_uda.methods"):
                assert module in ("cag_uda.methods.base", "cag_uda.methods.optim"), path


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("report", {"torch", "lightning", "transformers"}),
        ("records", {"torch", "lightning", "transformers", "numpy"}),
        ("adaptation", {"lightning", "transformers"}),
        ("models", {"lightning"}),
        ("methods", {"lightning"}),
    ],
)
def test_parts_do_without_what_they_do_not_need(part: str, forbidden: set[str]) -> None:
    for path in FILES:
        if part_of(path) == part:
            used = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
            assert not used & forbidden, path


def test_asking_for_help_imports_nothing_heavy() -> None:
    code = "import sys, cag_uda.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & HEAVY


def test_tests_share_helpers_and_not_each_other() -> None:
    for path in BESIDE:
        for module in imports(ast.parse(path.read_text())):
            assert not module.rpartition(".")[2].startswith("test_"), f"{path} imports {module}"


@pytest.mark.parametrize(
    "path", [*FILES, *BESIDE], ids=lambda path: str(path.relative_to(REPOSITORY))
)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = (ast.get_docstring(node, clean=False) or "").count("\n")
            assert (node.end_lineno or 0) - node.lineno - told < 80, f"{node.name} is too long"


def test_no_function_is_written_twice() -> None:
    seen: dict[str, str] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and len(node.body) > 2:
                body = "".join(ast.dump(each) for each in node.body)
                place = f"{path.relative_to(PACKAGE)}:{node.name}"
                assert body not in seen, f"{place} repeats {seen.get(body)}"
                seen[body] = place


def test_only_evaluation_and_its_callers_read_labels_of_the_target() -> None:
    for path in FILES:
        if part_of(path) in ("methods", "training", "adaptation", "models"):
            assert "read_label" not in path.read_text(), path


def test_the_device_is_never_named_in_code() -> None:
    for path in FILES:
        assert ".cuda()" not in path.read_text(), path
