"""A teacher in bfloat16: its logits and features alone, in the loop, in cached soft labels and in a plan."""

import torch

from ardor import methods
from ardor.data.split import Split
from ardor.engine.folding import FoldedNet
from ardor.engine.modes import freeze
from ardor.methods import RSLAD, AdaAD, VarianceGap
from ardor.models.teachers import each_folded
from ardor.storage.runs import Run
from ardor.training.loop import epochs, passes_of_teacher
from ardor.training.soft_labels import SoftLabelCache
from ardor.training.soft_labels.views import numbering
from tests.engine.conftest import CLASSES, PGD2, SEEN, Spied, X, Y, net, off, recipe

TRAIN = Split(X, Y, CLASSES, "made up", "train")
BFLOAT16 = recipe(teacher_precision="bfloat16")


def viewed(teacher, settings=BFLOAT16):
    return each_folded(teacher, passes_of_teacher(TRAIN, settings))


def test_logits_are_rounded_and_folded():
    with freeze(net(1)) as teacher:
        view = viewed(teacher)
        logits, exact = view(X), teacher(X)
    assert logits.dtype == torch.float32
    assert 1e-4 < off(logits, exact) < 0.05
    assert isinstance(view.view, FoldedNet)
    assert view.view.matches, "compared in float32, whatever the passes are"


def test_features_and_head_are_rounded_too():
    with freeze(net(1)) as teacher:
        view = viewed(teacher)
        features, exact = view.features(X), teacher.features(X)
        assert features.dtype == torch.float32
        assert 1e-4 < off(features, exact) < 0.05
        assert off(view.head(features), teacher(X)) < 0.05


def test_a_net_that_is_not_folded_is_rounded_as_it_is():
    SEEN.clear()
    with freeze(Spied("teacher")) as teacher:
        viewed(teacher)(X)
        viewed(teacher, recipe())(X)
    assert [seen[-1] for seen in SEEN] == ["bfloat16", "float32"]


def test_a_gradient_to_the_input_passes_through():
    x = X.clone().requires_grad_()
    with freeze(net(1)) as teacher:
        (grad,) = torch.autograd.grad(viewed(teacher)(x).square().sum(), x)
        y = X.clone().requires_grad_()
        (exact,) = torch.autograd.grad(teacher(y).square().sum(), y)
    assert 1e-4 < off(grad, exact) < 0.1


def losses(method, teacher, **changes):
    return [record.loss for record in epochs(net(), teacher, method, TRAIN, recipe(**changes))]


def test_every_kind_of_use_learns_from_it():
    for make in (RSLAD, VarianceGap, AdaAD):
        rounded, exact = (losses(make(attack=PGD2), net(1), **c) for c in ({"teacher_precision": "bfloat16"}, {}))
        assert rounded != exact, make.__name__
        assert torch.tensor(rounded).allclose(torch.tensor(exact), rtol=0.05), make.__name__


def test_a_table_of_rounded_labels_is_another(tmp_path):
    cache = SoftLabelCache(tmp_path)
    for settings in (BFLOAT16, recipe(), BFLOAT16):
        list(epochs(net(), net(1), methods.RSLAD(attack=PGD2), TRAIN, settings, soft_labels=cache))
    assert len(list(tmp_path.iterdir())) == 2
    assert numbering(recipe()) == {"padding": 0, "flip": False}, "tables from before the choice stay known"
    assert numbering(BFLOAT16)["precision"] == "bfloat16"


def test_a_run_records_it(tmp_path):
    list(epochs(net(), net(1), methods.RSLAD(attack=PGD2), TRAIN, BFLOAT16, run=tmp_path / "run"))
    assert Run(tmp_path / "run").config["recipe"]["teacher_precision"] == "bfloat16"
