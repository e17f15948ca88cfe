"""Checks across the splits of a domain: images that they share, and labels that none uses."""

from collections.abc import Iterable, Iterator

from cag_uda.data.domains.domain import Domain, Item

_SHOWN = 5


def unused_labels(domain: Domain, found: dict[str, list[Item]]) -> Iterator[str]:
    """Say which label files belong to no image of any split."""
    used = {item.label for items in found.values() for item in items if item.label is not None}
    if used and (unused := domain.unused_labels(used)):
        yield f"{len(unused)} label files belong to no image: {first_of(unused)}"


def shared_images(found: dict[str, list[Item]]) -> Iterator[str]:
    """Say which splits share images: a score on images that were trained on means little."""
    keys = {name: {item.key for item in items} for name, items in found.items()}
    names = list(keys)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if shared := len(keys[first] & keys[second]):
                yield f"{shared} images are in both {first} and {second}"


def copied_images(contents: dict[str, dict[bytes, str]]) -> Iterator[str]:
    """Say which splits hold the same pictures under other names."""
    names = list(contents)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            pairs = [
                (contents[first][each], contents[second][each])
                for each in contents[first].keys() & contents[second].keys()
            ]
            copies = sorted(f"{one} = {other}" for one, other in pairs if one != other)
            if copies:
                yield (
                    f"{len(copies)} images of {second} show pixel by pixel what images of {first} "
                    f"show: {first_of(copies)}"
                )


def first_of(messages: Iterable[str]) -> str:
    """Join the first few messages, and tell how many more there are."""
    listed = list(messages)
    more = f"; … and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more
