"""Averages of the student's weights during training, and the batch-norm statistics of an average.

EMA   w <- d w + (1 - d) w_student after every step; Gowal et al. (2020) use it for robust training
SWA   w <- the mean of w_student at the ends of some epochs; Izmailov et al. (UAI 2018)

Both are values of the loop. The average itself is an `Average`, plain tensors in a checkpoint:

    average = Average.of(student)
    averaging.update(average, student, epochs_done)  # after every step of the optimiser
    net = average.net(student)
    restatistic(net, batches)

Only parameters are averaged; buffers are the student's. The statistics of an average's activations are not the mean of
the student's running statistics.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ardor.engine.modes import restored
from ardor.errors import CheckpointError, ConfigError
from ardor.storage.arguments import check_fields, require_value

__all__ = ["EMA", "SWA"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Average:
    """An average of the weights of `count` students.

    Parameters
    ----------
    weights : dict of str to Tensor
        By parameter name, in float32 or a wider type.
    count : int
        Number of averaged students.
    """

    weights: dict[str, Tensor]
    count: int = 0

    @classmethod
    def of(cls, student: nn.Module) -> Average:
        """An average without students, of this student's shapes; a shared parameter has one entry."""
        return cls({name: _wide(p.detach()).clone() for name, p in student.named_parameters()})

    @torch.no_grad()
    def move(self, student: nn.Module, update: Callable[[Any, Any, int], None]) -> None:
        """Add the student's weights by one of torch's `multi_avg_fn`; the first weights are copied."""
        new = [_wide(p.detach()) for p in student.parameters()]
        averaged = list(self.weights.values())
        if self.count == 0:
            torch._foreach_copy_(averaged, new)
        else:
            update(averaged, new, self.count)
        self.count += 1

    @torch.no_grad()
    def net(self, student: AnyModule) -> AnyModule:
        """A copy of the student in eval mode with the averaged weights, or its own where `count` is 0.

        Its buffers are the student's: a net with batch norm needs `restatistic` before it is evaluated.
        """
        net = copy.deepcopy(student).eval()
        for name, p in net.named_parameters() if self.count else ():
            p.copy_(self.weights[name])
        return net

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, which share memory with the average."""
        return {"count": torch.tensor(self.count), **{f"weights/{name}": w for name, w in self.weights.items()}}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned, bit for bit. Raises CheckpointError, with the average unchanged."""
        expected, got = ({(k, v.shape, v.dtype) for k, v in part.items()} for part in (self.tensors(), tensors))
        wrong = sorted({key for key, *_ in expected ^ got})
        if wrong:
            raise CheckpointError(
                f"expected the averaged weights of this student, got others ({len(wrong)} differ, first {wrong[0]}): "
                "type --run with a new name"
            )
        for name, w in self.weights.items():
            w.copy_(tensors[f"weights/{name}"])
        self.count = int(tensors["count"])


@dataclass(frozen=True)
class EMA:
    """Exponential moving average of the weights after every step of the optimiser, from the first weights on.

    Parameters
    ----------
    decay
        d, from 0 (the student itself) to below 1; the memory is 1 / (1 - d) steps long.
    warmup
        d is at most (1 + n) / (10 + n) after n updates, so that early weights count little (TensorFlow's rule, which
        Gowal et al.'s code uses).
    start
        Epochs at first, or a part of one, in which the average is the student itself; 2.5 % of the run in their code.
    """

    decay: float = 0.999
    warmup: bool = True
    start: float = 0.0

    def __post_init__(self) -> None:
        require_value("averaging.decay", self.decay, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        require_value("averaging.warmup", self.warmup, "true or false", lambda v: isinstance(v, bool))
        require_value("averaging.start", self.start, "a number of epochs from 0", lambda v: v >= 0)
        check_fields(self)

    def update(self, average: Average, student: nn.Module, epochs_done: float) -> None:
        """Average the weights after a step of the optimiser, or copy them before `start`."""
        if epochs_done < self.start:
            average.count = 0
        n = average.count
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        average.move(student, get_ema_multi_avg_fn(decay))


@dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging: the unweighted mean of the weights at the ends of epochs.

    The rate is the recipe's; the paper's is constant and high, or cycles, from `start` on.

    Parameters
    ----------
    start
        First epoch, from 1, whose last weights are averaged; 225 is 75 % of a recipe's 300, the paper's share.
    every
        Epochs from one average to the next.
    """

    start: int = 225
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("start", "every"):
            value, what = getattr(self, name), "a whole number of epochs from 1 up"
            require_value(f"averaging.{name}", value, what, lambda v: v == int(v) and v >= 1)
        check_fields(self)

    def update(self, average: Average, student: nn.Module, epochs_done: float) -> None:
        """Average the weights after a step of the optimiser, where `epochs_done` is the whole number of an epoch."""
        if epochs_done >= self.start and (epochs_done - self.start) % self.every == 0:
            average.move(student, get_swa_multi_avg_fn())


Averaging: TypeAlias = EMA | SWA


def require_reached(averaging: Averaging, epochs: int) -> None:
    """Refuse an average that starts after the last of the epochs. Raises ConfigError."""
    start = getattr(averaging, "start", 0)
    if start > epochs:
        raise ConfigError(
            f"expected averaging.start within the {epochs} epochs of the recipe, got {start}: "
            f"type --averaging.start {max(1, epochs * 3 // 4)}"
        )


def restatistic(net: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object] | None = None) -> None:
    """Estimate the running mean and variance of every batch norm as the plain mean over passes in train mode.

    Only batch norm is in train mode: no dropout, no random number. Modes and momenta are restored, and after an error
    the statistics too. A net without batch norm is unchanged, and `batches` is not read.

    Parameters
    ----------
    net : nn.Module
        Its statistics are replaced at the first pass, so that an attack before it has a net that works.
    batches : iterable
        Images (B, C, H, W) on the net's device, augmented as in training; about a hundred at batch 128. Clean images
        gave the same accuracies as a method's attacked and clean passes (docs/concepts/averaging.md).
    forward : callable, optional
        Called with each batch in place of `net`: `lambda batch: method.terms(net, teacher, *batch, ...)` counts every
        pass of the method.

    Raises
    ------
    ConfigError
        Where no pass was made.
    """
    norms: list[Any] = [m for m in net.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
    if not norms:
        return
    with _estimating(net, norms):
        for batch in batches:
            if forward is None:
                with torch.no_grad():
                    net(batch)
            else:
                forward(batch)
        if not any(int(norm.num_batches_tracked) for norm in norms):
            raise ConfigError(
                "expected at least one batch to estimate batch norm on, got none: give a few, for example 100"
            )


@contextlib.contextmanager
def _estimating(net: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Batch norm alone in train mode, with a cumulative average from its next pass on."""
    before = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers(recurse=False)}) for norm in norms]
    with restored(net):
        net.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # torch's cumulative average: the first pass has weight 1
            norm.num_batches_tracked.zero_()
            for value in (norm.running_mean, norm.running_var):
                value.nan_to_num_()  # NaN times the weight 0 would remain NaN
        try:
            yield
        except BaseException:
            for norm, _, buffers in before:
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)
            raise
        finally:
            for norm, momentum, _ in before:
                norm.momentum = momentum


def _wide(weights: Tensor) -> Tensor:
    """Float32 at least: bfloat16 rounds an update of a thousandth away."""
    return weights.to(torch.promote_types(weights.dtype, torch.float32))
