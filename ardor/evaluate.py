"""evaluate: a verdict per image and attack, from which every accuracy derives.

The attacks of a suite are independent: each starts from all correctly classified images and is judged at its final
iterate. Work is done in batches of one fixed shape, a short one padded by repetition, and every image has its own
random stream, so neither order nor company can change a verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

import ardor
from ardor import checks
from ardor.attacks import Suite
from ardor.config import describe
from ardor.data.split import Split
from ardor.errors import DataError, ModelError, ThreatError
from ardor.models import hash_of, require_fit
from ardor.modes import attack_view
from ardor.noise import Noise
from ardor.report.report import BROKEN, NOT_ATTEMPTED, ROBUST, Report
from ardor.types import Attack, Images, Labels, Net, Threat

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the attack's name, images done and images to do."""


def evaluate(
    net: nn.Module, data: Split, suite: Suite, *, batch: int = 256, seed: int = 0, progress: Progress | None = None
) -> Report:
    """Judge `net` on every image of `data` under every attack of `suite`.

    batch: the fixed shape in which everything is computed. seed: of the attacks' random starts. progress: called after
    each batch. Modes, parameter gradients and the global random generator are as before afterwards. Raises ModelError
    where net and data do not fit or logits are not finite, ThreatError where an attack leaves its threat.
    """
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    require_fit(net, data.shape, data.classes)
    tell = progress or (lambda name, done, todo: None)
    seconds: dict[str, float] = {}
    with attack_view(net) as view:
        clean = torch.cat(
            [_logits(net, x)[:real] for x, _, _, real in _batches(net, data, torch.arange(len(data)), batch)]
        )
        correct = clean.argmax(1) == data.labels.to(clean.device)
        todo = correct.nonzero().squeeze(1).cpu()
        verdicts = {}
        for name, attack in suite.attacks.items():
            began = time.perf_counter()
            letters = [NOT_ATTEMPTED] * len(data)
            for rows, broken in _judge(view, net, data, todo, name, attack, suite.threat, batch, seed):
                for row, b in zip(rows.tolist(), broken.tolist(), strict=True):
                    letters[row] = BROKEN if b else ROBUST
                tell(name, sum(letter != NOT_ATTEMPTED for letter in letters), len(todo))
            verdicts[name] = "".join(letters)
            seconds[name] = round(time.perf_counter() - began, 3)
    report = _report(net, data, suite, verdicts, seed, batch)
    report.seconds = seconds
    robust = {name: report.robust(name).k for name in verdicts}
    found = [
        checks.selection(data),
        checks.training_mode(net),
        checks.probabilities(clean),
        checks.one_step_wins(robust),
    ]
    report.findings = [f for f in found if f is not None]
    return report


def adversarial(net: nn.Module, data: Split, name: str, attack: Attack, *, batch: int = 256, seed: int = 0) -> Tensor:
    """The images (N, C, H, W) that `evaluate` judges for this attack of a suite, for every image of `data`."""
    with attack_view(net) as view:
        done = [
            attack(view, x, y, Noise(seed, index, name))[:real].cpu()
            for x, y, index, real in _batches(net, data, torch.arange(len(data)), batch)
        ]
    return torch.cat(done)


def _judge(
    view: Net,
    net: nn.Module,
    data: Split,
    todo: Tensor,
    name: str,
    attack: Attack,
    threat: Threat,
    batch: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of `data` and whether each was broken, batch by batch: attacked on the view, judged on the net as given."""
    start = 0
    for x, y, index, real in _batches(net, data, todo, batch):
        x_adv = attack(view, x, y, Noise(seed, index, name))
        _require_inside(x_adv, x, threat, name)
        yield todo[start : start + real], (_logits(net, x_adv).argmax(1) != y)[:real]
        start += real


def _batches(net: nn.Module, data: Split, rows: Tensor, batch: int) -> Iterator[tuple[Images, Labels, Tensor, int]]:
    """Batches of exactly `batch` images on the net's device, and how many of them are real."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    for chunk in rows.split(batch) if len(rows) else ():
        padded = chunk[torch.arange(batch) % len(chunk)]
        x, y, index = (v.to(device) for v in data.batch(padded))
        yield x, y, index, len(chunk)


@torch.no_grad()
def _logits(net: Net, x: Images) -> Tensor:
    logits = net(x)
    if not bool(logits.isfinite().all()):
        raise ModelError("expected finite logits, got NaN or infinity: check the weights and the normalisation")
    return logits


def _require_inside(x_adv: Images, x: Images, threat: Threat, name: str) -> None:
    """An attack that leaves its threat would count as a success what nobody allowed."""
    allowed = threat.eps * (1 + 1e-4) + 1e-6
    distance = getattr(threat, "distance", None)
    far = float(distance(x_adv, x).max()) if distance else 0.0
    low, high = (float(v) for v in torch.aminmax(x_adv))
    if not (far <= allowed and low >= 0 and high <= 1):
        raise ThreatError(
            f"expected {name} to stay within eps {threat.eps:.4g} and [0, 1], got distance {far:.4g} and values in "
            f"[{low:.4g}, {high:.4g}]: end the attack with threat.project(x_adv, x)"
        )


def _report(net: nn.Module, data: Split, suite: Suite, verdicts: dict[str, str], seed: int, batch: int) -> Report:
    return Report(
        model={**describe(net), "hash": hash_of(net), "parameters": sum(p.numel() for p in net.parameters())},
        data={
            "name": data.name,
            "part": data.part,
            "classes": data.classes,
            "class_names": list(data.class_names),
            "hash": data.hash,
            "source": describe(data.source),
            "marks": list(data.marks),
        },
        suite=suite.name,
        threat=describe(suite.threat),
        attacks={name: _resolved(attack) for name, attack in suite.attacks.items()},
        index=data.index.tolist(),
        labels=data.labels.tolist(),
        verdicts=verdicts,
        seed=seed,
        batch=batch,
        versions={"ardor": ardor.__version__, "torch": torch.__version__},
    )


def _resolved(attack: Attack) -> dict[str, object]:
    """An attack's hyperparameters as they were used: a step of None is eps / 4."""
    said: dict[str, object] = describe(attack)
    if said.get("step", 0) is None:
        said["step"] = describe(attack.threat.eps / 4)  # type: ignore[attr-defined]
    return said
