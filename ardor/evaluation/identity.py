"""The identity of an evaluation: a report or journal is reused only where it matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ardor.attacks import Suite
from ardor.attacks.rounds import fitted
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.models.identity import identity as net_identity
from ardor.storage.config import describe, differences
from ardor.storage.signature import digest_of_object
from ardor.types import Attack
from ardor.version import __version__


def identity(net: nn.Module, data: Split, suite: Suite, *, batch: int = 256, seed: int = 0) -> dict[str, Any]:
    """The identity of `evaluate` with these arguments, as JSON: net, images, attacks, seed, batch and versions."""
    attacks = {name: fitted(attack, data.classes) for name, attack in suite.attacks.items()}
    return identity_of_report(empty_report(net, data, suite, attacks, seed, batch), attacks)


def matching_report(path: Path, wanted: dict[str, Any]) -> Report | None:
    """The report at `path` if it has the identity `wanted`, else None.

    A report does not contain the code of a user's attacks, so that may differ.
    """
    try:
        report = Report.load(path)
    except ConfigError:
        return None
    present = {key: getattr(report, key) for key in wanted if key != "code"}
    present["data"] = {key: report.data.get(key) for key in wanted["data"]}
    return None if differences({key: wanted[key] for key in present}, present) else report


def identity_of_report(report: Report, attacks: dict[str, Attack]) -> dict[str, Any]:
    """The identity of the evaluation that fills `report`."""
    keys = ("model", "data", "suite", "sequential", "threat", "attacks", "seed", "batch", "versions")
    config = {key: getattr(report, key) for key in keys}
    config["data"] = {key: report.data[key] for key in ("name", "part", "hash")}
    return {**config, "n": report.n, "code": digest_of_object(attacks)}


def empty_report(
    net: nn.Module, data: Split, suite: Suite, attacks: dict[str, Attack], seed: int, batch: int
) -> Report:
    """The report of an evaluation before its first verdict."""
    parameters = sum(p.numel() for p in net.parameters())
    return Report(
        model={**describe(net), **net_identity(net, data.shape), "parameters": parameters},
        data={
            "name": data.name,
            "part": data.part,
            "of": data.of or len(data),
            "classes": data.classes,
            "class_names": list(data.class_names),
            "hash": data.hash,
            "source": describe(data.source),
            "marks": list(data.marks),
        },
        suite=suite.name,
        sequential=suite.sequential,
        threat=describe(suite.threat),
        attacks={name: resolved(attack) for name, attack in attacks.items()},
        index=data.index.tolist(),
        labels=data.labels.tolist(),
        verdicts={},
        seed=seed,
        batch=batch,
        versions={"ardor": __version__, "torch": str(torch.__version__)},
    )


def resolved(attack: Attack) -> dict[str, object]:
    """The hyperparameters of an attack, with a step of None as eps / 4."""
    config: dict[str, object] = describe(attack)
    if config.get("step", 0) is None:
        config["step"] = describe(attack.threat.eps / 4)  # type: ignore[attr-defined]
    return config
