"""The verdict of a run: does adaptation help on this target, as far as can be told without labels?

Compares the networks at the ends of the stages by the mIoU that each expects of itself on images of
the target (`evaluation.label_free.expected_iou`). Reads the criteria that the run has recorded;
knows neither images nor networks. How often it is right: docs/RESULTS.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cag_uda.evaluation.scores import total_variation
from cag_uda.recipes.schema import Stage
from cag_uda.runs.records.run import JudgedNetwork, Verdict
from cag_uda.runs.selection import DEFAULT_CRITERION, Checkpoint, checkpoints

CLEARLY = 0.01
"""Least difference of two expected IoUs, in [0, 1], that counts."""
COLLAPSE = 0.35
"""Total variation of class shares, in [0, 1], from which a network's predictions have collapsed."""
_BEFORE = "source-only"
"""Method that trains without adaptation."""


def judge(run: Path, stages: Sequence[Stage]) -> Verdict | None:
    """Judge the adapted networks of a run against the one that was trained on the source alone.

    Args:
        run: the run folder, with the criteria of its finished stages.
        stages: the recipe's.

    Returns:
        The verdict; None where the run has no source-only stage, has nothing else, or has not
        measured them.

    Raises:
        RunError: if the criteria are damaged.
    """
    ends = {each.stage: each for each in checkpoints(run)}  # The last one of each stage stays.
    measured = [
        stage
        for stage in stages
        if stage.name in ends and DEFAULT_CRITERION in ends[stage.name].criteria
    ]
    before = [stage for stage in measured if stage.method.name == _BEFORE]
    if not before or len(before) == len(measured):
        return None
    source_only = ends[max(before, key=lambda stage: stage.steps).name]
    networks = {stage.name: _judged(ends[stage.name], source_only, run) for stage in measured}
    floor = networks[source_only.stage]
    adapted = [networks[stage.name] for stage in measured if stage not in before]
    best = max(reversed(adapted), key=lambda each: _gain(each, floor))  # Of equals the latest.
    says = _says(_gain(best, floor))
    return Verdict(
        criterion=DEFAULT_CRITERION,
        source_only=floor.stage,
        judged=best.stage,
        says=says,
        safe=(best if says == "helps" else floor).stage,
        networks=list(networks.values()),
    )


def _judged(end: Checkpoint, source_only: Checkpoint, run: Path) -> JudgedNetwork:
    assert end.network is not None, "every stage keeps its last network"
    return JudgedNetwork(
        stage=end.stage,
        network=end.network.relative_to(run).as_posix(),
        value=end.criteria[DEFAULT_CRITERION],
        is_collapsed=_is_collapsed(end, source_only),
    )


def _is_collapsed(end: Checkpoint, source_only: Checkpoint) -> bool:
    """Tell whether a network predicts shares as neither the source's labels nor source-only do."""
    known = [each for each in (source_only.shares, source_only.source_shares) if each is not None]
    if end.shares is None or not known:
        return False
    return all(total_variation(end.shares, each) > COLLAPSE for each in known)


def _gain(network: JudgedNetwork, floor: JudgedNetwork) -> float:
    """Gain in expected IoU over source-only; −1 for a network that has collapsed."""
    return -1.0 if network.is_collapsed else network.value - floor.value


def _says(gain: float) -> Literal["helps", "makes no difference", "harms"]:
    if abs(gain) <= CLEARLY:
        return "makes no difference"
    return "helps" if gain > 0 else "harms"
