"""Counter-based random numbers per image, independent of batch composition, order, sharding and resuming.

A draw is a hash of (seed, purpose, epoch, data set index, draw number, element), so an image gets the same noise in
any batch, on any process, after any interruption, and the global random generator is never used. The hash is
SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) in wrapping int64 tensor arithmetic on the images' device.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ardor.errors import ConfigError

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer: torch has no uint64 arithmetic on every device."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift(h: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's >> is arithmetic."""
    return (h >> bits) & ((1 << (64 - bits)) - 1)


def _mix(h: Tensor) -> Tensor:
    h = h + _signed(_GOLDEN)
    h = (h ^ _shift(h, 30)) * _signed(_M1)
    h = (h ^ _shift(h, 27)) * _signed(_M2)
    return h ^ _shift(h, 31)


def _mix_int(h: int) -> int:
    h = (h + _GOLDEN) & _MASK
    h = ((h ^ (h >> 30)) * _M1) & _MASK
    h = ((h ^ (h >> 27)) * _M2) & _MASK
    return h ^ (h >> 31)


@dataclass
class Noise:
    """The random streams of a batch: row i depends on data set image `index[i]` only.

    Every draw increments the draw number and returns `(B, *shape)`; `noise[keep]` is a subset of the rows.

    Parameters
    ----------
    seed
        Any integer.
    index
        Positions of the images in their data set, (B,) int64; -1 for a row that is no image of the step (`counted`).
    purpose
        Name of the stream: an attack's start and a crop have different ones.
    epoch
        Epoch, counted from 1; 0 outside training.
    draw
        Number of draws so far.
    """

    seed: int
    index: Tensor
    purpose: str = ""
    epoch: int = 0
    draw: int = field(default=0, repr=False)

    def __getitem__(self, keep: Tensor | slice) -> Noise:
        """The streams of the rows in `keep` (a mask, positions or a slice), at the same draw number."""
        return Noise(self.seed, self.index[keep], self.purpose, self.epoch, self.draw)

    @property
    def counted(self) -> Tensor:
        """(B,) bool: False for a row that a process without images computes to make the same passes as the others."""
        return self.index >= 0

    def fork(self, purpose: str) -> Noise:
        """A separate stream, independent of the draws of this one."""
        return Noise(self.seed, self.index, f"{self.purpose}/{purpose}", self.epoch)

    def bits(self, shape: Sequence[int]) -> Tensor:
        """`(B, *shape)` int64: 64 random bits each."""
        purpose = hashlib.blake2b(self.purpose.encode(), digest_size=8).digest()
        key = _mix_int(_mix_int(self.seed & _MASK) ^ int.from_bytes(purpose, "little"))
        key = _mix_int(_mix_int(key ^ self.epoch) ^ self.draw)
        self.draw += 1
        row = _mix(_mix(self.index.to(torch.int64) ^ _signed(key)))
        count = math.prod(shape)
        element = torch.arange(count, device=row.device) * _signed(_GOLDEN)
        return _mix(row[:, None] + element).reshape(len(row), *shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """`(B, *shape)`, uniform in [0, 1): 24 bits, so the numbers are equal in float32 and float64."""
        return (_shift(self.bits(shape), 40).to(torch.float64) * 2.0**-24).to(dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """`(B, *shape)`, standard normal by Box and Muller's transform.

        Computed in float64 and then rounded: the last bit of a vectorised log may depend on an element's position in
        memory, the rounded value does not.
        """
        h = self.bits(shape)
        radius = (_shift(h, 32).to(torch.float64) + 0.5) * 2.0**-32
        angle = (h & 0xFFFFFFFF).to(torch.float64) * (2 * math.pi * 2.0**-32)
        return ((-2 * radius.log()).sqrt() * angle.cos()).to(dtype)

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """`(B, *shape)` int64, uniform in 0 .. high - 1 (high at most 2**31; the bias is below 2**-31)."""
        return (_shift(self.bits(shape), 32) * high) >> 32


def order(seed: int, purpose: str, epoch: int, index: Tensor) -> Tensor:
    """A random permutation of 0 .. len(index) - 1, determined by its arguments: the order of an epoch's images."""
    return Noise(seed, index, purpose, epoch).bits(()).argsort(stable=True)


def seed_of(*numbers: int) -> int:
    """A seed that its numbers determine, below 2**63: of a run's seed, an epoch and a step, for example."""
    h = 0
    for number in numbers:
        h = _mix_int(h ^ (number & _MASK))
    return h >> 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators, and restore them on exit. Raises ConfigError.

    Parameters
    ----------
    device : torch.device, optional
        The GPU whose generator is seeded too; default the current one, where CUDA is in use.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"expected a seed of 0 or more, below 2**63, got {seed}: type for example 0")
    index = device.index if device is not None and device.type == "cuda" else None
    devices = [torch.cuda.current_device() if index is None else index] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for number in devices:
            torch.cuda.default_generators[number].manual_seed(seed)
        yield
