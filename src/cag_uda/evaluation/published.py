"""Published figures, to stand beside one's own: adaptation to Cityscapes, in per cent."""

from dataclasses import dataclass

_PAPER = "Zhang et al., NeurIPS 2019"


@dataclass(frozen=True)
class PublishedRow:
    """One line of a table: a method from one source to Cityscapes."""

    method: str
    source: str
    miou: float
    iou: tuple[float, ...] = ()
    """One a class, in the order of the protocol; empty where only the mean is published."""
    split: str = "val"
    protocol: str = "cityscapes-19"
    reference: str = _PAPER


PUBLISHED = (
    PublishedRow(
        "source only",
        "GTA5",
        36.6,
        (
            *(75.8, 16.8, 77.2, 12.5, 21.0, 25.5, 30.1, 20.1, 81.3, 24.6),
            *(70.3, 53.8, 26.4, 49.9, 17.2, 25.9, 6.5, 25.3, 36.0),
        ),
        reference=f"{_PAPER}; of DeepLab v2",
    ),
    PublishedRow(
        "AdaptSegNet",
        "GTA5",
        41.4,
        (
            *(86.5, 25.9, 79.8, 22.1, 20.0, 23.6, 33.1, 21.8, 81.8, 25.9),
            *(75.9, 57.3, 26.2, 76.3, 29.8, 32.1, 7.2, 29.5, 32.5),
        ),
        reference=f"{_PAPER}; of DeepLab v2, one level",
    ),
    # The mean of these 19 is 50.1; the table says 50.2.
    PublishedRow(
        "CAG-UDA",
        "GTA5",
        50.2,
        (
            *(90.4, 51.6, 83.8, 34.2, 27.8, 38.4, 25.3, 48.4, 85.4, 38.2),
            *(78.1, 58.6, 34.6, 84.7, 21.9, 42.7, 41.1, 29.3, 37.2),
        ),
    ),
    PublishedRow(
        "CAG-UDA",
        "GTA5",
        51.7,
        (
            *(93.2, 57.0, 85.6, 35.7, 25.1, 37.5, 30.8, 45.3, 87.1, 50.1),
            *(89.4, 62.7, 40.8, 87.8, 18.0, 32.4, 34.5, 34.4, 35.4),
        ),
        split="test",
        reference=f"{_PAPER}, Cityscapes test server",
    ),
    PublishedRow("CAG-UDA", "SYNTHIA", 44.5, protocol="synthia-16"),
    PublishedRow(
        "CAG-UDA",
        "SYNTHIA",
        52.6,
        (84.8, 41.7, 85.5, 13.7, 23.0, 86.5, 78.1, 66.3, 28.1, 81.8, 21.8, 22.9, 49.0),
        protocol="synthia-13-ignored",
    ),
)


def published_rows(domain: str, split: str, protocol: str | None) -> list[PublishedRow]:
    """Find the rows that a score on this split by this protocol may be compared with."""
    if domain != "cityscapes":
        return []
    return [row for row in PUBLISHED if (row.split, row.protocol) == (split, protocol)]
