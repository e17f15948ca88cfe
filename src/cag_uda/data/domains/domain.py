"""Domains: an image collection on disk as its TOML file describes it.

Knows paths, splits and ids; no crop, no batch, no network. Opening one looks at no image folder:
files are looked for when the items of a split are asked for, and scenes are rendered then.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from cag_uda.data.domains.builtin import domain_files
from cag_uda.data.domains.domain_file import (
    DomainFile,
    RenderedTable,
    SplitTable,
    parse_domain_file,
    read_domain_file,
)
from cag_uda.data.domains.drawn_labels import LabelArtist
from cag_uda.data.domains.label_reader import LabelReader, match_sizes
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.list_files import is_named, listed_keys
from cag_uda.data.domains.placement import first_of, misplaced_root, no_images, no_label_folder
from cag_uda.data.domains.schema_errors import did_you_mean
from cag_uda.data.files.cache import cache_folder
from cag_uda.data.files.decoding import Bytes
from cag_uda.data.files.images import ImageReader
from cag_uda.data.files.patterns import (
    IMAGE_EXTENSIONS,
    FoundImage,
    LabelFinder,
    alternatives,
    composed,
    expanded,
    fill,
    find_images,
)
from cag_uda.errors import DataError, RunError


@dataclass(frozen=True)
class Item:
    """One image of a split."""

    key: str
    """Path of the image below the root without extension, with forward slashes; unique."""
    image: Path
    label: Path | None
    """Label file; None where the split has no labels, or where they were not asked for."""


class MissingLabelsError(DataError):
    """Some images of a labelled split have no label; `items` are those with and without."""

    def __init__(self, problem: str | Sequence[str], items: Sequence[Item] = ()) -> None:
        self.items = list(items)  # Another process gets the message alone.
        super().__init__(problem)


class Domain:
    """An image collection: where its images and labels are, and what the labels mean.

    Args:
        description: the domain file, without problems.
        shown_as: the file's name, for messages.
        base: folder that the root is relative to.
        base_is_data_root: whether `base` is the parent folder of all data sets.
        data_root: where the root is looked for when it is not below `base`.
    """

    def __init__(
        self,
        description: DomainFile,
        shown_as: str,
        base: Path,
        base_is_data_root: bool = False,
        data_root: Path | None = None,
    ) -> None:
        self.name = description.name
        self.label_space: LabelSpace | None = description.space()
        self.splits: tuple[str, ...] = tuple(description.splits)
        self._description = description
        self._base, self._base_is_data_root = base, base_is_data_root
        self._data_root = data_root
        self.images: ImageReader = description.images
        """Reads photographs."""
        self.labels: LabelReader | None = None
        """Reads label images; None where the domain has no label space."""
        self._artist: LabelArtist | None = None
        if self.label_space is not None:
            label_map, names, _ = description.meaning(self.label_space)
            table = description.labels
            self.labels = LabelReader(
                label_map, table.channel or 0, shown_as, table.divide, table.divide_from
            )
            if names is not None and table.format is not None:
                self._artist = LabelArtist(table.format, names, self.images, shown_as)

    @classmethod
    def open(cls, name_or_path: str | Path, data_root: Path | None = None) -> "Domain":
        """Open a built-in domain by name, or any by the path of its file.

        Args:
            name_or_path: a path contains a / or ends in .toml; everything else is a built-in name.
            data_root: parent folder of the data sets, for built-in domains. Defaults to the
                environment variable CAG_UDA_DATA, or else the folder `data`. The images of a domain
                file that lie nowhere beside it are looked for below it too.

        Raises:
            DataError: if there is no such domain, or naming all the problems of its file.
        """
        text = str(name_or_path)
        if "/" in text or os.sep in text or text.endswith(".toml"):
            path = Path(expanded(text))
            return cls(read_domain_file(path), str(path), path.parent, data_root=data_root)
        known = domain_files()
        if text not in known:
            here = f"; for the file in this folder write {text}.toml"
            raise DataError(
                f"no built-in domain {text!r}{did_you_mean(text, known)} (there are: "
                f"{', '.join(known)}){here if Path(text + '.toml').is_file() else ''}; a domain of "
                "your own is named by the path of its .toml file"
            )
        shown_as = f"the built-in domain {text}"
        description = parse_domain_file(known[text].read_text(encoding="utf-8"), shown_as)
        base = data_root if data_root is not None else Path(os.environ.get("CAG_UDA_DATA", "data"))
        return cls(description, shown_as, base, base_is_data_root=True)

    @property
    def num_classes(self) -> int:
        """K, the number of classes; 0 without a label space."""
        return 0 if self.label_space is None else self.label_space.num_classes

    def root(self) -> Path:
        """Find the folder that patterns are relative to: the first accepted one that exists.

        Raises DataError if none of them exists.
        """
        if self._description.rendered is not None:
            return _rendered_folder(self._description.rendered)
        names = self._description.root or ()
        folders = [self._base / expanded(name) for name in names]
        if self._data_root is not None:
            folders += [self._data_root / Path(name).name for name in names]
        for folder in folders:
            if folder.is_dir():
                return folder
        others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        splits = self._description.splits.values()
        patterns = [images for split in splits for images, _ in split.patterns()]
        raise DataError(
            f"domain {self.name!r}: no folder {folders[0]}{others}; "
            f"{misplaced_root(self._base, names, patterns, self._base_is_data_root)}"
        )

    def excluded(self, split: str) -> tuple[str, ...]:
        """Read the keys of the images of a split that are left out as broken. Raises DataError."""
        return self._split(split).exclude or ()

    def published(self, split: str) -> int | None:
        """Give how many images a split was published with, left-out ones too. Raises DataError."""
        return self._split(split).published

    def is_labelled(self, split: str) -> bool:
        """Tell whether the images of a split have labels. Looks at no file. Raises DataError."""
        table = self._split(split)
        return table.labels is not None or table.scenes is not None

    def missing_scenes(self, split: str) -> int:
        """Count the scenes that `items` would render first; 0 for pictures on disk."""
        table, rendered = self._split(split), self._description.rendered
        return 0 if rendered is None else sum(map(_is_missing, _scene_items(rendered, table)))

    def items(self, split: str, with_labels: bool = True) -> list[Item]:
        """List the images of a split, sorted by key; scenes that are missing are rendered first.

        Args:
            split: one of `splits`.
            with_labels: whether to look for labels. A target that nobody labelled yet, or whose
                labels were not downloaded, is listed without.

        Returns:
            At least one item.

        Raises:
            DataError: if a pattern finds nothing, an image of a labelled split has no label, or a
                list names images that are not there.
        """
        table = self._split(split)
        if (rendered := self._description.rendered) is not None:
            items = _scene_items(rendered, table)
            if any(map(_is_missing, items)):
                _render(rendered, table)
        else:
            items = self._found_items(split, table, with_labels)
        return items if with_labels else [Item(item.key, item.image, None) for item in items]

    def read_image(self, item: Item) -> Bytes:
        """Read the photograph of an item: (H, W, 3) uint8 RGB. Raises DataError."""
        return self.images.read(item.image)

    def read_label(self, item: Item) -> Bytes:
        """Read the label of an item: (H, W) uint8 train ids with IGNORE. Raises DataError."""
        if item.label is None or self.labels is None:
            raise DataError(f"domain {self.name!r}: the image {item.key} has no label")
        return self.labels.read(item.label)

    def read_pair(self, item: Item) -> tuple[Bytes, Bytes]:
        """Read photograph and label of an item, of one size.

        Returns:
            Image (H, W, 3) uint8 RGB and label (H, W) uint8 train ids with IGNORE. A label of
            another resolution is resized to the nearest pixel.

        Raises:
            DataError: if either cannot be read, or their shapes differ: see `misfit`.
        """
        image, label = self.read_image(item), self.read_label(item)
        return image, match_sizes(image, label, item.label or item.image)

    def read_scored(self, item: Item) -> tuple[Bytes, Bytes]:
        """Read photograph and label as `read_pair` does, but the label at its own resolution."""
        image, label = self.read_image(item), self.read_label(item)
        match_sizes(image, label, item.label or item.image)
        return image, label

    def unused_labels(self, used: Collection[Path]) -> list[str]:
        """Label images below the root that patterns match, but that are not among those used.

        Patterns of splits that take a part of what they find are left out. Raises DataError.
        """
        if self._artist is not None:
            return []
        tables = self._description.splits.values()
        whole = [t for t in tables if not (t.list_file or t.slice or t.exclude or t.scenes)]
        patterns = {labels for table in whole for _, labels in table.patterns() if labels}
        # Beside a label may lie what is named like it, of another format.
        stems = {path.with_suffix("") for path in used}
        unused = {
            image.path.relative_to(self.root()).as_posix()
            for pattern in patterns
            for image in find_images(self.root(), pattern, self._label_extensions)
            if image.path.with_suffix("") not in stems
        }
        return sorted(unused)

    @property
    def _label_extensions(self) -> Sequence[str]:
        if self._artist is not None:
            return (self._artist.format.extension,)
        return (".npy",) if self._description.labels.encoding == "npy" else IMAGE_EXTENSIONS

    def _split(self, split: str) -> SplitTable:
        if split not in self.splits:
            raise DataError(
                f"domain {self.name!r} has no split {split!r}{did_you_mean(split, self.splits)} "
                f"(there are: {', '.join(self.splits)})"
            )
        return self._description.splits[split]

    def _found_items(self, split: str, table: SplitTable, with_labels: bool) -> list[Item]:
        root, where = self.root(), f"domain {self.name!r}, split {split!r}"
        found: dict[str, tuple[FoundImage, str]] = {}
        for image_pattern, label_pattern in table.patterns():
            images = find_images(root, image_pattern)
            if not images:
                raise DataError(f"{where}: {no_images(root, image_pattern)}")
            for image in images:
                known, _ = found.setdefault(image.key, (image, label_pattern))
                if known.path != image.path:
                    raise DataError(
                        f"{where}: {known.path.name} and {image.path.name} in {image.path.parent} "
                        "are one image by name; let the pattern end in the extension that is meant"
                    )
        excluded = {composed(key) for key in table.exclude or ()}
        keys = sorted(key for key in found if composed(key) not in excluded)
        listed: dict[str, str | None] = {}
        if table.list_file is not None:
            listed = listed_keys(keys, root / table.list_file, where)
            keys = list(listed)
        keys = table.sliced(keys)
        if not keys:
            how = "exclude" if table.slice is None else f"slice = {table.slice!r}"
            raise DataError(
                f"{where}: {how} leaves none of the {len(found)} images; let it leave some"
            )
        if table.labels is None or not with_labels:
            return [Item(key, found[key][0].path, None) for key in keys]
        items = self._with_labels([found[key] for key in keys], root, where)
        for item in items:
            wanted = listed.get(item.key)
            if wanted and self._artist is None and not is_named(item.label, wanted):
                raise DataError(
                    f"{where}: the list {table.list_file} gives {item.key} the label {wanted}, and "
                    f"the pattern of `labels` gives it {item.label}; mend one of them"
                )
        return items

    def _with_labels(
        self, found: list[tuple[FoundImage, str]], root: Path, where: str
    ) -> list[Item]:
        """Give items with the label file of each, drawn first where it holds shapes."""
        finder, items, missing = LabelFinder(root, self._label_extensions), [], []
        for image, pattern in found:
            label = finder.find(pattern, image.captured)
            if label is None or label == image.path:
                wanted = " or ".join(fill(each, image.captured) for each in alternatives(pattern))
                missing.append(f"{image.key} (want {wanted})")
            items.append(Item(image.key, image.path, label))
        if missing:
            absent = no_label_folder(root, found[0][1])
            advice = "; add the labels, mend the pattern, or leave those images out with `list`"
            raise MissingLabelsError(
                f"{where}: {len(missing)} of {len(items)} images below {root} have no label: "
                f"{first_of(missing)}{absent or advice}",
                items,
            )
        return items if self._artist is None else self._drawn(self._artist, items, where)

    def _drawn(self, artist: LabelArtist, items: list[Item], where: str) -> list[Item]:
        wanted = [(item.key, item.image, item.label) for item in items if item.label is not None]
        drawn = artist.draw(wanted)
        if missing := [item.key for item in items if item.key not in drawn]:
            raise MissingLabelsError(
                f"{where}: {len(missing)} of {len(items)} images are not in "
                f"{wanted[0][2]}: {first_of(missing)}; leave them out with `list`",
                [Item(item.key, item.image, drawn.get(item.key)) for item in items],
            )
        return [Item(item.key, item.image, drawn[item.key]) for item in items]


@cache
def _renderer_version() -> str:
    """Digest the renderer's source, so that scenes of another version are never taken."""
    digest = sha256()
    for source in sorted(files("cag_uda.scenes").iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:8]


