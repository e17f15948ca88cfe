"""ResNet in the transformers layout, with strides traded for dilation."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer

from cag_uda.errors import ModelError
from cag_uda.models.backbone import Backbone
from cag_uda.models.published import load_published

_STAGES = ("stage1", "stage2", "stage3", "stage4")


class ResNet(Backbone):
    """He et al., *Deep Residual Learning*, 2015, in the transformers layout; dilated on demand.

    Source: strides become dilation in the last stages as in Chen et al., *DeepLab*, 2017; the
    multi-grid is of Chen et al., *Rethinking Atrous Convolution* (DeepLab v3), 2017.
    """

    dilates_late: ClassVar[bool] = False
    """True if the first block of a stage whose stride becomes dilation keeps the dilation rate of
    the stage before."""
    pools_beyond_edge: ClassVar[bool] = False
    """True if the pooling of the stem counts the windows that reach beyond the edge."""
    network: ResNetBackbone
    blocks = (ResNetBasicLayer, ResNetBottleNeckLayer)

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: str | None,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        full = ResNetConfig(**config, out_features=list(_STAGES))  # type: ignore[call-arg]
        self.network = ResNetBackbone(full)
        self.network.embedder.pooler.ceil_mode = self.pools_beyond_edge
        self.channels = tuple(config["hidden_sizes"])
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
        if weights is not None:
            self.origin = load_published(self.network, weights)
        grid = list(multi_grid or [1] * config["depths"][-1])
        if len(grid) != config["depths"][-1]:
            raise ModelError(
                f"multi_grid {grid} has {len(grid)} factors, but the backbone's last stage has "
                f"{config['depths'][-1]} blocks; give one for each"
            )
        _dilate(self.network, output_stride, grid, self.dilates_late)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to four maps (B, C_i, h_i, w_i), stride 4 first."""
        return list(self.network(image).feature_maps)


class CaffeResNet(ResNet):
    """The ResNet of DeepLab v2 and of the adaptation methods that stand on it.

    Stages stride in the first 1×1 convolution of their first bottleneck (`downsample_in_bottleneck`
    in the row's configuration), and the pooling of the stem counts the windows that reach beyond
    the edge.

    Source: Tsai et al., *AdaptSegNet*, CVPR 2018, model/deeplab_multi.py.
    """

    pools_beyond_edge = True


class TorchvisionResNet(ResNet):
    """The ResNet of torchvision's DeepLab v3 and FCN.

    Source: torchvision, models/resnet.py, `_make_layer` with `replace_stride_with_dilation`: what
    a stage's first block sees still lies as far apart as before.
    """

    dilates_late = True


def _dilate(
    network: ResNetBackbone, output_stride: int, multi_grid: Sequence[int], is_late: bool
) -> None:
    """Trade the strides beyond `output_stride` for dilation, in place."""
    stride, dilation = 4, 1
    last = network.encoder.stages[-1]
    for stage in network.encoder.stages[1:]:
        stride *= 2
        keeps_its_stride, before = stride <= output_stride, dilation
        dilation *= 1 if keeps_its_stride else 2
        for index, block in enumerate(cast(nn.Sequential, stage.layers)):
            rate = before if is_late and index == 0 else dilation
            rate *= multi_grid[index] if stage is last else 1
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    _set_rate(module, rate, keeps_its_stride)


def _set_rate(convolution: nn.Conv2d, rate: int, keeps_its_stride: bool) -> None:
    if not keeps_its_stride:
        convolution.stride = (1, 1)
    if convolution.kernel_size == (3, 3):
        convolution.dilation = (rate, rate)
        convolution.padding = (rate, rate)
