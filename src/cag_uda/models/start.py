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

    Raises ModelError if the model is missing or damaged, or as `begin_with`.
    """
    model = Segmenter.from_pretrained(path_or_hub_id)
    begin_with(segmenter, model, f"segmenter.start: the network in {path_or_hub_id}")


def begin_with(segmenter: Segmenter, model: Segmenter, what: str) -> None:
    """Give a segmenter the weights of another one, the model, in place.

    The segmenter's norm and tuning may differ from the model's. If the model has no statistics per
    domain, both domains begin with those that it has. If the segmenter has none, it begins with
    those by which the model normalises the target's images, and the model itself is changed. Raises
    ModelError, naming all that differs, if the model has other classes or another form; `what` is
    how messages name it.
    """
    problems = []
    if model.classes.names != segmenter.classes.names:
        problems.append(
            f"{what} tells {', '.join(model.classes.names)} apart, but the recipe's domains "
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
    if model.config.skip_scores:
        segmenter.add_skip_scores()
    own, tensors = segmenter.state_dict(), model.state_dict()
    # Statistics per domain are all that one may have and the other not.
    segmenter.load_state_dict({name: tensors.get(name, value) for name, value in own.items()})
    if model.config.norm != "per-domain":
        copy_statistics(segmenter, "target", "source")
