"""Beginning with the weights of another network: of an earlier run, an imported one, or a pack."""

from cag_uda.errors import ModelError
from cag_uda.models.norm import copy_statistics, settle_mixed_statistics
from cag_uda.models.segmenter import Segmenter

_SHARED = (
    "backbone", "decoder", "detail", "output_stride", "multi_grid", "align_corners", "mean", "std",
)  # fmt: skip
"""Settings without which the weights compute something else."""


def start_from(segmenter: Segmenter, path_or_hub_id: str) -> None:
    """Give a segmenter the weights of what `Segmenter.from_pretrained` takes, in place.

    Raises:
        ModelError: if the model is missing or damaged, or as `begin_with`.
    """
    model = Segmenter.from_pretrained(path_or_hub_id)
    begin_with(segmenter, model, f"segmenter.start: the network in {path_or_hub_id}")


def begin_with(segmenter: Segmenter, model: Segmenter, what: str) -> None:
    """Give a segmenter the weights of another one, in place, whose statistics may be changed.

    Norm and tuning may be others than the model's: without statistics per domain there, both
    domains begin with those that there are; without them here, with those that the model
    normalises the target's images by.

    Args:
        segmenter: as the recipe describes it.
        model: the other one.
        what: it is, for messages.

    Raises:
        ModelError: naming all that differs, if it is of other classes or another form.
    """
    problems = []
    if model.classes.names != segmenter.classes.names:
        problems.append(
            f"{what} tells "
            f"{', '.join(model.classes.names)} apart, but the recipe's domains "
            f"{', '.join(segmenter.classes.names)}; start from one of the same classes in the same "
            "order, or choose the recipe's `classes` so"
        )
    for name in _SHARED:
        theirs, ours = getattr(model.config, name), getattr(segmenter.config, name)
        if theirs != ours:
            problems.append(
                f"{what} has {name} {theirs!r}, but the recipe wants {ours!r}; set "
                f"segmenter.{name} as the network has it"
            )
    if problems:
        raise ModelError(problems)
    if segmenter.config.norm != "per-domain":
        settle_mixed_statistics(model)
    own, tensors = segmenter.state_dict(), model.state_dict()
    # Statistics per domain are all that one may have and the other not.
    segmenter.load_state_dict({name: tensors.get(name, value) for name, value in own.items()})
    if model.config.norm != "per-domain":
        copy_statistics(segmenter, "target", "source")
