"""How long one image takes in each form of a net: one thread, interleaved, so that a busy moment meets all alike."""

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
"""Measured runs of each form, runs before them that do not count, and after how long no further round begins."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image: the median and the 95th percentile over `runs` runs."""

    p50: float
    p95: float
    runs: int


def latencies(
    forms: Mapping[str, Callable[[Tensor], Tensor]], image: Tensor, *, runs: int = RUNS, seconds: float = SECONDS
) -> dict[str, Latency]:
    """Wall-clock time of each form on `image` (1, C, H, W), in torch's inference mode and with one thread of torch.

    A round runs every form once, each round beginning with another one. seconds: after so long no further round begins,
    but there are at least ten. Torch's number of threads is as before afterwards; a `Session` brings its own.
    """
    order = list(forms)
    taken: dict[str, list[float]] = {name: [] for name in order}
    with restored(), torch.inference_mode():
        torch.set_num_threads(1)
        for name in order * WARM:
            forms[name](image)
        began = perf_counter()
        for number in range(runs):
            if number >= min(WARM, runs) and perf_counter() - began > seconds:
                break
            for name in order[number % len(order) :] + order[: number % len(order)]:
                before = perf_counter()
                forms[name](image)
                taken[name].append(1e3 * (perf_counter() - before))
    found = {name: np.percentile(each, (50, 95)) for name, each in taken.items()}
    return {name: Latency(float(p50), float(p95), len(taken[name])) for name, (p50, p95) in found.items()}


def processor() -> str:
    """The processor's name as the system says it; its architecture where it says none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() in ("model name", "Hardware") and name.strip():
                return " ".join(name.split())
    return platform.processor() or platform.machine()
