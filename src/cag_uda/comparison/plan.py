"""From a recipe and a list of methods or variants to one recipe for each, all of one budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cag_uda.comparison.settings import ABLATIONS, BASE, Contender, Variant
from cag_uda.data.domains.schema_errors import problems_of
from cag_uda.errors import RecipeError
from cag_uda.methods.base import MethodConfig
from cag_uda.recipes import Recipe
from cag_uda.recipes.schema import INITIAL, AnyMethod, Source, Stage

_NEEDS_NO_WARMUP = "cag-plus"
_METHOD: TypeAdapter[MethodConfig] = TypeAdapter(AnyMethod)


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    name: str
    description: str
    run: str
    """Its runs' folders are `run`-SEED; rows may share them."""
    recipe: Recipe
    scored: tuple[str, ...]
    """Stages whose scores count; of several, the one that is best in the mean over seeds."""
    question: str = ""

    @property
    def steps(self) -> int:
        """Steps of its whole run."""
        return sum(stage.steps for stage in self.recipe.stages)


def delivered_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """List the stages that lead from the initial network to the delivered one."""
    names = [stage.name for stage in recipe.stages]
    found: list[Stage] = []
    index = len(names) - 1
    while True:
        found.insert(0, recipe.stages[index])
        start = recipe.start_of(index)
        if start == INITIAL:
            return tuple(found)
        index = names.index(start)


def base_of(recipe: Recipe) -> str:
    """Name the row that an ablation varies: what the recipe trains last, or CAG."""
    last = last_trained(delivered_stages(recipe)).method.family
    return last if last in ABLATIONS else BASE


def last_trained(stages: Sequence[Stage]) -> Stage:
    """Find the last stage that takes steps; the last one if none does."""
    return next((stage for stage in reversed(stages) if stage.trains), stages[-1])


def plan_methods(recipe: Recipe, contenders: Mapping[str, Contender]) -> list[Entry]:
    """Plan each method with the network, data, optimisers and steps of the recipe.

    Raises:
        RecipeError: if a method cannot be run so, naming it.
    """
    stages = delivered_stages(recipe)
    entries: dict[str, Entry] = {}
    for name, contender in contenders.items():
        if contender.run is not None:
            continue
        made = _with_target_labels(recipe) if contender.reads_target_labels else recipe
        if contender.stages == "recipe" or last_trained(stages).method.family == name:
            _refuse_without(name, stages)
            planned = (
                stages[0].model_copy(update={"start": INITIAL}),
                *(stage.model_copy(update={"start": None}) for stage in stages[1:]),
            )
        else:
            planned = _planned(stages, contender, recipe)
            made = _with_loading(made, contender.loading)
        entries[name] = Entry(
            name=name,
            description=contender.description,
            run=name,
            recipe=_recipe(made, name, planned),
            scored=contender.scored or (planned[-1].name,),
        )
    for name, contender in contenders.items():
        if contender.run is not None:
            entries[name] = replace(
                entries[contender.run],
                name=name,
                description=contender.description,
                scored=contender.scored,
            )
    return [entries[name] for name in contenders]


def plan_ablation(base: Entry, variants: Mapping[str, Variant]) -> list[Entry]:
    """Plan each variant of the base, one of `ABLATIONS`; equal ones share a run.

    Raises:
        RecipeError: if the base has not that form, or a variant cannot be.
    """
    entries: list[Entry] = []
    for name, variant in variants.items():
        try:
            stages = _varied(base.recipe.stages, variant, base.name)
            loaded = _with_loading(base.recipe, variant.loading)
            made = _recipe(loaded, name, stages, of=loaded.name.removesuffix(f"-{base.name}"))
        except ValueError as error:
            raise RecipeError(f"variant {name!r}: {error}") from error
        scored = stages[-1]
        if variant.scored is not None:
            before, anchored, _ = _parts(stages, base.name)
            scored = before[-1] if variant.scored == "first" else anchored[-1]
        entry = Entry(name, variant.description, name, made, (scored.name,), variant.question)
        for same in (base, *entries):
            if (same.recipe.stages, same.recipe.loading) == (made.stages, made.loading):
                entry = replace(entry, run=same.run, recipe=same.recipe)
                break
        entries.append(entry)
    return entries


def _recipe(recipe: Recipe, name: str, stages: Sequence[Stage], of: str | None = None) -> Recipe:
    """Give a recipe other stages, and check it as if it came from a file; RecipeError."""
    changed = recipe.model_copy(
        update={
            "name": f"{of or recipe.name}-{name}",
            "description": f"{name}, for a comparison",
            "stages": tuple(stages),
            "deliver": "last",
        }
    )
    try:
        return Recipe.model_validate(changed.model_dump())
    except ValidationError as error:
        problems = problems_of(error, Recipe)
        raise RecipeError([f"row {name!r}: {problem}" for problem in problems]) from error


