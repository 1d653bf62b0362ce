"""One RSLAD training step: ours beside the released one, same weights, batch and noise, interleaved in one process.

    python benchmarks/rslad_step.py --net small_cnn --batch 128 --pairs 40
    python benchmarks/rslad_step.py --net resnet18 --batch 128 --pairs 5
    python benchmarks/rslad_step.py --net mobilenet_v2 --batch 64 --pairs 5
    python benchmarks/rslad_step.py --net resnet18 --batch 128 --pairs 3 --teacher wide_resnet --table
    python benchmarks/rslad_step.py --net resnet18 --batch 1024 --pairs 20 --teacher wide_resnet --table --device cuda

The released step is written here from its description (docs/methods/rslad.md): start x + 0.001 N, ten times the sign
of the gradient of the summed KL in eval mode, projection, then two train-mode passes, the KL averaged over batch and
classes with log(T + 1e-5) in its entropy part, SGD. Ours is the loop itself (`train_epoch`) over one batch:
float32, with bfloat16 in the attack, and with bfloat16 in learning too. --table: the teacher's soft labels are kept
and warm, as in the second run with a teacher; the released step asks it each time.

It prints the ratio of process times (on a GPU of wall times), median over pairs, above 1 ours is faster, and the
largest difference of the losses: ours is scaled by 1/C to the released average, and the constant that the 1e-5 makes
is added to it. --peak 989, say, adds the share of a chip's peak that the formula's passes reach (26F + 1T, or 26F).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardor import methods, models
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.engine.flops import macs
from ardor.engine.modes import freeze
from ardor.noise import Noise
from ardor.training.loop import train_epoch
from ardor.training.recipe import Recipe
from ardor.training.soft_labels import SoftLabelCache
from ardor.training.state import TrainState, make_optimiser

EPS, STEP = 8 / 255, 2 / 255
FORMS = {
    "float32": {},
    "bfloat16 attack": {"attack_precision": "bfloat16"},
    "bfloat16": {"attack_precision": "bfloat16", "precision": "bfloat16"},
}
WARM = 2
"""Pairs that are not counted: the first fills the table, the second checks it."""


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


def ours(
    net: nn.Module, teacher: nn.Module, data: Split, recipe: Recipe, keep: SoftLabelCache | None
) -> Callable[[], float]:
    """A step of our loop, ready to go; it returns the loss."""
    method = methods.RSLAD(scale=0.1, attack=PGD(Linf(EPS), steps=10, step=STEP, start="gaussian"))
    learning = TrainState(net, method, make_optimiser(net, method, recipe))
    table = None if keep is None else keep.table(teacher, data, recipe)
    return lambda: train_epoch(learning, teacher, data, recipe, 1, table).loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="small_cnn", help="small_cnn, resnet18, mobilenet_v2 ...")
    parser.add_argument("--teacher", default=None, help="wide_resnet is WRN-34-10; default a net like the student")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", default=",".join(FORMS), help="of ours, with commas")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=float, help="of the chip, TFLOP/s: what share of it a step reaches")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    gpu = asked.device != "cpu"

    def timed(run: Callable[[], Any]) -> tuple[float, float]:
        if gpu:
            torch.cuda.synchronize()
        began = time.perf_counter() if gpu else time.process_time()
        loss = float(run())
        return (time.perf_counter() if gpu else time.process_time()) - began, loss

    shape = (1, 8, 8) if asked.net == "small_cnn" else (3, 32, 32)
    teacher = models.build(asked.teacher or asked.net, channels=shape[0], seed=1).to(asked.device)
    theirs = models.build(asked.net, channels=shape[0], seed=2).to(asked.device)
    weights = copy.deepcopy(theirs.state_dict())
    forms = {form: copy.deepcopy(theirs) for form in asked.forms.split(",")}
    index, y = torch.arange(asked.batch), torch.zeros(asked.batch, dtype=torch.int64)
    times: dict[str, list[float]] = {form: [] for form in ("released", *forms)}
    off: dict[str, float] = dict.fromkeys(forms, 0.0)
    images = Noise(0, index, "images").uniform(shape)
    data = Split(images.to(asked.device), y.to(asked.device), 10, "noise", "train", index=index)
    x = data.images
    with tempfile.TemporaryDirectory() as folder, freeze(teacher):
        soft = teacher(x).softmax(1)
        constant = float((soft * ((soft + 1e-5).log() - soft.log())).mean())
        start = (0.001 * Noise(0, index, "method", 1).normal(shape)).to(asked.device)
        recipe = Recipe(batch=asked.batch, augment="none")
        for pair in range(asked.pairs + WARM):
            theirs.load_state_dict(weights)
            released = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
            taken = {"released": timed(lambda o=released: released_step(theirs, teacher, o, x, start))}
            for form, net in forms.items():
                net.load_state_dict(weights)
                keep = SoftLabelCache(folder) if asked.table else None
                taken[form] = timed(ours(net, teacher, data, replace(recipe, **FORMS[form]), keep))
            if pair < WARM:
                continue
            for form, (seconds, loss) in taken.items():
                times[form].append(seconds)
                if form in off:
                    off[form] = max(off[form], abs(loss + constant - taken["released"][1]))
    taught = asked.teacher or asked.net
    print(f"{asked.net}, batch {asked.batch}, teacher {taught}{' kept' * asked.table}, {asked.pairs} pairs")
    work = 26 * macs(theirs, shape) + (0 if asked.table else macs(teacher, shape))  # F and T of RSLAD
    for form in forms:
        ratios = [a / b for a, b in zip(times["released"], times[form], strict=True)]
        print(
            f"  {form}: released / ours {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"largest loss difference {off[form]:.1e}; {asked.batch / statistics.median(times[form]):.3g} images/s"
        )
        if asked.peak:
            share = 2 * work * asked.batch / statistics.median(times[form]) / (asked.peak * 1e12)
            print(f"    {100 * share:.2g} % of {asked.peak:g} TFLOP/s")
    if gpu:
        print(f"  peak memory {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
