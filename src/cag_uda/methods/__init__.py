"""Adaptation methods: one file each, and the table of them all."""

from cag_uda.methods.adabn import AdaBN
from cag_uda.methods.adversarial import Adversarial
from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.methods.cag import CAG
from cag_uda.methods.source_only import SourceOnly

METHODS: dict[str, type[Method]] = {
    "source-only": SourceOnly,
    "adabn": AdaBN,
    "adversarial": Adversarial,
    "cag": CAG,
}
"""Every method by the name that recipes use. A new one is one file and one row here."""

__all__ = ["METHODS", "Method", "MethodConfig", "Passes"]
