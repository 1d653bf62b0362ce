"""Verdicts: independent of batch and order, judged at the final iterate, with findings on what is wrong."""

import dataclasses

import pytest
import torch
from torch import nn

import ardor
import ardor.models.builders
from ardor import attacks
from ardor.attacks import CW, FGSM, PGD, Suite, paper
from ardor.attacks.threat import L2, Linf
from ardor.errors import DataError, ModelError, ThreatError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.verdicts import evaluate
from ardor.noise import Noise
from tests.conftest import Wrapped
from tests.fixtures.make import four_classes, trained

pytestmark = pytest.mark.processor

THREAT = Linf(0.1)


@pytest.fixture(scope="module")
def data():
    """Forty images of four classes with many black and white pixels; three labels are wrong."""
    split = four_classes()
    labels = split.labels.clone()
    labels[torch.tensor([2, 9, 31])] += torch.tensor([1, -1, -3])
    return dataclasses.replace(split, labels=labels)


@pytest.fixture(scope="module")
def net():
    """A net that classifies most of them correctly and is broken on some."""
    return trained("four_classes")


def by_index(report):
    return {name: dict(zip(report.index, letters, strict=True)) for name, letters in report.verdicts.items()}


def test_the_net_makes_the_tests_below_worth_something(net, data):
    figures = evaluate(net, data, paper(THREAT)).figures()
    assert 20 < figures["clean"].k < 40
    assert 0 < figures["worst_case"].k < figures["clean"].k


@pytest.mark.parametrize("threat", [THREAT, L2(0.7)])
def test_verdicts_do_not_depend_on_the_batch(net, data, threat):
    one, many, odd = (by_index(evaluate(net, data, paper(threat), batch=b)) for b in (1, 256, 7))
    assert one == many == odd


def test_verdicts_do_not_depend_on_order_or_batch_composition(net, data):
    whole = by_index(evaluate(net, data, paper(THREAT), batch=16))
    shuffled = data.take(torch.randperm(40, generator=torch.Generator().manual_seed(1)))
    assert by_index(evaluate(net, shuffled, paper(THREAT), batch=16)) == whole
    part = by_index(evaluate(net, data.take([3, 30, 11]), paper(THREAT), batch=16))
    assert all(whole[name][i] == letter for name in part for i, letter in part[name].items())


@pytest.mark.parametrize("attack", [PGD(THREAT), CW(THREAT), PGD(L2(0.7), start="gaussian"), FGSM(THREAT)])
def test_images_are_the_same_bytes_in_any_order(net, data, attack):
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    whole = adversarial(net, data, "a", attack, batch=8)
    assert torch.equal(adversarial(net, data.take(rows), "a", attack, batch=8), whole[rows])
    assert torch.equal(adversarial(net, data.take(rows[:5]), "a", attack, batch=8), whole[rows[:5]])


def test_attacks_of_a_suite_are_independent(net, data):
    """Each starts from all correct images with its own stream, whatever runs beside it."""
    suite = paper(THREAT)
    together = evaluate(net, data, suite)
    for name, attack in suite.attacks.items():
        alone = evaluate(net, data, Suite("one", THREAT, {name: attack}))
        assert alone.verdicts[name] == together.verdicts[name]
    starts = [adversarial(net, data, name, PGD(THREAT, steps=1)) for name in ("pgd_sat", "pgd_trades")]
    assert not torch.equal(*starts)


