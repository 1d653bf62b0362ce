"""The variance gap of features as a diagnostic of robustness.

Dong, Koniusz, Chen and Ong, ECCV 2024. For an adversarially trained net, robust accuracy under a growing radius falls,
nearly linearly, as the variance of the features under attack departs from the clean one: V = trace C / d over
all images, gap(eps) = |V(X'_eps) - V(X)|. Far beyond the radius that a net was trained for the trend can bend, which
the signed gap shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn

from ardor import data, models
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.engine.modes import attack_view
from ardor.errors import ConfigError, ModelError, RunError
from ardor.evaluation.attacked import attacked
from ardor.losses import covariance
from ardor.models.identity import identity, key_of
from ardor.storage.arguments import typed
from ardor.storage.config import as_text
from ardor.storage.files import write_text
from ardor.storage.reading import checked, read_json
from ardor.storage.runs import Run
from ardor.types import Threat

log = logging.getLogger(__name__)

RADII = tuple(r / 255 for r in range(0, 18, 2))


@dataclass(frozen=True)
class GapPoint:
    """One radius of the trend: robust accuracy beside the variance of the attacked features, NaN without features.

    variance: V(X'_eps); signed: V(X'_eps) - V(X); gap: its size; relative: signed / V(X); frobenius: ||C' - C||_F.
    """

    eps: float
    accuracy: float
    variance: float = math.nan
    signed: float = math.nan
    relative: float = math.nan
    frobenius: float = math.nan

    @property
    def gap(self) -> float:
        """|V(X'_eps) - V(X)|."""
        return abs(self.signed)


@typed
def variance_gap(
    net: nn.Module, data: Split, radii: tuple[float, ...] = RADII, *, steps: int = 20, batch: int = 256, seed: int = 0
) -> list[GapPoint]:
    """Robust accuracy and variance gap over Linf radii: PGD on cross-entropy, step eps / 4.

    Parameters
    ----------
    net : nn.Module
        With `features` (B, d) and `head`.
    data : Split
        The images.
    radii : tuple of float
        In [0, 1]; 0, the clean images, is always included.
    steps, batch, seed : int
        Of PGD.

    Returns
    -------
    list of GapPoint
        By radius.

    Raises
    ------
    ModelError
        The features are constant over the images.
    """
    points = radius_curve(net, data, [Linf(eps) for eps in radii if eps], steps=steps, batch=batch, seed=seed)
    if not points[0].variance > 0:
        raise ModelError("expected features that vary over the images, got constants: check the net's weights")
    return points


def radius_curve(
    net: Any, data: Split, threats: Sequence[Threat], *, steps: int = 20, batch: int = 256, seed: int = 0
) -> list[GapPoint]:
    """Robust accuracy at 0 and at each threat's radius, with the variance gap where the net has `features`.

    Parameters
    ----------
    net : nn.Module
        Any classifier.
    data : Split
        The images.
    threats : sequence of Threat
        Of one norm.
    steps, batch, seed : int
        Of PGD.

    Returns
    -------
    list of GapPoint
        By radius.
    """
    attacks = {0.0: None} | {threat.eps: PGD(threat, steps=steps) for threat in threats}
    points, clean_c = [], None
    for eps, attack in sorted(attacks.items()):
        c, accuracy = _attacked_covariance(net, data, attack, batch, seed)
        clean_c = c if clean_c is None else clean_c
        if c is None or clean_c is None or not (v0 := float(clean_c.diagonal().mean())) > 0:
            points.append(GapPoint(eps, accuracy))
            continue
        v = float(c.diagonal().mean())
        points.append(GapPoint(eps, accuracy, v, v - v0, (v - v0) / v0, float((c - clean_c).norm())))
    return points


def _attacked_covariance(
    net: Any, data: Split, attack: PGD | None, batch: int, seed: int
) -> tuple[Tensor | None, float]:
    """The covariance of the attacked features, None for a net without, and the accuracy."""
    features, correct = [], 0
    with attack_view(net) as view:
        has_features = hasattr(view, "features") and hasattr(view, "head")
        for one in attacked(view, data, attack, "variance_gap", batch=batch, seed=seed):
            with torch.no_grad():
                h = view.features(one.x_adv) if has_features else None
                logits = view(one.x_adv) if h is None else view.head(h)
                correct += int((logits.argmax(1) == one.y).sum())
            features += [] if h is None else [h.double().cpu()]
    return covariance(torch.cat(features)) if features else None, correct / len(data)


def pearson(points: list[GapPoint]) -> float:
    """Pearson's r between gap and robust accuracy over the radii, eps = 0 included; NaN where either is constant."""
    table = torch.tensor([[p.gap, p.accuracy] for p in points], dtype=torch.float64)
    return float(torch.corrcoef(table.T)[0, 1])


def split_of(run: Path, trust_code: bool = False) -> Split:
    """The test part of a run's data. Raises ConfigError for code, unless `trust_code`."""
    return data.load_test(**data.options_of(Run(run).part("data", trust_code=trust_code)))


class _Key(TypedDict):
    """What the points of a file were measured on."""

    model: str
    data: str
    radii: list[float]
    n: NotRequired[int]
    norm: NotRequired[str]


class _Saved(TypedDict):
    """A file of `gaps_of`."""

    key: _Key
    points: list[GapPoint]


def read_gaps(path: Path) -> tuple[list[GapPoint], Any]:
    """The points of a file of `gaps_of`, and its key: net, images and radii. Raises ConfigError."""
    content = checked(read_json(path), _Saved, path)
    return content["points"], content["key"]


def gaps_of(run: Path, threat: Threat, limit: int, trust_code: bool = False) -> list[GapPoint]:
    """Variance gap and robust accuracy of a run at nine radii from 0 to 2 eps, cached in its folder.

    A file of more images or of other radii is kept, and this one written beside it.

    Parameters
    ----------
    run : Path
        The run's folder.
    threat : Threat
        Its eps sets the radii.
    limit : int
        Test images, classes in proportion.
    trust_code : bool
        As in `ardor.models.load`.

    Returns
    -------
    list of GapPoint
        By radius; without variances for a net without `features`.
    """
    net = models.load(run, trust_code=trust_code)
    split, norm = split_of(run, trust_code).limit(limit), type(threat).__name__
    radii, n = tuple(threat.eps * k / 4 for k in range(9)), len(split)
    key = {"model": key_of(identity(net, split.shape)), "data": split.hash, "radii": list(radii), "n": n, "norm": norm}
    words = [norm.lower(), as_text(threat.eps).replace("/", "_"), str(n)]
    path, beside = Run(run).variance_gap, Run(run).gaps_beside(words)
    for kept in (path, beside):
        with contextlib.suppress(ConfigError, KeyError, TypeError):  # missing or damaged: measured again
            points, measured = read_gaps(kept)
            if {"n": n, "norm": "Linf", **measured} == key:
                return points
            other = measured["radii"] != key["radii"] or measured.get("norm", "Linf") != norm
            if measured["model"] == key["model"] and (other or measured.get("n", n + 1) > n):
                path = beside  # a fuller one, or of another threat, is kept
    points = radius_curve(net, split, [dataclasses.replace(cast(Any, threat), eps=eps) for eps in radii if eps])
    content = [{name: value for name, value in vars(point).items() if not math.isnan(value)} for point in points]
    try:
        write_text(path, json.dumps({"key": key, "points": content}, indent=1))
    except RunError as error:  # another user's run
        log.warning("the radii are measured again next time: %s", error)
    return points
