"""The domains and label spaces that come with the package: names and files, nothing more.

Reading them is the business of `cag_uda.data`: a built-in file is no different from a user's.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable


def domain_names() -> tuple[str, ...]:
    """Names of the built-in domains, sorted."""
    return tuple(_toml_files(files(__name__)))


def domain_file(name: str) -> Traversable:
    """The file of a built-in domain. Raises KeyError if there is none of that name."""
    return _toml_files(files(__name__))[name]


def label_space_names() -> tuple[str, ...]:
    """Names of the built-in label spaces, sorted."""
    return tuple(_toml_files(files(__name__) / "label_spaces"))


def label_space_file(name: str) -> Traversable:
    """The file of a built-in label space. Raises KeyError if there is none of that name."""
    return _toml_files(files(__name__) / "label_spaces")[name]


def _toml_files(folder: Traversable) -> dict[str, Traversable]:
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    by_name = {entry.name.removesuffix(".toml"): entry for entry in found}
    return dict(sorted(by_name.items()))
