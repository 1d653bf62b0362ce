"""The cost of each augmentation beside one RSLAD step of a ResNet-18 from a ResNet-18 on the CPU, one thread.

    python benchmarks/augmentation.py --batch 128 --rounds 5

Steps and augmentations take turns in every round. A row is the median of the CPU time of `augmented` on one batch of
32 x 32 images, in milliseconds and as a share of a step with the plain crop; the goal is 15 % at most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ardor import models
from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.methods import RSLAD
from ardor.noise import Noise
from ardor.training.augmentation import augmented
from ardor.training.loop import step
from ardor.training.recipe import Recipe

ROWS = {
    "none": {"augment": "none"},
    "crop-flip": {},
    "resized-crop-flip": {"augment": "resized-crop-flip"},
    "cropshift-flip": {"augment": "cropshift-flip"},
    "idbh-weak": {"augment": "idbh-weak"},
    "idbh-strong": {"augment": "idbh-strong"},
    "crop-flip, erase 0.5": {"erase": 0.5},
    "crop-flip, cutout 18": {"cutout": 18},
    "crop-flip, jitter .4 .4 .4 .1": {"jitter": (0.4, 0.4, 0.4, 0.1)},
    "crop-flip, randaugment 2,9": {"randaugment": (2, 9)},
    "crop-flip, mixup": {"mix": "mixup"},
    "crop-flip, cutmix": {"mix": "cutmix"},
}


def seconds(run: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, preset in (("batch", 128), ("rounds", 5), ("part", 128)):
        parser.add_argument(f"--{name}", type=int, default=preset)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device, rows = torch.device("cpu"), torch.arange(asked.batch)
    index = torch.arange(4 * asked.batch)
    images = Noise(0, index, "images").integers(256, (3, 32, 32)).to(torch.uint8)
    train = Split(images, index % 10, 10, "noise", "train")
    student, teacher = (models.build("resnet18", seed=seed) for seed in (0, 1))
    student.train(), teacher.eval().requires_grad_(False)
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-9)
    x, y, _, _ = augmented(train, rows[: asked.part], Recipe(), 1, device)

    def update() -> None:
        noise = Noise(0, rows[: asked.part])
        step(student, teacher, RSLAD(attack=PGD(start="gaussian")), optimiser, x, y, epoch=1, noise=noise)

    recipes = {name: Recipe(**options) for name, options in ROWS.items()}
    update()
    steps: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in recipes}
    for epoch in range(1, asked.rounds + 2):
        if epoch > 1:
            steps.append(seconds(update) * asked.batch / asked.part)
        for name, recipe in recipes.items():
            times[name].append(seconds(partial(augmented, train, rows, recipe, epoch, device)))
    whole = statistics.median(steps)
    print(f"RSLAD step of {asked.batch} images (from {asked.part}): {whole:.2f} s of CPU time")
    for name, taken in times.items():
        one = statistics.median(taken[1:])
        print(f"{name:32}{1000 * one:8.1f} ms{100 * one / whole:8.2f} %")


if __name__ == "__main__":
    main()
