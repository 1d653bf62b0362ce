"""A third-party net: images in [0, 1] to logits, nothing normalised outside."""

from torch import nn


class Net(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, classes, channels, width):
        super().__init__()
        conv1, conv2 = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.body = nn.Sequential(conv1, nn.BatchNorm2d(width), nn.ReLU(), conv2, nn.BatchNorm2d(2 * width), nn.ReLU())
        self.linear = nn.Linear(2 * width, classes)

    def features(self, x):
        """(B, channels, H, W) -> (B, 2 width)."""
        return self.body(x).mean((2, 3))

    def head(self, features):
        """(B, 2 width) -> (B, classes)."""
        return self.linear(features)

    def forward(self, x):
        """Images to logits."""
        return self.head(self.features(x))


def build(classes: int, channels: int, width: int = 8):
    """Called by `--student net.py:build`; width is the option `--student.width`."""
    return Net(classes, channels, width)
