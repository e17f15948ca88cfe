"""Make a pack of a run: its network, and statistics of the source in the network's features."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cag_uda.errors import RunError
from cag_uda.methods.adapted_labels import AdaptedLabels
from cag_uda.methods.base import Passes, predict
from cag_uda.methods.labeller import LabellerPasses, one_by_one
from cag_uda.models.pack import Pack
from cag_uda.prediction.labeller import labelled_images, sweep_labelled
from cag_uda.prediction.opening import open_model
from cag_uda.recipes import load_recipe
from cag_uda.runs.folder import RunFolder
from cag_uda.runs.own_files import source_words
from cag_uda.runs.records.run import INITIAL


class Packed(NamedTuple):
    """Result of packing."""

    pack: Pack
    network: Path
    images: int
    """Number of the source's images from which the statistics were computed."""


def pack_run(
    run: Path,
    *,
    stage: str | None = None,
    data_root: Path | None = None,
    accelerator: str = "auto",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Sweep a run's source through one of its networks, and pack network and statistics.

    Args:
        run: the run folder; the images and labels of its source must be there.
        stage: whose network, "initial" for the one that the run was given; None: the one that the
            run delivers.
        data_root: folder below which built-in domains lie, in place of the run's.
        accelerator: auto, cpu or cuda.
        watch: receives the number of source images seen, and that of all.

    Raises:
        UserError: if it is no run, has no such stage or network, or its source is not there.
    """
    path = run / "recipe.toml"
    if not path.is_file():
        raise RunError(f"{run} is no run folder: it has no recipe.toml; give what `adapt` wrote")
    recipe = load_recipe(path, data_root=data_root)
    inside = RunFolder(run)
    folders = {
        each.name: inside.stage(index, each.name) for index, each in enumerate(recipe.stages)
    }
    if inside.initial.is_dir():
        folders[INITIAL] = inside.initial
    folder = inside.model
    if stage is not None:
        if stage not in folders:
            raise RunError(f"{run} has no stage {stage!r}; it has {', '.join(folders)}")
        folder = folders[stage] / "model"
    if not folder.is_dir():
        raise RunError(f"no network at {folder} yet; go on with `adapt --resume`, then pack it")
    segmenter = open_model(str(folder), accelerator)
    sources = labelled_images(recipe, segmenter, str(folder))
    device = segmenter.mean.device
    passes = Passes(
        source=lambda: sweep_labelled(sources, recipe.sweep_loading, device, watch),
        target=lambda: (),
        all_reduce=lambda tensor: tensor,
    )
    labels = AdaptedLabels.of_levels(segmenter).to(device)
    seen = LabellerPasses(segmenter, partial(predict, segmenter, levels=True), one_by_one(passes))
    figures = labels.fit(seen)
    return Packed(Pack.of(segmenter, figures, source_words(recipe)), folder, sum(map(len, sources)))
