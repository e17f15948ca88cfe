"""A segmenter with a second classifier on an earlier map, for training at two levels."""

from torch import Tensor, nn

from cag_uda.models.decoders import AtrousClassifier, DeepLabV2
from cag_uda.models.segmenter import Segmenter
from cag_uda.types import DomainName, Prediction


def auxiliary_classifier(segmenter: Segmenter) -> AtrousClassifier:
    """Make a classifier of the map before the backbone's last one: layer3 of a ResNet.

    It has four dilations whatever the segmenter's own classifier has.
    """
    return AtrousClassifier(
        segmenter.backbone.channels[-2], segmenter.num_classes, DeepLabV2.dilations
    )


class TwoLevelSegmenter(nn.Module):
    """Segmenter and auxiliary classifier in one pass, as one network that is trained.

    Prediction needs the segmenter alone, so the second level lives no longer than its training.

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018, the multi-level form.
    """

    def __init__(self, segmenter: Segmenter, auxiliary: AtrousClassifier) -> None:
        super().__init__()
        self.segmenter, self.auxiliary = segmenter, auxiliary

    def forward(self, image: Tensor, domain: DomainName = "target") -> tuple[Prediction, Tensor]:
        """Segment images (B, 3, H, W) as `Segmenter.forward`, at two levels.

        Returns:
            The segmenter's prediction, and the auxiliary logits (B, K, h', w') at the stride of the
            earlier map.
        """
        maps = self.segmenter.encode(image, domain)
        size = self.segmenter.input_size(image)
        auxiliary = self.segmenter.crop(self.auxiliary(maps[-2]), size)
        return self.segmenter.decode(maps, image), auxiliary
