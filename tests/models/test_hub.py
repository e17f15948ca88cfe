"""The hub and the card: what is uploaded, what comes back, and what a model says of itself."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

import cag_uda
from cag_uda.errors import ModelError
from cag_uda.models import storage
from cag_uda.models.card import Training, model_card
from cag_uda.models.segmenter import Segmenter
from cag_uda.recipes import load_recipe
from cag_uda.runs.records.run import StageScores
from cag_uda.runs.runner import adapt
from tests.support.trees import write_recipe


class FakeHub:
    """Stands in for the hub's API: keeps what is uploaded, gives it back as a snapshot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.created: dict[str, bool] = {}
        self.tokens: list[str | None] = []

    def __call__(self, token: str | None = None) -> "FakeHub":
        self.tokens.append(token)
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.created[repo_id] = private

    def upload_folder(self, *, repo_id: str, folder_path: str) -> Any:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

        class Commit:
            commit_url = f"https://hub/{repo_id}/commit/1"

        return Commit

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        if not (self.folder / repo_id).is_dir():
            raise LocalEntryNotFoundError("cannot find the requested files")
        assert {path.name for path in (self.folder / repo_id).iterdir()} <= set(allow_patterns)
        return str(self.folder / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(storage, "HfApi", fake)
    monkeypatch.setattr(storage, "snapshot_download", fake.snapshot_download)
    return fake


def front_matter(text: str) -> dict[str, Any]:
    data: dict[str, Any] = ModelCard(text).data.to_dict()
    return data


def test_what_is_pushed_comes_back(segmenter: Segmenter, hub: FakeHub) -> None:
    address = segmenter.push_to_hub("me/dusk", private=True, token="secret")
    assert address == "https://hub/me/dusk/commit/1"
    assert hub.created == {"me/dusk": True}
    assert hub.tokens == ["secret"]
    names = {path.name for path in (hub.folder / "me/dusk").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "SHA256SUMS"}
    loaded = cag_uda.load("me/dusk")
    image = torch.rand(1, 3, 40, 56)
    assert loaded(image).logits.equal(segmenter.eval()(image).logits)
    assert loaded.classes == segmenter.classes
    again = Segmenter.from_pretrained("me/dusk")
    assert again(image).logits.equal(loaded(image).logits)


def test_a_card_pushed_names_the_model(segmenter: Segmenter, hub: FakeHub) -> None:
    segmenter.push_to_hub("me/dusk")
    card = (hub.folder / "me/dusk/README.md").read_text()
    assert 'cag_uda.load("me/dusk")' in card
    assert "owner/name" not in card


def test_a_refusal_of_the_hub_is_a_user_error(
    segmenter: Segmenter, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("403 Forbidden: no write access")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ModelError, match=r"cannot push to .me/dusk.: 403.*log in"):
        segmenter.push_to_hub("me/dusk")
    with pytest.raises(ModelError, match="the hub does not give it"):
        cag_uda.load("me/missing")
    assert issubclass(HfHubHTTPError, OSError)


def test_a_name_without_an_owner_is_never_asked_of_the_hub(hub: FakeHub) -> None:
    with pytest.raises(ModelError, match="no model at dusk"):
        cag_uda.load("dusk")
    with pytest.raises(ModelError, match="or a hub id, got int"):
        cag_uda.load(3)  # type: ignore[arg-type]


TRAINING = Training(
    recipe="day-dusk",
    description="Real photographs.",
    source="day/train",
    target="dusk/train",
    stages=[
        StageScores(
            folder="0-source-only", name="source-only", method="source-only", steps=10, miou=0.25
        ),
        StageScores(
            folder="1-stage-1",
            name="stage-1",
            method="cag",
            start="source-only",
            steps=20,
            miou=0.375,
        ),
    ],
    delivered="the network of stage-1",
    reads_target_labels=False,
    scored_on="dusk/test",
    miou=0.375,
    iou=[0.5, 0.25, None, 0.375],
)


def test_a_card_tells_classes_domains_recipe_and_scores(segmenter: Segmenter) -> None:
    card = model_card(segmenter.config, segmenter.classes, TRAINING)
    told = front_matter(card)
    assert told["library_name"] == "cag-uda"
    assert told["pipeline_tag"] == "image-segmentation"
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["type"] == "mean_iou"
    assert result["metrics"][0]["value"] == 0.375
    assert result["dataset"]["name"] == "dusk/test"
    for expected in (
        "| source-only | source-only | initial | 10 | 25.0 |",
        "| 0 | road | #804080 | 50.0 |",
        "| 2 | tree | #6b8e23 | – |",
        "| stage-1 | cag | source-only | 20 | 37.5 |",
        "learned from the labels of **day/train**",
        "No label of the target was read",
        "Intended use and limits",
    ):
        assert expected in card, card


def test_a_card_of_an_oracle_says_so_and_one_without_labels_has_no_scores(
    segmenter: Segmenter,
) -> None:
    oracle = Training(**{**vars(TRAINING), "reads_target_labels": True})
    assert "it is an oracle" in model_card(segmenter.config, segmenter.classes, oracle)
    nothing = {"scored_on": None, "miou": None, "iou": None}
    card = model_card(
        segmenter.config, segmenter.classes, Training(**{**vars(TRAINING), **nothing})
    )
    assert "nothing was scored" in card
    assert "model-index" not in front_matter(card)
    plain = model_card(segmenter.config, segmenter.classes)
    assert "nothing is known here" in plain
    assert front_matter(plain)["library_name"] == "cag-uda"


@pytest.mark.slow
def test_a_runs_network_carries_its_card_to_the_hub(tmp_path: Path, hub: FakeHub) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["stages.*.steps=1", "stages.adabn.steps=0"])
    run = adapt(recipe, tmp_path / "run")
    assert repr(run).startswith(f"Run('{tmp_path / 'run'}', mIoU by stage: source-only ")
    card = (run.model / "README.md").read_text()
    assert "learned from the labels of **day/train**" in card
    assert "| stage-1 | cag | warmup | 1 |" in card
    assert "delivered is the network of stage-1" in card
    assert str(tmp_path) not in card, "no path of this machine"
    last = run.scores.stages[-1]
    assert last.iou is not None
    assert f"{100 * (last.iou[0] or 0):.1f} |" in card
    assert front_matter(card)["model-index"][0]["results"][0]["metrics"][0][
        "value"
    ] == pytest.approx(last.miou, abs=1e-4)
    cag_uda.load(run.folder).push_to_hub("me/dusk")
    pushed = (hub.folder / "me/dusk/README.md").read_text()
    assert pushed == card.replace("owner/name", "me/dusk")
