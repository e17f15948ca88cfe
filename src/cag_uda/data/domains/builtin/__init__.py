"""The domains and label spaces that come with the package: names and files, nothing more.

Reading them is the business of `cag_uda.data`: a built-in file is no different from a user's.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable


def domain_files() -> dict[str, Traversable]:
    """Return the files of the built-in domains, sorted by name."""
    return _toml_files(files(__name__))


def label_space_files() -> dict[str, Traversable]:
    """Return the files of the built-in label spaces, sorted by name."""
    return _toml_files(files(__name__) / "label_spaces")


def _toml_files(folder: Traversable) -> dict[str, Traversable]:
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    by_name = {entry.name.removesuffix(".toml"): entry for entry in found}
    return dict(sorted(by_name.items()))