def _planned(templates: Sequence[Stage], contender: Contender, recipe: Recipe) -> tuple[Stage, ...]:
    """Make a method's stages: names and methods of its own, the rest from the recipe's."""
    assert isinstance(contender.stages, tuple)
    total = sum(stage.steps for stage in templates)
    shares = accumulate((planned.share for planned in contender.stages), initial=0.0)
    edges = [round(total * share) for share in shares]
    stages = []
    for index, planned in enumerate(contender.stages):
        whose = planned.optimiser_of or ("last" if index else "first")
        template = templates[0] if whose == "first" else last_trained(templates)
        steps = edges[index + 1] - edges[index]
        update = {
            "name": planned.name,
            "method": planned.method,
            "steps": steps,
            "start": None if index else INITIAL,
            "refresh_every": _every(steps, planned.rounds),
        }
        stages.append(template.model_copy(update=update))
    return tuple(stages)


def _refuse_without(name: str, stages: Sequence[Stage]) -> None:
    if all(stage.method.family != name for stage in stages):
        methods = ", ".join(stage.method.name for stage in stages)
        raise RecipeError(
            f"row {name!r} is the recipe's own stages, but these are {methods}; leave the row out "
            f"by --methods, or give a recipe that ends in {name!r}"
        )


def _every(steps: int, rounds: int) -> int | None:
    """Compute the steps between the rounds of a stage, of which the last is the shortest."""
    return None if rounds == 1 else max(1, -(-steps // rounds))


def _with_loading(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Give a recipe other settings of its loader; `_recipe` checks them."""
    return recipe.model_copy(update={"loading": recipe.loading.model_copy(update=dict(changes))})


def _with_target_labels(recipe: Recipe) -> Recipe:
    """Add the target's train split to the source, for half of each batch."""
    target = Source(domain=recipe.target.domain, split=recipe.target.train)
    source = (*recipe.source, *[target] * len(recipe.source))
    loading = recipe.loading.model_copy(update={"batch_size": 2 * recipe.loading.batch_size})
    return recipe.model_copy(update={"source": source, "loading": loading})


def _parts(stages: Sequence[Stage], base: str) -> tuple[list[Stage], list[Stage], list[Stage]]:
    """Give the stages before the anchor-guided ones, these (of the method `base`), and those after.

    Raises:
        ValueError: if they are not a warm-up, which CAG-plus can do without, stages of `base`, then
            at most some without training.
    """
    places = [place for place, stage in enumerate(stages) if stage.method.family == base]
    first, end = (places[0], places[-1] + 1) if places else (0, 0)
    before, anchored, after = list(stages[:first]), list(stages[first:end]), list(stages[end:])
    is_mixed = any(stage.method.family != base for stage in anchored)
    is_begun = bool(before) or base == _NEEDS_NO_WARMUP
    if not places or not is_begun or is_mixed or any(stage.trains for stage in after):
        names = ", ".join(f"{stage.name} ({stage.method.name})" for stage in stages)
        wanted = "" if base == _NEEDS_NO_WARMUP else "a warm-up and then "
        raise ValueError(f"wanted {wanted}stages of {base!r}, got {names}; give such a recipe")
    return before, anchored, after


def _varied(stages: Sequence[Stage], variant: Variant, base: str) -> list[Stage]:
    """Change the stages of the base as a variant says. Raises ValueError if it cannot be."""
    before, anchored, after = _parts(stages, base)
    steps = sum(stage.steps for stage in anchored)
    if variant.warmup:
        last = last_trained(before)
        longer = last.model_copy(update={"steps": last.steps + steps})
        return [longer if stage is last else stage for stage in before]
    if variant.stages is not None:
        anchored = _split(anchored, variant.stages, steps)
    if variant.rounds is not None:
        whole = {"steps": steps, "refresh_every": _every(steps, variant.rounds)}
        anchored = [anchored[0].model_copy(update=whole)]
    changed = [
        stage.model_copy(
            update={
                "method": _METHOD.validate_python({**stage.method.model_dump(), **variant.method})
            }
        )
        for stage in anchored
    ]
    return [*before, *changed, *after]


def _split(anchored: Sequence[Stage], count: int, steps: int) -> list[Stage]:
    """Split steps among some stages; those beyond the recipe's are like its last."""
    edges = [round(steps * place / count) for place in range(count + 1)]
    return [
        (anchored[place] if place < len(anchored) else anchored[-1]).model_copy(
            update={
                "steps": edges[place + 1] - edges[place],
                "name": anchored[place].name if place < len(anchored) else f"stage-{place + 1}",
            }
        )
        for place in range(count)
    ]


def budget_of(recipe: Recipe) -> dict[str, Any]:
    """Sum up what every row of a comparison is given, for the table."""
    return {
        "steps": sum(stage.steps for stage in delivered_stages(recipe)),
        "batch_per_domain": recipe.loading.batch_size,
        "crop_px": list(recipe.loading.crop_px),
        "width_px": recipe.loading.width_px,
        "photometric": recipe.loading.photometric,
        "backbone": recipe.segmenter.backbone,
        "decoder": recipe.segmenter.decoder,
        "norm": recipe.segmenter.norm,
        "weights": recipe.segmenter.weights,
    }
