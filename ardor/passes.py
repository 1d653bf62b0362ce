"""Counting the passes through a net: what an attack costs, whatever machine it runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ardor.twin import as_given
from ardor.types import Images, Logits, Net


class Counted:
    """A net that counts the images that pass through it, forward and backward to the input; otherwise it is `net`.

    tick: called after every forward pass with the number of passes of a batch so far, whatever its size.
    """

    def __init__(self, net: Net, tick: Callable[[int], None] | None = None) -> None:
        self.net, self.tick = net, tick
        self.reset()

    def __call__(self, x: Images) -> Logits:
        """Images to logits."""
        logits = self.net(x)
        self.forwards += len(x)
        self.calls += 1
        if logits.requires_grad:
            logits.register_hook(self._back)
        if self.tick is not None:
            self.tick(self.calls)
        return logits

    def as_given(self) -> Any:
        """The net that was given, as for its twin."""
        return as_given(self.net)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["net"], name)

    def reset(self) -> None:
        """Begin to count again."""
        self.forwards = self.backwards = self.calls = 0

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)
        self.calls += 1
