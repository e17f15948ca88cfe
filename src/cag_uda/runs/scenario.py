"""A recipe's domains, opened and checked against each other before any training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cag_uda.data.domains.class_subset import in_one_space, with_classes
from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.placement import first_of
from cag_uda.data.loading.decoded import DecodedImages
from cag_uda.data.loading.images import LabelledImages, UnlabelledImages
from cag_uda.errors import DataError, UserError
from cag_uda.models.config import Classes
from cag_uda.models.pack import Pack, read_pack
from cag_uda.recipes import Recipe

_HELD_OUT = ("val", "test")
"""Splits of a source that may hold images which no step has seen, in order of preference."""


@dataclass(frozen=True)
class Scenario:
    """The opened domains of a recipe: source and target.

    Only `test` gives access to labels of the target, and `labelled` where the recipe names images
    whose labels may be trained on.
    """

    sources: tuple[LabelledImages, ...]
    """Images of the source's domains; empty where a pack replaces them."""
    target: UnlabelledImages
    label_space: LabelSpace
    test: Domain
    """The domain that evaluation reads: the target, or the recipe's `test_domain`."""
    test_split: str | None
    """The split to score or to take sample pictures from."""
    is_scored: bool
    """True if that split has labels."""
    pack: Pack | None = None
    """Pack that replaces the source's images."""
    labelled: LabelledImages | None = None
    """The few images of the target that are trained on with their labels; None without any."""

    @classmethod
    def open(cls, recipe: Recipe, note: Callable[[str], None] = lambda text: None) -> "Scenario":
        """Open every domain of a recipe; `note` is told of scenes that are rendered first.

        Raises UserError with all that is wrong: missing folders, splits, labels, unequal classes.
        """
        loading, whole_px = recipe.loading, recipe.sweep_loading.width_px
        decoded = DecodedImages(loading, whole_px) if loading.cache else None
        sources: list[LabelledImages] = []
        problems: list[str] = []
        opened: list[Domain] = []
        label_space: LabelSpace | None = None
        pack, classes = None, recipe.classes
        if recipe.pack is not None:
            pack = read_pack(Path(recipe.pack))
            label_space, classes = space_of(pack.classes), pack.classes.names
        with _collected(problems):
            opened = open_sources(recipe)
        for entry, domain in zip(recipe.source, opened, strict=False):
            with _collected(problems):
                _announce(domain, entry.split, note)
                sources.append(LabelledImages(domain, entry.split, entry.size_px, decoded))
                if recipe.loading.rare_class_temperature:
                    sources[-1].class_pixels(recipe.loading, note)
                problems += _unequal(domain.name, label_space, domain.label_space)
                label_space = label_space or domain.label_space
        with _collected(problems):
            adapted = with_classes(recipe.open_domain(recipe.target.domain), classes)
            _announce(adapted, recipe.target.train, note)
            target = UnlabelledImages(adapted, recipe.target.train, decoded)
            test = with_classes(recipe.open_domain(recipe.target.scored_domain), classes)
            split = _test_split(recipe, test)
            is_scored = split is not None and test.is_labelled(split)
            if is_scored:
                problems += _unequal(test.name, label_space, test.label_space)
        with _collected(problems):
            labelled = labelled_target(recipe, label_space, decoded, classes)
        if label_space is None and not problems:
            problems.append("the source names no label space; give its domain file one")
        if problems or label_space is None:
            raise UserError(problems)
        return cls(tuple(sources), target, label_space, test, split, is_scored, pack, labelled)

    @property
    def classes(self) -> Classes:
        """The classes as a model's config holds them."""
        return classes_of(self.label_space)


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Add what is raised to a list, in order to tell all that is wrong at once."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def open_sources(recipe: Recipe) -> list[Domain]:
    """Open a recipe's sources, by the classes that are learned.

    A source whose label space lacks classes of another one's is read by that. Raises UserError with
    all that is wrong.
    """
    domains: list[Domain] = []
    problems: list[str] = []
    for entry in recipe.source:
        with _collected(problems):
            domains.append(recipe.open_domain(entry.domain))
    if problems:
        raise UserError(problems)
    return [with_classes(domain, recipe.classes) for domain in in_one_space(domains)]


