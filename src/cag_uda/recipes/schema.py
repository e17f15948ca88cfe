"""The schema of recipes: source, target, network, loading, compute, and the stages in order."""

import copy
import operator
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.domain_file import one_or_more_schema
from cag_uda.data.loading.config import LoadingConfig
from cag_uda.methods import METHODS
from cag_uda.methods.base import MethodConfig
from cag_uda.models.config import SegmenterConfig
from cag_uda.recipes.earlier import as_now
from cag_uda.runs.records.run import INITIAL as INITIAL
from cag_uda.training.settings import ComputeConfig, StageSettings, TrackingConfig
from cag_uda.types import OF_SOURCE, Config, CriterionName

if TYPE_CHECKING:
    AnyMethod = MethodConfig
else:
    _either = reduce(operator.or_, (method.Config for method in METHODS.values()))
    AnyMethod = Annotated[Annotated[_either, Field(discriminator="name")], BeforeValidator(as_now)]

_MOST_REPEATS = 100


class Source(Config):
    """A labelled domain."""

    domain: str
    """A built-in domain's name, or the path of a domain file."""
    split: str = "train"
    size_px: tuple[int, int] | None = None
    """Height and width to which each image and label is resized first, whatever its aspect ratio;
    None leaves them as they are. The released CAG-UDA code gives GTA5, whose images differ by a few
    pixels, 1052 by 1914."""


def _split_alone(value: Any) -> Any:
    return {"split": value} if isinstance(value, str) else value


def _split_or_table(schema: dict[str, Any]) -> None:
    """Tell editors that the name of a split alone will do."""
    schema["anyOf"].append({"type": "string"})


class TargetLabels(Config):
    """Images of the target whose labels may be trained on."""

    domain: str | None = None
    """A domain file that lists them, with the target's classes, or a built-in domain's name; None:
    the target's own."""
    split: str = "train"
    """Split of that domain. None of its images may be one of the split that is scored."""


class Target(Config):
    """The domain without labels."""

    domain: str
    """A built-in domain's name, or the path of a domain file."""
    train: str = "train"
    """The split that is adapted to; only its images are read."""
    labelled: Annotated[TargetLabels | None, BeforeValidator(_split_alone)] = Field(
        default=None, json_schema_extra=_split_or_table
    )
    """The few images of the target that have labels to be trained on: the name of a split of its
    domain file, or `{ domain = "FILE.toml", split = "NAME" }`. No other label of the target is read
    in training. None: no label at all."""
    test: str | None = "test"
    """The split that is scored; its labels, if it has any, are read by evaluation only."""
    test_domain: str | None = None
    """The domain, built-in or a file, whose split `test` is scored; None: the target itself. For
    labels that lie in a folder of their own."""

    @model_validator(mode="after")
    def _a_test_domain_has_a_split(self) -> Self:
        if self.test_domain is not None and self.test is None:
            raise ValueError("test_domain wants `test`, the split of it that is scored")
        return self

    @property
    def scored_domain(self) -> str:
        """The domain whose split `test` is scored."""
        return self.test_domain or self.domain

    @property
    def labelled_domain(self) -> str:
        """The domain of the labelled images."""
        own = None if self.labelled is None else self.labelled.domain
        return own or self.domain

    def with_domains(self, change: Callable[[str], str]) -> Self:
        """Copy it with other domains, see `Recipe.with_files`."""
        update: dict[str, object] = {"domain": change(self.domain)}
        if self.test_domain is not None:
            update["test_domain"] = change(self.test_domain)
        if self.labelled is not None and self.labelled.domain is not None:
            domain = change(self.labelled.domain)
            update["labelled"] = self.labelled.model_copy(update={"domain": domain})
        return self.model_copy(update=update)


class Stage(StageSettings):
    """One training stage."""

    method: AnyMethod
    """The method by its `name`, with its settings."""
    repeat: int | None = Field(default=None, ge=1, le=_MOST_REPEATS, exclude=True)
    """Number of times that the stage is run, each time from the network of the time before: NAME-1,
    NAME-2 and so on; a resolved recipe has them written out."""
    start: str | None = None
    """Name of the earlier stage whose network this stage starts from, or "initial"; left out, the
    stage before this one."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between records of the label-free criteria and, for the log only, evaluations on the
    target's test split."""
    keep_networks: bool = False
    """Keep the network of each such evaluation, for `cag-uda select` and `deliver`."""

    @property
    def trains(self) -> bool:
        """Tell whether the stage takes steps."""
        return METHODS[self.method.name].trains

    @model_validator(mode="after")
    def _steps_fit_the_method(self) -> Self:
        if self.trains and self.steps < 1:
            raise ValueError(f"stage {self.name!r} trains and wants `steps` of at least 1")
        if not self.trains and self.steps:
            raise ValueError(
                f"method {self.method.name!r} takes no training steps; leave out `steps`"
            )
        return self


