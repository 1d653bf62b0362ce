"""The suites of AutoAttack: what is in them, what they cost, and findings where they cannot run in full."""

import copy
from dataclasses import dataclass

import pytest
import torch

from ardor.attacks import APGD, FAB, PGD, Suite, WorstCase, autoattack, plus, rand, suites
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.errors import ConfigError, ThreatError
from ardor.evaluation.verdicts import evaluate
from ardor.noise import Noise
from ardor.reporting import PageEntry
from ardor.reporting.evidence import protocols
from ardor.testing import problem
from ardor.testing.shared import trained

THREAT = Linf(0.1)


@pytest.fixture
def data():
    x, y, index = problem(1, 8, 10, 0, 16)
    return Split(x, y, 10, "made", "test", index=index)


@pytest.mark.parametrize(
    ("classes", "change"),
    [
        (2, "apgd_t ran with loss margin instead of dlr, targets 1 instead of 9; fab_t ran with targets 1"),
        (3, "apgd_t ran with loss margin instead of dlr, targets 2 instead of 9; fab_t ran with targets 2"),
        (4, "apgd_t ran with targets 3 instead of 9; fab_t ran with targets 3"),
        (10, None),
    ],
)
def test_fewer_classes_than_the_suite_is_for_are_noted(classes, change):
    x, y, index = problem(1, 8, classes, 0, 12)
    few = Split(x, y, classes, "few", "test", index=index)
    attacks = {"apgd_t": APGD(THREAT, steps=3, loss="dlr", targets=9), "fab_t": FAB(THREAT, steps=3)}
    net = copy.deepcopy(trained(1, 8, classes, 0)).float().eval()
    report = evaluate(net, few, Suite("two", THREAT, attacks, sequential=True), batch=12)
    findings = {f.name: f for f in report.findings}
    assert report.attacks["apgd_t"]["targets"] == min(9, classes - 1)
    assert ("few_classes" in findings) == (change is not None)
    if change:
        assert findings["few_classes"].evidence == f"with {classes} classes {change} instead of 9"
        assert findings["few_classes"].severity == "note"


@pytest.mark.parametrize("suite", [autoattack, plus, rand, suites.apgd, suites.square], ids=lambda s: s.__name__)
def test_the_suites_of_autoattack_are_the_official_ones(suite):
    built = suite(Linf(8 / 255))
    assert built.sequential
    assert {
        "autoattack": ["apgd_ce", "apgd_t", "fab_t", "square"],
        "plus": ["apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"],
        "rand": ["apgd_ce", "apgd_dlr"],
        "apgd": ["apgd_ce", "apgd_dlr"],
        "square": ["square"],
    }[built.name] == list(built.attacks)
    several = built.name == "plus"
    for name, attack in built.attacks.items():
        assert attack.threat == Linf(8 / 255)
        assert attack.restarts == (5 if several and name in ("apgd_ce", "apgd_dlr", "fab") else 1)
        assert getattr(attack, "draws", 1) == (20 if built.name == "rand" else 1)
        assert getattr(attack, "steps", 100) == 100
        assert getattr(attack, "queries", 5000) == 5000
        assert getattr(attack, "targets", 0) == (9 if name.endswith("_t") else 0)
        assert getattr(attack, "loss", None) == {"apgd_ce": "ce", "apgd_dlr": "dlr", "apgd_t": "dlr"}.get(name)


def test_fab_and_square_support_two_norms():
    @dataclass(frozen=True)
    class Other(Linf):
        pass

    class Foreign:
        eps, start, ascend, project = 0.1, str, str, str

    assert autoattack(Other(0.1)).attacks["square"].threat == Other(0.1)
    with pytest.raises(ThreatError, match="expected Linf or L2 for FAB and Square, got Foreign"):
        autoattack(Foreign())


def test_autoattack_costs_as_specified():
    costs = {name: attack.cost(10) for name, attack in autoattack(Linf(8 / 255)).attacks.items()}
    assert costs == {"apgd_ce": 2 * 101, "apgd_t": 2 * 9 * 101, "fab_t": 3 * 9 * 100, "square": 5001}


def test_a_randomised_net_gets_the_same_numbers_again(data):
    """And the global generator is left as it was."""

    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = trained(1, 8, 10, 0)

        def forward(self, x):
            return self.net(x.double() + 0.3 * torch.randn_like(x)).float()

    before = torch.get_rng_state()
    short = Suite("rand", THREAT, {"apgd_ce": APGD(THREAT, 3, draws=4)}, sequential=True)
    noisy = Noisy().eval()
    reports = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        reports.append(evaluate(noisy, data, short, batch=8))
        assert torch.equal(torch.get_rng_state(), state)
    one, other = reports
    assert one.verdicts == other.verdicts
    torch.set_rng_state(before)
    assert "randomised" in [f.name for f in one.findings]


