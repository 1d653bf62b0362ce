"""One iteration of each attack of AutoAttack on a large net: the official code beside ours, interleaved in one process.

    python benchmarks/autoattack_iteration.py --net resnet18 --batch 64 --pairs 3 --compile

A whole `standard` run on ResNet-18 takes over a minute an image on a CPU, so a few iterations are timed on images
that all stay alive: the radius is 1e-5 and the labels are the net's own answers. The official code gets the net, as its
users do; ours the twin that `attack_view` hands out, and with --compile its compiled form too. Prints the median over
pairs of official / ours in CPU time of one thread with its range, and the passes that each made.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from typing import Any

import torch
from autoattack import Watched
from pyautoattack import autopgd_base, fab_pt
from pyautoattack import square as official_square
from torch import Tensor, nn

from ardor import models
from ardor.attacks import APGD, FAB, Square
from ardor.attacks.rounds import in_rounds
from ardor.attacks.threat import Linf
from ardor.engine.compiling import compiled
from ardor.engine.flops import CountedNet
from ardor.engine.modes import attack_view
from ardor.noise import Noise

EPS = 1e-5
STEPS = {"apgd_ce": 5, "apgd_t": 5, "fab_t": 4, "square": 15}


def official(name: str, net: nn.Module) -> Any:
    words = {"norm": "Linf", "eps": EPS, "device": "cpu", "seed": 0}
    if name == "apgd_ce":
        return autopgd_base.APGDAttack(net, loss="ce", n_iter=STEPS[name], **words).perturb
    if name == "apgd_t":
        return autopgd_base.APGDAttack_targeted(net, n_iter=STEPS[name], n_target_classes=1, **words).perturb
    if name == "fab_t":
        words |= {"targeted": True, "n_iter": STEPS[name], "n_target_classes": 1, "n_restarts": 1}
        return fab_pt.FABAttack_PT(net, **words).perturb
    return official_square.SquareAttack(net, n_queries=STEPS[name], resc_schedule=False, **words).perturb


def ours(name: str) -> Any:
    threat = Linf(EPS)
    return {
        "apgd_ce": APGD(threat, STEPS[name]),
        "apgd_t": APGD(threat, STEPS[name], loss="dlr", targets=1),
        "fab_t": FAB(threat, steps=STEPS[name], targets=1),
        "square": Square(threat, queries=STEPS[name]),
    }[name]


def theirs(name: str, net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, int, int]:
    watched = Watched(net)
    attack = official(name, watched)
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        attack(x.clone(), y.clone())
    return time.process_time() - began, watched.forwards, watched.backwards


def mine(name: str, view: Any, x: Tensor, y: Tensor) -> tuple[float, int, int]:
    counted = CountedNet(view)
    began = time.process_time()
    in_rounds(ours(name), counted, x, y, Noise(0, torch.arange(len(x)), name))
    return time.process_time() - began, counted.forwards, counted.backwards


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", default=list(STEPS))
    parser.add_argument("--compile", action="store_true", help="ours compiled as well, as a third of each pair")
    words = parser.parse_args()
    torch.set_num_threads(1)
    net = models.build(words.net, classes=10, seed=0)
    x = Noise(0, torch.arange(words.batch), "x").uniform((3, 32, 32))
    net.train()  # statistics that fit the images, so that the logits of an untrained net are no constants
    with torch.no_grad():
        for _ in range(20):
            net(x)
    net.eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    with attack_view(net) as view:
        mine("apgd_ce", view, x, y)  # traced and compared once per net
        views = {"ours": view} | ({"compiled": compiled(net, x.shape[1:], len(x))} if words.compile else {})
        for name in words.attacks:
            slow: list[Any] = []
            quick: dict[str, list[Any]] = {who: [] for who in views}
            for _ in range(words.pairs):
                # with attack_view's parameters off, the official FAB would be spared their gradients
                net.requires_grad_(True)
                slow.append(theirs(name, net, x, y))
                net.requires_grad_(False)
                for who, one in views.items():
                    quick[who].append(mine(name, one, x, y))
            for who, runs in quick.items():
                ratios = sorted(a[0] / b[0] for a, b in zip(slow, runs, strict=True))
                span = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                passes = f"passes {slow[0][1]}+{slow[0][2]} and {runs[0][1]}+{runs[0][2]}"
                print(f"{words.net} batch {words.batch} {name}: official / {who} {span}, {passes}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
