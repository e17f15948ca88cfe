"""Answers "did it work?" from the scores of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from cag_uda.report.caveats import OF_USE, caveats, which_hardly_learned
from cag_uda.report.run_folder import BY_VERDICT, RunRecord
from cag_uda.report.words import NO_BREAK, THIN_SPACE, counted, percent, signed
from cag_uda.runs.records.run import INITIAL, Gain, StageScores
from cag_uda.runs.records.run import Verdict as RunVerdict

_BASELINE = "source-only"
"""Name of the stage that every other one is held against, if a run has it."""
YARDSTICK = "oracle"
"""Method that reads target labels: an upper bound, never what a run delivers."""
NOISE_POINTS = 1.0
"""A difference below this is taken for chance where no interval says better, and a total gain below
this is not divided among stages."""


@dataclass(frozen=True)
class Step:
    """Gain in mIoU of one scored stage."""

    stage: StageScores
    miou: float
    before: float | None
    """mIoU that it is compared with, in [0, 1]: of the stage it starts from, else the baseline."""
    added_points: float | None
    share: float | None
    """Its part of the delivered network's gain; the parts of a lineage sum to 1."""
    gain: Gain | None
    """Over the baseline."""
    delivered: bool


Tone: TypeAlias = Literal["good", "bad", "unsure", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """The answer at the top of the page."""

    tone: Tone
    headline: str
    explanation: str


@dataclass(frozen=True)
class Summary:
    """All that the top of the page tells."""

    verdict: Verdict
    steps: list[Step]
    delivered: Step | None
    baseline: StageScores | None
    """The stage that all gains are over, or the network that the run was given; None without."""
    baseline_miou: float | None
    gap_closed: float | None
    """Share of the way from the baseline to the oracle, where both were run."""
    changed_classes: list[tuple[str, float]]
    """Class and change of its IoU in points over the baseline, best first."""

    @property
    def gains(self) -> dict[str, Gain]:
        """Stage name → its gain over the baseline."""
        return {step.stage.name: step.gain for step in self.steps if step.gain is not None}

    @property
    def gain_over(self) -> str | None:
        """Name of the stage that all gains are over, where it is one and the same."""
        names = {gain.over for gain in self.gains.values()}
        return names.pop() if len(names) == 1 else None


class _Scored(NamedTuple):
    stage: StageScores
    miou: float


class _Ladder:
    """The scored stages and how they follow from each other."""

    def __init__(self, stages: list[StageScores], delivered: str | None) -> None:
        self.scored = {
            stage.name: _Scored(stage, stage.miou) for stage in stages if stage.miou is not None
        }
        oracles = [one for one in self.scored.values() if one.stage.method == YARDSTICK]
        others = [one for one in self.scored.values() if one.stage.method != YARDSTICK]
        baseline = baseline_of(stages)
        self.baseline = None if baseline is None else self.scored.get(baseline.name)
        self.oracle = oracles[-1] if oracles else None
        self.delivered = self.scored.get(delivered or "", others[-1] if others else None)
        self.total_points: float | None = None
        """The delivered network over the baseline."""
        if self.baseline and self.delivered and self.baseline is not self.delivered:
            self.total_points = (self.delivered.miou - self.baseline.miou) * 100

    def before(self, one: _Scored) -> _Scored | None:
        """Find the stage that one starts from, if that is scored; else the baseline."""
        if one is self.baseline:
            return None
        parent = self.scored.get(one.stage.start or "")
        return parent if parent is not None and parent is not one else self.baseline

    def lineage(self) -> set[str]:
        """Name the stages from after the baseline up to the delivered one."""
        names: set[str] = set()
        current = self.delivered
        while current is not None and current.stage.name not in names:
            names.add(current.stage.name)
            current = self.before(current)
        return names - ({self.baseline.stage.name} if self.baseline else set())

    def gap_closed(self) -> float | None:
        """Compute the delivered network's share of the way from the baseline to the oracle."""
        if self.total_points is None or self.baseline is None or self.oracle is None:
            return None
        gap = (self.oracle.miou - self.baseline.miou) * 100
        return self.total_points / gap if gap >= NOISE_POINTS else None

    def gain(self, one: _Scored) -> Gain | None:
        """Give the gain in scores.json, with its interval; else the plain difference."""
        if one.stage.gain is not None or self.baseline is None or one is self.baseline:
            return one.stage.gain
        over = self.baseline.stage.in_words
        return Gain(over=over, points=(one.miou - self.baseline.miou) * 100)

    def steps(self) -> list[Step]:
        """Compute what each stage adds to the one before it."""
        steps = []
        total, lineage = self.total_points or 0.0, self.lineage()
        for one in self.scored.values():
            before = self.before(one)
            added = None if before is None else (one.miou - before.miou) * 100
            is_shared = one.stage.name in lineage and total >= NOISE_POINTS
            steps.append(
                Step(
                    stage=one.stage,
                    miou=one.miou,
                    before=None if before is None else before.miou,
                    added_points=added,
                    share=added / total if is_shared and added is not None else None,
                    gain=self.gain(one),
                    delivered=one is self.delivered,
                )
            )
        return steps


def baseline_of(stages: Sequence[StageScores]) -> StageScores | None:
    """Find what the stages are held against: "source-only", or what their gains are over."""
    names = {stage.name: stage for stage in stages}
    over = {stage.gain.over for stage in stages if stage.gain is not None}
    named = [names[name] for name in (_BASELINE, INITIAL) if name in names]
    return next(iter([*named, *(stage for stage in stages if stage.name in over)]), None)


def summarise(run: RunRecord) -> Summary:
    """Compare the stages of a run: the verdict, and the figures behind it, if any was scored."""
    ladder = _Ladder(run.scores.stages, run.delivered)
    steps = ladder.steps()
    delivered = next((step for step in steps if step.delivered), None)
    return Summary(
        verdict=_unscored(run) if delivered is None else _scored(run, delivered),
        steps=steps,
        delivered=delivered,
        baseline=baseline_of(run.scores.stages),
        baseline_miou=None if ladder.baseline is None else ladder.baseline.miou,
        gap_closed=ladder.gap_closed(),
        changed_classes=_changed_classes(run.scores.classes, ladder),
    )


def _changed_classes(classes: list[str], ladder: _Ladder) -> list[tuple[str, float]]:
    if ladder.baseline is None or ladder.delivered is None or ladder.total_points is None:
        return []
    before, after = ladder.baseline.stage.iou, ladder.delivered.stage.iou
    if before is None or after is None:
        return []
    changes = [
        (name, (new - old) * 100)
        for name, old, new in zip(classes, before, after, strict=True)
        if old is not None and new is not None
    ]
    return sorted(changes, key=lambda change: -change[1])


def _unscored(run: RunRecord) -> Verdict:
    if not run.scores.stages:
        return Verdict(
            "unknown",
            "No stage has finished yet.",
            "Scores appear here after the first one: make the report again then.",
        )
    done = [stage for stage in run.scores.stages if stage.name != INITIAL]
    finished = f"{counted(len(done), 'stage')} finished."
    if run.verdict is not None and not run.awaited:
        return Verdict(
            _TONES[run.verdict.says],
            f"Adaptation {run.verdict.says} here, judged without labels.",
            f"{finished} The target has no labels, so that there is no mIoU to tell. "
            f"{_evidence(run, run.verdict)} Held against labels, five of six such verdicts were "
            "right (docs/RESULTS.md).",
        )
    has_criteria = any(stage.criteria for stage in run.stages)
    by = "the pictures and the criteria that need no labels" if has_criteria else "the pictures"
    return Verdict(
        "unknown",
        "No score: the target has no labels.",
        f"{finished} Without labels there is no mIoU to tell; judge by {by}.{_none_because(run)}",
    )


def _none_because(run: RunRecord) -> str:
    """Say why there is no verdict without labels, if the run is finished and says so."""
    if run.no_verdict is None or run.awaited:
        return ""
    return f" There is no verdict without labels either: {run.no_verdict}."


_TONES: dict[str, Tone] = {"helps": "good", "makes no difference": "unsure", "harms": "bad"}


def _evidence(run: RunRecord, verdict: RunVerdict) -> str:
    """Tell what the verdict rests on, and which network is delivered by it."""
    before, after = verdict.of(verdict.source_only), verdict.of(verdict.judged)
    collapse = ", whose predictions have collapsed" if after.is_collapsed else ""
    delivered = ""
    if run.chosen_by == BY_VERDICT:
        safe = verdict.name_of(verdict.safe)
        whose = safe if safe != verdict.safe else f"the network of {safe}"
        delivered = f" {whose[0].upper()}{whose[1:]} is delivered by it."
    return (
        f"Without labels, the verdict is that adaptation {verdict.says} here: estimated IoU on the "
        f"target {percent(before.value)} ({verdict.name_of(verdict.source_only)}) and "
        f"{percent(after.value)} ({verdict.judged}{collapse}).{delivered}"
    )


def _scored(run: RunRecord, delivered: Step) -> Verdict:
    target = run.scores.target or "the target"
    miou = percent(delivered.miou)
    floor = baseline_of(run.scores.stages)
    is_floor = floor is not None and delivered.stage.name == floor.name
    if is_floor and run.verdict is not None:
        return Verdict(
            _TONES[run.verdict.says],
            f"{miou}{NO_BREAK}mIoU without adaptation, which {run.verdict.says} here.",
            f"{_evidence(run, run.verdict)} Scored on {target}.{_better_one(run, delivered)} "
            f"{caveats(run, delivered.stage.folder, delivered.miou)}",
        )
    if is_floor:
        return Verdict(
            "unknown",
            f"{miou}{NO_BREAK}mIoU before any adaptation.",
            f"Only {delivered.stage.in_words} is scored on {target}: there is no adapted network "
            "to judge yet.",
        )
    network = "latest finished" if run.awaited else "delivered"
    by_criterion = run.delivered and run.chosen_by != BY_VERDICT
    chosen = f", chosen without labels by {run.chosen_by}" if by_criterion else ""
    subject = (
        f"The {network} network is that of {delivered.stage.name}{chosen}, scored on {target}."
    )
    if delivered.gain is None:
        return Verdict(
            "unknown",
            f"{miou}{NO_BREAK}mIoU on {target}.",
            f"{subject} No stage is named {_BASELINE}, so there is nothing to hold it against."
            f"{_none_because(run)}",
        )
    subject += _better_one(run, delivered)
    if run.verdict is not None and not run.awaited:
        subject += f" {_evidence(run, run.verdict)}"
    hardly = which_hardly_learned(None if floor is None else floor.miou)
    verdict = _judged(miou, subject, delivered.gain, bool(run.awaited), hardly)
    is_useless = verdict.tone == "good" and delivered.miou < OF_USE
    worth = caveats(run, delivered.stage.folder, delivered.miou)
    return Verdict(
        "unsure" if is_useless else verdict.tone,
        verdict.headline,
        f"{verdict.explanation} {worth}",
    )


def _better_one(run: RunRecord, delivered: Step) -> str:
    """Say so where an earlier stage scores clearly higher than the one that is delivered."""
    scored = [stage for stage in run.scores.stages if stage.method != YARDSTICK]
    best = max(scored, key=lambda stage: stage.miou or 0.0)
    if best.miou is None or (best.miou - delivered.miou) * 100 < NOISE_POINTS:
        return ""
    return (
        f" {best.in_words} scores higher, {percent(best.miou)}, but only target labels can tell, "
        "and those choose nothing."
    )


def _judged(miou: str, subject: str, gain: Gain, unfinished: bool, hardly: str) -> Verdict:
    """Judge a gain by its interval; without one, a difference below NOISE_POINTS is chance.

    `hardly` follows the baseline's name.
    """
    if gain.low is None or gain.high is None:
        low, high = gain.points - NOISE_POINTS, gain.points + NOISE_POINTS
        certainty = (
            f"No interval was computed; less than {counted(round(NOISE_POINTS), 'point')} either "
            "way is taken for chance."
        )
    else:
        low, high = gain.low, gain.high
        certainty = (
            f"95{THIN_SPACE}% interval of the difference over test frames: "
            f"{signed(low)} to {signed(high)} points."
        )
    size = signed(abs(gain.points)).lstrip("+±")
    so_far = " so far" if unfinished else ""
    over = gain.over + hardly
    score = f"{so_far}: {miou}{NO_BREAK}mIoU"
    tone: Tone
    if low > 0:
        tone, headline = "good", f"It worked{score}, {size}{NO_BREAK}points above {over}."
    elif high < 0:
        tone, headline = "bad", f"It did not work{score}, {size}{NO_BREAK}points below {over}."
    else:
        points = signed(gain.points)
        tone, headline = "unsure", f"Undecided{score}, {points}{NO_BREAK}points on {over}."
    return Verdict(tone, headline, f"{subject} {certainty}")
