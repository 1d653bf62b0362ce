"""Throughput and memory of an RSLAD step, by batch size and by number of processes.

    python benchmarks/throughput.py --net mobilenet_v2 --batches 16,32,64,128 --processes 1,2
    python benchmarks/throughput.py --net resnet18 --batches 256,512,1024,2048 --processes 1 --device cuda

Every figure is of processes of its own, of one thread each on a CPU: memory is what they held at their peak together.
Batch is that of all processes together. The rows are measured in rounds, one row after the other, so that what
else the machine does meets all of them; the table has medians, and ratios to the first row.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ardor import methods, models
from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.modes import freeze
from ardor.noise import Noise
from ardor.training.loop import train_epoch
from ardor.training.recipe import Recipe
from ardor.training.state import TrainState, make_optimiser

STEPS = 3
"""Of each measurement; one more warms up."""


def worker(net: str, batch: int, count: int, rank: int, device: str, store: str) -> None:
    """One process of a measurement: seconds of its steps and its peak memory, as a line of JSON."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    shape = (1, 8, 8) if net == "small_cnn" else (3, 32, 32)
    student = models.build(net, channels=shape[0], seed=2).to(device)
    teacher = models.build(net, channels=shape[0], seed=1).to(device)
    method, recipe = methods.RSLAD(), Recipe(batch=batch, augment="none")
    learning = TrainState(student, method, make_optimiser(student, method, recipe))

    def steps(number: int) -> float:
        index = torch.arange(batch * number)
        images = Noise(0, index, "images").uniform(shape).to(device)
        data = Split(images, torch.zeros(len(index), dtype=torch.int64, device=device), 10, "n", "train", index=index)
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        train_epoch(learning, teacher, data, recipe, 1)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with freeze(teacher):
        steps(1)
        distributed.total({"ready": 1.0}, torch.device(device))
        seconds = steps(STEPS)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory = resident if device == "cpu" else torch.cuda.max_memory_allocated()
    sys.stdout.write(json.dumps({"seconds": seconds, "memory": memory}) + "\n")


def measured(net: str, batch: int, count: int, device: str) -> tuple[float, float]:
    """Images a second, and bytes, of `count` processes that share batches of `batch`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--net", net, "--batches", str(batch), "--processes", str(count)]
        words += ["--device", device, "--store", str(Path(folder) / "store"), "--rank"]
        ran = [subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(count)]
        said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in ran]
    return STEPS * batch / max(s["seconds"] for s in said), sum(s["memory"] for s in said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="small_cnn")
    parser.add_argument("--batches", default="32,64,128,256", help="with commas")
    parser.add_argument("--processes", default="1,2", help="with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    batches, counts = ([int(n) for n in word.split(",")] for word in (asked.batches, asked.processes))
    if asked.rank is not None:
        worker(asked.net, batches[0], counts[0], asked.rank, asked.device, asked.store)
        return 0
    rows = [(batch, count) for count in counts for batch in batches]
    found: dict[tuple[int, int], list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(asked.rounds):
        for row in rows:
            found[row].append(measured(asked.net, *row, asked.device))
    print(f"{asked.net}, {asked.device}, {asked.rounds} rounds of {STEPS} steps\n")
    print("| processes | batch | images/s | ratio | memory | ratio |\n|--:|--:|--:|--:|--:|--:|")
    speed_1, memory_1 = (statistics.median(values) for values in zip(*found[rows[0]], strict=True))
    for (batch, count), seen in found.items():
        speed, memory = (statistics.median(values) for values in zip(*seen, strict=True))
        ratios = f"{speed / speed_1:.2f} | {memory / 1e9:.2f} GB | {memory / memory_1:.2f}"
        print(f"| {count} | {batch} | {speed:.3g} | {ratios} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
