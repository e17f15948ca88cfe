"""The results of a comparison's runs, put together: `comparison.json`.

The file is as `cag_uda.runs.records.comparison` describes it.
"""

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from cag_uda.comparison.plan import Entry
from cag_uda.comparison.settings import ABLATIONS, FLOOR, ORACLE
from cag_uda.errors import RunError
from cag_uda.evaluation.bootstrap import bootstrap_of_means
from cag_uda.evaluation.evaluate import load_frames
from cag_uda.runs.records.comparison import Cell, ComparedMethod, ComparedStage, OverSeeds
from cag_uda.runs.records.run import Gain, Scores, StageScores, read_scores


class Finished:
    """The stages that the runs of a comparison have finished, in folders below `out`."""

    def __init__(self, entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> None:
        self.entries, self.seeds, self.out = entries, seeds, out
        self.by_name = {entry.name: entry for entry in entries}
        self._scores = {
            (run, seed): read_scores(out / f"{run}-{seed}")
            for run in {entry.run for entry in entries}
            for seed in seeds
        }

    @property
    def about(self) -> Scores:
        """Any of the runs' scores, which tell of the domains and classes; empty for no run."""
        found = (scores for scores in self._scores.values() if scores)
        return next(found, Scores(recipe="", classes=[]))

    def stages(self, entry: Entry, seed: int) -> dict[str, StageScores]:
        """Map names of a row's finished stages, in order, to their scores."""
        scores = self._scores[entry.run, seed]
        return {} if scores is None else {stage.name: stage for stage in scores.stages}

    def mious(self, entry: Entry, stage: str) -> dict[int, float]:
        """Map the seeds that have a stage to its mIoU. Raises RunError if one was not scored."""
        found = {}
        for seed in self.seeds:
            scores = self.stages(entry, seed).get(stage)
            if scores is None:
                continue
            if scores.miou is None:
                raise RunError(
                    f"{self.out / f'{entry.run}-{seed}'}: stage {stage!r} has no score; delete the "
                    "run and compare again"
                )
            found[seed] = scores.miou
        return found

    def scored(self, entry: Entry) -> str:
        """Name the stage that a row is scored by: of several the best in the mean over seeds."""

        def mean(name: str) -> float:
            found = self.mious(entry, name).values()
            return statistics.mean(found) if found else -1.0

        return max(entry.scored, key=mean)

    def frames(self, entry: Entry, seed: int) -> Any:
        """Read confusion matrices (N, K, K + 1) of the scored stage's frames, by key."""
        stage = self.stages(entry, seed)[self.scored(entry)]
        path = self.out / f"{entry.run}-{seed}" / "stages" / stage.folder / "frames.npz"
        evaluation = load_frames(path)
        order = sorted(range(len(evaluation.keys)), key=evaluation.keys.__getitem__)
        return evaluation.confusions[order]

    def mious_of(self, entry: Entry) -> dict[int, float]:
        """Map the seeds for which a row is scored to its mIoU."""
        return self.mious(entry, self.scored(entry))


def compared(entry: Entry, finished: Finished) -> ComparedMethod:
    """Put together what the table and the page show of one row."""
    scored = finished.scored(entry)
    mious = finished.mious_of(entry)
    cells = [_cell(entry, seed, miou, finished) for seed, miou in mious.items()]
    return ComparedMethod(
        name=entry.name,
        description=entry.description,
        question=entry.question,
        scored=scored,
        steps=_steps(entry, scored),
        cells=cells,
        summary=_summary(entry, cells, finished),
        stages=_stages(entry, finished),
    )


def _cell(entry: Entry, seed: int, miou: float, finished: Finished) -> Cell:
    """Put together one method with one seed."""
    stages = finished.stages(entry, seed)
    scored = finished.scored(entry)
    until = list(stages.values())[: list(stages).index(scored) + 1]
    peaks = [stage.peak_memory_mib for stage in until if stage.peak_memory_mib]
    return Cell(
        seed=seed,
        miou=miou,
        iou=stages[scored].iou,
        gap_share=_share(miou, [seed], finished),
        time_s=sum(stage.elapsed_s or 0.0 for stage in until),
        peak_memory_mib=max(peaks, default=None),
        run=f"{entry.run}-{seed}",
    )


def _summary(entry: Entry, cells: Sequence[Cell], finished: Finished) -> OverSeeds | None:
    """Summarise a method over its seeds; None where none has finished."""
    if not cells:
        return None
    mious = [cell.miou for cell in cells if cell.miou is not None]
    miou = statistics.mean(mious)
    # CAG, or the row that an ablation varies: the others are held against it.
    leader = next((name for name in ABLATIONS if name in finished.by_name), "")
    memory = [cell.peak_memory_mib for cell in cells if cell.peak_memory_mib is not None]
    return OverSeeds(
        seeds=len(cells),
        miou=miou,
        deviation=_deviation(mious),
        iou=[_mean(values) for values in zip(*(cell.iou or () for cell in cells), strict=True)],
        gap_share=_share(miou, [cell.seed for cell in cells], finished),
        gain=_difference(entry, FLOOR, finished),
        lead=_difference(entry, leader, finished),
        time_s=statistics.mean(cell.time_s or 0.0 for cell in cells),
        peak_memory_mib=max(memory, default=None),
    )


def _stages(entry: Entry, finished: Finished) -> list[ComparedStage]:
    """Summarise the stages up to the scored one, each over the seeds that have it."""
    found = []
    names = [stage.name for stage in entry.recipe.stages]
    for name in names[: names.index(finished.scored(entry)) + 1]:
        mious = finished.mious(entry, name)
        if mious:
            miou = statistics.mean(mious.values())
            found.append(
                ComparedStage(
                    name=name,
                    steps=_steps(entry, name),
                    miou=miou,
                    deviation=_deviation(mious.values()),
                    gap_share=_share(miou, mious, finished),
                )
            )
    return found


def _steps(entry: Entry, stage: str) -> int:
    """Count the steps that the network of a stage has taken in all."""
    names = [each.name for each in entry.recipe.stages]
    return sum(each.steps for each in entry.recipe.stages[: names.index(stage) + 1])


def _share(miou: float, seeds: Collection[int], finished: Finished) -> float | None:
    """Compute the share of the gap, if floor and oracle are scored for all of the seeds."""
    bounds = []
    for name in (FLOOR, ORACLE):
        entry = finished.by_name.get(name)
        mious: dict[int, float] = {} if entry is None else finished.mious_of(entry)
        if not set(seeds) <= set(mious):
            return None
        bounds.append(statistics.mean(mious[seed] for seed in seeds))
    floor, ceiling = bounds
    return None if ceiling == floor else (miou - floor) / (ceiling - floor)


def _difference(entry: Entry, other_name: str, finished: Finished) -> Gain | None:
    """Compute the gain over another row, for the seeds that both have, with its interval."""
    other = finished.by_name.get(other_name)
    if other is None or other is entry:
        return None
    theirs_by_seed = finished.mious_of(other)
    seeds = [seed for seed in finished.mious_of(entry) if seed in theirs_by_seed]
    if not seeds:
        return None
    mine, theirs = ([finished.frames(each, seed) for seed in seeds] for each in (entry, other))
    return bootstrap_of_means(mine, theirs).over(other.name)


def _deviation(values: Collection[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