def repeated_names(stages: Any) -> list[str]:
    """Return the names of the stages, of a recipe's tables, that say `repeat`."""
    tables = stages if isinstance(stages, list | tuple) else ()
    return [str(each.get("name")) for each in tables if isinstance(each, dict) and "repeat" in each]


def written_out(stages: Any) -> Any:
    """Write out stages that say `repeat`, among a recipe's tables: NAME-1, NAME-2 and so on.

    All but the first start from the one before. What is no table of a stage, or says no such
    number, stays as it is.
    """
    if not isinstance(stages, list | tuple):
        return stages
    found: list[Any] = []
    for stage in stages:
        times = stage.get("repeat") if isinstance(stage, dict) else None
        if not isinstance(times, int) or not 1 <= times <= _MOST_REPEATS:
            found.append(stage)
            continue
        alike = {key: value for key, value in stage.items() if key != "repeat"}
        for number in range(1, times + 1):
            found.append(copy.deepcopy({**alike, "name": f"{stage.get('name')}-{number}"}))
            alike.pop("start", None)
    return found


class Recipe(Config):
    """One whole adaptation, from initial weights to the delivered network."""

    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    data_root: str | None = None
    """Folder below which the built-in domains lie; None: CAG_UDA_DATA, or `data`."""
    source: tuple[Source, ...] = Field(default=(), json_schema_extra=one_or_more_schema)
    """One labelled domain, or several with equal shares of each batch."""
    pack: str | None = Field(default=None, pattern=r"\.safetensors$")
    """Path of a file that `cag-uda pack` has written, in place of `source`, where its images are
    not there. It holds the network and the classes; `segmenter` must describe this network."""
    target: Target
    classes: tuple[str, ...] | None = None
    """Classes of the domains' label space that are learned and scored; pixels of the others are
    ignored. None: all of them."""
    segmenter: SegmenterConfig = SegmenterConfig()
    loading: LoadingConfig = LoadingConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    stages: tuple[Stage, ...] = Field(min_length=1)
    deliver: str = "safe"
    """Choice of the network that becomes RUN/model. "safe": by the verdict, which compares the
    stages' networks without labels of the target; the best of them where it is clearly better than
    the one without adaptation, or else this one. Without adaptation is the network of the longest
    stage with the method source-only; in a recipe without such a stage the network that it begins
    with, of the pack or of `segmenter.start`. Where there is neither, there is no verdict, and the
    last stage's is delivered. "last": the last stage's.
    A label-free criterion: the best by it of all networks that were kept, or several, by the mean
    of its ranks, for example "infomax+agreement"."""

    @field_validator("deliver")
    @classmethod
    def _deliver_is_known(cls, value: str) -> str:
        known = get_args(CriterionName)
        unknown = [part for part in value.split("+") if part not in known]
        if value not in ("safe", "last") and unknown:
            raise ValueError(
                f"deliver wants safe, last, or criteria joined by +, of {', '.join(known)}; "
                f"got {value!r}"
            )
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _repeated_stages_are_written_out(cls, value: Any) -> Any:
        return written_out(value)

    @field_validator("source", mode="before")
    @classmethod
    def _one_source_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                f"want a table with the labelled domain, got {value!r}; a pack is named by `pack`, "
                "without a source"
            )
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _has_source_or_pack(self) -> Self:
        if self.pack is None and not self.source:
            raise ValueError("source: missing; give the labelled domain, or a pack in its place")
        if self.pack is not None and (problems := [*self._problems_of_a_pack()]):
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_a_pack(self) -> Iterator[str]:
        """Yield problems: settings that the pack brings already, or that need source images."""
        if self.source:
            yield "pack stands in place of source: leave one of them out"
        if self.classes is not None:
            yield "pack brings the classes: leave out `classes`"
        for name in ("start", "weights"):
            if getattr(self.segmenter, name) is not None:
                yield f"pack brings the network's weights: leave out segmenter.{name}"
        free = [name for name, method in METHODS.items() if not method.uses_source]
        for stage in self.stages:
            if stage.method.name not in free:
                yield (
                    f"stage {stage.name!r}: method {stage.method.name!r} learns from the source's "
                    f"images and labels, and of a pack there are none; choose from "
                    f"{', '.join(free)}"
                )
        if self.loading.rare_class_temperature:
            yield "loading.rare_class_temperature chooses source images, and there are none: set 0"
        if wanting := [each for each in self.deliver.split("+") if each in OF_SOURCE]:
            yield (
                f"deliver: {', '.join(wanting)} wants images of the source, and there are none; "
                'choose others, or "last"'
            )

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        known = [INITIAL]
        for stage in self.stages:
            if stage.name == INITIAL:
                raise ValueError(
                    f"no stage can be called {INITIAL!r}, which names the network that no stage "
                    "has trained yet; choose another name"
                )
            if stage.name in known:
                raise ValueError(f"two stages are called {stage.name!r}; give each its own name")
            if stage.start is not None and stage.start not in known:
                raise ValueError(
                    f"stage {stage.name!r} starts from {stage.start!r}, which is no earlier stage; "
                    f"choose from {', '.join(known)}"
                )
            known.append(stage.name)
        return self

    @model_validator(mode="after")
    def _methods_can_train_the_network(self) -> Self:
        for stage in self.stages:
            if problem := stage.method.problem_with(self.segmenter):
                raise ValueError(f"stage {stage.name!r}: {problem}")
        return self

    @model_validator(mode="after")
    def _detail_lies_in_its_context(self) -> Self:
        detail, crop_px = self.segmenter.detail, self.loading.crop_px
        if detail is not None and any(
            inner > outer for inner, outer in zip(detail.crop_px, crop_px, strict=True)
        ):
            raise ValueError(
                f"segmenter.detail.crop_px {list(detail.crop_px)} does not lie in a training crop "
                f"of loading.crop_px {list(crop_px)}; make the one smaller or the other larger"
            )
        return self

    @model_validator(mode="after")
    def _batch_serves_all(self) -> Self:
        batch = self.loading.batch_size
        if batch < len(self.source):
            raise ValueError(
                f"loading.batch_size {batch} leaves some of {len(self.source)} sources out"
            )
        if problem := self.problem_with_processes(self.compute.devices):
            raise ValueError(problem)
        return self

    def problem_with_processes(self, count: int) -> str | None:
        """Say what keeps `count` processes from sharing a batch, or None."""
        batch = self.loading.batch_size
        if batch % count:
            return f"loading.batch_size {batch} is no multiple of {count} devices"
        parts = self.compute.accumulation
        if batch // count % parts:
            return (
                f"a device's {batch // count} images cannot be taken in {parts} equal parts; "
                "choose another compute.accumulation or loading.batch_size"
            )
        # Several processes normalise by all their images together, so one each will do.
        if batch // parts < 2 and self.segmenter.norm != "frozen":
            return (
                "one image per device cannot train batch norm; raise loading.batch_size to 2, or "
                'set segmenter.norm = "frozen"'
            )
        labelled = self.loading.labelled_images
        if self.target.labelled is not None and labelled % (count * parts):
            return (
                f"loading.labelled_share {self.loading.labelled_share:g} of "
                f"loading.batch_size {batch} is {labelled} labelled images of the target, which "
                f"{count} devices cannot take in {parts} equal parts; choose another share, or 1"
            )
        return None

    def open_domain(self, name: str) -> Domain:
        """Open a domain that the recipe names, below its data root. Raises DataError."""
        return Domain.open(name, None if self.data_root is None else Path(self.data_root))

    @property
    def files(self) -> tuple[str, ...]:
        """Every domain that the recipe names, built-in or a file, and its pack, each once."""
        named = [*(entry.domain for entry in self.source), self.pack]
        named += [self.target.domain, self.target.labelled_domain, self.target.scored_domain]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def with_files(self, change: Callable[[str], str]) -> Self:
        """Copy the recipe with other domains and pack: what `change` makes of each of `files`."""
        source = tuple(
            entry.model_copy(update={"domain": change(entry.domain)}) for entry in self.source
        )
        return self.model_copy(
            update={
                "source": source,
                "target": self.target.with_domains(change),
                "pack": None if self.pack is None else change(self.pack),
            }
        )

    def with_start(self, start: str) -> Self:
        """Copy the recipe with another initial network."""
        segmenter = self.segmenter.model_copy(update={"start": start})
        return self.model_copy(update={"segmenter": segmenter})

    @property
    def sweep_loading(self) -> LoadingConfig:
        """The loader's settings for whole images, which have the width of the network's input."""
        width_px = self.segmenter.input_width_px or self.loading.width_px
        return self.loading.model_copy(update={"width_px": width_px})

    @property
    def trains(self) -> bool:
        """Tell whether any stage takes steps."""
        return any(stage.trains for stage in self.stages)

    def start_of(self, index: int) -> str:
        """Return the name of the stage, or INITIAL, whose network stage `index` starts from."""
        start = self.stages[index].start
        if start is not None:
            return start
        return self.stages[index - 1].name if index else INITIAL
