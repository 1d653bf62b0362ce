"""Ten steps of training per method against losses on file: a change that no formula test detects is detected here.

Weights come from ardor's hash and everything runs in float64 on one thread, so the figures hold on any machine.
After a change that is meant to move them: python -m tests.methods.test_golden
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.methods import (
    ABSLD,
    ADR,
    AKD2,
    ARD,
    DGAD,
    IAD,
    IGDM,
    KD,
    LBGAT,
    MART,
    MTARD,
    RSLAD,
    SAAD,
    SAT,
    TRADES,
    AdaAD,
    AdaIAD,
    FairRSLAD,
    Natural,
    PeerAiD,
    VarianceGap,
)
from ardor.noise import Noise
from tests.conftest import batch, filled, pair
from tests.methods.test_later import teachers_of

GOLDEN = Path(__file__).with_name("golden_losses.txt")
HEAD = "# The loss of each of ten steps per method. Rewritten by python -m tests.methods.test_golden, never by hand.\n"
THREAT = Linf(0.1)
METHODS = {
    "natural": Natural(),
    "sat": SAT(PGD(THREAT, 3)),
    "trades": TRADES(attack=PGD(THREAT, 3, start="gaussian")),
    "mart": MART(attack=PGD(THREAT, 3, start="gaussian")),
    "kd": KD(),
    "ard": ARD(alpha=0.9, t=3.0, attack=PGD(THREAT, 3)),
    "ard-released": ARD(t=3.0, scale=0.1, train_mode_attack=True, attack=PGD(THREAT, 3, start="unclipped")),
    "iad": IAD(begin=6, attack=PGD(THREAT, 3)),
    "iad-released": IAD(begin=6, weighted_teacher=False, train_mode_attack=True, attack=PGD(THREAT, 3)),
    "rslad": RSLAD(attack=PGD(THREAT, 3, start="gaussian")),
    "variance-gap": VarianceGap(lc=0.01, lg=2.0, attack=PGD(THREAT, 3, start="gaussian")),
    "adaad": AdaAD(alpha=0.9, attack=PGD(THREAT, 3)),
    "adaiad": AdaIAD(t=3.0, begin=6, attack=PGD(THREAT, 3)),
    "igdm": IGDM(AdaAD(attack=PGD(THREAT, 3)), ramp=10),
    "saad": SAAD(ramp=10, beta=0.5, attack=PGD(THREAT, 3)),
    "adr": ADR(steps=10, decay=0.5, attack=PGD(THREAT, 3)),
    "fair-rslad": FairRSLAD(attack=PGD(THREAT, 3)),
    "absld": ABSLD(attack=PGD(THREAT, 3)),
    "mtard": MTARD(attack=PGD(THREAT, 3)),
    "b-mtard": MTARD(balance_temperatures=True, g=0.1, attack=PGD(THREAT, 3)),
    "dgad": DGAD(attack=PGD(THREAT, 3)),
    "peeraid": PeerAiD(l1=0.2, attack=PGD(THREAT, 3)),
    "akd2": AKD2(attack=PGD(THREAT, 3)),
    "lbgat": LBGAT(attack=PGD(THREAT, 3)),
}


def losses(method):
    """Ten steps of SGD, one batch per epoch."""
    student, teacher = pair(student=4, teacher=6)
    teacher = teachers_of(method, teacher)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, batch()[0])
    # torch's initialisers may change with its version
    if hasattr(method, "projector_"):
        with torch.no_grad():
            method.projector_.linear.weight = torch.eye(6, 4, dtype=torch.float64)
    for name in ("peer_", "natural_"):
        if hasattr(method, name):
            filled(getattr(method, name), 7)
    groups = [{"params": list(student.parameters()), "weight_decay": 2e-4}]
    if list(getattr(method, "parameters", tuple)()):
        groups.append({"params": list(method.parameters()), "weight_decay": 0.0})
    optimiser = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    values = []
    for epoch in range(1, 11):
        x, y, _ = batch(images=8, seed=epoch % 3)
        noise = Noise(0, torch.arange(len(x)), "method", epoch)
        loss = sum(term.mean() for term in method.terms(student, teacher, x, y, epoch=epoch, noise=noise).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if hasattr(method, "advance"):
            method.advance(student, epoch=epoch, last=True, average=None)
        values.append(float(loss.detach()))
    return values


def on_file():
    lines = [line.split() for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: [float(v) for v in values] for name, *values in lines}


@pytest.mark.parametrize("name", METHODS)
def test_ten_steps(name):
    assert losses(METHODS[name]) == pytest.approx(on_file()[name], rel=1e-9)


def test_the_file_holds_these_methods_and_no_others():
    assert GOLDEN.read_text(encoding="utf-8").startswith(HEAD)
    assert list(on_file()) == list(METHODS)
    runs = list(on_file().values())
    assert all(len(run) == 10 for run in runs)
    # methods with equal losses would not be distinguished by this file
    assert len({run[9] for run in runs}) == len(METHODS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = [" ".join([name, *(repr(loss) for loss in losses(method))]) for name, method in METHODS.items()]
    GOLDEN.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
