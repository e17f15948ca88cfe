"""Target images before and after: one image, what each network sees in it, and the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cag_uda.report.pictures import NO_CLASS, Colours, Ids, embed_all, size_of

PICTURE_BUDGET_BYTES = 2_400_000
"""Leaves a page below 3 MB, which a mail server and a phone still take."""
IMAGE, TRUTH = "image", "truth"


@dataclass(frozen=True)
class Sample:
    """One target image with the pictures made of it."""

    name: str
    image: Path | None
    truth: Path | None
    predictions: dict[str, Path]
    """Network → its coloured prediction; a network is a stage's folder, or a method's name."""

    @property
    def files(self) -> dict[str, Path]:
        """Look → file, in the order in which they are shown."""
        shown = {IMAGE: self.image, **self.predictions, TRUTH: self.truth}
        return {look: file for look, file in shown.items() if file is not None}


@dataclass(frozen=True)
class Look:
    """A way to see every image: as it is, through a network's eyes, or as people labelled it."""

    key: str
    name: str
    detail: str = ""
    miou: float | None = None


@dataclass(frozen=True)
class Picture:
    """One look at one image."""

    look: Look
    uri: str
    right: float | None
    """Share of the labelled pixels that are right, where there is a truth to hold it against."""


@dataclass(frozen=True)
class GalleryRow:
    """One image and every look at it."""

    name: str
    pictures: list[Picture]
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Gallery:
    """Content of the before/after viewer."""

    looks: list[Look]
    rows: list[GalleryRow]
    before: str
    """Key of the look that is shown left at first."""
    after: str
    left_out: int
    """Pictures that could not be read, or for which there was no room."""


def make_gallery(
    samples: Sequence[Sample],
    networks: Sequence[Look],
    palette: Sequence[tuple[int, int, int]],
    before: str | None,
    after: str | None,
) -> Gallery:
    """Embed the pictures of all samples, with the predictions of some networks.

    With an empty palette (K, 3), label pictures are shown as they are. `before` and `after` are the
    keys of the networks that are shown first, left and right; None: the image, and the last one.
    """
    colours = Colours(palette) if palette else None
    labels = _read_labels(samples, colours)
    # Sample by sample, so that a page that grows too large loses whole samples, the last first.
    files = [file for sample in samples for file in sample.files.values()]
    uris = embed_all(files, PICTURE_BUDGET_BYTES, labels, colours)
    looks = [Look(IMAGE, "image"), *networks, Look(TRUTH, "truth")]
    rows = [_row(sample, looks, uris, labels) for sample in samples]
    rows = [row for row in rows if row.pictures]
    shown = {picture.look.key for row in rows for picture in row.pictures}
    looks = [look for look in looks if look.key in shown]
    keys = [look.key for look in looks] or [IMAGE]
    of_networks = [key for key in keys if key not in (IMAGE, TRUTH)]
    return Gallery(
        looks=looks,
        rows=rows,
        before=before if before in keys and before != after else keys[0],
        after=after if after in keys else (of_networks or keys)[-1],
        left_out=len(files) - sum(len(row.pictures) for row in rows),
    )


def _read_labels(samples: Sequence[Sample], colours: Colours | None) -> dict[Path, Ids]:
    labels = {}
    for sample in samples:
        for look, file in sample.files.items():
            ids = colours.ids(file) if colours and look != IMAGE else None
            if ids is not None:
                labels[file] = ids
    return labels


def _row(
    sample: Sample, looks: list[Look], uris: dict[Path, str], labels: dict[Path, Ids]
) -> GalleryRow:
    files = sample.files
    truth = labels.get(sample.truth) if sample.truth else None
    pictures = []
    for look in looks:
        file = files.get(look.key)
        if file in uris:
            ids = labels.get(file) if look.key not in (IMAGE, TRUTH) else None
            pictures.append(Picture(look, uris[file], right_share(ids, truth)))
    sizes = (size_of(file) for file in files.values() if file in uris)
    width_px, height_px = next((size for size in sizes if size), (4, 3))
    return GalleryRow(sample.name, pictures, width_px, height_px)


def right_share(ids: Ids | None, truth: Ids | None) -> float | None:
    """Compute the share of equal classes among the pixels with a class in both; None for none."""
    if ids is None or truth is None or ids.shape != truth.shape:
        return None
    compared = (truth != NO_CLASS) & (ids != NO_CLASS)
    return float((ids == truth)[compared].mean()) if compared.any() else None
