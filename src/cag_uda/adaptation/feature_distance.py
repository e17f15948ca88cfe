"""Distance of the features of a backbone from those that it began with.

Published weights know many things that the source's images do not teach; features that stay near
theirs do not forget them.

Knows features and labels as tensors; not the networks.

Source: Hoyer et al., *DAFormer*, CVPR 2022, section 3.3 and its released code (calc_feat_dist).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cag_uda.adaptation.labels import one_hot
from cag_uda.adaptation.losses import pixel_mean
from cag_uda.adaptation.precision import at_least_float32
from cag_uda.errors import ShapeError


def feature_distance(
    features: Tensor, initial: Tensor, label: Tensor, counted: Tensor, least_share: float = 0.75
) -> Tensor:
    """Euclidean distance between two networks' features, mean over the cells of some classes.

    Args:
        features: (B, C, h, w) of the network in training.
        initial: (B, C, h, w) of the network that it began as, for the same images; constants.
        label: (B, H, W) int64 train ids with IGNORE.
        counted: (K,) bool, the classes whose cells count; DAFormer has those of things.
        least_share: of a cell's pixels that must be of one class for the cell to be of it.

    Returns:
        Scalar mean of ‖f − f₀‖₂, in feature units; 0 with zero gradients where no cell counts.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    if features.ndim != 4 or features.shape != initial.shape or len(label) != len(features):
        raise ShapeError(
            "feature_distance wants features (B, C, h, w) of one shape and a label (B, H, W), got "
            f"{tuple(features.shape)}, {tuple(initial.shape)} and {tuple(label.shape)}"
        )
    cells = (features.shape[2], features.shape[3])
    rows = one_hot(label, len(counted))[:, counted]
    share = F.adaptive_avg_pool2d(rows.reshape(len(label), -1, *label.shape[1:]), cells)
    # Pooled means of ones may fall short of 1 by rounding.
    is_counted = (share >= least_share - 1e-4).any(dim=1)
    apart = at_least_float32(features) - at_least_float32(initial).detach()
    distance = torch.linalg.vector_norm(apart, dim=1) * is_counted
    return pixel_mean(distance.sum(), is_counted.sum())
