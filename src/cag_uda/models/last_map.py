"""A segmenter that also gives the backbone's last map, for losses on it."""

from torch import Tensor, nn

from cag_uda.models.segmenter import Segmenter
from cag_uda.types import DomainName, Prediction


class WithLastMap(nn.Module):
    """Prediction and last map in one pass, as one network that is trained.

    Args:
        segmenter: the network; it is kept, this is not.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor, domain: DomainName = "target") -> tuple[Prediction, Tensor]:
        """Segment images (B, 3, H, W) as `Segmenter.forward`.

        Returns:
            The segmenter's prediction, and the backbone's last map (B, C, h', w').
        """
        maps = self.segmenter.encode(image, domain)
        return self.segmenter.decode(maps, image), maps[-1]
