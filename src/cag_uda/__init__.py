"""Adapt a semantic segmentation network to images that nobody has labelled.

The names below load when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cag_uda.adaptation.anchors import CategoryAnchors
    from cag_uda.adaptation.pseudo_labels import by_anchor, by_confidence
    from cag_uda.methods.base import Method
    from cag_uda.models import load
    from cag_uda.models.segmentation import Segmentation
    from cag_uda.models.segmenter import Segmenter
    from cag_uda.prediction.predict import predict_files
    from cag_uda.runs.runner import Run, adapt

__version__ = "0.2.0"
__all__ = [
    "CategoryAnchors",
    "Method",
    "Run",
    "Segmentation",
    "Segmenter",
    "adapt",
    "by_anchor",
    "by_confidence",
    "load",
    "predict_files",
]

_HOMES = {
    "CategoryAnchors": "cag_uda.adaptation.anchors",
    "Method": "cag_uda.methods.base",
    "Run": "cag_uda.runs.runner",
    "Segmentation": "cag_uda.models.segmentation",
    "Segmenter": "cag_uda.models.segmenter",
    "adapt": "cag_uda.runs.runner",
    "by_anchor": "cag_uda.adaptation.pseudo_labels",
    "by_confidence": "cag_uda.adaptation.pseudo_labels",
    "load": "cag_uda.models",
    "predict_files": "cag_uda.prediction.predict",
}


def __getattr__(name: str) -> Any:
    """Load one of the public names (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cag_uda' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*globals(), *__all__])
