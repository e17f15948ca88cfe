"""A domain by other classes than its own: by some of them, or by a label space that has more.

SYNTHIA, for one, hardly has three of the 19 classes of Cityscapes, and networks for the pair learn
the other 16. Pixels of classes that are left out are ignored.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_map import UNMAPPED
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.errors import DataError
from cag_uda.types import IGNORE


def with_classes(domain: Domain, names: Sequence[str] | None) -> Domain:
    """Give a domain with some of its classes only; None keeps all.

    Classes that are kept have the train ids 0 … k-1, in the order of the domain's label space;
    pixels of the others are IGNORE. A domain that keeps all its classes, or has no label space, is
    given as it is. Raises DataError for a name that is no class of the domain, or if one class is
    left.
    """
    if domain.label_space is None or names is None:
        return domain
    kept = domain.label_space.only(names)
    if kept is domain.label_space:
        return domain
    if kept.num_classes == 1:
        raise DataError(
            f"one class alone, {kept.names[0]!r}, cannot be learnt: every pixel would be it; keep "
            "the classes that it shall be told from, too"
        )
    return _by(kept, domain)


def in_one_space(domains: Sequence[Domain]) -> list[Domain]:
    """Give domains the train ids of the one with most classes, if it has all of theirs.

    Their own label spaces may lack some of its classes, and order them otherwise. (What a domain
    shows of classes that it lacks should be ignored by its map, not be of another class.) Domains
    without a label space, or with classes that the one with most does not have, stay as they are.
    """
    spaces = [each.label_space for each in domains if each.label_space is not None]
    if not spaces:
        return list(domains)
    widest = max(spaces, key=lambda space: space.num_classes)
    return [
        _by(widest, domain)
        if domain.label_space is not None and set(domain.label_space.names) < set(widest.names)
        else domain
        for domain in domains
    ]


def _by(space: LabelSpace, domain: Domain) -> Domain:
    """Return the domain with the train ids of a label space; IGNORE for classes that it has not."""
    own, labels = domain.label_space, domain.labels
    if own is None or labels is None:
        return domain
    new_ids = np.full(256, IGNORE, np.uint8)
    new_ids[UNMAPPED] = UNMAPPED
    for new_id, name in enumerate(space.names):
        if name in own.names:
            new_ids[own.names.index(name)] = new_id
    old = labels.label_map
    changed = copy.copy(domain)
    changed.label_space = space
    label_map = replace(old, table=new_ids[old.table], other=int(new_ids[old.other]))
    changed.labels = replace(labels, label_map=label_map)
    return changed
