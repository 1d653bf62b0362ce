"""Pure functions that distrust the model and the data: each returns a finding with its evidence, or None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ardor.data.split import Split


@dataclass(frozen=True)
class Finding:
    """Something a reader of a result must know: what was seen, and what to do next."""

    name: str
    severity: Literal["note", "warning", "error"]
    evidence: str
    next: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.evidence}; {self.next}"


def selection(data: Split) -> Finding | None:
    """The test set took part in choosing the checkpoint."""
    if not data.marks:
        return None
    return Finding("selection", "warning", "; ".join(data.marks), "report it as the papers' protocol, not as held out")


def training_mode(net: nn.Module) -> Finding | None:
    """The net came in training mode; it was judged in eval mode and put back."""
    on = [name or "the net itself" for name, module in net.named_modules() if module.training]
    if not on:
        return None
    evidence = f"{len(on)} modules were in training mode, the first is {on[0]}"
    return Finding("training_mode", "note", evidence, "judged in eval mode and put back")


def probabilities(logits: Tensor) -> Finding | None:
    """The net returns probabilities: rows that are non-negative and sum to 1 flatten the gradients of every attack."""
    sums = logits.sum(1)
    if bool((logits < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return None
    evidence = f"{len(logits)} outputs are non-negative and each sums to 1"
    return Finding("probabilities", "error", evidence, "return logits: drop the softmax, which hides gradients")


def one_step_wins(robust: Mapping[str, int]) -> Finding | None:
    """One step breaks more than twenty: the sign of gradients that are hidden, not absent."""
    iterated = [name for name in ("pgd_sat", "pgd_trades") if name in robust]
    if "fgsm" not in robust or not iterated:
        return None
    best = min(iterated, key=lambda name: robust[name])
    if robust["fgsm"] >= robust[best]:
        return None
    evidence = f"fgsm leaves {robust['fgsm']} images robust and {best} leaves {robust[best]}"
    return Finding("one_step_wins", "warning", evidence, "suspect hidden gradients: look at the loss along the steps")
