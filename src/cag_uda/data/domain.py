"""A data set as its domain file describes it: the names that Python users import."""

from cag_uda.data.domains.domain import Domain, Item

__all__ = ["Domain", "Item"]
