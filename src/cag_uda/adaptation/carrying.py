"""Figures of a source carried from one network's features to another's, without the source.

While a network is trained its features move, and earlier anchors lie where the classes were. The
affine map that takes features of some pixels before to those after, by least squares, takes the
anchors along.

Sources: Yu et al., *Semantic Drift Compensation for Class-Incremental Learning*, CVPR 2020; the
linear map is Gomez-Villa et al., *Exemplar-free Continual Representation Learning via Learnable
Drift Compensation*, ECCV 2024.
"""

import torch

from cag_uda.adaptation.adapted_anchors import AllReduce, FeatureSample, SourceFigures

_RIDGE = 1e-4
"""Ridge of the regression, as a share of the channels' mean variance: it keeps the map near the
identity in directions in which the pixels' features hardly vary."""


@torch.no_grad()
def carried(figures: SourceFigures, pairs: FeatureSample, all_reduce: AllReduce) -> SourceFigures:
    """Carry a source's figures along with the features.

    Anchors are mapped; the covariance within classes becomes that of the mapped features plus that
    of what the map does not explain; T stays.

    Args:
        figures: in the features before, of D channels.
        pairs: pixels with 2D channels, the features before, then those after; each process has
            sampled its own images.
        all_reduce: gives the sum of a tensor over all processes.

    Returns:
        Figures in the features after; the given ones, if no pixel was sampled.
    """
    channels = len(figures.covariance)
    rows, _ = pairs.rows(2 * channels, figures.vectors)
    rows = rows.double()
    total = all_reduce(rows.new_tensor(float(len(rows))))
    if not bool(total):
        return figures
    mean = all_reduce(rows.sum(dim=0)) / total
    around = rows - mean
    scatter = all_reduce(around.t() @ around) / total
    before, across = scatter[:channels, :channels], scatter[:channels, channels:]
    ridge = _RIDGE * before.diagonal().mean() + 1e-12
    identity = torch.eye(channels).to(before)
    weight = identity + torch.linalg.solve(before + ridge * identity, across - before)
    left = scatter[channels:, channels:] - weight.t() @ across - across.t() @ weight
    left += weight.t() @ before @ weight
    covariance = weight.t() @ figures.covariance.double() @ weight + left
    moved = (figures.vectors.double() - mean[:channels]) @ weight + mean[channels:]
    return figures._replace(vectors=moved.float(), covariance=covariance.float())
