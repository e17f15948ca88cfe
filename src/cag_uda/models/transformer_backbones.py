"""Modern backbones: SegFormer's MiT, ConvNeXt V2, Swin V2, and the plain ViTs DINOv2 and DINOv3.

Their norms are layer norms, so that what is kept per domain are the decoder's batch norms alone.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from transformers import (
    ConvNextV2Backbone,
    ConvNextV2Config,
    Dinov2Backbone,
    Dinov2Config,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerConfig,
    SegformerModel,
    Swinv2Backbone,
    Swinv2Config,
)
from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2Layer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer
from transformers.models.segformer.modeling_segformer import SegformerLayer
from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer

from cag_uda.models.backbone import Backbone, multiples, refuse_multi_grid
from cag_uda.models.mit_names import in_transformers_names, mit_parts
from cag_uda.models.published import inner_backbone, load_transformer


class TransformerBackbone(Backbone):
    """A network of one of these families."""

    network_class: ClassVar[type[PreTrainedModel]]
    config_class: ClassVar[type[PreTrainedConfig]]
    beside: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of tensors that published weights may lack."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: str | None,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        refuse_multi_grid(self.config_class.model_type, multi_grid)
        full = self.config_class(**config, **self.levels(config))
        if weights is None:
            self.network = self.network_class(full)
        else:
            self.network, self.origin = load_transformer(
                self.network_class, full, weights, self.beside, self.own_names
            )
        self.network.train()
        for name, parameter in self.network.named_parameters():
            # Stands in for patches that pretraining hides. Nothing is hidden here, and a parameter
            # that gets no gradient would keep several processes waiting for it.
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)

    def own_names(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Give weights of other layouts the names of transformers; name what lies beside them."""
        return tensors, []

    @abstractmethod
    def levels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Set `channels` and `strides`; returns what tells the network which maps to give."""

    def maps(self, image: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) of a fit size to four maps (B, C_i, h_i, w_i), finest first."""
        return list(self.network(image).feature_maps)


class _FourStages(TransformerBackbone):
    """Four stages at strides 4, 8, 16 and 32."""

    strides = (4, 8, 16, 32)

    def levels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give all four stages."""
        self.channels = tuple(config["hidden_sizes"])
        return {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


class MixTransformer(_FourStages):
    """MiT, the encoder of SegFormer: overlapping patches, attention to a coarser grid.

    Source: Xie et al., *SegFormer*, NeurIPS 2021; in domain adaptation since Hoyer et al.,
    *DAFormer*, CVPR 2022.
    """

    network_class, config_class = SegformerModel, SegformerConfig
    blocks = (SegformerLayer,)

    def own_names(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Names of NVIDIA's code and of mmsegmentation too, inside other networks too."""
        own, beside = inner_backbone(tensors, mit_parts)
        return in_transformers_names(own), beside

    def levels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give all four stages, which are this network's hidden states."""
        super().levels(config)
        return {}

    def maps(self, image: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) of any size from 32 pixels to four maps (B, C_i, h_i, w_i)."""
        return list(self.network(image, output_hidden_states=True).hidden_states)


class ConvNextV2(_FourStages):
    """ConvNeXt V2: a convolutional network in the form of a transformer.

    The norms of its four maps are its user's own; they start afresh.

    Source: Woo et al., *ConvNeXt V2*, CVPR 2023.
    """

    network_class, config_class = ConvNextV2Backbone, ConvNextV2Config
    blocks = (ConvNextV2Layer,)
    multiple = 32
    beside = ("hidden_states_norms.",)


class _AlwaysPadded(Swinv2Layer):
    """Pads maps to whole windows and cuts them again, be it by nothing.

    The layer of transformers cuts if it has padded, which is no question that an exported graph can
    ask: it serves images of sizes that fit the windows and of sizes that do not.
    """

    def maybe_pad(
        self, hidden_states: Tensor, height: int, width: int
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Maps (B, h, w, C) of whole windows, and what makes the layer cut them to h and w."""
        below, right = (
            multiples(side, self.window_size) * self.window_size - side for side in (height, width)
        )
        return F.pad(hidden_states, (0, 0, 0, right, 0, below)), (0, 0, 0, 1, 0, 1)


class SwinV2(_FourStages):
    """Swin V2: attention in shifted windows. It pads what does not fit its windows by itself.

    Source: Liu et al., *Swin Transformer V2*, CVPR 2022.
    """

    network_class, config_class = Swinv2Backbone, Swinv2Config
    blocks = (Swinv2Layer,)
    multiple = 32

    def __init__(self, *form: Any, **more: Any) -> None:
        super().__init__(*form, **more)
        for layer in self.network.modules():
            if isinstance(layer, Swinv2Layer):
                layer.__class__ = _AlwaysPadded

    def levels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give all four stages, each of twice the channels of the one before."""
        widths = [config["embed_dim"] * 2**stage for stage in range(4)]
        return super().levels({"hidden_sizes": widths})


class PlainViT(TransformerBackbone):
    """A ViT of one width and stride; its maps are what four equally spaced depths give."""

    beside = ("embeddings.mask_token",)
    patch_px: ClassVar[int]

    def levels(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the depths at a quarter, a half, three quarters and the end."""
        self.channels = (config["hidden_size"],) * 4
        self.strides = (self.patch_px,) * 4
        count = config["num_hidden_layers"]
        return {
            "patch_size": self.patch_px,
            "out_features": [f"stage{count * quarter // 4}" for quarter in (1, 2, 3, 4)],
        }


class DINOv2(PlainViT):
    """DINOv2: patches of 14 pixels, position embeddings that are resized to the image.

    Source: Oquab et al., *DINOv2*, 2023; in domain adaptation Englert et al., *Exploring the
    Benefits of Vision Foundation Models for Unsupervised Domain Adaptation* (VFM-UDA), 2024.
    """

    network_class, config_class = Dinov2Backbone, Dinov2Config
    blocks = (Dinov2Layer,)
    patch_px = multiple = 14


class DINOv3(PlainViT):
    """DINOv3's ViT: patches of 16 pixels, rotary positions, register tokens.

    Source: Siméoni et al., *DINOv3*, 2025.
    """

    network_class, config_class = DINOv3ViTBackbone, DINOv3ViTConfig
    blocks = (DINOv3ViTLayer,)
    patch_px = multiple = 16
