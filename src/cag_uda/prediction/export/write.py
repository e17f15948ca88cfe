"""Write a segmenter as one file, and compare the file's labels with those of the segmenter."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic

from cag_uda.errors import ModelError, UserError
from cag_uda.files import whole_file
from cag_uda.models.config import Classes
from cag_uda.models.inference import Image, class_logits, inference, prepare
from cag_uda.models.segmenter import Segmenter
from cag_uda.prediction.export.network import LabelNetwork
from cag_uda.scenes import render

Images: TypeAlias = NDArray[np.uint8]
"""(B, H, W, 3) RGB."""
LabelMaps: TypeAlias = NDArray[np.uint8]
"""(B, H, W) train ids."""
Labeller: TypeAlias = Callable[[Images], LabelMaps]
Exporter: TypeAlias = Callable[[ExportedProgram, Classes, Path, "tuple[int, int] | None"], Labeller]

SMALLEST_PX = 64
"""Least height and width of images for files that take any size."""
_LARGEST_PX = 16384
_LARGEST_BATCH = 1024
_SMALLEST_FIXED_PX = 32
_EXAMPLE_PX = (96, 160)
# Half precision keeps 11 bits of a logit, so more pixels lie within its rounding of a tie.
_LEAST_AGREEMENT = {False: 0.999, True: 0.99}
_TIE = {False: 0.01, True: 1.0}
"""Lead in probability up to which two labels are as good as each other."""


@dataclass(frozen=True)
class Export:
    """Findings of comparing an exported file with its network."""

    agreement: float
    """Share of pixels with equal labels, on rendered scenes of several sizes."""
    largest_gap: float
    """Largest lead, in the network's own softmax probability, of its label over the file's; 0 where
    the two are equal everywhere."""


def export(
    segmenter: Segmenter,
    path: Path,
    *,
    half: bool = False,
    size_px: tuple[int, int] | None = None,
    progress: Callable[[str], object] = lambda what: None,
) -> Export:
    """Write a network as one file, which takes 8-bit RGB images and gives train ids.

    The file holds preprocessing, network and argmax, the target's batch-norm statistics, and the
    names and colours of the classes. It is compared with the network before it appears.

    Args:
        segmenter: on the CPU.
        path: ends in .onnx or .pt2.
        half: compute in float16, for GPUs; the file is half as large.
        size_px: (H, W) of all images that the file takes; None for images of any size from
            SMALLEST_PX a side.
        progress: told what is done next.

    Returns:
        How far file and network agree.

    Raises:
        UserError: for another ending, a size that is too small, a network that cannot take images
            of any size, or if a package is missing.
        ModelError: if the file gives other labels than the network.
        RunError: if the file cannot be written.
    """
    check_exporter(path)
    _refuse_size(segmenter, size_px)
    progress("tracing the network")
    network = copy.deepcopy(segmenter).eval().requires_grad_(False)
    program = _program(LabelNetwork(network.half() if half else network), size_px)
    with whole_file(path) as temporary:
        progress(f"writing {path}")
        label = EXPORTERS[path.suffix](program, segmenter.classes, temporary, size_px)
        progress("comparing the file with the network")
        found = _compare(label, segmenter, size_px)
        if found.agreement < _LEAST_AGREEMENT[half] or found.largest_gap > _TIE[half]:
            raise ModelError(
                f"the exported network gives other labels than its model on "
                f"{100 * (1 - found.agreement):.2f} % of pixels, whose probability is up to "
                f"{found.largest_gap:.3f} less, so {path} was not written; "
                + ("leave out --half" if half else "export with another version of torch")
            )
    return found


def check_exporter(path: Path) -> None:
    """Make sure that a file can be written, before a network is read.

    Raises UserError for another ending than those of `EXPORTERS`, or if a package is missing.
    """
    if path.suffix not in EXPORTERS:
        raise UserError(f"cannot export to {path}: give a file ending in {' or '.join(EXPORTERS)}")
    if path.suffix != ".onnx":
        return
    try:
        import onnxruntime  # noqa: F401 - compares the file with the network
        import onnxscript  # noqa: F401 - needed by torch's exporter
    except ImportError as error:
        raise UserError(
            f"ONNX needs a package that is not installed ({error.name}); "
            "install what it stands on: pip install onnx onnxruntime onnxscript"
        ) from error


def description(classes: Classes) -> dict[str, str]:
    """Make a file's own description: names, colours and label ids as JSON, by train id."""
    described: dict[str, Any] = {"classes": classes.names, "palette": classes.palette}
    if classes.label_ids is not None:
        described["label_ids"] = classes.label_ids
    return {name: json.dumps(value) for name, value in described.items()}


