"""Values of other types: every dataclass of a configuration, and every public function."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import ardor
from ardor import attacks, methods
from ardor.data.split import Split
from ardor.deployment.export import export
from ardor.diagnostics import examine
from ardor.diagnostics.record import Record
from ardor.diagnostics.teacher import examine_teacher
from ardor.errors import ArdorError, ConfigError, ThreatError
from ardor.evaluation.comparison import compare
from ardor.storage.config import build, classes, describe
from ardor.training.averaging import EMA, SWA
from ardor.training.loop import distill, epochs
from ardor.training.recipe import Recipe
from ardor.training.soft_labels import SoftLabelCache
from tests.conftest import splits
from tests.training.conftest import net

VALUES = [
    True, "text", None, 1.5, 3.0, math.nan, math.inf, 10**400, 2**63, -1, 1j, np.int64(1), np.float32(0.5),
    np.bool_(True), np.array(3), np.array([1, 2]), torch.tensor(2), torch.tensor(0.25), torch.tensor(True),
    np.str_("ce"), [], (), {},
    object(), ardor.Linf, ardor.Linf(0.1), attacks.PGD, attacks.PGD(), methods.SAT, methods.SAT(),
]  # fmt: skip
KINDS = ("attack", "method", "threat", "averaging", "optimiser", "recipe")
MADE = [(kind, cls) for kind in KINDS for cls in classes(kind).values()]
CASES = [(kind, cls, f.name) for kind, cls in MADE for f in dataclasses.fields(cls) if f.init]


@pytest.mark.parametrize(("kind", "cls", "field"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_a_field_of_any_type_is_refused_in_a_sentence_or_kept_by_a_configuration(kind, cls, field):
    for value in VALUES:
        try:
            made = cls(**{field: value})
        except ArdorError:
            continue
        config = describe(made)
        assert build(config, kind) == made
        plain = (bool, int, float, str, type(None), list, dict)
        assert isinstance(config[field], plain)
        assert type(getattr(made, field)).__module__ != "numpy"


def test_numbers_of_numpy_and_torch_are_kept_as_pythons():
    pgd = attacks.PGD(ardor.Linf(np.float32(8 / 255)), steps=np.int64(3), step=torch.tensor(0.01))
    assert type(pgd.threat.eps) is float
    assert type(pgd.steps) is int
    assert type(pgd.step) is float
    assert Recipe(milestones=np.array([3, 4])).milestones == (3, 4)
    assert Recipe(milestones=[3, 4]) == Recipe(milestones=(3, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: attacks.PGD(0.1), r"threat of PGD as a Threat, got 0.1: type for example ardor.Linf"),
        (lambda: attacks.PGD(ardor.Linf), r"got the class Linf: type for example Linf\(\)"),
        (lambda: attacks.PGD(steps=2.0), "steps of PGD as a whole number, got 2.0"),
        (lambda: attacks.FAB(alpha="0.1"), "alpha of FAB as a number, got '0.1'"),
        (lambda: attacks.Square(queries=True), "queries of Square as a whole number, got True"),
        (lambda: attacks.FGSM(loss="cee"), "loss of FGSM as one of ce, margin, dlr, got 'cee'"),
        (lambda: methods.RSLAD(alpha=True), "alpha of RSLAD as a number, got True"),
        (lambda: methods.SAT(attack=attacks.CW()), "attack of SAT as a Maximiser, got CW"),
        (lambda: methods.SAT(attack=attacks.PGD), r"the class PGD: type for example PGD\(\)"),
        (lambda: methods.KD(t=math.nan), "t of KD as a finite number, got nan"),
        (lambda: methods.VarianceGap(seed=2**63), r"seed of VarianceGap as a whole number of 0 or more, below 2\*\*63"),
        (lambda: Recipe(epochs=3.0), "epochs of Recipe as a whole number, got 3.0"),
        (
            lambda: Recipe(val_attack="pgd"),
            "val_attack as an attack such as PGD.*, or a suite: paper, quick, .*got 'pgd'",
        ),
        (lambda: SWA(start=True), "start of SWA as a whole number"),
        (lambda: EMA(decay="x"), "averaging.decay as a number"),
        (lambda: SoftLabelCache(3), "folder of SoftLabelCache as text or a Path, got 3"),
        (lambda: SoftLabelCache("x", dtype="bfloat16"), "one of float16, float32|one of float32, float16"),
        (lambda: attacks.Suite("s", 0.1, {"a": attacks.PGD()}), "threat of Suite as a Threat"),
        (lambda: attacks.Suite("s", ardor.Linf(), attacks.PGD()), "attacks of Suite as a dict, got PGD"),
        (lambda: attacks.Suite("s", ardor.Linf(), {"a": attacks.PGD}), "the class PGD|as an Attack"),
        (lambda: attacks.paper(0.1), "as a Threat, got 0.1"),
        (lambda: attacks.suites.deployed(0.1), "as a Threat, got 0.1"),
        (lambda: attacks.suites.transfer(ardor.Linf(), "net"), "source of transfer as a Module, got 'net'"),
        (lambda: Record(clean="0.5"), "clean of Record as a number"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_to_type(make, words):
    with pytest.raises(ArdorError, match=words):
        make()


TRAIN, VAL = splits()
SUITE = attacks.quick(ardor.Linf(0.1))
CALLS = {
    "evaluate": (ardor.evaluate, {"net": net(), "data": VAL, "suite": SUITE}),
    "epochs": (epochs, {"student": net(), "teacher": None, "method": methods.SAT(), "train": TRAIN, "val": VAL}),
    "distill": (distill, {"student": net(), "teacher": None, "method": methods.SAT(), "train": TRAIN, "val": VAL}),
    "examine": (examine, {"net": net(), "data": VAL, "threat": ardor.Linf(0.1)}),
    "examine_teacher": (examine_teacher, {"teacher": net(), "val": VAL, "threat": ardor.Linf(0.1)}),
    "compare": (compare, {"a": [], "b": []}),
    "export": (export, {"net": net(), "path": "x.onnx", "check": VAL}),
    "variance_gap": (ardor.variance_gap, {"net": net(), "data": VAL, "steps": 1}),
}
WRONG = ["paper", 0.1, (1, 2), np.zeros(3), torch.utils.data.DataLoader([1]), ardor.Linf, object()]


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [(n, a, v) for (n, (_, words)), v in itertools.product(CALLS.items(), WRONG) for a in words],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_every_argument_of_every_entry_is_refused_in_a_sentence(name, argument, value, tmp_path):
    call, words = CALLS[name]
    if argument in ("path", "suite") and isinstance(value, str):
        return  # a suite by its name
    with pytest.raises(ArdorError, match="expected .*: "):
        call(**words | {argument: value})


def test_other_arguments_of_evaluate_are_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="expected .*autoattack"):
        ardor.evaluate(net(), VAL, "autoatack")
    with pytest.raises(ConfigError, match=r"seed of evaluate .* below 2\*\*63"):
        ardor.evaluate(net(), VAL, SUITE, seed=2**63)
    with pytest.raises(ConfigError, match="batch of evaluate as a whole number, got 2.5"):
        ardor.evaluate(net(), VAL, SUITE, batch=2.5)
    with pytest.raises(ThreatError):
        attacks.PGD(threat="linf")


X, Y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            {"images": X.numpy()},
            r"images of Split as a Tensor or an Images, got ndarray: type for example torch.as_tensor",
        ),
        ({"labels": Y.numpy()}, "labels of Split as a Tensor, got ndarray"),
        ({"labels": Y.tolist()}, "labels of Split as a Tensor, got list"),
        ({"labels": Y.int()}, "int64 labels"),
        ({"labels": Y.float()}, "int64 labels"),
        ({"classes": "4"}, "classes of Split as a whole number"),
        ({"classes": 0}, "classes"),
        ({"name": 3}, "name of Split as text"),
        ({"class_names": "abcd"}, "class_names of Split as a list"),
        ({"images": X.to("meta")}, "in memory"),
        ({"images": X.to_sparse()}, "in memory"),
    ],
)
def test_a_split_of_another_type_is_refused(words, expected):
    with pytest.raises(ArdorError, match=expected):
        Split(**{"images": X, "labels": Y, "classes": 4, "name": "toy", "part": "test"} | words)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floating_images_are_float32_without_a_graph(dtype):
    split = Split(X.to(dtype).requires_grad_(), Y, np.int64(4), "toy", "test")
    assert split.images.dtype == torch.float32
    assert not split.images.requires_grad
    assert type(split.classes) is int
