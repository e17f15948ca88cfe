"""Model folders: `config.json`, `model.safetensors` and a card, on disk or on the Hugging Face hub.

Nothing is ever unpickled. Knows files and tensors, not how a segmenter computes.
"""

import json
import logging
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.files import SUMS, copy_file, is_sound, write_json, write_text, write_with
from cag_uda.models.card import CARD, PLACEHOLDER, model_card
from cag_uda.models.config import Classes, SegmenterConfig
from cag_uda.models.weight_files import first_line

_FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class ModelFolder(NamedTuple):
    """The contents of a model folder."""

    config: SegmenterConfig
    classes: Classes
    weights: dict[str, Tensor]
    card: str | None
    """Its README.md; None: one made of configuration and classes."""


def save(model: ModelFolder, folder: Path) -> None:
    """Write a model folder.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
        ModelError: if weights are not finite.
    """
    weights = {name: value.cpu().contiguous() for name, value in model.weights.items()}
    refuse_not_finite(weights, f"the network for {folder}")
    write_with(
        folder / WEIGHTS,
        lambda path: save_file(weights, path, metadata={"format": "pt"}),
        sealed=True,
    )
    write_text(folder / CARD, model.card or model_card(model.config, model.classes))
    config = {
        "library_name": "cag-uda",
        "format": _FORMAT,
        "segmenter": model.config.model_dump(mode="json"),
        "classes": model.classes.model_dump(mode="json"),
    }
    write_json(folder / CONFIG, config, sealed=True)


def read(path_or_hub_id: str | Path, revision: str | None = None) -> ModelFolder:
    """Read a model folder; `owner/name` that is no folder here is fetched from the hub.

    A run folder stands for the network that it delivers. Raises ModelError if it is missing,
    damaged, or not one of this package's; or if its weights are not finite.
    """
    folder = locate(path_or_hub_id, revision)
    check(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != _FORMAT:
            raise ModelError(
                f"{folder} has model format {config['format']}, this version reads {_FORMAT}; "
                "use the version of cag-uda that wrote it"
            )
        # Networks that were written before there was a share are normalised as they were then.
        segmenter = SegmenterConfig.model_validate({"target_share": 1.0, **config["segmenter"]})
        classes = Classes.model_validate(config["classes"])
        weights = load_file(folder / WEIGHTS)
        card = folder / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else None
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is no model folder: it has no {Path(error.filename or WEIGHTS).name}; "
            "give RUN/model, or a stage's model folder"
        ) from error
    except (KeyError, TypeError, ValueError, SafetensorError, OSError) as error:
        raise ModelError(
            f"the model in {folder} is damaged or foreign: {_reason(error)}; copy or "
            "download it again"
        ) from error
    refuse_not_finite(weights, f"the network in {folder}")
    return ModelFolder(segmenter, classes, weights, text)


def check(folder: Path) -> None:
    """Compare a model folder with its checksums; one without them is noted.

    Raises ModelError, naming the file that is damaged.
    """
    for name in (WEIGHTS, CONFIG):
        is_whole = is_sound(folder / name) if (folder / name).exists() else True
        if is_whole is False:
            raise ModelError(
                f"the model in {folder} is damaged: {name} is not as it was written; copy or "
                f"download it again, or, if you edited it yourself, delete its line in {SUMS}"
            )
        if is_whole is None:
            _note_unsealed(folder)


def copy_model(folder: Path, to: Path) -> None:
    """Copy the network of a model folder, after its checksums; the card is another's.

    Raises:
        ModelError: if it is damaged, or not there.
        RunError: if the disk is full or the folder cannot be written.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(
                f"the model in {folder} is lost: there is no {name}; go on with the run by "
                "--resume, which makes it again, or copy it from a copy of the run"
            )
    check(folder)
    for name in (WEIGHTS, CONFIG):
        copy_file(folder / name, to / name, sealed=True)


@cache
def _note_unsealed(folder: Path) -> None:
    logging.getLogger(__name__).warning(
        "%s has no checksums, as an earlier version wrote it: damage would not be seen", folder
    )


def refuse_not_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise ModelError, naming the first tensor, if some of `what` are not finite."""
    broken = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ModelError(
            f"{what} holds NaN or infinite numbers, in {broken[0]}{more}; take one that was saved "
            "before its training broke down"
        )


def push(model: ModelFolder, repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a model folder to the hub; returns its address. Raises ModelError if refused."""
    api = HfApi(token=token)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            save(model, Path(scratch))
            card = Path(scratch) / CARD
            card.write_text(card.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id))
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=scratch)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"cannot push to {repo_id!r}: {_reason(error)}; give owner/name of a place where "
            "you may write, and log in with `hf auth login` or give a token"
        ) from error
    return str(commit.commit_url)


def locate(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """Find a model folder; `owner/name` that is no folder here is fetched from the hub.

    Raises ModelError if there is none.
    """
    path = Path(path_or_hub_id)
    if path.is_dir():
        is_run = not (path / CONFIG).exists() and (path / "model" / CONFIG).exists()
        return path / "model" if is_run else path
    name = str(path_or_hub_id)
    if isinstance(path_or_hub_id, Path) or path.is_absolute() or name.count("/") != 1:
        raise ModelError(
            f"no model at {name}: give a folder that holds {CONFIG} and {WEIGHTS}, such as "
            "RUN/model, or a hub id of the form owner/name"
        )
    try:
        fetched = snapshot_download(
            name, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD, SUMS]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"no folder {name} here, and the hub does not give it: {_reason(error)}; give a "
            "folder that exists, or mend the hub id or the connection"
        ) from error
    return Path(fetched)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)