def labelled_target(
    recipe: Recipe,
    label_space: LabelSpace | None = None,
    decoded: DecodedImages | None = None,
    classes: Sequence[str] | None = None,
) -> LabelledImages | None:
    """Open the images of the target whose labels a recipe lets into training, if it names some.

    Args:
        recipe: its `[target] labelled` names them.
        label_space: the source's; the classes must be the same.
        decoded: where decoded images are kept; None decodes every time.
        classes: learned classes; None: the recipe's.

    Raises:
        UserError: if one of them is scored, or the classes differ from the source's.
    """
    named, target = recipe.target.labelled, recipe.target
    if named is None:
        return None
    domain = with_classes(recipe.open_domain(target.labelled_domain), classes or recipe.classes)
    images = LabelledImages(domain, named.split, decoded=decoded)
    problems = _unequal(domain.name, label_space, domain.label_space)
    tested = recipe.open_domain(target.scored_domain)
    if target.test in tested.splits:
        items = tested.items(str(target.test), with_labels=False)
        scored = {item.image.resolve() for item in items}
        both = [path.name for path in images.paths() if path.resolve() in scored]
        if both:
            problems.append(
                f"{len(both)} images of target.labelled are in the split {target.test!r} too, on "
                f"which the network is scored: {first_of(both)}; take them out of one of the two"
            )
    if problems:
        raise DataError(problems)
    return images


def held_out(recipe: Recipe) -> LabelledImages | None:
    """Find labelled images of a source that are neither trained on nor the target's.

    All such images of the first split, "val" or "test", that has some; None where none has. Raises
    UserError if a domain cannot be opened.
    """
    if not recipe.source:
        return None
    taken: set[Path] = set()
    for name, split in (
        (recipe.target.domain, recipe.target.train),
        (recipe.target.scored_domain, recipe.target.test),
    ):
        domain = recipe.open_domain(name)
        if split in domain.splits:
            taken |= {item.image for item in domain.items(str(split), with_labels=False)}
    if (labelled := labelled_target(recipe)) is not None:
        taken |= set(labelled.paths())
    sources = list(zip(recipe.source, open_sources(recipe), strict=True))
    for entry, domain in sources:
        taken |= {item.image for item in domain.items(entry.split)}
    for entry, domain in sources:
        for split in _HELD_OUT:
            if split not in domain.splits or not domain.is_labelled(split):
                continue
            try:
                free = LabelledImages(domain, split, entry.size_px).apart_from(taken)
            except DataError:
                continue  # The split is not on this disk.
            if len(free):
                return free
    return None


def classes_of(space: LabelSpace) -> Classes:
    """Convert a label space to the classes of a model's configuration."""
    return Classes(
        names=space.names,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in space.palette),
        label_ids=None if space.label_ids is None else tuple(map(int, space.label_ids)),
    )


def space_of(classes: Classes) -> LabelSpace:
    """Convert a model's classes to a label space; raises DataError if that is not possible."""
    ids = classes.label_ids or [None] * len(classes.names)
    entries = zip(classes.names, classes.palette, ids, strict=True)
    found = [{"name": name, "color": color, "label_id": each} for name, color, each in entries]
    return LabelSpace.from_dict({"name": "of the pack", "classes": found})


def _test_split(recipe: Recipe, test: Domain) -> str | None:
    """Return the scored split; None if there is none. Raises DataError if the recipe names it."""
    wanted, has_own_domain = recipe.target.test, recipe.target.test_domain is not None
    is_default = wanted == "test" and not has_own_domain
    if wanted is None or (is_default and wanted not in test.splits):
        return None
    test.items(wanted)
    if has_own_domain and not test.is_labelled(wanted):
        raise DataError(
            f"split {wanted!r} of domain {test.name!r}, the recipe's test_domain, has no labels; "
            "give it a `labels` pattern, or leave test_domain out"
        )
    return wanted


def _announce(domain: Domain, split: str, note: Callable[[str], None]) -> None:
    missing = domain.missing_scenes(split)
    if missing:
        note(f"rendering {missing} scenes of {domain.name}, once: they are kept for later runs")


def _unequal(name: str, first: LabelSpace | None, other: LabelSpace | None) -> list[str]:
    if first is None or other is None or first.names == other.names:
        return []
    return [
        f"domain {name!r} has the classes {', '.join(other.names)}; "
        f"the source has {', '.join(first.names)}; give both the same label space"
    ]
