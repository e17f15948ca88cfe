"""The verdict of a run: does adaptation help on this target, as far as can be told without labels?

Compares the networks at the ends of the stages by the mIoU that each expects of itself on images of
the target (`evaluation.label_free.expected_iou`). Reads the criteria that the run has recorded;
knows neither images nor networks. How often it is right: docs/RESULTS.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cag_uda.recipes.schema import Stage
from cag_uda.runs.records.run import JudgedNetwork, Verdict
from cag_uda.runs.selection import DEFAULT_CRITERION, Checkpoint, checkpoints

CLEARLY = 0.01
"""Least difference of two expected IoUs, in [0, 1], that counts."""
_BEFORE = "source-only"
"""Method that trains without adaptation."""


def judge(run: Path, stages: Sequence[Stage]) -> Verdict | None:
    """Judge the last stage's network against the one that was trained on the source alone.

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
    known = {
        stage.name: _judged(ends[stage.name], run)
        for stage in stages
        if stage.name in ends and DEFAULT_CRITERION in ends[stage.name].criteria
    }
    before = [stage for stage in stages if stage.name in known and stage.method.name == _BEFORE]
    adapted = [each for name, each in known.items() if name not in {one.name for one in before}]
    if not before or not adapted:
        return None
    floor = known[max(before, key=lambda stage: stage.steps).name]
    better = [each for each in adapted if each.value - floor.value > CLEARLY]
    return Verdict(
        criterion=DEFAULT_CRITERION,
        source_only=floor.stage,
        judged=adapted[-1].stage,
        says=_says(adapted[-1].value - floor.value),
        safe=(better[-1] if better else floor).stage,
        networks=list(known.values()),
    )


def _judged(end: Checkpoint, run: Path) -> JudgedNetwork:
    assert end.network is not None, "every stage keeps its last network"
    network = end.network.relative_to(run).as_posix()
    return JudgedNetwork(stage=end.stage, network=network, value=end.criteria[DEFAULT_CRITERION])


def _says(gain: float) -> Literal["helps", "makes no difference", "harms"]:
    if abs(gain) <= CLEARLY:
        return "makes no difference"
    return "helps" if gain > 0 else "harms"
