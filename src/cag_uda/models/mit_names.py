"""Names of the tensors of a MiT, SegFormer's encoder, in the layouts that it is published in.

NVIDIA's released code, which DAFormer, HRDA and MIC stand on; mmsegmentation; and transformers
before and since its version 5.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = {
    "norm1": "layernorm_before",
    "layer_norm_1": "layernorm_before",
    "norm2": "layernorm_after",
    "layer_norm_2": "layernorm_after",
    "attn.q": "attention.q_proj",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attn.proj": "attention.o_proj",
    "attn.attn.out_proj": "attention.o_proj",
    "attention.output.dense": "attention.o_proj",
    "attn.sr": "attention.sequence_reduction.sequence_reduction",
    "attention.self.sr": "attention.sequence_reduction.sequence_reduction",
    "attn.norm": "attention.sequence_reduction.layer_norm",
    "attention.self.layer_norm": "attention.sequence_reduction.layer_norm",
    "ffn.layers.0": "mlp.fc1",
    "mlp.dense1": "mlp.fc1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.fc2",
    "mlp.dense2": "mlp.fc2",
}
"""Modules of a block in an older layout → in transformers'."""
_OURS = frozenset(_BLOCK.values()) | {"attention.k_proj", "attention.v_proj"}
_JOINT = (
    (re.compile(r"attn\.kv\.(weight|bias)"), ("k_proj", "v_proj")),
    (re.compile(r"attn\.attn\.in_proj_(weight|bias)"), ("q_proj", "k_proj", "v_proj")),
)
"""Tensors that hold several projections, one below the other, and which."""
_EMBEDDING = {
    "proj": "proj",
    "projection": "proj",
    "norm": "layer_norm",
    "layer_norm": "layer_norm",
}
_LAYOUTS: tuple[tuple[int, str, str, str], ...] = (
    (1, r"patch_embed([1-4])\.(\w+)", r"block([1-4])\.(\d+)\.(.+)", r"norm([1-4])"),
    (0, r"layers\.([0-3])\.0\.(\w+)", r"layers\.([0-3])\.1\.(\d+)\.(.+)", r"layers\.([0-3])\.2"),
    (
        0,
        r"encoder\.patch_embeddings\.([0-3])\.(\w+)",
        r"encoder\.block\.([0-3])\.(\d+)\.(.+)",
        r"encoder\.layer_norm\.([0-3])",
    ),
    (
        0,
        r"stages\.([0-3])\.patch_embeddings\.(\w+)",
        r"stages\.([0-3])\.blocks\.(\d+)\.(.+)",
        r"stages\.([0-3])\.layer_norm",
    ),
)
"""Number of the first stage, and modules: an embedding, a block's, a stage's last norm."""


def mit_parts(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """Find what a tensor of a MiT, of any layout, is in `transformers.SegformerModel`.

    Projections that lie in one tensor are taken apart; convolutions of one pixel become the linear
    layers that they are.

    Returns:
        Values by their names there; None for a name that is no part of a MiT.
    """
    module, _, leaf = name.rpartition(".")
    for first, embedding, block, norm in _LAYOUTS:
        if (found := re.fullmatch(embedding, module)) and found[2] in _EMBEDDING:
            at = f"stages.{int(found[1]) - first}.patch_embeddings"
            return {f"{at}.{_EMBEDDING[found[2]]}.{leaf}": tensor}
        if found := re.fullmatch(norm, module):
            return {f"stages.{int(found[1]) - first}.layer_norm.{leaf}": tensor}
        if found := re.fullmatch(block, name):
            at = f"stages.{int(found[1]) - first}.blocks.{found[2]}"
            return _in_block(at, found[3], tensor)
    return None


def _in_block(at: str, name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    for pattern, projections in _JOINT:
        if found := pattern.fullmatch(name):
            parts = tensor.chunk(len(projections))
            names = [f"{at}.attention.{each}.{found[1]}" for each in projections]
            return {each: part.clone() for each, part in zip(names, parts, strict=True)}
    module, _, leaf = name.rpartition(".")
    ours = _BLOCK.get(module, module)
    if ours not in _OURS:
        return None
    if ours in ("mlp.fc1", "mlp.fc2") and tensor.ndim == 4:
        tensor = tensor.flatten(1)
    return {f"{at}.{ours}.{leaf}": tensor}


def in_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a MiT by their names in transformers; others keep theirs."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found |= mit_parts(name, tensor) or {name: tensor}
    return found


def mit_form(tensors: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Count blocks and channels of each stage by tensors' names in transformers."""
    blocks: list[set[str]] = [set(), set(), set(), set()]
    for name in tensors:
        if found := re.match(r"stages\.([0-3])\.blocks\.(\d+)\.", name):
            blocks[int(found[1])].add(found[2])
    first = [tensors.get(f"stages.{stage}.patch_embeddings.proj.bias") for stage in range(4)]
    return [len(each) for each in blocks], [0 if each is None else len(each) for each in first]
