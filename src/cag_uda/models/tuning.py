"""Tuning of a backbone: all of it, nothing, or low-rank additions to its linear layers (LoRA).

A delivered network holds the additions merged into its weights and is an ordinary one; they exist
while a method trains it.

Source: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022; on all linear
layers as Dettmers et al., *QLoRA*, NeurIPS 2023, advise. The layers are those of the peft library.
"""

from importlib.util import find_spec

from torch import Tensor, nn

from cag_uda.errors import ModelError
from cag_uda.models.backbone import Backbone
from cag_uda.models.config import SegmenterConfig

_ADDITION, _BASE = ".lora_", ".base_layer."
"""Parts of the names that peft gives tensors: of what it adds, and of what it adds to."""


def check_tuning(config: SegmenterConfig, backbone: Backbone) -> None:
    """Check that a backbone can be trained as its segmenter's configuration says.

    Raises ModelError if that is by LoRA, and peft is not installed or there is no linear layer.
    """
    if config.tuning != "lora":
        return
    if find_spec("peft") is None:
        raise ModelError(
            'segmenter.tuning = "lora" wants the peft library, which is not installed: '
            '`pip install peft`, or set tuning to "full" or "frozen"'
        )
    if not _linear_layers(backbone.network):
        raise ModelError(
            f'segmenter.tuning = "lora" adds to linear layers, and {config.backbone} has '
            'none; set tuning to "full" or "frozen"'
        )


def tune(config: SegmenterConfig, backbone: Backbone) -> None:
    """Freeze a backbone or add LoRA to it, in place, as its segmenter's configuration says.

    A second call changes nothing. Raises ModelError as `check_tuning` does.
    """
    check_tuning(config, backbone)
    if config.tuning == "frozen":
        backbone.requires_grad_(False)
    elif config.tuning == "lora" and not _has_additions(backbone):
        # The library loads slowly, and only networks that are tuned so want it.
        from peft import LoraConfig, inject_adapter_in_model

        layers = _linear_layers(backbone.network)
        # With alpha equal to the rank the additions count as they are.
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=layers)
        inject_adapter_in_model(lora, backbone.network)


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Give a network's tensors by the names of an ordinary one, additions merged into weights."""
    state: dict[str, Tensor] = network.state_dict()
    if not _has_additions(network):
        return state
    from peft.tuners.lora import Linear

    for name, module in network.named_modules():
        if isinstance(module, Linear):
            weight = f"{name}{_BASE}weight"
            state[weight] = state[weight] + module.get_delta_weight("default").detach()
    return {
        name.replace(_BASE, "."): value for name, value in state.items() if _ADDITION not in name
    }


def _linear_layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]


def _has_additions(network: nn.Module) -> bool:
    return any(_ADDITION in name for name, _ in network.named_parameters())
