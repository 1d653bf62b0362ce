"""What keeping freed memory is worth: an RSLAD step with glibc's allocator as it comes, and after `keep_memory`.

    python benchmarks/allocator.py --net mobilenet_v2 --batch 64 --pairs 6
    python benchmarks/allocator.py --net resnet18 --batch 64 --pairs 4 --steps 4

What an allocator was told cannot be taken back, so each part of a pair is a process of its own, and the two take turns
in going first. It prints median ratios (as it comes / kept: above 1 keeping is faster) of wall time and of process time
(user and system), the share of system time in either, and the ratio of the most memory held (kept / as it comes).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from ardor import methods, models
from ardor.attacks import PGD
from ardor.engine import threads
from ardor.engine.modes import freeze
from ardor.noise import Noise
from ardor.training.loop import step
from ardor.training.recipe import Recipe
from ardor.training.state import make_optimiser


def child(net: str, batch: int, steps: int, number: int, keep: bool) -> dict[str, float]:
    torch.set_num_threads(number)
    if keep and not threads.keep_memory():
        raise SystemExit("the allocator is not glibc's, or a setting of one's own is in the environment")
    shape = (1, 8, 8) if net == "small_cnn" else (3, 32, 32)
    teacher = models.build(net, channels=shape[0], seed=1)
    student = models.build(net, channels=shape[0], seed=2)
    method, index = methods.RSLAD(attack=PGD(steps=10, start="gaussian")), torch.arange(batch)
    optimiser = make_optimiser(student, method, Recipe(batch=batch))
    x = Noise(0, index, "images").uniform(shape)
    student.train()
    walls, users, systems, faults = [], [], [], []
    with freeze(teacher):
        for number in range(steps + 1):
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            step(student, teacher, method, optimiser, x, index % 10, epoch=1, noise=Noise(number, index, "method", 1))
            after = resource.getrusage(resource.RUSAGE_SELF)
            walls.append(time.perf_counter() - began)
            users.append(after.ru_utime - before.ru_utime)
            systems.append(after.ru_stime - before.ru_stime)
            faults.append(after.ru_minflt - before.ru_minflt)
    # the first warms up
    figures = {"wall": walls, "user": users, "system": systems, "faults": faults}
    return {name: statistics.median(each[1:]) for name, each in figures.items()} | {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenet_v2", help="small_cnn, resnet18, mobilenet_v2 ...")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="timed in each process, after one that warms up")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", choices=["as-it-comes", "kept"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        figures = child(asked.net, asked.batch, asked.steps, asked.threads, asked.part == "kept")
        sys.stdout.write(json.dumps(figures))
        return 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    wall, cpu, peak, system = [], [], [], {"as-it-comes": [], "kept": []}
    for pair in range(asked.pairs):
        got = {}
        for part in ["as-it-comes", "kept"][:: 1 if pair % 2 else -1]:
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
            got[part] = json.loads(done.stdout)
            system[part].append(got[part]["system"] / (got[part]["user"] + got[part]["system"]))
        plain, kept = got["as-it-comes"], got["kept"]
        wall.append(plain["wall"] / kept["wall"])
        cpu.append((plain["user"] + plain["system"]) / (kept["user"] + kept["system"]))
        peak.append(kept["peak"] / plain["peak"])
    shares = [100 * statistics.median(each) for each in system.values()]
    sys.stdout.write(
        f"{asked.net}, batch {asked.batch}, {asked.threads} thread(s), {asked.pairs} pairs: as it comes / kept "
        f"wall {_of(wall)}, process time {_of(cpu)}; system time {shares[0]:.1f} % of it, "
        f"kept {shares[1]:.1f} %; peak memory kept / as it comes {_of(peak)}\n"
    )
    return 0


def _of(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    sys.exit(main())
