"""How large are the variance-gap terms beside RSLAD's? Gradient norms on the student's backbone, head and W left out.

    python benchmarks/variance_gap_weights.py [--epochs 15]

Trains the demo's student with RSLAD from the demo's teacher, and after the given epochs
prints for several batches the weights lc and lg at which each new term's gradient has a quarter of the norm of
RSLAD's. The defaults of VarianceGap are rounded from what this printed; docs/LOG.md has the figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from torch import Tensor

from ardor import data, methods, models
from ardor.attacks import PGD
from ardor.demo.demo import THREAT
from ardor.engine.modes import freeze, train_mode
from ardor.noise import Noise
from ardor.training.loop import distill
from ardor.training.recipe import Recipe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ardor:digits-cnn32-sat")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batches", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, _, _ = data.load("digits")
    teacher = models.load(asked.teacher)
    student = models.build("small_cnn", width=8, seed=1)
    attack = PGD(THREAT, start="gaussian")
    recipe = Recipe(epochs=asked.epochs, batch=64, lr=0.2, schedule="one-cycle", augment="none", device="cpu")
    distill(student, teacher, methods.RSLAD(attack=attack), train, recipe)
    found: dict[str, list[float]] = {"covariance": [], "gram": []}
    with freeze(teacher), train_mode(student):
        for k in range(asked.batches):
            x, y, index = train.batch(slice(64 * k, 64 * k + 64))
            method = methods.VarianceGap(lc=1.0, lg=1.0, warmup=1, attack=attack)
            method.prepare(student, teacher, x)
            terms = method.terms(student, teacher, x, y, epoch=1, noise=Noise(0, index, "method", 1))
            rslad = norm(terms["robust"].mean() + terms["clean"].mean(), student)
            for name in found:
                found[name].append(rslad / norm(terms[name], student) / 4)
    for name, weight in (("covariance", "lc"), ("gram", "lg")):
        low, high = min(found[name]), max(found[name])
        sys.stdout.write(f"{weight} {statistics.median(found[name]):.3g} (from {low:.3g} to {high:.3g})\n")
    return 0


def norm(term: Tensor, student: torch.nn.Module) -> float:
    backbone = [p for name, p in student.named_parameters() if not name.startswith("linear")]
    grads = torch.autograd.grad(term, backbone, retain_graph=True)
    return float(torch.cat([g.flatten() for g in grads]).norm())


if __name__ == "__main__":
    sys.exit(main())
