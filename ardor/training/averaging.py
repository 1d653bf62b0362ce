"""Averages of the student's weights along its training, and the batch-norm statistics that an average needs anew.

EMA   w <- d w + (1 - d) w_student after every step; Gowal et al. (2020) use it for robust training
SWA   w <- the mean of w_student at the ends of some epochs; Izmailov et al. (UAI 2018)

Values, passed to the loop. What they have averaged so far is an `Average`, which is plain tensors in a checkpoint:

    average = Average.of(student)
    averaging.update(average, student, epochs_done)  # after every step of the optimiser
    net = average.net(student)
    restatistic(net, batches)

Only parameters are averaged. A buffer is the student's present one: a mean of running statistics is not the statistics
of the mean's activations, which differ where the weights do.
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

from ardor.errors import CheckpointError, ConfigError

__all__ = ["EMA", "SWA"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Average:
    """The average so far. weights: by parameter name, float32 or better; of how many students is `count`."""

    weights: dict[str, Tensor]
    count: int = 0

    @classmethod
    def of(cls, student: nn.Module) -> Average:
        """The average of nothing yet, of this student's shapes; a parameter that two modules share is there once."""
        return cls({name: _wide(p.detach()).clone() for name, p in student.named_parameters()})

    @torch.no_grad()
    def move(self, student: nn.Module, update: Callable[[Any, Any, int], None]) -> None:
        """Average the student's weights in by one of torch's `multi_avg_fn`; the first are taken as they are."""
        theirs = [_wide(p.detach()) for p in student.parameters()]
        ours = list(self.weights.values())
        if self.count == 0:
            torch._foreach_copy_(ours, theirs)
        else:
            update(ours, theirs, self.count)
        self.count += 1

    def net(self, student: AnyModule) -> AnyModule:
        """A copy of the student in eval mode with the averaged weights; with its own where nothing is averaged yet.

        Its buffers are the student's: call `restatistic` before it is judged, if it has batch norm.
        """
        net = copy.deepcopy(student).eval()
        if self.count:
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p.copy_(self.weights[name])
        return net

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint: the same memory, not a copy."""
        return {"count": torch.tensor(self.count), **{f"weights/{name}": w for name, w in self.weights.items()}}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave, to the last bit. Raises CheckpointError, and changes nothing then."""
        wanted = {key: (value.shape, value.dtype) for key, value in self.tensors().items()}
        found = {key: (value.shape, value.dtype) for key, value in tensors.items()}
        wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
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
    """

    decay: float = 0.999
    warmup: bool = True

    def __post_init__(self) -> None:
        _require("decay", self.decay, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        _require("warmup", self.warmup, "true or false", lambda v: isinstance(v, bool))

    def update(self, average: Average, student: nn.Module, epochs_done: float) -> None:
        """Call after every step of the optimiser. epochs_done plays no part."""
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
            _require(name, getattr(self, name), "a whole number of epochs from 1 up", lambda v: v == int(v) and v >= 1)

    def update(self, average: Average, student: nn.Module, epochs_done: float) -> None:
        """Call after every step of the optimiser. epochs_done: a fraction inside an epoch, whole at its end."""
        past = epochs_done - self.start
        if past >= 0 and past % self.every == 0:
            average.move(student, get_swa_multi_avg_fn())


Averaging: TypeAlias = EMA | SWA


def require_reached(averaging: Averaging, epochs: int) -> None:
    """Refuse an average that a run of so many epochs would never begin. Raises ConfigError."""
    start = getattr(averaging, "start", 0)
    if start > epochs:
        raise ConfigError(
            f"expected averaging.start within the {epochs} epochs of the recipe, got {start}: "
            f"type --averaging.start {max(1, epochs * 3 // 4)}"
        )


def restatistic(net: nn.Module, batches: Iterable[Any], look: Callable[[Any], object] | None = None) -> None:
    """Estimate every batch norm's running mean and variance anew, as the plain mean over passes of `net` in train mode.

    batches: images (B, C, H, W) on the net's device, as many as are to count (a hundred at batch 128, say), augmented
    as in training. Clean ones will do: statistics from the attacked and clean passes of a method itself, which are
    what a student's own come from, gave the same accuracies (docs/averaging.md). They are had with look, which is how
    the net meets a batch: look=lambda batch: method.terms(net, teacher, *batch, ...) counts each pass of the net in
    train mode. Until the first pass the old statistics stand, so that an attack in eval mode meets a net that works.

    Only batch norm is in train mode: nothing is dropped out, no random number drawn. Modes and momenta are put back,
    and after an error the statistics too. A net without batch norm is left alone, and `batches` unread. Raises
    ConfigError where no pass was made.
    """
    norms: list[Any] = [m for m in net.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
    if not norms:
        return
    with _estimating(net, norms):
        for batch in batches:
            if look is None:
                with torch.no_grad():
                    net(batch)
            else:
                look(batch)
        if not any(int(norm.num_batches_tracked) for norm in norms):
            raise ConfigError("expected at least one batch to estimate batch norm on, got none: give a few, say 100")


@contextlib.contextmanager
def _estimating(net: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Batch norm alone in train mode, averaging cumulatively from its next pass on."""
    modes = [(module, module.training) for module in net.modules()]
    before = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers(recurse=False)}) for norm in norms]
    net.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # torch's word for the mean over all passes: the first has weight 1, whatever was there
        norm.num_batches_tracked.zero_()
        for value in (norm.running_mean, norm.running_var):
            value.nan_to_num_()  # what is not finite would survive its weight of 0
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
        for module, training in modes:
            module.training = training


def _wide(weights: Tensor) -> Tensor:
    """Float32 at least: in bfloat16 a step of a thousandth of the way is no step."""
    return weights.to(torch.promote_types(weights.dtype, torch.float32))


def _require(name: str, value: Any, what: str, holds: Callable[[Any], bool]) -> None:
    try:
        fits = holds(value)
    except (TypeError, ValueError, OverflowError):  # a word where a number belongs, or none that is finite
        fits = False
    if not fits:
        raise ConfigError(f"expected averaging.{name} as {what}, got {value!r}: type --averaging.{name} with one")
