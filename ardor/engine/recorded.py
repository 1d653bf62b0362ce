"""The passes of a net by their images, so that a second loss on the same images needs no second pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Recorded:
    """A net that keeps the logits of each of its passes on images without a gradient.

    The passes of `attack_view` are not kept: it is given the net itself. Every attribute but `features` and `head` is
    the net's.

    Parameters
    ----------
    net : nn.Module or a view of one
        With `features` and `head` where the loss uses them.
    again : bool
        Return the same result for the same images without a second pass, as a frozen net's would be.
    """

    def __init__(self, net: Any, again: bool = False) -> None:
        self.net, self.again = net, again
        self.passes: list[tuple[Tensor, Tensor]] = []
        self._features: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.of(x) if self.again else self._keep(x, self.net(x))

    def of(self, x: Tensor) -> Tensor:
        """The logits of these very images: those of the first pass on them, else of a new one."""
        kept = next((logits for images, logits in self.passes if images is x), None)
        return self._keep(x, self.net(x)) if kept is None else kept

    def as_given(self) -> Any:
        """The net itself."""
        return self.net

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is a net
            raise AttributeError(name)
        value = getattr(self.__dict__["net"], name)
        return {"features": self._pass_features, "head": self._pass_head}.get(name, value)

    def _keep(self, x: Tensor, logits: Tensor) -> Tensor:
        if not x.requires_grad:  # an iterate of an attack
            self.passes.append((x, logits))
        return logits

    def _pass_features(self, x: Tensor) -> Tensor:
        if self.again and not x.requires_grad:
            for kept, images in self._features:
                if images is x:
                    return kept
        h: Tensor = self.net.features(x)
        self._features.append((h, x))
        return h

    def _pass_head(self, h: Tensor) -> Tensor:
        logits: Tensor = self.net.head(h)
        for features, x in self._features:
            if features is h:
                self._keep(x, logits)
        return logits
