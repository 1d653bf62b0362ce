"""The teacher of one batch: cached logits for the clean images, the net for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ardor.errors import CheckpointError
from ardor.training.soft_labels.table import CHUNK, SoftLabels
from ardor.types import Images, Logits

CHECK_EVERY = 50
"""Batches from one spot check to the next; the first batch with a known row is checked."""
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 5e-2}
"""Of a spot check, by the precision of the table's entries or of the teacher's passes, whichever is coarser."""


class CachedTeacher:
    """A frozen teacher for one batch, whose logits of the clean images come from a table.

    A call with x itself returns cached logits, without a gradient; unknown rows are computed and written. Any other
    argument, also a copy of x, an x that requires a gradient or one that was changed in place, is a call of the
    teacher. Every attribute, such as `features` and `head`, is the teacher's.

    Parameters
    ----------
    teacher : nn.Module
        In eval mode.
    table : SoftLabels
        Of this teacher.
    x : Tensor
        Images (B, C, H, W).
    index, view : Tensor
        (B,) positions in the data set, and numbers of views.

    Raises
    ------
    CheckpointError
        In a call, where a spot check of the table fails.
    """

    def __init__(self, teacher: nn.Module, table: SoftLabels, x: Images, index: Tensor, view: Tensor) -> None:
        self._net, self._table, self._x, self._version = teacher, table, x, x._version
        self._index, self._view = index.cpu(), view.cpu()

    def __call__(self, x: Images) -> Logits:
        """Logits (B, C) of x's device and dtype."""
        net, table, index, view = self._net, self._table, self._index, self._view
        if x is not self._x or x._version != self._version or x.requires_grad or net.training:
            return net(x)  # type: ignore[no-any-return]
        logits, known = table.get(index, view)
        if known.any():
            if table.calls % CHECK_EVERY == 0:
                spot_check(net, table, x, index, logits, known.nonzero().flatten()[:CHUNK])
            table.calls += 1
        missing = (~known).nonzero().flatten()
        if len(missing):
            logits = logits.clone()
            logits[missing] = table.put(index[missing], view[missing], live(net, x, missing))
        if x.is_cuda:
            logits = logits.pin_memory()  # for a copy without a host sync
        return logits.to(x, non_blocking=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is a net
            raise AttributeError(name)
        return getattr(self.__dict__["_net"], name)

    def part(self, x: Images, rows: slice) -> CachedTeacher:
        """The teacher of `x`, some rows of the batch."""
        return CachedTeacher(self._net, self._table, x, self._index[rows], self._view[rows])

    def as_given(self) -> nn.Module:
        """The teacher itself."""
        return self._net


def live(teacher: nn.Module, x: Images, rows: Tensor) -> Logits:
    """The teacher's logits on some rows of x, in batches of CHUNK that are padded by repetition.

    Rounding depends on the size of a batch: at one size the logits of a row are the same, to the last bit, whichever
    rows are missing, in any process and after any interruption.
    """
    parts = []
    with torch.no_grad():
        for part in rows.split(CHUNK):
            filled = part[torch.arange(CHUNK) % len(part)].to(x.device)
            parts.append(teacher(x[filled])[: len(part)])
    return torch.cat(parts)


def spot_check(teacher: nn.Module, table: SoftLabels, x: Images, index: Tensor, logits: Logits, rows: Tensor) -> None:
    """Compare some rows of the table's logits with the teacher's. Raises CheckpointError where they differ."""
    true = live(teacher, x, rows).to("cpu", torch.float32)
    off = (logits[rows] - true).norm(dim=1) / true.norm(dim=1).clamp_min(1e-12)
    coarse = max(TOLERANCE[table.identity[key]] for key in ("dtype", "precision") if key in table.identity)
    wrong = (~(off <= coarse)).nonzero().flatten()  # also NaN
    if len(wrong):
        worst = wrong[0]
        raise CheckpointError(
            f"expected the teacher's own soft labels in {table.folder}, got others for {len(wrong)} of {len(rows)} "
            f"images (image {int(index[rows[worst]])} is off by {float(off[worst]):.2g}): its logits have "
            "changed since, or differ from call to call; delete the folder, or type --soft_labels live and a new --run"
        )