def test_verdicts_are_those_of_the_final_iterate(data):
    """An attack that passes through a success and ends on the clean image has broken nothing."""

    @dataclasses.dataclass(frozen=True)
    class ThereAndBack:
        threat = THREAT

        def __call__(self, net, x, y, noise):
            net((x + 0.1).clamp(0, 1))
            return x.clone()

    class Threshold(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([0.5 - mean, mean - 0.5, mean * 0 - 9, mean * 0 - 9], 1) + self.p

    grey = data.take(data.labels == 0)
    report = evaluate(Threshold(), grey, Suite("s", THREAT, {"back": ThereAndBack()}))
    assert report.robust("back").k == report.clean.k > 0


def test_figures_follow_from_verdicts(net, data):
    report = evaluate(net, data, paper(THREAT), batch=64)
    with torch.no_grad():
        correct = net(data.images).argmax(1) == data.labels
    assert report.clean.k == int(correct.sum())
    for name, attack in paper(THREAT).attacks.items():
        x_adv = attack(net, data.images, data.labels, Noise(0, data.index, name))
        with torch.no_grad():
            stands = correct & (net(x_adv).argmax(1) == data.labels)
        letters = "".join("-" if not c else "r" if s else "b" for c, s in zip(correct, stands, strict=True))
        assert report.verdicts[name] == letters
    survives = [all(v[i] == "r" for v in report.verdicts.values()) for i in range(40)]
    assert report.worst_case.k == sum(survives)


def test_nothing_is_left_changed(net, data):
    student = ardor.models.build("small_cnn", classes=4, channels=1, width=4).train()
    student.layers[0].eval()
    modes = [m.training for m in student.modules()]
    before = {k: v.clone() for k, v in student.state_dict().items()}
    state = torch.get_rng_state()
    report = evaluate(student, data, paper(THREAT))
    assert [m.training for m in student.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert "training_mode" in [f.name for f in report.findings]
    assert evaluate(net, data, paper(THREAT)).findings == []


def test_an_attack_that_leaves_its_threat_is_refused(net, data):
    for bad in (PGD(Linf(0.2)), lambda net, x, y, noise: x * 1.5 + 0.05, lambda net, x, y, noise: x * float("nan")):
        with pytest.raises(ThreatError, match="threat.project"):
            evaluate(net, data, Suite("s", THREAT, {"bad": bad}))


def test_nets_that_cannot_be_judged(net, data):
    zero = net(torch.zeros(1, *data.shape))
    changes = {  # finite on the zero image, which is tried first
        "NaN or infinity": lambda z: z if torch.equal(z, zero) else z.log() * 0,
        "tuple": lambda z: (z, z),
        "4 classes, got 3": lambda z: z[:, :3],
    }
    for message, change in changes.items():
        with pytest.raises(ModelError, match=message):
            evaluate(Wrapped(net, after=change), data, paper(THREAT))
    with pytest.raises(DataError, match="batch"):
        evaluate(net, data, paper(THREAT), batch=0)


def test_flaws_have_findings(net, data):
    softmax = nn.Sequential(net, nn.Softmax(1)).eval()
    assert [f.name for f in evaluate(softmax, data, attacks.quick(THREAT)).findings] == ["probabilities"]
    marked = dataclasses.replace(data, marks=("test set took part in selection",))
    report = evaluate(net, marked, attacks.quick(THREAT))
    assert [f.name for f in report.findings] == ["selection"]
    assert "test set took part in selection" in report.table()
    weak = Suite("s", THREAT, {"fgsm": FGSM(THREAT), "pgd_sat": PGD(THREAT, steps=1, step=1e-6, start="none")})
    assert [f.name for f in evaluate(net, data, weak).findings] == ["one_step_wins"]


def test_a_report_has_its_configuration(net, data):
    report = evaluate(net, data, paper(Linf(8 / 255)), seed=5, batch=20)
    assert report.threat == {"name": "Linf", "eps": "8/255"}
    assert report.attacks["pgd_sat"]["step"] == "2/255"
    assert report.attacks["pgd_trades"]["step"] == 0.003
    assert (report.model["name"], report.model["hash"]) == ("small_cnn", ardor.models.hash_of(net))
    assert (report.data["name"], report.data["hash"], report.n) == ("made", data.hash, 40)
    assert (report.seed, report.batch, report.suite) == (5, 20, "paper")
    assert report.versions["ardor"] == ardor.__version__
    table = report.table()
    assert "n = 40" in table
    assert "95 % interval" in table
    assert "worst class" in table
