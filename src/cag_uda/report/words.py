"""Numbers as a reader wants them: percent, points, durations. Text only, no HTML."""

import math

UNDEFINED = "–"
THIN_SPACE = "\u202f"
"""Narrow and unbreakable: a figure and its sign stay together."""
NO_BREAK = "\u00a0"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as percent: 0.4832 → "48.3 %"; None → "–"."""
    if share is None:
        return UNDEFINED
    text = f"{share * 100:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return f"{text}{THIN_SPACE}%".replace("-", "−")


def number(share: float | None) -> str:
    """Write a share in [0, 1] in hundredths, without the sign: 0.4832 → "48.3"; None → "–"."""
    return UNDEFINED if share is None else f"{share * 100:.1f}"


def signed(points: float | None) -> str:
    """Write a difference in points with its sign: 17.13 → "+17.1"; None → "–"."""
    if points is None:
        return UNDEFINED
    text = f"{abs(points):.1f}"
    if float(text) == 0:
        return "±0.0"
    return f"{'+' if points > 0 else '−'}{text}"


def duration(elapsed_s: float | None) -> str:
    """Write a time by its two largest units: 81.2 → "1 min 21 s"; None → "–"."""
    if elapsed_s is None:
        return UNDEFINED
    if elapsed_s < 10:
        return f"{elapsed_s:.1f}{THIN_SPACE}s"
    left = round(elapsed_s)
    parts = []
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length_s)
        parts.append((count, unit))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    shown = [part for part in parts[first : first + 2] if part[0]]
    return " ".join(f"{count}{THIN_SPACE}{unit}" for count, unit in shown)


def counted(count: int, thing: str) -> str:
    """Write a number of things: (1, "stage") → "1 stage", (3, "stage") → "3 stages"."""
    return f"{count}{NO_BREAK}{thing}{'' if count == 1 else 's'}"


def compact(value: float) -> str:
    """Write an axis label in few characters: 1500 → "1.5k", 0.05 → "0.05", 1e-05 → "1e-5"."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000:
        exponent = min(2, int(math.log10(abs(value)) // 3))
        return f"{value / 1_000**exponent:.3g}{'kM'[exponent - 1]}"
    text = f"{value:.3g}"
    mantissa, _, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if power else text


def plain(value: object) -> str:
    """Write a JSON value for people: no braces, quotes or nulls."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return " ".join(plain(entry) for entry in value)
    return UNDEFINED if value is None else str(value)
