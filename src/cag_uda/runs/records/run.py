"""RUN/scores.json, RUN/environment.json and the other records of a whole run."""

from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pydantic import Field, RootModel, model_validator

from cag_uda.runs.records.base import (
    Colour,
    Finite,
    FolderName,
    PathInside,
    Record,
    Share,
    read_if_there,
    read_record,
)

SCORES, ENVIRONMENT, TRACKING = "scores.json", "environment.json", "tracking.json"
DATA, CLASS_SHARES, VERDICT = "data.json", "class_shares.json", "verdict.json"

INITIAL = "initial"
"""Name, as a stage's, of the network that no stage has trained yet."""

Given: TypeAlias = Literal["pack", "start"]
"""Where a network comes from that a run begins with: its recipe's pack, or `segmenter.start`."""

_GIVEN: dict[str, str] = {"pack": "the pack's network", "start": "the given network"}

CLEARLY_APART = 0.15
"""Total variation from which the class shares of two domains count as different."""
NEARLY_ALL = 0.95
"""Share of the target's cells from which one class is taken to swallow the images."""


class Gain(Record):
    """Gain of one network over another, in mIoU points, with a bootstrap interval."""

    over: str
    points: Finite
    low: Finite | None = None
    high: Finite | None = None

    def in_points(self) -> str:
        """Write it as "+1.2 [+0.3, +2.1]"."""
        if self.low is None or self.high is None:
            return f"{self.points:+.1f}"
        return f"{self.points:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


class SplitScores(Record):
    """Scores of a network on a labelled split."""

    protocol: str | None = None
    """Name of the evaluation protocol; None where every class of the label space counts."""
    miou: Share | None = None
    classes: list[str] = Field(default_factory=list)
    """Names of the classes that count."""
    iou: list[Share | None] = Field(default_factory=list)
    """IoU of each of these classes; None for one in neither ground truth nor prediction."""


class Evaluated(Record):
    """Record of `cag-uda evaluate --json`: the scores of one network, and the options."""

    domain: str
    split: str
    frames: int
    views: dict[str, Any]
    protocol: str | None = None
    miou: Share | None = None
    classes: list[str]
    iou: list[Share | None]
    gain: Gain | None = None
    """Gain over the other network, where two were compared."""


class StageScores(Record):
    """One finished stage. Scores are None where the target has no labels.

    A network that the run was given, and that its stages are held against, stands here too: as
    "initial", its method being "pack" or "start".
    """

    folder: FolderName
    """Its name below RUN/stages."""
    name: str
    method: str
    start: str | None = None
    """The stage whose network it began with, or "initial"."""
    steps: int | None = None
    elapsed_s: Finite | None = None
    """Seconds of training."""
    peak_memory_mib: Finite | None = None
    miou: Share | None = None
    iou: list[Share | None] | None = None
    """IoU (K,); None for a class in neither ground truth nor prediction."""
    protocol: str | None = None
    classes: list[str] | None = None
    """Names of the classes that `iou` is of."""
    gain: Gain | None = None
    """Gain over the source-only stage; without one, over the given network."""

    @property
    def in_words(self) -> str:
        """Name the stage in a sentence: by its name, or as "the pack's network"."""
        return _GIVEN.get(self.method, self.name) if self.name == INITIAL else self.name


class Scores(Record):
    """scores.json: the two domains, the classes, and what every finished stage scores."""

    recipe: str
    source: str | None = None
    """Names of domains and splits, "gta5/train + synthia/train"."""
    target: str | None = None
    """Name and split that was scored; None where it has no labels."""
    classes: list[str]
    palette: list[Colour] = Field(default_factory=list)
    stages: list[StageScores] = Field(default_factory=list)
    taken_from: str | None = None
    """Name of the run beside this one whose first stages were copied."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        count = len(self.classes)
        if self.palette and len(self.palette) < count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        for stage in self.stages:
            if stage.iou is not None and len(stage.iou) != count:
                raise ValueError(
                    f"stage {stage.name!r} has {len(stage.iou)} IoUs for {count} classes"
                )
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages have one name")
        return self

    def stage(self, name: str) -> StageScores | None:
        """Find a finished stage by its name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def with_stage(self, stage: StageScores) -> Self:
        """Copy the record with a finished stage, maybe one made anew; a given network is first."""
        if self.stage(stage.name) is not None:
            stages = [stage if each.name == stage.name else each for each in self.stages]
        else:
            stages = [stage, *self.stages] if stage.name == INITIAL else [*self.stages, stage]
        return self.with_changes(stages=stages)


class SplitFiles(Record):
    """The files of one split, images and labels, as they were."""

    files: int
    bytes: int
    names_and_sizes: str
    """Digest of the paths below the root, and of the sizes."""
    times: str
    """Digest of the times of last change."""


class DataRecord(Record):
    """data.json: the data that a run was begun with."""

    splits: dict[str, SplitFiles]
    """Domain/split → its files."""
    changed: list[str] = Field(default_factory=list)
    """Changes that a resumed run found, in words."""