def _refuse_size(segmenter: Segmenter, size_px: tuple[int, int] | None) -> None:
    if size_px is None and segmenter.detail is not None:
        raise UserError(
            "this network sees images in windows (segmenter.detail), whose number depends on the "
            "size of the image, and a file for any size can hold no such loop; give the size of "
            "your images, such as --size 1024x2048"
        )
    if size_px is not None and min(size_px) < _SMALLEST_FIXED_PX:
        raise UserError(
            f"--size {size_px[0]}x{size_px[1]} is too small: networks take images from "
            f"{_SMALLEST_FIXED_PX} px a side; give the size of your images"
        )


def _program(network: LabelNetwork, size_px: tuple[int, int] | None) -> ExportedProgram:
    example = torch.zeros((2, *(size_px or _EXAMPLE_PX), 3), dtype=torch.uint8)
    dynamic = (_free_axes(size_px),)
    # As in torch's own exporter of ONNX: what holds for the sizes of the example, such as that two
    # sides are equal, is not assumed of all sizes.
    for_all_sizes = symbolic.patch(  # type: ignore[attr-defined] # torch adds it at run time
        backed_size_oblivious=True
    )
    with torch.no_grad(), _quiet(), for_all_sizes:
        program = torch.export.export(
            network,
            (example,),
            dynamic_shapes=dynamic,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return _without_assertions(program)


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Remove the assertions that tracing has added for branches that it took by the example.

    Networks branch on whether a tensor is contiguous, or has as many patches as in pretraining; the
    branch for "no", which the example takes, is right for every size. ONNX has no assertions
    either; `_compare` checks the labels at other sizes than the example's.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _free_axes(size_px: tuple[int, int] | None) -> dict[int, Any]:
    """List the axes of the images whose length the file leaves open: number and sides."""
    free = {0: Dim("batch", min=1, max=_LARGEST_BATCH)}
    if size_px is None:
        free[1] = Dim("height", min=SMALLEST_PX, max=_LARGEST_PX)
        free[2] = Dim("width", min=SMALLEST_PX, max=_LARGEST_PX)
    return free


def _write_onnx(
    program: ExportedProgram, classes: Classes, path: Path, size_px: tuple[int, int] | None
) -> Labeller:
    import onnxruntime

    with _quiet():
        model = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=["labels"],
            dynamic_shapes=(_free_axes(size_px),),
            dynamo=True,
            verbose=False,
        )
    assert model is not None, "the exporter gives its program where it is given no file"
    model.model.metadata_props.update(description(classes))
    model.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["labels"], {"image": images})[0])


def _write_program(
    program: ExportedProgram, classes: Classes, path: Path, size_px: tuple[int, int] | None
) -> Labeller:
    written = io.BytesIO()
    torch.export.save(program, written, extra_files=description(classes))
    path.write_bytes(written.getvalue())
    written.seek(0)
    with _quiet():
        network = torch.export.load(written).module()
    return lambda images: np.asarray(network(torch.from_numpy(images)).numpy())


EXPORTERS: dict[str, Exporter] = {".onnx": _write_onnx, ".pt2": _write_program}
"""Writers of each kind of file, by its ending; the result labels images by the file."""


def _compare(label: Labeller, segmenter: Segmenter, size_px: tuple[int, int] | None) -> Export:
    """Label scenes by a file and by the network that it was made of."""
    equal, pixels, largest_gap = 0, 0, 0.0
    for count, image in enumerate(_scenes(segmenter.config.input_width_px, size_px)):
        size = (image.shape[0], image.shape[1])
        with inference(segmenter):
            prepared = prepare(image, segmenter.config.input_width_px)
            shares = class_logits(segmenter, prepared, size).softmax(1)[0]
        best, mine = shares.max(0)
        # Beside its mirror image: the file takes batches of any size, of one too.
        images = np.stack([image, image[:, ::-1]][: 1 + count % 2])
        theirs = torch.from_numpy(label(images)[0]).long()
        gap = best - shares.gather(0, theirs[None])[0]
        equal += int((mine == theirs).sum())
        pixels += mine.numel()
        largest_gap = max(largest_gap, float(gap.max()))
    return Export(equal / pixels, largest_gap)


def _scenes(input_width_px: int | None, size_px: tuple[int, int] | None) -> Iterator[Image]:
    """Render scenes whose sizes no stride divides, about as wide as what the network knows."""
    width = max(2 * SMALLEST_PX, min(input_width_px or 320, 640))
    sizes = [(width // 2, width), (3 * width // 4 + 1, 2 * width + 1), (width + 3, width + 1)]
    for index, (height_px, width_px) in enumerate([size_px] * 3 if size_px else sizes):
        yield render(0, index, "hard", height_px, width_px)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' talk, none of which a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
