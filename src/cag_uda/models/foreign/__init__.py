"""Read checkpoints of other people's code: build their configuration, and rename their tensors.

Checkpoints of networks that can be built here are read completely; others are refused by name, with
advice on what can be used of them. Files are read through `weight_files`, so that no code in them
is run.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from cag_uda.errors import ModelError
from cag_uda.models.foreign import dilated, released, segformer
from cag_uda.models.foreign.network import Family, Foreign, ForeignClass
from cag_uda.models.weight_files import FILES, file_in, network_in, read_weights

__all__ = ["Family", "Foreign", "ForeignClass", "read_foreign"]

_OWN_BACKBONE = (
    "begin with its backbone: segmenter.weights takes this file, with the backbone's row as "
    "segmenter.backbone and any decoder here"
)
_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (r"decode_head\.scale_attention\.", r"backbone\."),
        "HRDA or MIC with a MiT, whose context and detail are fused otherwise here",
        f'{_OWN_BACKBONE}; [segmenter.detail] and decoder = "daformer-published" make the like',
    ),
    (
        (r"backbone\.stem\.",),
        "mmsegmentation's, with a ResNet whose stem is of three convolutions",
        "take one whose configuration has ResNet in place of ResNetV1c or ResNetV1d",
    ),
    ((r"decode_head\.", r"backbone\.layer1\."), "mmsegmentation's, with a ResNet", _OWN_BACKBONE),
    (
        (r"decode_head\.", r"backbone\.(patch_embed1|layers\.0\.0)\."),
        "mmsegmentation's (DAFormer's, MIC's), with a MiT and another head than are known here",
        _OWN_BACKBONE,
    ),
    ((r"decode_head\.", r"backbone\."), "mmsegmentation's", "take one with a MiT or a ResNet"),
    (
        (r"segmentation_head\.", r"encoder\.layer1\."),
        "segmentation_models_pytorch's, with a ResNet",
        _OWN_BACKBONE,
    ),
    (
        (r"segmentation_head\.", r"encoder\.patch_embed1\."),
        "segmentation_models_pytorch's, with a MiT",
        _OWN_BACKBONE,
    ),
    (
        (r"segmentation_head\.", r"encoder\."),
        "segmentation_models_pytorch's",
        "take one with a ResNet or a MiT (mit_b0 … mit_b5) as encoder",
    ),
    (
        (r"classifier\.0\.convs\.", r"backbone\."),
        "a DeepLab v3 of torchvision without a ResNet",
        "take one with a ResNet, as deeplabv3_resnet50",
    ),
    (
        (r"pixel_level_module\.|sem_seg_head\.|transformer_module\.",),
        "a Mask2Former or OneFormer, which classifies masks in place of pixels",
        "train a network of another form",
    ),
    ((r"\d+\.(conv|cv1)\.",), "a YOLO of Ultralytics", "train a network of another form"),
    ((r"(down|inc|up)\d?\..*double_conv\.",), "a plain U-Net", "train a network of another form"),
)
"""Known networks that cannot be built here: patterns, each of which matches some tensor's name; the
code that saves them; and advice."""


def read_foreign(path: Path, family: Family | None = None) -> Foreign:
    """Read a checkpoint of other people's code.

    Args:
        path: of the file, in safetensors or as torch.save wrote it; or the folder of a network of
            transformers.
        family: code that saved it; None finds it by the names and, where two have the same
            (AdaptSegNet and ADVENT), by whether the classifier's last branches were ever trained.

    Raises:
        ModelError: if it is missing, damaged, wants to run code, or is of a network that cannot be
            built here.
    """
    if family not in (None, *get_args(Family)):
        raise ModelError(f"the family is one of {', '.join(get_args(Family))}, got {family!r}")
    file = file_in(path) if path.is_dir() else path
    if file is None:
        raise ModelError(
            f"{path} is a folder without {' or '.join(FILES)}; give the checkpoint file itself"
        )
    content = read_weights(file)
    state, left_out = network_in(content, file)
    if released.is_cag(state):
        found, looks = released.of_cag(state, left_out), "DeepLab v3+ as CAG-UDA's"
    elif released.is_v2(state):
        _refuse_other(
            file, family, ("adaptsegnet", "advent", "dacs"), "DeepLab v2 as AdaptSegNet's"
        )
        found, looks = released.of_v2(state, left_out, family), ""
    elif known := segformer.of_segformer(state, left_out):
        found, looks = known, f"{known.family} network"
    elif known := dilated.of_dilated(state, left_out):
        found, looks = known, f"network of {known.family}"
    else:
        raise ModelError(
            f"{file} is no checkpoint of a form that is known here{_what_it_is(state)}"
        )
    if looks:
        _refuse_other(file, family, (found.family,), looks)
    return replace(found, classes=_classes_in(content) or _classes_beside(file))


def _refuse_other(path: Path, family: Family | None, fit: tuple[Family, ...], looks: str) -> None:
    if family is not None and family not in fit:
        raise ModelError(f"{path} is a {looks}, not of the family {family}; leave the family out")


def _what_it_is(state: Mapping[str, Tensor]) -> str:
    """Say, by its tensors' names, whose a checkpoint of no known form is, with advice."""
    for patterns, whose, advice in _OTHERS:
        if all(any(re.match(pattern, name) for name in state) for pattern in patterns):
            return f": by its names it is {whose}; {advice}"
    names = ", ".join(name[:80] for name in list(state)[:6])
    return (
        f": its tensors are called {names}, …; give a file that the code of CAG-UDA, AdaptSegNet, "
        "ADVENT, DACS, SegFormer (transformers, NVIDIA, mmsegmentation), DAFormer or DeepLab v3 "
        "(torchvision, segmentation_models_pytorch) wrote"
    )


def _classes_in(content: Any) -> tuple[ForeignClass, ...]:
    """Read the classes that mmsegmentation keeps in a checkpoint."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return ()
    own = meta.get("dataset_meta", meta)
    own = own if isinstance(own, Mapping) else meta
    names, palette = (own.get(key, own.get(key.lower())) for key in ("CLASSES", "PALETTE"))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    colours = [_colour(each) for each in palette] if isinstance(palette, list | tuple) else []
    if len(colours) != len(names):
        colours = [None] * len(names)
    return tuple(map(ForeignClass, names, colours))


def _colour(value: Any) -> tuple[int, int, int] | None:
    is_colour = isinstance(value, list | tuple) and len(value) == 3
    if not is_colour or not all(isinstance(each, int) and 0 <= each <= 255 for each in value):
        return None
    return value[0], value[1], value[2]


def _classes_beside(file: Path) -> tuple[ForeignClass, ...]:
    """Read the classes in the config.json beside weights of transformers."""
    try:
        config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        by_id = {int(key): str(name) for key, name in config["id2label"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    names = [by_id[place] for place in sorted(by_id)]
    if any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()  # Default names of transformers.
    return tuple(map(ForeignClass, names))
