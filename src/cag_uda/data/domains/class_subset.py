"""A domain with some of its classes: the pixels of the others are ignored.

SYNTHIA, for one, hardly has three of the 19 classes of Cityscapes, and networks for the pair learn
the other 16.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cag_uda.data.domains.domain import Domain
from cag_uda.data.domains.label_map import UNMAPPED
from cag_uda.errors import DataError
from cag_uda.types import IGNORE


def with_classes(domain: Domain, names: Sequence[str] | None) -> Domain:
    """A domain that knows some of its classes only.

    Args:
        domain: it is not changed.
        names: of the classes that are kept; None keeps all.

    Returns:
        The domain with the train ids 0 … k-1 for the classes that are kept, in the order of its
        label space, and IGNORE for pixels of the others. The domain itself, where it keeps all its
        classes or has no label space.

    Raises:
        DataError: for a name that is no class of the domain, or if one class is left.
    """
    space = domain.label_space
    if space is None or domain.labels is None or names is None:
        return domain
    kept = space.only(names)
    if kept is space:
        return domain
    if kept.num_classes == 1:
        raise DataError(
            f"one class alone, {kept.names[0]!r}, cannot be learnt: every pixel would be it; keep "
            "the classes that it shall be told from, too"
        )
    new_ids = np.full(256, IGNORE, np.uint8)
    new_ids[UNMAPPED] = UNMAPPED
    for new_id, name in enumerate(kept.names):
        new_ids[space.names.index(name)] = new_id
    old = domain.labels.label_map
    restricted = copy.copy(domain)
    restricted.label_space = kept
    label_map = replace(old, table=new_ids[old.table], other=int(new_ids[old.other]))
    restricted.labels = replace(domain.labels, label_map=label_map)
    return restricted
