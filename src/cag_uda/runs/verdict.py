"""The verdict of a run: does adaptation help on this target, as far as can be told without labels?

Compares the networks at the ends of the stages by an estimate of their mIoU on the target, the mean
of two criteria that the run has recorded: what each expects of itself (`evaluation.label_free`),
and how well a linear probe predicts its labels (`evaluation.linear_probe`). How often it is right:
docs/RESULTS.md.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import mean
from typing import Literal

from cag_uda.evaluation.scores import total_variation
from cag_uda.methods.adabn import AdaBNConfig
from cag_uda.recipes import Recipe
from cag_uda.runs.records.run import INITIAL, Given, JudgedNetwork, NoVerdict, Verdict
from cag_uda.runs.selection import EVIDENCE, Checkpoint, checkpoints
from cag_uda.types import CriterionName

CLEARLY = 0.05
"""Difference of two estimated IoUs, in [0, 1], that must be exceeded to be called one: by smaller
ones networks were delivered that lose up to 12 points (docs/LOG.md)."""
COLLAPSE = 0.35
"""Total variation of class shares, in [0, 1], from which a network's predictions have collapsed."""
_BEFORE = "source-only"
"""Method that trains without adaptation."""


def given(recipe: Recipe) -> Given | None:
    """Tell what trained network a recipe's run begins with; None for one that knows no class."""
    if recipe.pack is not None:
        return "pack"
    return None if recipe.segmenter.start is None else "start"


def baseline(recipe: Recipe) -> str | None:
    """Name the stage whose network is held against the adapted ones.

    It is the longest of those without adaptation; without any INITIAL, if the run is given a
    network; None if there is neither.
    """
    known = _without_adaptation(recipe)
    before = [stage for stage in recipe.stages if stage.name in known]
    if before:
        return max(before, key=lambda stage: stage.steps).name
    return INITIAL if INITIAL in known else None


def _without_adaptation(recipe: Recipe) -> set[str]:
    """Name the stages whose networks know nothing of the target, and INITIAL if it is given.

    Batch-norm statistics of the source alone (`adabn` with a target share of 0) add nothing of the
    target to such a network.
    """
    found = {INITIAL} if given(recipe) is not None else set()
    for index, stage in enumerate(recipe.stages):
        method = stage.method
        if method.name == _BEFORE:
            found.add(stage.name)
        elif isinstance(method, AdaBNConfig) and recipe.segmenter.norm == "per-domain":
            share = method.target_share
            share = recipe.segmenter.target_share if share is None else share
            if share == 0 and recipe.start_of(index) in found:
                found.add(stage.name)
    return found


def judge(run: Path, recipe: Recipe, only: Collection[str] | None = None) -> Verdict | NoVerdict:
    """Judge the adapted networks of a run against the one without adaptation.

    Compares the finished stages, or those of them that `only` names. Returns the verdict, or why
    there is none. Raises RunError if the criteria are damaged.
    """
    stages = [stage for stage in recipe.stages if only is None or stage.name in only]
    known = _without_adaptation(recipe)
    names = [stage.name for stage in stages if stage.name in known]
    adapted = [stage.name for stage in stages if stage.name not in known]
    if not names and INITIAL in known:
        names = [INITIAL]
    if not adapted:
        return NoVerdict(because="no stage adapts the network to the target")
    if not names:
        return NoVerdict(
            because=f"no stage trains on the source alone (method {_BEFORE}), and the run begins "
            "with no trained network (pack, segmenter.start) to hold the adapted ones against"
        )
    ends = {each.stage: each for each in checkpoints(run)}  # The last one of each stage stays.
    measured = {name for name, each in ends.items() if EVIDENCE[0] in each.criteria}
    names, adapted = ([name for name in each if name in measured] for each in (names, adapted))
    if not names or not adapted:
        return NoVerdict(
            because=f"{EVIDENCE[0]}, by which networks are compared, is not recorded of them"
        )
    steps = {stage.name: stage.steps for stage in stages}
    floor_end = ends[max(names, key=lambda name: steps.get(name, 0))]
    order = [INITIAL, *steps]
    compared = sorted([*names, *adapted], key=order.index)
    by = [each for each in EVIDENCE if all(each in ends[name].criteria for name in compared)]
    networks = {name: _judged(ends[name], floor_end, run, by) for name in compared}
    floor = networks[floor_end.stage]
    best = max((networks[name] for name in reversed(adapted)), key=lambda each: _gain(each, floor))
    gain = _gain(best, floor)
    return Verdict(
        criterion="+".join(by),
        source_only=floor.stage,
        judged=best.stage,
        says=_says(gain),
        safe=(best if gain > CLEARLY else floor).stage,
        given=given(recipe) if INITIAL in networks else None,
        networks=list(networks.values()),
    )


def _judged(
    end: Checkpoint, source_only: Checkpoint, run: Path, by: Sequence[CriterionName]
) -> JudgedNetwork:
    assert end.network is not None, "every stage keeps its last network"
    return JudgedNetwork(
        stage=end.stage,
        network=end.network.relative_to(run).as_posix(),
        value=mean(end.criteria[each] for each in by),
        is_collapsed=_is_collapsed(end, source_only),
    )


def _is_collapsed(end: Checkpoint, source_only: Checkpoint) -> bool:
    """Tell whether a network predicts shares as neither the source's labels nor source-only do."""
    known = [each for each in (source_only.shares, source_only.source_shares) if each is not None]
    if end.shares is None or not known:
        return False
    return all(total_variation(end.shares, each) > COLLAPSE for each in known)


def _gain(network: JudgedNetwork, floor: JudgedNetwork) -> float:
    """Compute the gain in estimated IoU over source-only; −1 for a collapsed network."""
    return -1.0 if network.is_collapsed else network.value - floor.value


def _says(gain: float) -> Literal["helps", "makes no difference", "harms"]:
    if abs(gain) <= CLEARLY:
        return "makes no difference"
    return "helps" if gain > 0 else "harms"
