"""The latency of one image in each variant of a net: one thread, interleaved, so that other load affects all alike."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from ardor.engine.threads import restored

RUNS, WARM, SECONDS = 200, 10, 30.0
"""Timed runs of each variant, untimed runs before them, and the seconds after which no further round begins."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image: the median and the 95th percentile of `runs` runs."""

    p50: float
    p95: float
    runs: int


def latencies(
    forms: Mapping[str, Callable[[Tensor], Tensor]], image: Tensor, *, runs: int = RUNS, seconds: float = SECONDS
) -> dict[str, Latency]:
    """Wall-clock time of each variant on one image, in torch's inference mode with one thread of torch.

    A round runs every variant once, and each round begins with the next one. Torch's number of threads is restored; a
    `Session` has a number of its own.

    Parameters
    ----------
    forms : mapping
        Functions of an image, by name.
    image : (1, C, H, W) Tensor
        The image.
    runs : int
        The number of rounds.
    seconds : float
        No further round begins after so long, but there are at least ten.
    """
    order = list(forms)
    taken: dict[str, list[float]] = {name: [] for name in order}
    with restored(), torch.inference_mode():
        torch.set_num_threads(1)
        for name in order * WARM:
            forms[name](image)
        started = perf_counter()
        for number in range(runs):
            if number >= min(WARM, runs) and perf_counter() - started > seconds:
                break
            for name in order[number % len(order) :] + order[: number % len(order)]:
                before = perf_counter()
                forms[name](image)
                taken[name].append(1e3 * (perf_counter() - before))
    percentiles = {name: np.percentile(each, (50, 95)).tolist() for name, each in taken.items()}
    return {name: Latency(p50, p95, len(taken[name])) for name, (p50, p95) in percentiles.items()}


def processor() -> str:
    """The processor's name in /proc/cpuinfo, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() in ("model name", "Hardware") and name.strip():
                return " ".join(name.split())
    return platform.processor() or platform.machine()