def test_the_page_names_the_images_and_the_protocol(data):
    """A subset and sequential attacks are in the text, too, not only in the JSON file."""
    short = Suite("short", THREAT, {"apgd_ce": APGD(THREAT, 2)}, sequential=True)
    report = evaluate(trained(1, 8, 10, 0).float().eval(), data.limit(10), short, batch=5)
    entry = PageEntry("net", "student", [report])
    (text,) = protocols([entry])
    assert text.startswith(
        "trial on 10 of 16 images, made (test), suite short, Linf eps 0.1, classes in proportion, each attack"
    )
    assert text.endswith("each attack on the survivors of those before it")
    assert "n = 10 of 16, classes in proportion" in report.table()
    assert "Each attack saw the survivors of those above it." in report.table()
    full = evaluate(trained(1, 8, 10, 0).float().eval(), data, Suite("one", THREAT, {"pgd": PGD(THREAT, 2)}), batch=16)
    (text,) = protocols([PageEntry("net", "student", [full])])
    assert text.startswith("16 images, made (test)")
    assert "survivors" not in text + full.table()


class ThirdParty:
    """A third-party attack that returns `give(x)`."""

    threat = THREAT
    rounds = 3  # a field of that name makes no rounds
    cost = 1.0

    def __init__(self, give):
        self.give = give

    def __call__(self, net, x, y, noise):
        return self.give(x)


@pytest.mark.parametrize("give", [lambda x: None, lambda x: x[:1]], ids=["nothing", "fewer"])
def test_an_attack_that_returns_something_else_is_refused(data, give):
    net = trained(1, 8, 10, 0).float().eval()
    with pytest.raises(ThreatError, match="expected own to return images of shape"):
        evaluate(net, data, Suite("own", THREAT, {"own": ThirdParty(give)}), batch=16)


def test_fields_called_rounds_and_cost_are_only_fields(data):
    net, steps = trained(1, 8, 10, 0).float().eval(), []
    own = Suite("own", THREAT, {"own": ThirdParty(lambda x: x.clone())})
    report = evaluate(net, data, own, batch=16, progress=steps.append)
    assert report.worst_case == report.clean
    assert all(p.seconds is None for p in steps[:-1])  # its cost is unknown


def test_an_attack_without_rounds_left_is_refused(data):
    class Empty(ThirdParty):
        def rounds(self, classes):
            return []

    with pytest.raises(ConfigError, match="at least one round of own"):
        evaluate(trained(1, 8, 10, 0).float().eval(), data, Suite("own", THREAT, {"own": Empty(None)}), batch=16)


def test_padding_is_not_counted(data):
    net = trained(1, 8, 10, 0).float().eval()
    report = evaluate(net, data.limit(10), Suite("one", THREAT, {"pgd": PGD(THREAT, 3)}), batch=64)
    attacked = sum(letter != "-" for letter in report.verdicts["pgd"])
    assert report.passes["pgd"] == [3 * attacked, 3 * attacked]


def test_each_round_has_a_stream_of_its_own(data):
    """The one that the attack itself would give it."""
    purposes = []

    class Two(ThirdParty):
        def rounds(self, classes):
            return [self, self]

        def __call__(self, net, x, y, noise):
            purposes.append(noise.purpose)
            return x.clone()

    evaluate(trained(1, 8, 10, 0).float().eval(), data, Suite("own", THREAT, {"two": Two(None)}), batch=16)
    assert purposes == ["two/0", "two/1"]


@pytest.mark.parametrize("name", ["clean", "worst_case", "new_starts"])
def test_an_attack_with_a_name_that_reports_use_is_refused(name):
    with pytest.raises(ConfigError, match=f'got "{name}", which reports use: name it'):
        Suite("mine", THREAT, {"pgd": PGD(THREAT), name: PGD(THREAT)})


def test_the_worst_case_of_a_suite_is_as_one_attack(data):
    """Each round on the survivors of those before it, under its own noise."""
    net = copy.deepcopy(trained(1, 8, 10, 0)).double().eval()
    worst = WorstCase(THREAT, "apgd")
    noise = Noise(3, data.index, "validation")
    x, y = data.images.double(), data.labels
    robust = net(x).argmax(1) == y
    for number, attack in enumerate((APGD(THREAT), APGD(THREAT, loss="dlr"))):
        if not len(left := robust.nonzero().squeeze(1)):
            break
        x_adv = attack._round(net, x[left], y[left], noise[left].fork(str(number)), rank=0)
        robust[left] = net(x_adv).argmax(1) == y[left]
    x_adv = worst(net, x, y, noise)
    assert torch.equal(net(x_adv).argmax(1) == y, robust)
    assert 0 < robust.sum() < len(data)
    assert (x_adv - x).abs().max() <= THREAT.eps + 1e-6
    assert [len(WorstCase(THREAT, name).rounds(10)) for name in ("paper", "quick", "autoattack")] == [4, 1, 20]
    with pytest.raises(ConfigError, match='expected a suite as one of paper, .*did you mean "paper"'):
        WorstCase(THREAT, "papr")
