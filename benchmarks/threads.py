"""What more threads are worth, and what `settle` makes of it: an attack step with 1, 2, 4 ... threads, interleaved.

    python benchmarks/threads.py --net resnet18 --batch 64 --rounds 9
    python benchmarks/threads.py --net resnet18 --batch 64 --beside 1

A step is a forward and input-gradient pass of the net as an attack sees it. It prints the median over rounds of the
time with one thread / with several (above 1 several are faster), by the clock and by process time, then what `settle`
chose, how often and in what time. --beside: as many other processes compute meanwhile, with one thread each, as on a
machine that is shared.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import subprocess
import sys
import time

import torch

from ardor import models
from ardor.engine import threads
from ardor.engine.modes import attack_view
from ardor.noise import Noise

OTHER = "import torch\ntorch.set_num_threads(1)\na = torch.rand(512, 512)\nwhile True: a = torch.mm(a, a) / 512"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet18", help="small_cnn, resnet18, mobilenet_v2 ...")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--beside", type=int, default=0, help="other processes at work meanwhile")
    asked = parser.parse_args()
    others = [subprocess.Popen([sys.executable, "-c", OTHER]) for _ in range(asked.beside)]
    try:
        time.sleep(5 * bool(others))
        _measure(asked)
    finally:
        for other in others:
            other.kill()
    return 0


def _measure(asked: argparse.Namespace) -> None:
    shape = (1, 8, 8) if asked.net == "small_cnn" else (3, 32, 32)
    net = models.build(asked.net, channels=shape[0], seed=1)
    x = Noise(0, torch.arange(asked.batch), "images").uniform(shape)
    numbers = sorted({2**k for k in range(threads.DEFAULT.bit_length())} | {threads.DEFAULT})
    clock, process = {n: [] for n in numbers}, {n: [] for n in numbers}
    chosen, took = [], []
    for number in range(asked.rounds + 1):
        with attack_view(net) as view, threads.restored():
            for n in numbers:
                torch.set_num_threads(n)
                z = x.clone().requires_grad_()
                began, worked = time.perf_counter(), time.process_time()
                torch.autograd.grad(view(z).sum(), z)
                if number:  # the first warms up
                    clock[n].append(time.perf_counter() - began)
                    process[n].append(time.process_time() - worked)
        with threads.restored():
            began = time.perf_counter()
            chosen.append(threads.settle(net, x).number)
            took.append(time.perf_counter() - began)
    sys.stdout.write(f"{asked.net}, batch {asked.batch}, {asked.beside} beside, {asked.rounds} rounds\n")
    for n in numbers[1:]:
        sys.stdout.write(
            f"  1 thread / {n}: clock {_of(clock[1], clock[n])}, process time {_of(process[1], process[n])}\n"
        )
    counts = ", ".join(f"{n} threads {times} times" for n, times in sorted(collections.Counter(chosen).items()))
    sys.stdout.write(f"  settle: {counts}, in {statistics.median(took):.1f} s (at most {max(took):.1f} s)\n")


def _of(one: list[float], several: list[float]) -> str:
    ratios = [a / b for a, b in zip(one, several, strict=True)]
    return f"{statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())
