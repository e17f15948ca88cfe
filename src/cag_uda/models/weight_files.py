"""Weights in files that others wrote, read without running anything that a file may carry.

Knows file formats; not which network the tensors belong to.
"""

import codecs
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cag_uda.errors import ModelError

FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers, the one that is preferred first."""
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
"""Usual endings of files that `torch.save` wrote; they may end otherwise."""

_WRAPPERS = ("DeepLab", "model_state", "state_dict", "model")
"""Keys that checkpoints have their network below."""
_AROUND = ("module", "model", "net", "network")
"""Prefixes that the names of all tensors of a network may have."""
_BESIDE_STUDENT = ("ema_model", "imnet_model", "teacher", "ema")
"""Networks that trainers of domain adaptation keep beside the one that learns, `model`."""
_SECOND = "a second network"

_DEEPEST = 20
_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Modules in which numpy keeps the two functions, before its version 2 and since: there are files
of both."""
_NUMPY_PARTS: list[Any] = [
    *((_RECONSTRUCT, f"{module}._reconstruct") for module in _MULTIARRAY),
    *((_SCALAR, f"{module}.scalar") for module in _MULTIARRAY),
    np.ndarray,
    np.dtype,
    type(np.dtype("float64")),
    codecs.encode,
]
"""Parts of a pickled array or scalar of float64, and no more."""


def read_torch_file(path: Path) -> Any:
    """Read what `torch.save` wrote, as long as it is tensors, numbers, texts, lists and dicts.

    Numpy arrays and scalars of float64 inside are allowed too, which the released CAG-UDA code
    saves. Tensors come to lie on the CPU. Raises ModelError if it is missing, damaged, or wants to
    run code; it is then not run.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is a folder, pipe or device; give a file that torch.save wrote")
    try:
        with torch.serialization.safe_globals(_NUMPY_PARTS), warnings.catch_warnings():
            # torch wonders at foreign files aloud; the error below says what there is to say.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    # A damaged or hostile file can fail in any way inside the reader; whichever it is, the file
    # is not what was wanted.
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ModelError(
                f"{path} asks for {wanted[1]}, which no weights need; it was not run. Save the "
                "network's state_dict alone, or use a file from a source that you trust"
            ) from error
        raise ModelError(
            f"{path} is damaged, or holds other things than weights; nothing in it was run. Give a "
            "file that torch.save or safetensors wrote, with tensors by name"
        ) from error


def read_weights(path: Path) -> Any:
    """Read what lies in a safetensors file, or what `torch.save` wrote (see `read_torch_file`).

    Raises ModelError if it is missing, damaged, or wants to run code.
    """
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read one network's tensors by name, alone or inside a checkpoint (see `network_in`).

    Raises ModelError if it is missing, damaged, wants to run code, or holds something else.
    """
    return network_in(read_weights(path), path)[0]


def network_in(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Find the network inside what a checkpoint file, named in messages, holds.

    Returns:
        Its tensors by name, and the names of all that lies beside it, each with the reason why it
        is left out.

    Raises:
        ModelError: if there is none.
    """
    prefix, inside = "", content
    left_out: dict[str, str] = {}
    for key in _WRAPPERS:
        if isinstance(inside, Mapping) and isinstance(inside.get(key), Mapping):
            for other, value in inside.items():
                if other != key:
                    why = _SECOND if _is_state_dict(value) else "state of the training"
                    names = list(_tensor_names(value, f"{prefix}{other}"))
                    left_out |= dict.fromkeys(names or [f"{prefix}{other}"], why)
            prefix, inside = f"{prefix}{key}.", inside[key]
    if not _is_state_dict(inside):
        raise ModelError(
            f"{path} holds no network: want tensors by name, alone or below DeepLab.model_state, "
            f"state_dict or model, got {_outline(inside)}"
        )
    return _student_of(inside, prefix, left_out), left_out


def _student_of(
    tensors: Mapping[str, Tensor], prefix: str, left_out: dict[str, str]
) -> dict[str, Tensor]:
    """Take off what data parallelism or a trainer's class has put before all names.

    A trainer of several networks has the student's below `model`; the others are left out.
    """
    found = dict(tensors)
    before = ""
    while (first := {name.partition(".")[0] for name in found}) & set(_AROUND):
        around = next(each for each in _AROUND if each in first)
        if first > {around} and not first <= {"model", *_BESIDE_STUDENT}:
            break
        for name in found:
            if not name.startswith(f"{around}."):
                left_out[f"{prefix}{before}{name}"] = _SECOND
        before, found = f"{before}{around}.", below(found, f"{around}.")
    return found


def _is_state_dict(content: Any) -> bool:
    """Tell whether something is tensors by name, at least one."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) for name in content)
        and all(isinstance(value, Tensor) and not value.is_meta for value in content.values())
    )


def _tensor_names(content: Any, name: str, depth: int = 0) -> Iterator[str]:
    """Name all tensors and numpy arrays inside something nested, to some depth, by dots."""
    if depth > _DEEPEST:
        return  # Something that holds itself, or was made to exhaust whoever reads it.
    if isinstance(content, Tensor | np.ndarray):
        yield name
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensor_names(value, f"{name}.{key}", depth + 1)
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensor_names(value, f"{name}.{index}", depth + 1)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], origin: str, advice: str = "") -> None:
    """Give a network all of its tensors, by its own names.

    Only the counters of batch norm may be missing (files older than PyTorch 0.4.1 have none); they
    do not enter the computation. Raises ModelError, naming `origin` and what is missing, unexpected
    or of another shape; it ends in `advice`.
    """
    own = network.state_dict()
    counters = {
        name: value
        for name, value in own.items()
        if name.endswith("num_batches_tracked") and name not in tensors
    }
    missing = own.keys() - tensors.keys() - counters.keys()
    problems = [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} has no place" for name in sorted(tensors.keys() - own.keys())),
        *(
            f"{name} is {tuple(tensors[name].shape)}, wanted {tuple(own[name].shape)}"
            for name in sorted(own.keys() & tensors.keys())
            if own[name].shape != tensors[name].shape
        ),
    ]
    refuse_misfits(problems, origin, advice)
    network.load_state_dict({**counters, **tensors})


def refuse_misfits(problems: Sequence[str], origin: str, advice: str = "") -> None:
    """Raise ModelError, naming the first five, if there are problems with weights."""
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        listed = f"{'; '.join(problems[:5])}{more}{advice}"
        raise ModelError(f"the weights of {origin} do not fit the network: {listed}")


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def file_in(folder: Path) -> Path | None:
    """Find the weights in a folder of transformers."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def first_line(error: Exception) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {', '.join(str(key)[:80] for key in list(content)[:8])}"
    return f"a {type(content).__name__}"
