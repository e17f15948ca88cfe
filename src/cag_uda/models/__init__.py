"""Networks: backbones, decoders, the segmenter and the discriminator."""

from pathlib import Path

from cag_uda.errors import ModelError
from cag_uda.models.segmenter import Segmenter


def load(path_or_hub_id: str | Path) -> Segmenter:
    """Load an adapted network, ready to predict.

    Args:
        path_or_hub_id: a run folder, a model folder, or `owner/name` on the Hugging Face hub. A
            name without a `/` is always a local path.

    Raises:
        ModelError: if it is missing, damaged, or not one of this package's.
    """
    if not isinstance(path_or_hub_id, str | Path):
        raise ModelError(
            "a network is named by a run folder, a model folder or a hub id, got "
            f"{type(path_or_hub_id).__name__}"
        )
    return Segmenter.from_pretrained(path_or_hub_id)
