"""Every ingredient of a recipe with every method: two steps of a tiny net, or the refusal where they do not fit."""

import functools
import math

import numpy as np
import pytest
import torch

from ardor import methods
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data.extra import with_extra
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.testing import TinyNet
from ardor.training.averaging import EMA, SWA
from ardor.training.loop import epochs
from ardor.training.optimisers import AdamW
from ardor.training.recipe import AUGMENT, Recipe
from ardor.training.state import learned_state
from ardor.types import uses_labels

ATTACK = PGD(Linf(0.1), steps=1, start="uniform")
IMAGES, STEPS = 12, 2
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES + 8, 8, 8, 1), dtype=np.uint8)

METHODS = {
    **{name: functools.partial(getattr(methods, name), attack=ATTACK)
       for name in methods.__all__ if name not in ("Natural", "KD", "IGDM")},
    "Natural": methods.Natural,
    "KD": methods.KD,
    "KD without labels": lambda: methods.KD(alpha=1.0),
    "IAD and its own": lambda: methods.IAD(attack=ATTACK, begin=1),
    "AdaIAD and its own": lambda: methods.AdaIAD(attack=ATTACK, begin=1),
    "SAAD without labels": lambda: methods.SAAD(inner="clean", beta=0.5, attack=ATTACK),
    "B-MTARD": lambda: methods.MTARD(balance_temperatures=True, attack=ATTACK),
    "VarianceGap of features": lambda: methods.VarianceGap(gram="features", lc=0.0, lg=0.1, attack=ATTACK),
    "IGDM": lambda: methods.IGDM(methods.RSLAD(attack=ATTACK)),
    "IGDM of FairRSLAD": lambda: methods.IGDM(methods.FairRSLAD(attack=ATTACK)),
}  # fmt: skip

RECIPES = {
    **{f"augment {kind}": {"augment": kind} for kind in AUGMENT.__args__ if kind != "none"},
    "late": {"late": "idbh-strong"},
    "erase": {"erase": 1.0}, "cutout": {"cutout": 5},
    "jitter": {"jitter": (0.4, 0.4, 0.4, 0.1)}, "randaugment": {"randaugment": (2, 20)},
    "cutmix": {"mix": "cutmix"}, "mixup": {"mix": "mixup", "mix_alpha": 0.4},
    "awp": {"awp": 0.01}, "accumulate": {"accumulate": 2}, "clip": {"clip": 1e-4},
    "eps_ramp": {"eps_ramp": (0.5, 1)}, "cosine": {"schedule": "cosine", "warmup": 0.5},
    "one-cycle": {"schedule": "one-cycle"}, "adamw": {"optimiser": AdamW()},
    "bfloat16": {"precision": "bfloat16"}, "attack in bfloat16": {"attack_precision": "bfloat16"},
    "awp and more": {"awp": 0.01, "accumulate": 2, "augment": "idbh-weak", "clip": 1.0, "schedule": "one-cycle",
                     "eps_ramp": (0, 1)},
}  # fmt: skip
SAME = ("plain", "EMA", "SWA", "attack in bfloat16")
"""Ingredients that leave the weights as they are, or may: one step of an attack has the same signs."""

OTHERS = ["extra", "extra without labels", "extra with the teacher's", "EMA", "SWA", "smoothing"]


@functools.cache
def images(kind, folder):
    pixels = torch.from_numpy(PIXELS[:IMAGES]).permute(0, 3, 1, 2).contiguous()
    train = Split(pixels, torch.arange(IMAGES) % 4, 4, "made", "train")
    if not kind.startswith("extra"):
        return train
    known = {} if kind == "extra without labels" else {"label": np.arange(8) % 4}
    np.savez(folder / f"{kind}.npz", image=PIXELS[IMAGES:], **known)
    return with_extra(
        train, f"npz:{folder / kind}.npz", 0.5, "teacher" if kind == "extra with the teacher's" else "file"
    )


@functools.cache
def student():
    return TinyNet(1, 4, 4, seed=1)


def teacher_of(method, width=5):
    if not vars(type(method)).get("needs_teacher", True):
        return None
    names = getattr(method, "teachers", ("",))
    nets = {name: TinyNet(1, 4, width + number, seed=number + 2) for number, name in enumerate(names)}
    return nets if names != ("",) else nets[""]


def refused(kind, method):
    """Whether the ingredient does not fit the method."""
    attacked, labels = hasattr(method, "attack"), uses_labels(method)
    if kind in ("cutmix", "mixup", "extra without labels"):
        return labels
    if kind == "extra with the teacher's":
        return labels and (hasattr(method, "teachers") or not vars(type(method)).get("needs_teacher"))
    return kind in ("eps_ramp", "awp and more") and not attacked


def trained(name, kind, folder):
    """A run of one epoch: its record, the student, the method, and the calls of `advance`."""
    method, advanced = METHODS[name](), []
    if kind == "smoothing":
        method.smoothing = 0.2
    if hasattr(method, "advance"):
        own = method.advance
        method.advance = lambda *args, **options: (advanced.append(options["last"]), own(*args, **options))
    net = TinyNet(1, 4, 4)
    net.load_state_dict(student().state_dict())
    averaging = {"EMA": EMA(0.5, warmup=False), "SWA": SWA(1)}.get(kind)
    recipe = Recipe(**{"epochs": 1, "batch": 6, "lr": 0.01, "augment": "none", "device": "cpu"} | RECIPES.get(kind, {}))
    (record,) = epochs(net, teacher_of(method), method, images(kind, folder), recipe, averaging=averaging)
    return record, net, method, advanced


def fault(name, kind, folder, plain):
    """What is wrong with a pair, or None."""
    method = METHODS[name]()
    if kind == "smoothing" and not hasattr(method, "smoothing"):
        return None
    try:
        record, net, method, advanced = trained(name, kind, folder)
    except ConfigError as error:
        return None if refused(kind, method) else f"refused: {error}"
    if refused(kind, method):
        return "not refused"
    if not all(map(math.isfinite, [record.loss, *record.terms.values()])):
        return f"not finite: {record.terms}"
    if not all(bool(v.isfinite().all()) for v in [*net.state_dict().values(), *learned_state(method).values()]):
        return "state that is not finite"
    if hasattr(type(method), "advance") and [*advanced[:-1], not advanced[-1]] != [False] * STEPS:
        return f"advanced {len(advanced)} times in {STEPS} steps"
    weights = net.linear.weight
    if torch.equal(weights, student().linear.weight):
        return "no weight moved"
    if kind not in SAME and torch.equal(weights, plain):
        return "no effect"
    return None


@pytest.mark.parametrize("name", METHODS)
def test_every_ingredient_with_a_method(name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    plain = trained(name, "plain", folder)[1].linear.weight
    faults = {kind: fault(name, kind, folder, plain) for kind in ("plain", *RECIPES, *OTHERS)}
    assert not {kind: text for kind, text in faults.items() if text}
