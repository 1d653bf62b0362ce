"""A split under an attack, batch by batch, and the validation that counts with it."""

from dataclasses import replace

import pytest
import torch

from ardor import Recipe, methods
from ardor.attacks import APGD, PGD, Suite
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.engine.modes import attack_view
from ardor.errors import ModelError, ThreatError
from ardor.evaluation.attacked import adversarial, attacked, batch_for, correct
from ardor.evaluation.verdicts import evaluate
from ardor.testing import TinyNet
from ardor.training.validation import validate

THREAT = Linf(0.015)


def images():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    """Its logits are centred over the images, so that it predicts several classes."""
    net = TinyNet()
    with torch.no_grad(), attack_view(net):
        net.linear.bias -= net(images()).mean(0)
    return net


@pytest.fixture
def data(net):
    """One label in four is wrong."""
    with torch.no_grad(), attack_view(net):
        labels = (net(images()).argmax(1) + (torch.arange(20) % 4 == 0)) % 10
    return Split(images=images(), labels=labels, classes=10, name="noise", part="val")


def test_an_image_meets_the_same_noise_in_any_batch(net, data):
    """The start alone, which is noise alone: bit for bit, whatever the batch."""

    def start(net, x, y, noise):
        return THREAT.start(x, "uniform", noise)

    rows = torch.tensor([7, 2, 19])
    whole = torch.cat([one.x_adv for one in attacked(net, data, start, "a", batch=6)])
    part = list(attacked(net, data, start, "a", batch=2, rows=rows))
    assert [one.rows.tolist() for one in part] == [[7, 2], [19]]
    assert torch.equal(torch.cat([one.x_adv for one in part]), whole[rows])
    assert not torch.equal(next(attacked(net, data, start, "b")).x_adv, whole)
    assert not torch.equal(next(attacked(net, data, start, "a", seed=1)).x_adv, whole)


@pytest.mark.parametrize(("side", "number"), [(8, 256), (32, 256), (96, 56), (224, 10), (1024, 8)])
def test_of_large_images_fewer_are_attacked_at_once(side, number):
    shown = torch.zeros(1, 1, 1, 1).expand(1, 3, side, side)
    assert batch_for(Split(shown, torch.zeros(1, dtype=torch.int64), 2, "large", "test")) == number


def test_no_batch_is_larger_than_the_data(net, data):
    assert [len(one.x) for one in attacked(net, data, None, "clean", batch=2**40, pad=True)] == [20]
    assert evaluate(net, data, Suite("s", THREAT, {"pgd": PGD(THREAT, steps=1)}), batch=2**40).batch == 20


def test_a_short_batch_is_padded_by_its_own_rows(net, data):
    *_, last = attacked(net, data, None, "clean", batch=8, pad=True)
    assert last.rows.tolist() == [16, 17, 18, 19]
    assert torch.equal(last.x, data.batch(torch.tensor([16, 17, 18, 19] * 2))[0])
    assert torch.equal(last.x_adv, last.x)
    assert adversarial(net, data, "a", PGD(THREAT, steps=1), batch=8).shape == data.images.shape


def test_each_image_has_its_own_verdict(net, data):
    alive = torch.arange(20) % 3 != 0
    mask = correct(net.eval(), net, data, None, "clean", alive=alive, batch=4, pad=True)
    assert torch.equal(mask, alive & (torch.arange(20) % 4 != 0))


def test_validation_attacks_the_images_that_are_right(net, data):
    attacked = set()

    def note(net, x, y, noise):
        attacked.update(noise.index.tolist())
        return x

    recipe = Recipe(epochs=1, val_attack=note, val_size=0, device="cpu")
    assert validate(net, data, methods.Natural(), recipe) == (0.75, 0.75)
    assert attacked == {i for i in range(20) if i % 4}


def test_no_rows_are_no_batch(net, data):
    assert list(attacked(net, data, None, "clean", rows=torch.tensor([], dtype=torch.int64))) == []
    assert not correct(net, net, data, None, "clean", alive=torch.zeros(20, dtype=torch.bool)).any()


@pytest.mark.parametrize("move", [lambda x: x + 0.2, lambda x: x[:1], lambda x: -x])
def test_an_attack_that_leaves_its_threat_is_refused_where_one_is_given(net, data, move):
    def attack(net, x, y, noise):
        return move(x)

    next(attacked(net, data, attack, "far"))
    with pytest.raises(ThreatError, match="expected far to"):
        next(attacked(net, data, attack, "far", threat=THREAT))


@pytest.mark.parametrize("attack", [PGD(THREAT, steps=3), APGD(THREAT, steps=6, loss="dlr", targets=2)])
def test_validation_counts_what_an_evaluation_counts_and_takes_no_hash(net, data, attack, monkeypatch):
    report = evaluate(net.eval(), data, Suite("validation", THREAT, {"validation": attack}), batch=20)
    monkeypatch.setattr(Split, "hash", property(lambda self: pytest.fail("hashed")))
    monkeypatch.setattr("ardor.evaluation.checks.net.of_net", lambda *_: pytest.fail("checked"))
    recipe = Recipe(epochs=1, val_attack=attack, val_size=0, device="cpu")
    before = torch.random.get_rng_state()
    assert validate(net.train(), data, methods.Natural(), recipe) == (report.clean.value, report.worst_case.value)
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert 0 < report.worst_case.k < report.clean.k == 15


def test_validation_of_a_broken_net_or_attack_is_an_error(net, data):
    recipe = Recipe(epochs=1, val_size=0, device="cpu")

    class Far(PGD):
        def __call__(self, net, x, y, noise):
            return x + 0.2

    with pytest.raises(ThreatError, match="expected validation to stay within"):
        validate(net, data, methods.Natural(), replace(recipe, val_attack=Far(THREAT)))
    with torch.no_grad(), attack_view(net):
        next(net.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN or infinity on 20 of 20"):
        validate(net, data, methods.Natural(), recipe)
