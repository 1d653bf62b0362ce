"""The identity of an evaluation: a report or journal is reused only where it matches."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ardor.attacks import Suite
from ardor.attacks.rounds import fitted
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.models import hash_of
from ardor.storage.config import code_of, describe, in_package
from ardor.types import Attack
from ardor.version import __version__


def identity(net: nn.Module, data: Split, suite: Suite, *, batch: int = 256, seed: int = 0) -> dict[str, Any]:
    """The identity of `evaluate` with these arguments, as JSON: net, images, attacks, seed, batch and versions."""
    attacks = {name: fitted(attack, data.classes) for name, attack in suite.attacks.items()}
    return identity_of_report(empty_report(net, data, suite, attacks, seed, batch), net, attacks)


def matching_report(path: Path, wanted: dict[str, Any]) -> Report | None:
    """The report at `path` if it has the identity `wanted`, else None.

    A report does not contain the code of a user's files, so that may differ.
    """
    try:
        report = Report.load(path)
    except ConfigError:
        return None
    present = {key: getattr(report, key) for key in wanted if key != "code"}
    present["data"] = {key: report.data.get(key) for key in wanted["data"]}
    return report if json.dumps({key: wanted[key] for key in present}) == json.dumps(present) else None


def identity_of_report(report: Report, net: nn.Module, attacks: dict[str, Attack]) -> dict[str, Any]:
    """The identity of the evaluation that fills `report`."""
    keys = ("model", "data", "suite", "sequential", "threat", "attacks", "seed", "batch", "versions")
    config = {key: getattr(report, key) for key in keys}
    config["data"] = {key: report.data[key] for key in ("name", "part", "hash")}
    foreign = [m for m in net.modules() if not in_package(type(m)) and type(m).__module__.partition(".")[0] != "torch"]
    settings = [describe({k: v for k, v in vars(m).items() if isinstance(v, int | float | str)}) for m in foreign]
    code = {name: _code(attack) for name, attack in attacks.items()} | {"net": [_code(type(m)) for m in foreign]}
    digest = hashlib.sha256(repr((settings, code)).encode()).hexdigest()[:16]
    return {**config, "n": report.n, "code": digest}


def _code(thing: Any) -> Any:
    """The class or function of an attack or layer, and a hash of its file: an edited one has another identity."""
    if isinstance(thing, partial):
        return [_code(thing.func), describe(list(thing.args)), describe(thing.keywords)]
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}", code_of(kind)


def empty_report(
    net: nn.Module, data: Split, suite: Suite, attacks: dict[str, Attack], seed: int, batch: int
) -> Report:
    """The report of an evaluation before its first verdict."""
    return Report(
        model={**describe(net), "hash": hash_of(net), "parameters": sum(p.numel() for p in net.parameters())},
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
        attacks={name: _resolved(attack) for name, attack in attacks.items()},
        index=data.index.tolist(),
        labels=data.labels.tolist(),
        verdicts={},
        seed=seed,
        batch=batch,
        versions={"ardor": __version__, "torch": str(torch.__version__)},
    )


def _resolved(attack: Attack) -> dict[str, object]:
    """The hyperparameters of an attack, with a step of None as eps / 4."""
    config: dict[str, object] = describe(attack)
    if config.get("step", 0) is None:
        config["step"] = describe(attack.threat.eps / 4)  # type: ignore[attr-defined]
    return config
