"""What of a backbone learns: all of it, nothing, or low-rank additions to its linear layers (LoRA).

A delivered network holds the additions merged into its weights and is an ordinary one; they exist
while a method trains it.

Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022; on all linear
layers as Dettmers et al., *QLoRA*, NeurIPS 2023, advise. The layers are those of the peft library.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor, nn

from cag_uda.errors import ModelError

if TYPE_CHECKING:
    from cag_uda.models.segmenter import Segmenter

_ADDITION, _BASE = ".lora_", ".base_layer."
"""What peft puts into the names of tensors: of what it adds, and of what it adds to."""


def check_tuning(segmenter: Segmenter) -> None:
    """See that a segmenter can be trained as its configuration says.

    Raises:
        ModelError: if that is by LoRA, and peft is not installed or there is no linear layer.
    """
    if segmenter.config.tuning != "lora":
        return
    if find_spec("peft") is None:
        raise ModelError(
            'segmenter.tuning = "lora" wants the peft library, which is not installed: '
            '`pip install peft`, or set tuning to "full" or "frozen"'
        )
    if not _linear_layers(segmenter.backbone.network):
        raise ModelError(
            f'segmenter.tuning = "lora" adds to linear layers, and {segmenter.config.backbone} has '
            'none; set tuning to "full" or "frozen"'
        )


def tune(segmenter: Segmenter) -> None:
    """Make ready for training, in place, what of the backbone shall learn.

    Done twice it is done once.

    Raises:
        ModelError: as `check_tuning`.
    """
    check_tuning(segmenter)
    network = segmenter.backbone.network
    if segmenter.config.tuning == "frozen":
        segmenter.backbone.requires_grad_(False)
    elif segmenter.config.tuning == "lora" and not _has_additions(segmenter):
        # The library loads slowly, and only networks that are tuned so want it.
        from peft import LoraConfig, inject_adapter_in_model

        rank = segmenter.config.lora_rank
        # With alpha equal to the rank the additions count as they are.
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_linear_layers(network))
        inject_adapter_in_model(config, network)


def merged_state(segmenter: Segmenter) -> dict[str, Tensor]:
    """The tensors of a segmenter by the names of an ordinary one, additions merged into weights."""
    state: dict[str, Tensor] = segmenter.state_dict()
    if not _has_additions(segmenter):
        return state
    from peft.tuners.lora import Linear

    for name, module in segmenter.named_modules():
        if isinstance(module, Linear):
            weight = f"{name}{_BASE}weight"
            state[weight] = state[weight] + module.get_delta_weight("default").detach()
    return {
        name.replace(_BASE, "."): value for name, value in state.items() if _ADDITION not in name
    }


def _linear_layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]


def _has_additions(segmenter: Segmenter) -> bool:
    return any(_ADDITION in name for name, _ in segmenter.named_parameters())
