"""What a second thread is worth by the size of a net: an attack step with 1 and with torch's number of threads.

    python benchmarks/threads.py --rounds 9

A step is a forward and input-gradient pass of the net as an attack meets it. For each net it prints the cost of an
image and the median ratio of times by the clock, one thread / torch's number (above 1 more threads are faster), over
interleaved rounds of at least 0.1 s, beside the range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from ardor import models
from ardor.engine.flops import macs
from ardor.engine.modes import attack_view
from ardor.engine.threads import threads_for
from ardor.noise import Noise

NETS = (("small_cnn", (1, 8, 8), 64), ("small_cnn", (3, 32, 32), 64), ("mobilenet_v2", (3, 32, 32), 32),
        ("resnet18", (3, 32, 32), 16))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds, most = parser.parse_args().rounds, torch.get_num_threads()
    for name, shape, batch in NETS:
        net = models.build(name, channels=shape[0], seed=1)
        x = Noise(0, torch.arange(batch), "images").uniform(shape)
        torch.set_num_threads(most)
        by_rule = threads_for(net, shape)
        with attack_view(net) as view:
            seconds = [(_step(view, x, 1), _step(view, x, most)) for _ in range(rounds + 1)][1:]  # the first warms up
        ratios = [one / several for one, several in seconds]
        sys.stdout.write(
            f"{name} {shape}, batch {batch}, {macs(net, shape) / 1e6:.2f} MMAC: 1 thread / {most} "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); the rule gives {by_rule}\n"
        )
    return 0


def _step(net, x, threads: int) -> float:
    """Mean seconds of a step over at least 0.1 s."""
    torch.set_num_threads(threads)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.1:
        z = x.clone().requires_grad_()
        torch.autograd.grad(net(z).sum(), z)
        count += 1
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    sys.exit(main())
