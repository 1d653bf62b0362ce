"""The public surface, and rules of the house that a test can hold."""

import ast
import re
from pathlib import Path

import pytest
import torch

import ardor
import ardor.models.builders
from ardor.data import load
from ardor.diagnostics.teacher import wants_robust
from ardor.engine.folding import is_known
from ardor.errors import ModelError
from ardor.experiments.label_study import LabelKinds
from ardor.storage.config import name_of
from ardor.testing import TinyNet
from ardor.training.averaging import EMA
from ardor.training.loop import _layout
from ardor.training.preflight import check_setup
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "ardor").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DIGITS = load("digits")[0]


def test_public_names_are_pinned():
    assert ardor.__all__ == [
        "L2", "ArdorError", "Epoch", "EpochRecord", "History", "Linf", "Noise", "Recipe", "Report", "attack_view",
        "attacks", "compare", "data", "distill", "epochs", "errors", "evaluate", "export", "freeze", "losses",
        "methods", "models", "plot", "variance_gap",
    ]  # fmt: skip
    assert ardor.attacks.__all__ == [
        "APGD", "CW", "FAB", "FGSM", "PGD", "Square", "Suite", "WorstCase", "autoattack", "paper", "plus", "quick",
        "rand", "suites",
    ]  # fmt: skip
    assert ardor.methods.__all__ == [
        "ABSLD", "ADR", "AKD2", "ARD", "DGAD", "IAD", "IGDM", "KD", "LBGAT", "MART", "MTARD", "RSLAD", "SAAD", "SAT",
        "TRADES", "AdaAD", "AdaIAD", "FairRSLAD", "Natural", "PeerAiD", "VarianceGap",
    ]  # fmt: skip
    for room in (ardor, ardor.attacks, ardor.methods, ardor.data, ardor.models):
        assert all(hasattr(room, name) for name in room.__all__)


def test_the_house_has_few_rooms():
    entries = [path for path in (ROOT / "ardor").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert len(entries) <= 23, sorted(path.name for path in entries)


def test_errors_are_drawn_in_the_docstring():
    classes = [v for v in vars(ardor.errors).values() if isinstance(v, type) and issubclass(v, ardor.ArdorError)]
    assert all(c.__name__ in ardor.errors.__doc__ for c in classes)
    assert len(classes) == 9


def test_names_in_a_config_are_pinned():
    kinds = [getattr(ardor.methods, name) for name in ardor.methods.__all__]
    assert [name_of(kind) for kind in kinds] == [
        "absld", "adr", "akd2", "ard", "dgad", "iad", "igdm", "kd", "lbgat", "mart", "mtard", "rslad", "saad", "sat",
        "trades", "adaad", "adaiad", "fair_rslad", "natural", "peeraid", "variance_gap",
    ]  # fmt: skip
    for kind in (ardor.Linf, ardor.attacks.PGD, ardor.Recipe, EMA, TinyNet):
        assert name_of(kind) == kind.__name__
    assert name_of(LabelKinds) == "ardor.experiments.label_study:LabelKinds"
    assert name_of(type(ardor.models.build("small_cnn"))) == "SmallCNN"


class Subclass(ardor.methods.KD):
    """A method of a user's own that builds on one of the package."""


class Net(TinyNet):
    """The same for a net."""


def test_what_a_class_declares_holds_for_no_subclass():
    assert name_of(Subclass).endswith(":Subclass")
    assert wants_robust(Subclass)
    check_setup(TinyNet(), None, Subclass(), DIGITS, None)
    with pytest.raises(ModelError, match="KD expected a teacher"):
        check_setup(TinyNet(), None, ardor.methods.KD(), DIGITS, None)
    assert is_known(TinyNet())
    assert not is_known(Net())
    layouts = {kind: _layout(kind(), [TinyNet()], 3) for kind in (ardor.methods.KD, Subclass, LabelKinds)}
    assert layouts == {
        ardor.methods.KD: torch.channels_last, Subclass: torch.contiguous_format, LabelKinds: torch.channels_last
    }  # fmt: skip
    assert _layout(ardor.methods.KD(), [TinyNet(), Net()], 3) == torch.contiguous_format


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_habits_of_the_house(path):
    text = path.read_text()
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    assert not called & {"print", "eval", "exec", "os.getenv", "pickle.load", "pickle.loads"}
    if path.name != "ray_engine.py":  # it switches Ray's reports of its use off, for which Ray has no argument
        assert "os.environ" not in text, "a lever that nobody sees"
    drawn = {"torch.manual_seed", "torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.rand_like"}
    assert not called & (drawn | {"torch.randn_like"}), "the global generator"


def test_what_does_not_belong_in_the_project():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *SOURCES, *TESTS, *ROOT.glob("recipes/*")]:
        if path == Path(__file__):
            continue
        text = path.read_text()
        assert not re.search(r"/work/|/root/|/home/|pypi\.org|\bfiles\.pythonhosted", text), path
