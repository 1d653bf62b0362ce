"""Each check on made evidence, on both sides of its threshold; and the checks of a net with one batch."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ardor.models.builders
from ardor.data.split import Split
from ardor.errors import ModelError
from ardor.evaluation import checks
from ardor.evaluation.findings import EXPLAINS, SEVERITIES, SYMPTOMS, Finding, explained, without_consequences
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.testing import TinyNet, problem, require_same, snapshot
from ardor.testing.shared import global_rng, trained
from tests.conftest import ROOT, Half, Wrapped, filled

DOCS = (ROOT / "docs" / "concepts" / "findings.md").read_text(encoding="utf-8")
SEVERITY = dict(re.findall(r"^\| \[(\w+)\]\(.*?\) \| (.*?) \|", DOCS, re.MULTILINE))


def names(findings):
    return [f.name for f in findings]


def split(images, classes=10, marks=()):
    return Split(images, torch.arange(len(images)) % classes, classes, "made", "test", marks=marks)


# The thresholds, from both sides.

Z = torch.tensor([[0.0, 10.0], [3.0, 7.0]])
GRADS = torch.ones(200, 1, 2, 2)


def without(n, value=0.0):
    """200 gradients, the first n of them `value`."""
    return torch.where(torch.arange(200)[:, None, None, None] < n, value, GRADS)


def steps(*robust):
    return dict(zip(("fgsm", "pgd_10", "pgd_50"), robust, strict=True))


def eye(scale, offset=0.0):
    """Images whose values are `offset` and `offset + scale`."""
    return split((offset + scale * torch.eye(16)).reshape(4, 1, 8, 8))


def eye8(value):
    return split((value * torch.eye(16)).reshape(4, 1, 8, 8).byte())


THRESHOLDS = [  # a check, arguments without a finding, arguments with one
    (checks.data.image_range, (eye(0.21, 0.3),), (eye(0.19, 0.3),)),
    (checks.data.image_range, (eye8(52),), (eye8(50),)),
    (checks.data.selection, (split(torch.eye(8)[None, None]),), None),
    (checks.net.probabilities, (Z,), (Z.softmax(1),)),
    (checks.net.probabilities, (Z.log_softmax(1),), None),
    (checks.net.probabilities, (Z.softmax(1) * 1.01,), None),
    (checks.net.probabilities, (torch.tensor([[1.2, -0.2]]),), None),
    (checks.net.randomised, ([Z, Z + 0.9e-3],), ([Z, Z, Z + 1.1e-3],)),
    (checks.net.batch_mates, (Z, Z + 0.9e-2), (Z, Z - 1.1e-2)),
    (checks.net.batch_mates, (Z[:0], Z[:0]), None),
    (
        checks.net.constant,
        (torch.zeros(200), torch.arange(200).clamp(190) - 190),
        (torch.zeros(200), torch.arange(200).clamp(189) - 189),
    ),
    (checks.net.constant, (torch.eye(20)[0], torch.arange(20)), None),
    (checks.net.zero_gradients, (without(2), without(2)), (without(3), GRADS)),
    (checks.net.zero_gradients, (GRADS[:0], GRADS[:0]), (GRADS, without(3))),
    (checks.net.zero_gradients, (GRADS * torch.tensor([0.0, 1e-40]), GRADS), None),
    (checks.net.nan_gradients, (GRADS, GRADS), (without(1, torch.nan), GRADS)),
    (checks.net.nan_gradients, (GRADS[:0], GRADS[:0]), (GRADS, without(1, torch.inf))),
    (
        checks.attacks.sweep,
        ({0.1: Proportion(90, 200), 0.5: Proportion(2, 200)},),
        ({0.5: Proportion(3, 200), 0.1: Proportion(90, 200)},),
    ),
    (checks.attacks.sweep, ({},), None),
    (checks.attacks.more_steps, (steps(100, 90, 94), 200), (steps(100, 90, 95), 200)),
    (checks.attacks.more_steps, (steps(100, 60, 20), 200), (steps(90, 95, 80), 200)),
    (checks.attacks.more_steps, None, (steps(90, 93, 96), 200)),
    (checks.attacks.more_steps, (steps(10, 8, 10), 20), (steps(10, 8, 11), 20)),
    (
        checks.attacks.one_step_wins,
        ({"fgsm": 70, "pgd_sat": 80, "pgd_trades": 70},),
        ({"fgsm": 70, "pgd_sat": 80, "pgd_trades": 71},),
    ),
    (checks.exported.few_calibration, (64,), (63,)),
    (checks.exported.saturated, ({"relu": 0.01, "logits": 0.0},), ({"relu": 0.011, "logits": 0.125},)),
    (checks.exported.saturated, ({},), None),
    (checks.exported.gradients_simulated, None, (99, 100)),
    (checks.attacks.black_box, (500, 498, 1000), (500, 497, 1000)),
    (checks.attacks.pgd_above_autoattack, (100, 60, 200), (101, 60, 200)),
    (checks.attacks.restarts, (100, 98, 200), (100, 97, 200)),
    (checks.attacks.restarts, (500, 495, 1000), (500, 494, 1000)),
    # 80 of 100 is [71.1, 86.7]
    (checks.attacks.record, ("clean", Proportion(80, 100), 0.876), ("clean", Proportion(80, 100), 0.878)),
    (checks.attacks.record, ("clean", Proportion(80, 100), 0.702), ("clean", Proportion(80, 100), 0.700)),
]


@pytest.mark.parametrize(("check", "silent", "loud"), THRESHOLDS, ids=lambda value: getattr(value, "__name__", ""))
def test_thresholds_from_both_sides(check, silent, loud):
    assert silent is None or check(*silent) is None
    if loud is not None:
        finding = check(*loud)
        assert finding.name == check.__name__.replace("image_", "")
        assert re.search(r"\d", finding.evidence), "with figures"
        assert finding.next
        assert finding.severity in SEVERITY[finding.name]


def test_gradients_that_only_cross_entropy_loses_are_no_error():
    assert checks.net.zero_gradients(without(200), without(2)).severity == "warning"
    assert checks.net.zero_gradients(without(200), without(3)).severity == "error"
    assert "on 200, the logit margin's on 3" in checks.net.zero_gradients(without(200), without(3)).evidence


def test_evidence_has_the_curve_and_the_culprit():
    curve = checks.attacks.sweep({0.5: Proportion(30, 200), 0.1: Proportion(90, 200)}).evidence
    assert "30 of 200 images are still right at radius 0.5 (45.0 % at 0.1, 15.0 % at 0.5)" in curve
    more = checks.attacks.more_steps(steps(90, 99, 20), 200).evidence
    assert "cuts off 12.5 % of the values of logits" in checks.exported.saturated({"a": 0.1, "logits": 0.125}).evidence
    assert "fgsm leaves 90 of 200 images right and pgd_10, with more steps, 99" in more


# Consequences.


def test_the_table_of_consequences_names_findings_and_has_no_circle():
    everything = set(re.findall(r"^## (\w+)$", DOCS, re.MULTILINE))
    assert {*EXPLAINS, *SYMPTOMS}.union(*EXPLAINS.values()) <= everything

    def below(name):
        return set(EXPLAINS.get(name, ())).union(*map(below, EXPLAINS.get(name, ())))

    assert all(name not in below(name) for name in EXPLAINS)
    assert all(below(name) == {*SYMPTOMS[i:]} for i, name in enumerate(SYMPTOMS, 1)), "the plainest sign speaks for all"
    for cause in ("randomised", "batch_mates", "probabilities", "constant", "nan_gradients", "zero_gradients"):
        assert below(cause) >= {*SYMPTOMS}


def test_a_consequence_is_dropped_but_nothing_worse_than_its_cause():
    def finding(name, severity):
        return Finding(name, severity, "seen", "do")

    cause, follows, apart = finding("zero_gradients", "error"), finding("sweep", "error"), finding("record", "error")
    assert without_consequences([follows, cause, apart]) == [cause, apart]
    mild = finding("zero_gradients", "warning")
    assert without_consequences([mild, follows, finding("restarts", "warning")]) == [mild, follows]
    assert without_consequences([]) == []
    assert explained("sweep", "error", [cause])
    assert not explained("sweep", "error", [mild])


def test_every_finding_is_explained_and_has_its_threshold_in_the_docs():
    text = DOCS
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    root = Path(checks.__file__).parent
    sources = {p.name: p.read_text() for p in root.glob("*.py")}
    assert set(re.findall(r'Finding\(\s*"(\w+)"', "".join(sources.values()))) == {*sections}
    assert len(sections) == len(set(sections))
    for module in (checks.attacks, checks.data, checks.net, checks.exported):
        for constant in re.findall(r"^([A-Z]+) = ", Path(module.__file__).read_text(), re.MULTILINE):
            assert f"`{constant}`" in text or constant in ("HALF", "ITERATED", "AUTOATTACK"), constant


# What one batch shows of a net.


@pytest.fixture(scope="module")
def batch():
    x, y, _ = problem(images=64)
    return x, y


@pytest.fixture(scope="module")
def net():
    return copy.deepcopy(trained(1, 8, 10, 0)).float().eval()


def test_a_healthy_net_shows_nothing(net, batch):
    assert checks.net.of_net(net, *batch) == []
    assert checks.net.of_net(net, batch[0][:1], batch[1][:1]) == []
    assert checks.net.of_net(net, batch[0], (batch[1] + 1) % 10) == [], "wrong about everything, but honest"


@pytest.mark.parametrize("seed", range(20))
def test_random_nets_show_nothing(seed):
    """Labels are their own predictions: then all gradients are looked at, and no class is predicted in vain."""
    nets = (
        TinyNet(seed=seed),
        filled(TinyNet(width=5 + seed % 3), seed).float(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4 + seed), nn.Tanh(), nn.Linear(4 + seed, 10)),
        ardor.models.build("small_cnn", classes=10, channels=1, width=4, seed=seed),
    )
    x = problem(images=48, seed=seed)[0]
    for net in nets:
        net.eval()
        with torch.no_grad():
            y = net(x).argmax(1)
        assert checks.net.of_net(net, x, y) == []


def lucky(x):
    """Random once in two calls, and then by little."""
    return x + 0.05 * torch.randn_like(x) * (torch.rand(()) < 0.5)


class NoPath(nn.Module):
    """Whose logits have a graph, but none that leads to the images."""

    def __init__(self, net):
        super().__init__()
        self.net, self.bias = copy.deepcopy(net), nn.Parameter(torch.zeros(10))

    def forward(self, x):
        with torch.no_grad():
            z = self.net(x)
        return z + self.bias.clone().requires_grad_() if torch.is_grad_enabled() else z + self.bias


ONE_BATCH = {
    "training_mode": lambda net: copy.deepcopy(net).train(),
    "float16": lambda net: Half(net, torch.float16),
    "bfloat16": lambda net: Half(net, torch.bfloat16),
    "probabilities": lambda net: Wrapped(net, after=lambda z: z.softmax(1)),
    "randomised": lambda net: Wrapped(net, before=lambda x: F.dropout(x, 0.1, True)),
    "randomised at times": lambda net: Wrapped(net, before=lucky),
    "randomised logits": lambda net: Wrapped(net, after=lambda z: z + 0.01 * torch.randn_like(z)),
    "batch_mates": lambda net: nn.Sequential(nn.BatchNorm2d(1, affine=False, track_running_stats=False), net),
    "batch_mates by place": lambda net: Wrapped(net, after=lambda z: z + 0.1 * torch.arange(len(z))[:, None]),
    "constant": lambda net: Wrapped(net, after=lambda z: 0.01 * z + 100 * torch.eye(10)[3]),
    "zero_gradients rounded": lambda net: Wrapped(net, before=lambda x: (x * 255).round() / 255),
    "zero_gradients detached": lambda net: Wrapped(net, before=lambda x: x.detach()),
    "zero_gradients, no path": NoPath,
    "zero_gradients confident": lambda net: Wrapped(net, after=lambda z: 1e5 * z),
    "nan_gradients": lambda net: Wrapped(net, before=lambda x: x.sqrt().square()),
}


@pytest.mark.parametrize("flaw", ONE_BATCH)
def test_a_flaw_that_one_batch_shows_is_found_and_it_alone(net, batch, flaw):
    flawed = ONE_BATCH[flaw](net)
    if flaw != "training_mode":
        flawed.eval()
    before, rng = snapshot(flawed), global_rng()
    findings = without_consequences(checks.net.of_net(flawed, *batch))
    assert names(findings) == [flaw.partition(" ")[0].strip(",").replace("bfloat", "float")]
    require_same(before, snapshot(flawed), "of_net", flaw)
    assert global_rng() == rng


def test_gradients_are_asked_for_where_there_is_something_to_lose(net, batch):
    x, y = batch
    flawed = ONE_BATCH["zero_gradients rounded"](net).eval()
    (finding,) = checks.net.of_net(flawed, x, torch.where(torch.arange(64) < 40, y, (y + 1) % 10))
    assert "of 40 correctly classified images" in finding.evidence
    assert checks.net.of_net(flawed, x, (y + 1) % 10) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: (z, z), "one tensor .* got tuple: return only the logits"),
        (lambda z: {"logits": z}, "got dict"),
        (lambda z: z[:, :, None], r"shape \(64, classes\)"),
        (lambda z: z[:1], r"\(1, 10\)"),
        (lambda z: z / 0 * 0, "finite logits, got NaN"),
        (lambda z: z / 0, "NaN or infinity"),
        (lambda z: torch.where(torch.arange(len(z))[:, None] == 5, torch.inf, z), "NaN or infinity"),
    ],
)
def test_answers_that_are_no_logits_are_one_clear_sentence(net, batch, change, message):
    with pytest.raises(ModelError, match=message):
        checks.net.of_net(Wrapped(net, after=change).eval(), *batch)


def test_a_net_in_half_precision_that_refuses_the_images_says_what_to_type(net, batch):
    with pytest.raises(ModelError, match=r"weights and buffers are float16.*type net.float\(\)"):
        checks.net.of_net(copy.deepcopy(net).half(), *batch)
    with pytest.raises(RuntimeError, match="Kernel size"):
        checks.net.of_net(net, batch[0][:, :, :, :0], batch[1])


# The data.


def test_images_scaled_twice_and_marks_are_found():
    x = problem(images=20)[0]
    assert checks.data.of_data(split(x)) == []
    assert names(checks.data.of_data(split(x / 255))) == ["range"]
    assert names(checks.data.of_data(split((x * 16).byte()))) == ["range"]
    assert checks.data.of_data(split((x * 255).byte())) == []
    assert names(checks.data.of_data(split(x, marks=("test set took part in selection",)))) == ["selection"]


@pytest.mark.parametrize(("labels", "missing"), [([1, 2, 3], "0"), ([0, 1, 3], "2")])
def test_a_class_without_an_image_is_found(labels, missing):
    data = split(torch.rand(45, 3, 4, 4), classes=3)
    data = Split(data.images, torch.tensor(labels)[data.labels], 4, "toy", "test")
    (finding,) = checks.data.of_data(data)
    assert finding.evidence == f"1 of 4 classes are of none of 45 images: {missing}"
    assert checks.data.of_data(data.take(range(39))) == []  # absent by chance, perhaps


# The verdicts.

KINDS = {"pgd_sat": "PGD", "pgd_trades": "PGD", "cw_inf": "CW", "apgd_ce": "APGD", "apgd_t": "APGD", "fab_t": "FAB"}


def report(verdicts, sequential=False):
    n = len(next(iter(verdicts.values())))
    attacks = {name: {"name": KINDS.get(name, name)} for name in verdicts}
    return Report(
        {"name": "net"}, {"name": "d", "part": "test", "class_names": ["0"]}, "s", {"name": "Linf", "eps": 0.1},
        attacks, list(range(n)), [0] * n, verdicts, 0, n, sequential=sequential,
    )  # fmt: skip


def independent(**robust):
    """100 images, 90 correct, of which each attack leaves the first so many."""
    return report({name: "r" * k + "b" * (90 - k) + "-" * 10 for name, k in robust.items()})


def in_order(**robust):
    """The same, each attack seeing the survivors of the one before."""
    verdicts, before = {}, 90
    for name, k in robust.items():
        verdicts[name] = "r" * k + "b" * (before - k) + "-" * (100 - before)
        before = k
    return report(verdicts, sequential=True)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (independent(fgsm=60, pgd_sat=50, pgd_trades=52, cw_inf=49, apgd_ce=48, square=60), []),
        (independent(fgsm=40, pgd_sat=50, pgd_trades=52), ["one_step_wins"]),
        (independent(pgd_sat=50, cw_inf=49, square=49), []),
        (independent(pgd_sat=50, cw_inf=49, square=47), []),
        (independent(pgd_sat=50, cw_inf=49, square=46), ["black_box"]),
        (independent(square=46, pgd_sat=49), ["black_box"]),
        (independent(fgsm=60, square=50), []),
        (independent(square=50), []),
        (independent(pgd_sat=60, apgd_ce=40), []),
        (independent(pgd_sat=61, apgd_ce=40), ["pgd_above_autoattack"]),
        (independent(pgd_sat=70, pgd_trades=60, fab_t=40, apgd_ce=50), []),
        (independent(pgd_sat=70, pgd_trades=70, fab_t=40, apgd_ce=50), ["pgd_above_autoattack"]),
        (independent(fgsm=30, pgd_sat=70, square=20), ["one_step_wins", "black_box", "pgd_above_autoattack"]),
        (in_order(apgd_ce=50, apgd_t=48, fab_t=48, square=48), []),
        (in_order(apgd_ce=50, apgd_t=48, fab_t=48, square=46), []),
        (in_order(apgd_ce=50, apgd_t=48, fab_t=48, square=45), ["black_box"]),
        (in_order(square=60, apgd_ce=40), []),
        (in_order(fgsm=60, square=40), []),
        (in_order(apgd_ce=50, square=50, fab_t=40), []),
        (in_order(pgd_sat=70, apgd_ce=40), ["pgd_above_autoattack"]),
        (in_order(pgd_sat=60, fgsm=40), []),
    ],
)  # fmt: skip
def test_findings_on_verdicts(report, expected):
    assert names(checks.attacks.of_report(report)) == expected


def test_attacks_are_identified_by_class_not_by_name():
    renamed = independent(first=70, second=40, third=30)
    renamed.attacks = {"first": {"name": "PGD"}, "second": {"name": "APGD"}, "third": {"name": "Square"}}
    assert names(checks.attacks.of_report(renamed)) == ["black_box", "pgd_above_autoattack"]
    renamed.attacks = {"first": {"name": "mine.py:PGD"}, "second": "?", "third": {}}
    assert checks.attacks.of_report(renamed) == []
    bare = independent(pgd_sat=50, square=40)
    bare.attacks = {}
    assert names(checks.attacks.of_report(bare)) == ["black_box"]


def test_a_finding_reads_as_a_sentence():
    finding = checks.attacks.restarts(100, 90, 200)
    assert str(finding).startswith("warning: one start of each attack leaves 100 of 200")
    assert finding.severity in SEVERITIES