def _rendered_folder(table: RenderedTable) -> Path:
    size = f"{table.height_px}x{table.width_px}"
    return (
        cache_folder() / "rendered" / f"{table.look}-{size}-seed{table.seed}-{_renderer_version()}"
    )


def _scene_items(table: RenderedTable, split: SplitTable) -> list[Item]:
    """List the scenes of a split, whether they are in the cache or not."""
    images, labels = (_rendered_folder(table) / name for name in ("images", "labels"))
    names = [f"{index:06d}" for index in range(*(split.scenes or (0, 0)))]
    return [Item(f"images/{n}", images / f"{n}.png", labels / f"{n}.png") for n in names]


def _is_missing(scene: Item) -> bool:
    return not (scene.image.is_file() and scene.label is not None and scene.label.is_file())


def _render(table: RenderedTable, split: SplitTable) -> None:
    """Render the scenes of a split that are not in the cache yet."""
    from cag_uda.scenes import render_folder

    try:
        render_folder(
            _rendered_folder(table),
            table.look,
            indices=range(*(split.scenes or (0, 0))),
            seed=table.seed,
            height_px=table.height_px,
            width_px=table.width_px,
        )
    except RunError as error:
        advice = "scenes are kept in the folder that CAG_UDA_CACHE names"
        raise DataError([*error.problems, advice]) from error
