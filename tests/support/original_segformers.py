"""SegFormers and DAFormers of other people's code in plain torch, with their own names.

Written from the architectures' descriptions: a MiT as NVIDIA's code and as mmsegmentation has it,
and the heads of NVIDIA, mmsegmentation and DAFormer. What imported weights must compute is measured
against these.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES, HEADS, REDUCTIONS = (8, 16, 24, 32), (1, 2, 2, 2), (8, 4, 2, 1)
"""Of the row `mit-micro`, with one block a stage."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_norm = partial(nn.LayerNorm, eps=1e-6)


def _as_map(x: Tensor, size: torch.Size) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), -1, *size)


def _as_cells(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class _Embedding(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, first: str) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.first = first
        self.add_module(first, convolution)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        x = self.get_submodule(self.first)(x)
        return self.norm(_as_cells(x)), x.shape[2:]


class _Attention(nn.Module):
    """NVIDIA's: one tensor of keys and values."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        seen = x
        if hasattr(self, "sr"):
            seen = self.norm(_as_cells(self.sr(_as_map(x, size))))
        keys, values = self.kv(seen).chunk(2, dim=-1)

        def split(each: Tensor) -> Tensor:
            return each.reshape(*each.shape[:2], self.heads, -1).transpose(1, 2)

        query, keys, values = split(self.q(x)), split(keys), split(values)
        scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed: Tensor = self.proj((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))
        return mixed


class _DepthWise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dwconv = _DepthWise(4 * width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        inner = _as_cells(self.dwconv.dwconv(_as_map(self.fc1(x), size)))
        out: Tensor = self.fc2(F.gelu(inner))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attn, self.mlp = _Attention(width, heads, reduction), _Mlp(width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        out: Tensor = x + self.mlp(self.norm2(x), size)
        return out


class MiT(nn.Module):
    """NVIDIA's, which DAFormer has too."""

    def __init__(self) -> None:
        super().__init__()
        for stage, (width, heads, reduction) in enumerate(
            zip(SIZES, HEADS, REDUCTIONS, strict=True)
        ):
            inputs, kernel, stride = (3, 7, 4) if stage == 0 else (SIZES[stage - 1], 3, 2)
            embedding = _Embedding(inputs, width, kernel, stride, "proj")
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", nn.ModuleList([_Block(width, heads, reduction)]))
            self.add_module(f"norm{stage + 1}", _norm(width))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in range(1, 5):
            x, size = self.get_submodule(f"patch_embed{stage}")(x)
            x = self.get_submodule(f"block{stage}.0")(x, size)
            x = _as_map(self.get_submodule(f"norm{stage}")(x), size)
            maps.append(x)
        return maps


class _TorchAttention(nn.Module):
    """mmsegmentation's, by torch's own attention."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = _norm(width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        seen = x
        if hasattr(self, "sr"):
            seen = self.norm(_as_cells(self.sr(_as_map(x, size))))
        mixed: Tensor = self.attn(x, seen, seen)[0]
        return mixed


class _Convolutions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Conv2d(4 * width, width, 1),
            nn.Dropout(0.0),
        )


class _MMBlock(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attn, self.ffn = _TorchAttention(width, heads, reduction), _Convolutions(width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        return x + _as_cells(self.ffn.layers(_as_map(self.norm2(x), size)))


class MMMiT(nn.Module):
    """mmsegmentation's."""

    def __init__(self) -> None:
        super().__init__()
        stages = []
        for stage, (width, heads, reduction) in enumerate(
            zip(SIZES, HEADS, REDUCTIONS, strict=True)
        ):
            inputs, kernel, stride = (3, 7, 4) if stage == 0 else (SIZES[stage - 1], 3, 2)
            embedding = _Embedding(inputs, width, kernel, stride, "projection")
            blocks = nn.ModuleList([_MMBlock(width, heads, reduction)])
            stages.append(nn.ModuleList([embedding, blocks, _norm(width)]))
        self.layers = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in range(4):
            x, size = self.get_submodule(f"layers.{stage}.0")(x)
            x = self.get_submodule(f"layers.{stage}.1.0")(x, size)
            x = _as_map(self.get_submodule(f"layers.{stage}.2")(x), size)
            maps.append(x)
        return maps


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class _ConvModule(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, 1, padding, dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return _as_map(self.proj(_as_cells(x)), x.shape[2:])


class NvidiaHead(nn.Module):
    """SegFormer's released head, coarsest level first, with the classifier that nothing uses."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        for level, size in enumerate(SIZES, start=1):
            self.add_module(f"linear_c{level}", _Linear(size, width))
        self.linear_fuse = _ConvModule(4 * width, width)
        self.linear_pred = nn.Conv2d(width, num_classes, 1)
        self.conv_seg = nn.Conv2d(128, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = [
            _resized(self.get_submodule(f"linear_c{level}")(maps[level - 1]), maps[0])
            for level in (4, 3, 2, 1)
        ]
        features = self.linear_fuse(torch.cat(levels, dim=1))
        return features, self.linear_pred(features)


class MMHead(nn.Module):
    """mmsegmentation's SegFormer head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_ConvModule(size, 256) for size in SIZES)
        self.fusion_conv = _ConvModule(1024, 256)
        self.conv_seg = nn.Conv2d(256, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = [
            _resized(convolution(x), maps[0])
            for convolution, x in zip(self.convs, maps, strict=True)
        ]
        features = self.fusion_conv(torch.cat(levels, dim=1))
        return features, self.conv_seg(features)


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.depthwise_conv = _ConvModule(inputs, inputs, 3, dilation, groups=inputs)
        self.pointwise_conv = _ConvModule(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class _ASPP(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        modules = [_Separable(inputs, 256, dilation) for dilation in (6, 12, 18)]
        self.aspp_modules = nn.ModuleList([_ConvModule(inputs, 256), *modules])
        self.bottleneck = _ConvModule(1024, 256, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bottleneck(torch.cat([each(x) for each in self.aspp_modules], dim=1))
        return out


class DAFormerHead(nn.Module):
    """DAFormer's, with context by separable convolutions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed_layers = nn.ModuleDict(
            {str(level): _Linear(size, 256) for level, size in enumerate(SIZES)}
        )
        self.fuse_layer = _ASPP(1024)
        self.conv_seg = nn.Conv2d(256, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = [_resized(self.embed_layers[str(i)](x), maps[0]) for i, x in enumerate(maps)]
        features = self.fuse_layer(torch.cat(levels, dim=1))
        return features, self.conv_seg(features)


class Original(nn.Module):
    """A backbone and a head, of RGB images in [0, 1]."""

    def __init__(self, backbone: nn.Module, decode_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.decode_head = backbone, decode_head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, h, w) and logits (B, K, h, w)."""
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
        features, logits = self.decode_head(self.backbone((image - mean) / std))
        return features, logits
