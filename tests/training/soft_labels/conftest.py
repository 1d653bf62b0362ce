"""The images, teachers and tables that the tests of kept soft labels share."""

import torch

from ardor.data.split import Split
from ardor.noise import Noise
from ardor.testing import TinyNet
from ardor.training.soft_labels import SoftLabels
from ardor.training.soft_labels.table import identity_of

CLASSES, N = 4, 40


def split(n=N, seed=0, channels=1, size=8, index=None, dtype=torch.uint8):
    index = torch.arange(n) if index is None else index
    images = Noise(seed, index, "images").integers(256, (channels, size, size)).to(torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    return Split(images, index % CLASSES, CLASSES, "drawn", "train", index=index)


class Counted(TinyNet):
    """A teacher that remembers how many images each forward was given."""

    def __init__(self, seed=5):
        super().__init__(1, CLASSES, 16, seed)
        self.calls = []
        for name, buffer in self.named_buffers():
            if "running" in name:
                drawn = Noise(seed, torch.arange(len(buffer)), name).uniform(())
                buffer.copy_(0.1 + 0.1 * drawn if "var" in name else 0.2 * drawn - 0.1)
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)


def opened(folder, teacher=None, data=None, **settings):
    settings = {"padding": 2, "flip": True, "classes": CLASSES, "dtype": "float32"} | settings
    data = split() if data is None else data
    return SoftLabels(folder, identity_of(teacher or Counted(), data, **settings), data)


def labels(index, view, seed=0):
    """What some other program might have put: logits that depend on image, view and seed alone."""
    return Noise(seed, index * 1000 + view, "labels").normal((CLASSES,))


def everything(views=50, n=N):
    return torch.arange(n).repeat_interleave(views), torch.arange(views).repeat(n)
