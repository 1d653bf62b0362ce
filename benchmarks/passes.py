"""What a training step of each method costs in passes, beside what its formula needs, counted by hand.

    python benchmarks/passes.py
    python benchmarks/passes.py --student resnet18 --batch 4

F is a forward pass of the student, T one of the teacher, per image. A step of an attack is a forward pass and one back
to the input (2F); a pass that the student learns from goes back to the weights as well (3F). Passes are counted in
every convolution and linear layer (engine/flops.py). The last column is torch's own count of the arithmetic of the same
step, in F, the teacher's taken away; there the attack runs on the twin, as in training. It is a little below where
learning asks the first layer for no gradient of the images, and far above where convolutions have groups: torch's
formula for the gradient of their weights leaves the groups out (3F of MobileNetV2 count as 21F). The column of the
released codes was read from them. It prints a Markdown table and exits with 1 where a method costs anything but what
its formula needs and no reason is said.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ardor import methods, models
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.engine.flops import count_flops
from ardor.engine.modes import freeze, train_mode
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.noise import Noise

FORWARD, CLIMB, LEARN = 1, 2, 3
"""F of a pass that no gradient goes through, of one back to the input, and of one back to the weights too."""


@dataclass(frozen=True)
class Need:
    """So many passes of `each` F, and what for."""

    times: int
    each: int
    what: str

    def __str__(self) -> str:
        return f"{self.times} x {self.each}F {self.what}"


@dataclass(frozen=True)
class Row:
    """needs: of the student, by the formula. taught: T, by what. released: what the authors' code does, spelled out."""

    name: str
    method: Any
    needs: tuple[Need, ...]
    taught: tuple[str, ...] = ()
    released: str = ""
    epoch: int = 100
    dearer: str = ""  # why it may cost more than it needs

    @property
    def attack(self) -> int:
        return sum(need.times * need.each for need in self.needs if need.each != LEARN)

    @property
    def learning(self) -> int:
        return sum(need.times * need.each for need in self.needs if need.each == LEARN)

    @property
    def by_hand(self) -> str:
        return " + ".join([*map(str, self.needs), *(f"T({what})" for what in self.taught)])


CLIMBED, BOTH, ADVERSARIAL = Need(10, CLIMB, "attack"), Need(2, LEARN, "x, x'"), Need(1, LEARN, "x'")
MOVES = Need(1, FORWARD, "x, for the batch statistics alone")
IDLE = "the formula reads as the paper has it; a pass back of weight 0 is 2F of 26F"
STUDY = "one cell of a study, for which the formula would be cut in two"
UNCLIPPED = PGD(start="unclipped")
AS_TRADES = PGD(Linf(0.031), step=0.007, start="gaussian")
RELEASED_TRADES = "39F = 10 x (2F x' + 1F x) + 3 x 3F x, x', x"
RELEASED_IAD = "30F + 2T = 10 x 2F + 3 x 3F x', x, x + 1 x 1F x' (29F in another version)"
RELEASED_EARLY = "27F + 2T = 10 x 2F + 2 x 3F x', x (of weight 0) + 1 x 1F x'"
RELEASED_ARD = "26F + 1T = 10 x 2F + 2 x 3F x', x (of weight 0)"
RELEASED_MART = "26F = 10 x 2F + 2 x 3F x, x'"
RELEASED_RSLAD = "26F + 1T = 10 x 2F + 2 x 3F x', x"

ROWS = (
    Row("natural", Natural(), (Need(1, LEARN, "x"),)),
    Row("SAT", SAT(), (CLIMBED, ADVERSARIAL)),
    Row("TRADES", TRADES(), (Need(1, FORWARD, "target f(x)"), CLIMBED, BOTH), (), RELEASED_TRADES),
    Row(
        "TRADES, released sizes", TRADES(attack=AS_TRADES), (Need(1, FORWARD, "target f(x)"), CLIMBED, BOTH), (),
        RELEASED_TRADES,
    ),
    Row("MART", MART(), (CLIMBED, BOTH), (), RELEASED_MART),
    Row("MART, released sizes", MART(5, attack=AS_TRADES), (CLIMBED, BOTH), (), RELEASED_MART),
    Row("KD", KD(), (Need(1, LEARN, "x"),), ("x",)),
    Row("ARD, alpha 1", ARD(), (CLIMBED, ADVERSARIAL, MOVES), ("x",), RELEASED_ARD, dearer=IDLE),
    Row(
        "ARD, alpha 1, released", ARD(scale=0.1, train_mode_attack=True, attack=UNCLIPPED),
        (CLIMBED, ADVERSARIAL, MOVES), ("x",), RELEASED_ARD, dearer=IDLE,
    ),
    Row("ARD, alpha 0.5", ARD(alpha=0.5), (CLIMBED, BOTH), ("x",), RELEASED_ARD.removesuffix(" (of weight 0)")),
    Row("IAD", IAD(), (CLIMBED, BOTH), ("x", "x'"), RELEASED_IAD),
    Row("IAD before `begin`", IAD(), (CLIMBED, ADVERSARIAL, MOVES), ("x",), RELEASED_EARLY, epoch=1),
    Row(
        "IAD, released", IAD(begin=61, weighted_teacher=False, train_mode_attack=True, attack=UNCLIPPED),
        (CLIMBED, BOTH), ("x", "x'"), RELEASED_IAD,
    ),
    Row("RSLAD", RSLAD(), (CLIMBED, BOTH), ("x",), RELEASED_RSLAD),
    Row("RSLAD, released", RSLAD(scale=0.1), (CLIMBED, BOTH), ("x",), RELEASED_RSLAD),
    Row("RSLAD, alpha 1", RSLAD(alpha=1), (CLIMBED, ADVERSARIAL, MOVES), ("x",), dearer=IDLE),
    Row("variance gap", VarianceGap(), (CLIMBED, BOTH), ("x", "x'")),
    Row("variance gap, covariance", VarianceGap(lg=0), (CLIMBED, BOTH), ("x", "x'")),
    Row("variance gap, Gram", VarianceGap(lc=0), (CLIMBED, BOTH), ("x", "x'")),
    Row("variance gap, neither", VarianceGap(lc=0, lg=0), (CLIMBED, BOTH), ("x",)),
    Row("variance gap, clean only", VarianceGap(sets="clean"), (CLIMBED, BOTH), ("x",), dearer=STUDY),
    Row("variance gap, adversarial only", VarianceGap(sets="adversarial"), (CLIMBED, BOTH), ("x", "x'")),
)  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """F of passes without a gradient of the weights and of those with one, T, and torch's own count of it in F."""

    attack: float
    learning: float
    teacher: float
    arithmetic: float


