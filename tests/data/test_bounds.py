"""Values without measure are refused by name, before anything is made of them."""

from pathlib import Path

import pytest

from cag_uda.data.domains.domain import Domain
from cag_uda.errors import DataError, RecipeError
from cag_uda.recipes import load_recipe
from tests.support.trees import RECIPE, write_domain


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('images = "images/*"', f'images = "{"{a,b}" * 30}/*"', "1,073,741,824 patterns"),
        ('root = "day"', 'root = "~nobody-at-all/x"', "~nobody-at-all"),
        ('root = "day"', 'root = "a\\u0000b"', "control character"),
        ('root = "day"', f"root = {'[' * 5000}{']' * 5000}", "too deep"),
        ('root = "day"', f'root = "day"\nnumber = {"9" * 5000}', "too long"),
    ],
    ids=["braces", "home", "nul", "deep", "digits"],
)
def test_domain_files(old: str, new: str, says: str, tmp_path: Path) -> None:
    path = write_domain(tmp_path, "day", seed=1)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as refused:
        Domain.open(str(path)).items("train")
    assert says in str(refused.value)


def test_scenes(tmp_path: Path) -> None:
    path = tmp_path / "made.toml"
    path.write_text(
        f'name = "made"\n[rendered]\nlook = "clean"\n[splits.train]\nscenes = [0, {2**62}]\n'
    )
    with pytest.raises(DataError, match="1,000,000"):
        Domain.open(str(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("loading.workers=100000", "512"),
        ("loading.batch_size=1000000000", "4096"),
        ("loading.crop_px=[1000000000, 64]", "65,536"),
        ("loading.width_px=1000000000", "65536"),
        ("loading.scale=[0.5, 1e9]", "scale"),
        ("seed=" + "9" * 5000, "seed"),
        ("seed=" + "[" * 5000, "seed"),
    ],
)
def test_recipes(change: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    with pytest.raises(RecipeError) as refused:
        load_recipe(tmp_path / "recipe.toml", [change])
    assert says in str(refused.value)


def test_paths_with_nul() -> None:
    with pytest.raises(DataError, match="cannot read"):
        Domain.open("a\0b.toml")
