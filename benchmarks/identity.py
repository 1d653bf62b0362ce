"""Milliseconds of a net's identity, beside its weights' hash and a forward pass: `python benchmarks/identity.py`.

ResNet-18 in CIFAR's form and a user's net of the same layers, whose calls are compared; interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import ardor
from ardor.models.identity import identity, signature_of


class Users(nn.Module):
    """A user's net around one of ardor's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) -> (B, 10)."""
        logits: torch.Tensor = self.net(x)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    net, x = ardor.models.build("resnet18").eval(), torch.rand(1, 3, 32, 32)
    users = Users(net)
    rows: dict[str, Callable[[], object]] = {
        "hash of the weights": lambda: ardor.models.hash_of(net),
        "forward pass of one image": lambda: net(x),
        "layers, settings and code": lambda: signature_of(net),
        "identity": lambda: identity(net, (3, 32, 32)),
        "identity of a user's net": lambda: identity(users, (3, 32, 32)),
    }
    taken: dict[str, list[float]] = {name: [] for name in rows}
    with torch.no_grad():
        for _ in range(words.rounds):
            for name, call in rows.items():
                start = time.perf_counter()
                call()
                taken[name].append(1000 * (time.perf_counter() - start))
    print("| what | ms, median | least |\n|---|--:|--:|")
    for name, times in taken.items():
        print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} |")


if __name__ == "__main__":
    main()
