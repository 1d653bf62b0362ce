"""Images per second of a data set in memory, in a store, and in files that are decoded on demand.

    python benchmarks/data.py --images 400 --size 256 --crop 224

Each row reads the same batches of 64 with the same boxes, as training with resized crops does; all rows take turns in
every round. `cpu` is per second of the process's CPU time, `wall` per second; the first round, in which a store
compares each image with its hash, has a column of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ardor import data
from ardor.data.boxes import boxes_of
from ardor.data.split import Split
from tests.data.photographs import draw

BATCH = 64


def epoch(split: Split, crop: int) -> tuple[float, float]:
    """Images per second of CPU time, and of time."""
    cpu, wall = time.process_time(), time.perf_counter()
    for rows in torch.arange(len(split)).split(BATCH):
        boxes = boxes_of(split.index[rows], torch.zeros_like(rows), split.full, (0.08, 1.0), (3 / 4, 4 / 3), True)
        split.crops(rows, boxes, crop)
    return len(split) / (time.process_time() - cpu), len(split) / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, preset in (("images", 400), ("size", 256), ("crop", 224), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=preset)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place, "files"), asked.images, 4)
        folder, options = f"folder:{place}/files", {"val": 1, "size": asked.size}
        began = time.process_time()
        data.prepare(folder, f"{place}/store", size=asked.size)
        print(f"prepare: {asked.images / (time.process_time() - began):.0f} images per second of CPU time")
        splits = {
            "memory": data.load(folder, on_demand=False, **options)[0],
            "store": data.load(f"store:{place}/store", val=1)[0],
        }
        splits |= {
            f"folder, {n} workers": data.load(folder, on_demand=True, workers=n, **options)[0] for n in (0, 1, 2, 4)
        }
        rounds = [{name: epoch(split, asked.crop) for name, split in splits.items()} for _ in range(1 + asked.rounds)]
        print(f"{'':22}{'first, cpu':>12}{'cpu':>8}{'wall':>8}")
        for name in splits:
            cpu, wall = (statistics.median(each[name][k] for each in rounds[1:]) for k in (0, 1))
            print(f"{name:22}{rounds[0][name][0]:12.0f}{cpu:8.0f}{wall:8.0f}")


if __name__ == "__main__":
    main()
