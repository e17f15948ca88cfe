"""Adaptation methods: one file each, and the table of them all."""

from cag_uda.methods.adabn import AdaBN
from cag_uda.methods.adaptsegnet import AdaptSegNet
from cag_uda.methods.advent import Advent
from cag_uda.methods.adversarial import Adversarial
from cag_uda.methods.anchor_classifier import AnchorClassifier
from cag_uda.methods.base import Method, MethodConfig, Passes
from cag_uda.methods.cag import CAG
from cag_uda.methods.cag_plus import CAGPlus
from cag_uda.methods.cag_plus_source_free import CAGPlusSourceFree
from cag_uda.methods.cag_released import CAGReleased
from cag_uda.methods.cbst import CBST
from cag_uda.methods.colour_transfer import RecolouredSource
from cag_uda.methods.dacs import DACS
from cag_uda.methods.minent import MinEnt
from cag_uda.methods.source_only import SourceOnly

METHODS: dict[str, type[Method]] = {
    "source-only": SourceOnly,
    "adabn": AdaBN,
    "anchor-classifier": AnchorClassifier,
    "colour-transfer": RecolouredSource,
    "adversarial": Adversarial,
    "adaptsegnet": AdaptSegNet,
    "advent": Advent,
    "minent": MinEnt,
    "cbst": CBST,
    "dacs": DACS,
    "cag": CAG,
    "cag-released": CAGReleased,
    "cag-plus": CAGPlus,
    "cag-plus-source-free": CAGPlusSourceFree,
}
"""Every method by the name that recipes use. A new one is one file and one row here."""

__all__ = ["METHODS", "Method", "MethodConfig", "Passes"]
