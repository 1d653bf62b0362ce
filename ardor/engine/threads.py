"""How many threads torch computes with: measured, since more are often slower; the user's own setting always wins.

On cores that others use too, threads wait for each other at every layer. The shell's commands ask before they work. The
number may change the last bit of a sum, so a run that goes on gives the number it began with.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import nn

from ardor.engine.modes import attack_view
from ardor.errors import ConfigError
from ardor.noise import seeded
from ardor.types import Images

DEFAULT = torch.get_num_threads()
"""Torch's own number, as it was when this module was first imported; another one later is the user's, or ours."""

_chosen = DEFAULT  # ours, the last

BUDGET = 1.5
"""Seconds that measuring may take, about: a pass that has begun is finished."""

GAIN = 1.1
"""More threads are worth it where fewer take this many times as long."""

_PASS, _BLOCK, _ROUNDS = 0.1, 0.02, 5  # seconds of a pass at most, seconds that are timed together at least, rounds
_HOPELESS = 2.0  # times the fastest of a round: still fewer threads are not measured


@dataclass(frozen=True)
class Threads:
    """How many threads, why, and median seconds of a pass by number of threads; empty where nothing was measured."""

    number: int
    why: str
    seconds: Mapping[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.number} thread{'s' * (self.number != 1)}{self.why}"


def settle(net: nn.Module, x: Images, keep: int | None = None) -> Threads:
    """Choose how many threads torch uses from here on in this process: see `restored`.

    Nothing is changed where a GPU computes, where OMP_NUM_THREADS or MKL_NUM_THREADS is set, after the user's own
    torch.set_num_threads, and where the net fails on x, which is for others to say. keep: the number that an earlier
    part of the same run used, taken as it is unless torch has not so many here. Otherwise forward and input-gradient
    passes of the net, as an attack sees it, are timed with 1, 2, 4 ... threads up to torch's own number, in about two
    seconds, on x (B, C, H, W) or on its first images: the fastest is taken, or fewer that take less than 1.1 times as
    long. Net, images and global generators are as before. Raises ConfigError where keep is not a number of threads.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"expected a number of threads of at least 1, got {keep}: leave it out to have it measured")
    global _chosen
    now = torch.get_num_threads()
    if x.device.type != "cpu" or any(p.device.type != "cpu" for p in net.parameters()):
        return Threads(now, ", but another device computes")
    if now not in (DEFAULT, _chosen):
        return Threads(now, ", as torch.set_num_threads was told")
    # no lever of ours: torch has read them already, and what the user has set is respected
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name):
            return Threads(now, f", as {name} says")
    if keep is not None and keep <= DEFAULT:
        torch.set_num_threads(keep)
        _chosen = keep
        return Threads(keep, ", as this run began")
    if DEFAULT == 1 or not len(x):
        return Threads(now, ", torch's own number")
    try:
        with restored(), seeded(0), attack_view(net) as view:
            seconds = _measure(view, x, _numbers(DEFAULT))
    except Exception:
        return Threads(now, ": the net could not be timed")
    _chosen = fastest(seconds)
    torch.set_num_threads(_chosen)
    return Threads(_chosen, _beside(_chosen, seconds), seconds)


def single() -> Threads:
    """One thread, for small nets, which lose more to waiting than a second gives; the user's own setting wins."""
    return settle(nn.Identity(), torch.empty(0, 1, 1, 1), keep=1)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put torch's number of threads back on exit, whatever was chosen in between."""
    global _chosen
    number, chosen = torch.get_num_threads(), _chosen
    try:
        yield
    finally:
        torch.set_num_threads(number)
        _chosen = chosen


def fastest(seconds: Mapping[int, float]) -> int:
    """The fewest threads of which no others are faster by a tenth."""
    least = min(seconds.values())
    return min(number for number, each in seconds.items() if each <= GAIN * least)


def _numbers(most: int) -> list[int]:
    """1, 2, 4 ... and the most, the most first: on many cores passes with few threads are long, and may be left out."""
    return sorted({2**k for k in range(most.bit_length())} | {most}, reverse=True)


def _measure(net: nn.Module, x: Images, numbers: list[int]) -> dict[int, float]:
    """Median seconds of a pass by number of threads. Rounds are interleaved, since others come and go."""
    end, most = perf_counter() + BUDGET, numbers[0]
    one = [_pass(net, x[:1], 1) for _ in range(2)][1]  # the first makes kernels; one thread waits for nobody
    larger, pace = 1, one
    while True:  # as many images as fit into a pass: many threads need many
        size = larger
        seconds = _pass(net, x[:size], most)
        if perf_counter() < end:  # that one made kernels
            seconds = _pass(net, x[:size], most)
        pace = min(pace, seconds / size)
        larger = min(len(x), int(_PASS / pace))
        if perf_counter() > end or seconds > max(_PASS, 4 * one * size):  # waiting, not computing
            return {1: one * size, most: seconds}
        if larger < 1.5 * size:
            break
    taken: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(_ROUNDS):
        before, best = perf_counter(), math.inf
        for number in numbers:
            if seconds < _BLOCK:  # a change of the number costs something once
                _pass(net, x[:size], number)
            taken[number].append(_pass(net, x[:size], number, _BLOCK))
            best = min(best, taken[number][-1])
            if taken[number][-1] > _HOPELESS * best:
                numbers = [n for n in numbers if n >= number]
                break
        now = perf_counter()
        if now + (now - before) > end:
            break
    return {number: statistics.median(each) for number, each in taken.items() if each}


def _pass(net: nn.Module, x: Images, number: int, least: float = 0.0) -> float:
    """Seconds of a forward and input-gradient pass: the mean of as many as `least` seconds hold, at least one."""
    torch.set_num_threads(number)
    count, began = 0, perf_counter()
    while True:
        z = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(net(z).sum(), z)
        count, passed = count + 1, perf_counter() - began
        if passed >= least:
            return passed / count


def _beside(number: int, seconds: Mapping[int, float]) -> str:
    """The others beside the one taken, for a person."""
    ratios = {other: seconds[other] / seconds[number] for other in sorted(set(seconds) - {number})}
    return ": " + ", ".join(
        f"{other} took {ratio:.1f} times as long" if ratio >= 1.05 else f"{other} gained less than a tenth"
        for other, ratio in ratios.items()
    )


def keep_memory() -> bool:
    """Have glibc keep freed memory for the next allocation instead of giving it back; whether it does now.

    Large blocks, such as activations, otherwise go back to the system at once, and every page of the next is made and
    cleared anew. The price is resident memory, which stays at its peak until the process ends; it cannot be taken back.
    Does nothing without glibc, or where MALLOC_* or GLIBC_TUNABLES say what the user wants.
    """
    if sys.platform != "linux" or any(n.startswith("MALLOC_") or n == "GLIBC_TUNABLES" for n in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl and others
        return False
    mmap_max, trim_threshold = -4, -1  # names of malloc.h; no large blocks apart, and nothing given back from the top
    return bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, -1))