class ClassShares(Record):
    """class_shares.json: the class shares of both domains, found without labels of the target.

    Both are of a sample of the training images.
    """

    network: PathInside
    """Model folder of the network that was used, the delivered one, in its stage's folder."""
    classes: list[str]
    source: list[Share]
    """Share of each class among the source's labelled pixels."""
    target: list[Share]
    """Share of each class in the target, estimated from the network's outputs."""
    total_variation: Share
    """Total variation distance between the two."""
    target_images: int
    target_cells: int
    """Number of cells of these images' feature grids that the estimate is made of."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if not len(self.classes) == len(self.source) == len(self.target):
            raise ValueError("wanted as many shares of each domain as classes")
        return self

    @property
    def differ(self) -> bool:
        """True if the domains show the classes in clearly different shares."""
        return self.total_variation > CLEARLY_APART

    @property
    def swallowing(self) -> str | None:
        """The class that nearly all of the target is labelled as, unlike the source; None: none."""
        most = max(self.target)
        return self.classes[self.target.index(most)] if self.differ and most > NEARLY_ALL else None


class JudgedNetwork(Record):
    """The network at the end of a stage, and what speaks for it without labels of the target."""

    stage: str
    network: PathInside
    """Model folder."""
    value: Share
    """Mean of the verdict's criteria: an estimate of its mIoU."""
    is_collapsed: bool = False
    """True if a class swallows the images in its predictions: it is not delivered."""


class Verdict(Record):
    """verdict.json: whether adaptation helps on the target, found without labels of it."""

    criterion: str
    """Label-free criteria, joined by +, whose mean the networks are compared by."""
    source_only: str
    """Stage of the network without adaptation: of those that were trained on the source alone the
    longest; "initial" for the network that the run was given."""
    judged: str
    """Stage of the network that is compared with it: the best adapted one by the criterion."""
    says: Literal["helps", "makes no difference", "harms"]
    safe: str
    """Stage whose network is the safe choice: `judged` where its value is the higher one and it
    has not collapsed, else `source_only`."""
    given: Given | None = None
    """Where the network "initial" comes from; None where it is not among those compared."""
    networks: list[JudgedNetwork]
    """All networks that were compared, in the order of their stages."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = {each.stage for each in self.networks}
        if not {self.source_only, self.judged, self.safe} <= known:
            raise ValueError("names a stage that is not among its networks")
        return self

    def of(self, stage: str) -> JudgedNetwork:
        """Return the network of a stage that was compared."""
        return next(each for each in self.networks if each.stage == stage)

    def name_of(self, stage: str) -> str:
        """Name a stage's network in a sentence: by the stage, or "the pack's network"."""
        return _GIVEN[self.given] if stage == INITIAL and self.given else stage

    def in_words(self) -> str:
        """Write it as one sentence, with the evidence."""
        before, after = self.of(self.source_only), self.of(self.judged)
        collapse = ", whose predictions have collapsed" if after.is_collapsed else ""
        return (
            f"adaptation {self.says} here: judged without labels, estimated IoU "
            f"{100 * before.value:.1f} ({self.name_of(self.source_only)}) to "
            f"{100 * after.value:.1f} ({self.judged}{collapse})"
        )


class NoVerdict(Record):
    """verdict.json of a run whose networks cannot be compared."""

    because: str
    """The reason, as the end of a sentence that begins with "no verdict:"."""


class _VerdictFile(RootModel[Verdict | NoVerdict]):
    """verdict.json."""


class RankedNetwork(Record):
    """One network in a ranking by label-free criteria."""

    rank: Finite
    run: str
    """Path of the run folder, as it was given."""
    stage: str
    step: int
    network: str | None = None
    """Path of its model folder; None where it was not kept."""
    criteria: dict[str, Finite]


class Ranking(Record):
    """Record of `cag-uda select --json`, the best network first."""

    criterion: str
    ranking: list[RankedNetwork]


class TrackingIds(RootModel[dict[str, str]]):
    """tracking.json: logger → id of the run there, which a resumed run goes on with."""


def read_scores(run: Path) -> Scores | None:
    """Read what a run has scored so far; None for nothing. Raises RunError if it is damaged."""
    mend = "restore it, or delete it: --resume then takes the finished stages' scores anew"
    return read_if_there(Scores, run / SCORES, mend)


class Environment(Record):
    """environment.json: command, versions and machine, which are needed to repeat a run."""

    started: str | None = None
    """ISO 8601, UTC."""
    command: Any = None
    """The words of the command line."""
    commit: str | None = None
    """Git commit of the source tree, where the package runs from one."""
    python: str | None = None
    platform: str | None = None
    processor: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)
    """Name → version."""


def read_environment(run: Path) -> Environment:
    """Read where and how a run was begun. Raises RunError if the file is missing or damaged."""
    return read_record(Environment, run / ENVIRONMENT, "delete it to go without")


def read_data_record(run: Path) -> DataRecord | None:
    """Read the data that a run was begun with; None where it was not recorded. Raises RunError."""
    return read_if_there(DataRecord, run / DATA, "delete it to go without")


def read_verdict(run: Path) -> Verdict | None:
    """Read the verdict of a run; None where there is none. Raises RunError if damaged."""
    found = _read_verdict_file(run)
    return found if isinstance(found, Verdict) else None


def read_reason(run: Path) -> str | None:
    """Read why a run has no verdict; None where it has one. Raises RunError if damaged."""
    found = _read_verdict_file(run)
    return found.because if isinstance(found, NoVerdict) else None


def _read_verdict_file(run: Path) -> Verdict | NoVerdict | None:
    found = read_if_there(_VerdictFile, run / VERDICT, "delete it: --resume then judges anew")
    return None if found is None else found.root


def read_class_shares(run: Path) -> ClassShares | None:
    """Read the class shares of a run; None where there are none. Raises RunError if damaged."""
    mend = "delete it: --resume then estimates them anew"
    return read_if_there(ClassShares, run / CLASS_SHARES, mend)
