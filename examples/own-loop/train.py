"""Category anchors in a training loop of one's own: python train.py, seconds on a CPU.

The network and the images are yours; `CategoryAnchors` and `by_anchor` are plain PyTorch and need
nothing else of the package. Here the network is three convolutions, the source coloured blocks by
daylight with labels, the target the same kind of blocks at dusk, whose labels only score.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cag_uda import CategoryAnchors, by_anchor
from cag_uda.adaptation import RelativeMargin

COLOURS = torch.tensor([[0.5, 0.25, 0.5], [0.0, 0.1, 0.7], [0.2, 0.6, 0.2], [0.5, 0.7, 0.85]])
CLASSES, CHANNELS = len(COLOURS), 16


class Network(nn.Module):
    """Features (B, D, h, w), and a classifier (B, K, h, w) on top of them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )
        self.classifier = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to features and logits, here on the grid of the pixels."""
        features = self.features(image)
        return features, self.classifier(features.relu())


def blocks(count: int, is_dusk: bool) -> tuple[Tensor, Tensor]:
    """Images (B, 3, 32, 32) of coloured blocks and their labels (B, 32, 32)."""
    label = torch.randint(CLASSES, (count, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = COLOURS[label].permute(0, 3, 1, 2)
    if is_dusk:
        image = 0.55 * image + torch.tensor([0.0, 0.02, 0.12]).view(3, 1, 1)
    return image + 0.05 * torch.randn_like(image), label


@torch.no_grad()
def accuracy(network: Network, image: Tensor, label: Tensor) -> float:
    """Share of pixels whose class is right."""
    network.eval()
    return float((network(image)[1].argmax(1) == label).float().mean())


def train(network: Network, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> None:
    """Some steps of cross entropy on both domains; 255 is no label."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(60):
        loss = cross_entropy(network(source[0])[1], source[1])
        if (target[1] != 255).any():
            loss = loss + cross_entropy(network(target[0])[1], target[1], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Train on the source, then stage by stage on anchor-based pseudo-labels of the target."""
    torch.manual_seed(0)
    source, target = blocks(16, is_dusk=False), blocks(16, is_dusk=True)
    network = Network()
    train(network, source, (target[0], torch.full_like(target[1], 255)))
    print(f"source only: {accuracy(network, *target):.3f}")
    for stage in (1, 2, 3):
        network.eval()
        anchors = CategoryAnchors(num_classes=CLASSES, feature_channels=CHANNELS)
        with torch.no_grad():
            anchors.update(network(source[0])[0], source[1])
            distances = anchors.distances(network(target[0])[0])
        pseudo = by_anchor(distances, RelativeMargin(0.3))
        covered = float((pseudo.label != 255).float().mean())
        train(network, source, (target[0], pseudo.label))
        print(f"stage {stage}: {accuracy(network, *target):.3f}, {covered:.2f} of it labelled")


if __name__ == "__main__":
    main()
