"""One RSLAD training step: ours beside the released one, same weights, batch and noise, interleaved in one process.

    python benchmarks/rslad_step.py --net resnet18 --batch 128 --pairs 5
    python benchmarks/rslad_step.py --net small_cnn --batch 128 --pairs 40

The released step is written here from its description (docs/cards/rslad.md): start x + 0.001 N, ten times the sign
of the gradient of the summed KL in eval mode, projection, then two train-mode passes, the KL averaged over batch and
classes with log(T + 1e-5) in its entropy part, SGD. It prints the ratio of process times (median over pairs; above 1
ours is faster) and the largest difference of the losses: ours is scaled by 1/C to the released average, and the
constant that the 1e-5 makes is added to it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardor import methods, models
from ardor.attacks import PGD
from ardor.modes import freeze
from ardor.noise import Noise
from ardor.recipe import Recipe
from ardor.threat import Linf
from ardor.train import make_optimiser, step

EPS, STEP = 8 / 255, 2 / 255


def released_step(
    student: nn.Module, teacher: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, start: Tensor
) -> Tensor:
    with torch.no_grad():
        soft = teacher(x).softmax(1)
    student.eval()
    x_adv = x.detach() + start
    for _ in range(10):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = F.kl_div(F.log_softmax(student(x_adv), 1), soft, reduction="none").sum()
        grad = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + STEP * torch.sign(grad.detach())
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    student.train()
    optimiser.zero_grad()
    robust = F.log_softmax(student(x_adv), 1)
    clean = F.log_softmax(student(x), 1)
    entropy = soft * (soft + 1e-5).log()
    loss = 5 / 6 * (entropy - soft * robust).mean() + 1 / 6 * (entropy - soft * clean).mean()
    loss.backward()
    optimiser.step()
    return loss.detach()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="small_cnn", help="small_cnn, resnet18, mobilenet_v2 ...")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    small = asked.net == "small_cnn"
    shape = (1, 8, 8) if small else (3, 32, 32)
    ratios, differences = [], []
    teacher = models.build(asked.net, channels=shape[0], seed=1)
    ours = models.build(asked.net, channels=shape[0], seed=2)
    theirs, weights = copy.deepcopy(ours), copy.deepcopy(ours.state_dict())
    for pair in range(asked.pairs + 1):
        ours.load_state_dict(weights)
        theirs.load_state_dict(weights)
        x = Noise(pair, torch.arange(asked.batch), "images").uniform(shape)
        index = torch.arange(asked.batch)
        method = methods.RSLAD(scale=0.1, attack=PGD(Linf(EPS), steps=10, step=STEP, start="gaussian"))
        start = 0.001 * Noise(0, index, "method", 1).normal(shape)
        recipe = Recipe(batch=asked.batch)
        optimiser = make_optimiser(ours, method, recipe)
        released = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        y = torch.zeros(asked.batch, dtype=torch.int64)
        with freeze(teacher):
            began = time.process_time()
            their_loss = released_step(theirs, teacher, released, x, start)
            middle = time.process_time()
            ours.train()
            terms = step(ours, teacher, method, optimiser, x, y, epoch=1, noise=Noise(0, index, "method", 1))
            end = time.process_time()
            soft = teacher(x).softmax(1)
        constant = (soft * ((soft + 1e-5).log() - soft.log())).mean()
        if pair:  # the first warms up
            ratios.append((middle - began) / (end - middle))
            differences.append(abs(float(sum(terms.values()) + constant - their_loss)))
    sys.stdout.write(
        f"{asked.net}, batch {asked.batch}, {asked.threads} thread(s), {asked.pairs} pairs: released / ours "
        f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}), "
        f"largest loss difference {max(differences):.1e}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
