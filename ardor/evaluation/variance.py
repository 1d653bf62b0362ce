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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
MOST, LEAST, PIXELS = 1000, 100, 1000 * 32 * 32
"""Images that `gaps_of` takes by default: at most, at least, and their pixels together."""


@dataclass(frozen=True)
class GapPoint:
    """One radius of the trend: robust accuracy beside the variance of the attacked features, NaN without features.

    variance: V(X'_eps); signed: V(X'_eps) - V(X); gap: its size; relative: signed / V(X); frobenius: ||C' - C||_F.
    confusion: [true class, predicted class, images] for each pair that occurs; of an earlier version's file empty.
    """

    eps: float
    accuracy: float
    variance: float = math.nan
    signed: float = math.nan
    relative: float = math.nan
    frobenius: float = math.nan
    confusion: list[list[int]] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of images; 0 where it is not known."""
        return sum(images for _, _, images in self.confusion)

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
    net: Any,
    data: Split,
    threats: Sequence[Threat],
    *,
    steps: int = 20,
    batch: int = 256,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
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
    progress : callable, optional
        Receives the finished share of the radii.

    Returns
    -------
    list of GapPoint
        By radius.
    """
    attacks = {0.0: None} | {threat.eps: PGD(threat, steps=steps) for threat in threats}
    points, clean_c = [], None
    for place, (eps, attack) in enumerate(sorted(attacks.items())):
        if progress is not None:
            progress(place / len(attacks))
        c, pairs = _attacked_covariance(net, data, attack, batch, seed)
        accuracy = sum(images for (true, predicted), images in pairs.items() if true == predicted) / len(data)
        confusion = [[*pair, images] for pair, images in sorted(pairs.items())]
        clean_c = c if clean_c is None else clean_c
        if c is None or clean_c is None or not (v0 := float(clean_c.diagonal().mean())) > 0:
            points.append(GapPoint(eps, accuracy, confusion=confusion))
            continue
        v = float(c.diagonal().mean())
        frobenius = float((c - clean_c).norm())
        points.append(GapPoint(eps, accuracy, v, v - v0, (v - v0) / v0, frobenius, confusion))
    return points


def _attacked_covariance(
    net: Any, data: Split, attack: PGD | None, batch: int, seed: int
) -> tuple[Tensor | None, Counter[tuple[int, int]]]:
    """The covariance of the attacked features, None for a net without, and images by true and predicted class."""
    features, pairs = [], Counter[tuple[int, int]]()
    with attack_view(net) as view:
        has_features = hasattr(view, "features") and hasattr(view, "head")
        for one in attacked(view, data, attack, "variance_gap", batch=batch, seed=seed):
            with torch.no_grad():
                h = view.features(one.x_adv) if has_features else None
                logits = view(one.x_adv) if h is None else view.head(h)
                pairs.update(zip(one.y.tolist(), logits.argmax(1).tolist(), strict=True))
            features += [] if h is None else [h.double().cpu()]
    return covariance(torch.cat(features)) if features else None, pairs


def default_limit(shape: Sequence[int]) -> int:
    """Images of shape (C, H, W) for radii: 1,000 of up to 32 pixels, of larger ones fewer, but at least 100."""
    return min(MOST, max(LEAST, PIXELS // (shape[1] * shape[2])))


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


def gaps_of(
    run: Path,
    threat: Threat,
    limit: int | None = None,
    trust_code: bool = False,
    progress: Callable[[float], None] | None = None,
) -> list[GapPoint]:
    """Variance gap and robust accuracy of a run at nine radii from 0 to 2 eps, cached in its folder.

    A file of more images or of other radii is kept, and this one written beside it.

    Parameters
    ----------
    run : Path
        The run's folder.
    threat : Threat
        Its eps sets the radii.
    limit : int or None
        Test images, classes in proportion; default as `default_limit`.
    trust_code : bool
        As in `ardor.models.load`.
    progress : callable, optional
        As in `radius_curve`.

    Returns
    -------
    list of GapPoint
        By radius; without variances for a net without `features`.
    """
    net = models.load(run, trust_code=trust_code)
    whole, norm = split_of(run, trust_code), type(threat).__name__
    split = whole.limit(default_limit(whole.shape) if limit is None else limit)
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
    threats = [dataclasses.replace(cast(Any, threat), eps=eps) for eps in radii if eps]
    points = radius_curve(net, split, threats, progress=progress)
    content = [{name: value for name, value in vars(point).items() if value == value} for point in points]  # NaN is not
    try:
        write_text(path, json.dumps({"key": key, "points": content}, indent=1))
    except RunError as error:  # another user's run
        log.warning("the radii are measured again next time: %s", error)
    return points