class Arithmetic(TorchDispatchMode):
    """Floating-point operations of all that runs meanwhile, by torch's own formulas.

    FlopCounterMode itself raises where an attack calls autograd.grad (pytorch/pytorch#131753).
    """

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def spent(row: Row, student: nn.Module, teacher: nn.Module, x: Tensor) -> Spent:
    """One step of the row's method on a copy of the student."""
    student, method = copy.deepcopy(student), copy.deepcopy(row.method)
    y = torch.arange(len(x)) % 10
    noise = Noise(0, torch.arange(len(x)), "method", row.epoch)

    def learn() -> None:
        terms = method.terms(student, teacher if row.taught else None, x, y, epoch=row.epoch, noise=noise)
        torch.stack([term.mean() for term in terms.values()]).sum().backward()

    def forward(net: nn.Module) -> float:
        with Arithmetic() as counted, torch.no_grad():
            net(x)
        return counted.total

    with train_mode(student), freeze(teacher):
        if hasattr(method, "prepare"):
            method.prepare(student, teacher, x)
        with torch.no_grad(), count_flops(layers(student)) as f, count_flops(layers(teacher)) as t:
            student(x), teacher(x)
        with count_flops(layers(student)) as ours, count_flops(layers(teacher)) as theirs:
            learn()
        learn()  # the twin is made, and compared with its net once
        with Arithmetic() as counted:
            learn()
        learning, asked = 3 * ours.weights / f.forward, theirs.total / t.forward
        arithmetic = (counted.total - asked * forward(teacher)) / forward(student)
    return Spent(ours.total / f.forward - learning, learning, asked, arithmetic)


def verdict(row: Row, found: Spent) -> str:
    """Empty where what is spent is what the formula needs."""
    pairs = [
        ("attack and other passes", found.attack, row.attack, "F"),
        ("learning", found.learning, row.learning, "F"),
        ("teacher", found.teacher, len(row.taught), "T"),
    ]
    other = [f"{name} {a:.1f}{unit}, needs {b}{unit}" for name, a, b, unit in pairs if abs(a - b) > 1e-6]
    if found.arithmetic > row.attack + row.learning + 1 and not other:
        other = [f"{found.arithmetic:.1f}F of arithmetic, needs {row.attack + row.learning}F"]
    return "; ".join(other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="small_cnn", help="small_cnn, resnet18, mobilenet_v2")
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    unnamed = set(methods.__all__) - {type(row.method).__name__ for row in ROWS}
    if unnamed:
        sys.exit(f"expected a row for every method, got none for {', '.join(sorted(unnamed))}: count it by hand")
    student = models.build(asked.student, channels=3, seed=1)
    teacher = models.build("small_cnn", channels=3, width=24, seed=2)
    x = Noise(0, torch.arange(asked.batch), "images").uniform((3, 16, 16))
    print("| method | attack | learning | teacher | whole | formula needs | by hand | released code | torch counts |")
    print("|---|--:|--:|--:|--:|--:|---|---|--:|")
    others = []
    for row in ROWS:
        found = spent(row, student, teacher, x)
        need = f"{row.attack + row.learning}F" + (f" + {len(row.taught)}T" if row.taught else "")
        whole = f"{found.attack + found.learning:.3g}F" + (f" + {found.teacher:.3g}T" if found.teacher else "")
        print(
            f"| {row.name} | {found.attack:.3g}F | {found.learning:.3g}F | {found.teacher:.3g}T | {whole} | {need} "
            f"| {row.by_hand} | {row.released} | {found.arithmetic:.2f}F |"
        )
        if said := verdict(row, found):
            others.append((row, f"{row.name}: {said}" + (f"; left so: {row.dearer}" if row.dearer else "")))
    print("\n" + ("\n".join(line for _, line in others) if others else "Every method costs what its formula needs."))
    return 1 if any(not row.dearer for row, _ in others) else 0


if __name__ == "__main__":
    sys.exit(main())
