"""The teacher that a method sees for one batch: it looks up what it said about x before, and is live about all else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ardor.errors import CheckpointError
from ardor.training.soft_labels.table import CHUNK, SoftLabels
from ardor.types import Images, Logits

CHECK_EVERY = 50
"""Batches between two spot checks; the first batch that finds anything in the table is checked."""
TOLERANCE = {"float32": 1e-4, "float16": 2e-3}


class CachedTeacher:
    """A frozen teacher for the batch x, (B, C, H, W): view `view` (B,) of the images at `index` (B,) of the data set.

    Called with x itself it answers from `table`, and asks the teacher only about rows that are not in it, which it
    then keeps. Any other argument, a copy of x too, goes to the teacher, and so does x once it wants a gradient or was
    changed in place. Every attribute is the teacher's: `features` and `head` are live. An answer out of the table has
    no gradient.

    Raises CheckpointError where a spot check finds that the table is not this teacher's.
    """

    def __init__(self, teacher: nn.Module, table: SoftLabels, x: Images, index: Tensor, view: Tensor) -> None:
        self.__dict__.update(net=teacher, table=table, x=x, version=x._version)
        self.__dict__.update(index=index.cpu(), view=view.cpu())

    def __call__(self, x: Images) -> Logits:
        """Logits (B, C) of x's device and dtype."""
        own = self.__dict__
        if x is not own["x"] or x._version != own["version"] or x.requires_grad or own["net"].training:
            return own["net"](x)  # type: ignore[no-any-return]
        return self._answer(own["net"], own["table"], x, own["index"], own["view"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for these before there is a teacher
            raise AttributeError(name)
        return getattr(self.__dict__["net"], name)

    def as_given(self) -> nn.Module:
        """The teacher itself."""
        return self.__dict__["net"]  # type: ignore[no-any-return]

    def _answer(self, net: nn.Module, table: SoftLabels, x: Images, index: Tensor, view: Tensor) -> Logits:
        logits, known = table.get(index, view)
        if known.any():
            if table.asked % CHECK_EVERY == 0:
                spot_check(net, table, x, index, logits, known.nonzero().flatten()[:CHUNK])
            table.asked += 1
        missing = (~known).nonzero().flatten()
        if len(missing):
            logits = logits.clone()
            logits[missing] = table.put(index[missing], view[missing], live(net, x, missing))
        if x.is_cuda:
            logits = logits.pin_memory()  # so that the copy does not wait for what the GPU is at
        return logits.to(x, non_blocking=True)


def live(teacher: nn.Module, x: Images, rows: Tensor) -> Logits:
    """The teacher's logits on some rows of x, CHUNK at a time and padded by repetition.

    A forward of another size may round otherwise: at one size an answer is the same, to the last bit, whichever rows
    are missing, whoever computes it, and after any interruption.
    """
    parts = []
    with torch.no_grad():
        for part in rows.split(CHUNK):
            filled = part[torch.arange(CHUNK) % len(part)].to(x.device)
            parts.append(teacher(x[filled])[: len(part)])
    return torch.cat(parts)


def spot_check(teacher: nn.Module, table: SoftLabels, x: Images, index: Tensor, logits: Logits, rows: Tensor) -> None:
    """Compare some rows of the table's logits with the teacher's. Raises CheckpointError where they are others."""
    true = live(teacher, x, rows).to("cpu", torch.float32)
    off = (logits[rows] - true).norm(dim=1) / true.norm(dim=1).clamp_min(1e-12)
    wrong = (~(off <= TOLERANCE[table.identity["dtype"]])).nonzero().flatten()  # NaN is wrong too
    if len(wrong):
        worst = wrong[0]
        raise CheckpointError(
            f"expected the teacher's own soft labels in {table.folder}, got others for {len(wrong)} of {len(rows)} "
            f"images (image {int(index[rows[worst]])} is off by {float(off[worst]):.2g}): it answers otherwise "
            "than when they were kept, or differently each time; delete the folder, or type --soft_labels live and a "
            "new --run"
        )
