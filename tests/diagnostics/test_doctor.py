"""One flaw planted in a healthy net: the doctor finds it, and it alone; what is healthy or merely weak is let go."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ardor
import ardor.data.split
import ardor.evaluation.checks
from ardor import attacks
from ardor.attacks import CW, FGSM, PGD, Suite
from ardor.attacks.threat import L2, Linf
from ardor.diagnostics.doctor import Examination, doctor, examine, radii
from ardor.diagnostics.record import Record
from ardor.errors import ConfigError, DataError, ModelError
from ardor.evaluation.findings import SYMPTOMS
from ardor.evaluation.verdicts import evaluate
from ardor.testing import require_same, snapshot
from ardor.testing.shared import global_rng
from tests.conftest import Half, Wrapped
from tests.diagnostics.conftest import Blind, Decoys, Locked, Memory, Recalls, Turns
from tests.fixtures.make import trained

pytestmark = pytest.mark.processor

EPS = 0.1
THREAT = Linf(EPS)


@pytest.fixture(scope="module")
def data():
    return ardor.data.load("digits")[2].limit(200)


@pytest.fixture(scope="module")
def healthy():
    """Trained under attack for a moment; three quarters of the images withstand it."""
    return trained("sound")


@pytest.fixture(scope="module")
def weak():
    """Never saw an attack."""
    return trained("natural")


def names(found):
    return [f.name for f in found]


@pytest.fixture(scope="module")
def seen(healthy, data):
    return examine(healthy, data, THREAT)


def test_a_healthy_net_is_let_go_and_was_looked_at(seen):
    assert seen.findings == []
    assert seen.left_out == []
    k = {name: p.k for name, p in seen.accuracies.items()}
    assert list(k) == ["clean", "fgsm", "pgd_10", "pgd_50", "cw", "apgd", "apgd_t", "new_starts", "square"]
    assert 180 < k["clean"] <= 200
    assert k["clean"] > k["fgsm"] > k["pgd_10"] >= k["cw"] >= k["apgd"] >= k["apgd_t"] >= k["new_starts"] >= k["square"]
    assert k["square"] > 100, "so that there is something to hide"
    assert [round(eps, 3) for eps in seen.curve] == [0.1, 0.171, 0.292, 0.5]
    assert all(p.n == 200 for p in [*seen.accuracies.values(), *seen.curve.values()])
    assert list(seen.curve.values())[-1].k == 0


def test_a_weak_net_has_no_flaw(weak, data):
    seen = examine(weak, data, THREAT)
    assert seen.findings == []
    assert seen.accuracies["square"].k < 100
    assert doctor(weak, data, Linf(0.3), limit=50) == []


def test_l2(healthy, data):
    seen = examine(healthy, data, L2(0.5), limit=100)
    assert seen.findings == []
    assert max(seen.curve) == 4


@pytest.mark.parametrize("seed", range(6))
def test_other_healthy_nets_are_let_go(data, seed):
    """Wide and narrow, hardly trained and well, under a small radius and one that breaks nearly all."""
    net = trained(f"seed{seed}")
    assert doctor(net, data, Linf((0.04, 0.12, 0.2)[seed % 3]), limit=100, seed=seed) == []


ONE_BATCH = {
    "training_mode": lambda net, x: copy.deepcopy(net).train(),
    "float16": lambda net, x: Half(net, torch.bfloat16),
    "probabilities": lambda net, x: Wrapped(net, after=lambda z: z.softmax(1)),
    "randomised": lambda net, x: Wrapped(net, before=lambda v: v + 0.1 * torch.randn_like(v)),
    "batch_mates": lambda net, x: Wrapped(net, before=lambda v: v - v.mean(0) + 0.3),
    "constant": lambda net, x: Wrapped(net, after=lambda z: 0.01 * z + 100 * torch.eye(10)[3]),
    "zero_gradients": lambda net, x: Wrapped(net, before=lambda v: (v * 16).round() / 16),
    "zero_gradients by a lookup": lambda net, x: Wrapped(net, before=lambda v: v.detach()),
    "zero_gradients of a confident net": lambda net, x: Wrapped(net, after=lambda z: 1e4 * z),
    "nan_gradients": lambda net, x: Wrapped(net, before=lambda v: v.sqrt().square()),
}
ATTACKED = {
    "sweep": lambda net, x: Recalls(net, x, EPS),
    "sweep and what follows": lambda net, x: Turns(net, x, EPS, until=10),
    "more_steps": lambda net, x: Turns(net, x, EPS),
    "black_box": lambda net, x: Blind(net, x, EPS),
    "pgd_above_autoattack": lambda net, x: Decoys(net, x, EPS),
    "restarts": lambda net, x: Locked(net, x, EPS),
}


@pytest.mark.parametrize("flaw", [*ONE_BATCH, *ATTACKED])
def test_a_planted_flaw_is_found_and_it_alone(healthy, data, flaw):
    net = (ONE_BATCH | ATTACKED)[flaw](healthy, data.limit(120).images)
    if flaw != "training_mode":
        net.eval()
    before, rng = snapshot(net), global_rng()
    seen = examine(net, data, THREAT, limit=120 if flaw in ATTACKED else 100)
    assert names(seen.findings) == [flaw.partition(" ")[0]]
    require_same(before, snapshot(net), "doctor", flaw)
    assert global_rng() == rng
    if seen.findings[0].severity == "error" and flaw in ONE_BATCH:
        assert list(seen.accuracies) == ["clean"], "nothing is measured with an instrument that is broken"
        assert "attacks" in seen.left_out[0]
    else:
        assert "square" in seen.accuracies


@pytest.mark.parametrize("flaw", ATTACKED)
def test_planted_flaws_are_invisible_without_an_attack(healthy, data, flaw):
    """Logits and labels are the healthy net's: nothing but the attacks could have shown them."""
    net = ATTACKED[flaw](healthy, data.images).eval()
    with torch.no_grad():
        same = net(data.images).argmax(1) == healthy(data.images).argmax(1)
    assert bool(same.all())
    assert ardor.evaluation.checks.net.of_net(net, data.images, data.labels) == []


def test_images_scaled_twice(healthy, data):
    squeezed = dataclasses.replace(data, images=data.images / 255)
    assert names(doctor(healthy, squeezed, THREAT, limit=100)) == ["range"]
    fits = Wrapped(healthy, before=lambda x: x * 255).eval()
    assert names(doctor(fits, squeezed, THREAT, limit=100)) == ["range"]


def test_marks_are_repeated(healthy, data):
    marked = dataclasses.replace(data, marks=("test set took part in selection",))
    assert names(doctor(healthy, marked, THREAT, limit=50)) == ["selection"]


def test_a_record_that_is_not_the_nets(healthy, data, seen):
    clean = seen.accuracies["clean"].value
    found = examine(healthy, data, THREAT, record=0.5, limit=5)
    assert names(found.findings) == ["record"]
    assert found.accuracies["clean on test"].n == 200, "all images, not only those that are attacked"
    assert "97.0 [" in found.findings[0].evidence
    assert "record is 50.0 %" in found.findings[0].evidence
    assert doctor(healthy, data, THREAT, record=clean + 0.005, limit=5) == []


def test_a_robust_record_is_compared_under_its_own_attack(healthy, data):
    """On a net whose other flaw spares this test the attacks, and hides no record."""
    net = Wrapped(healthy, after=lambda z: z.softmax(1)).eval()
    attack = PGD(THREAT, steps=5)
    report = evaluate(net, data, Suite("validation", THREAT, {"validation": attack}), batch=100, seed=3)
    said = Record(report.clean.value, report.worst_case.value, THREAT.eps, replay=attack, seed=3)
    found = examine(net, data, THREAT, record=said, limit=5)
    assert names(found.findings) == ["probabilities"]
    assert found.accuracies["robust on test"].k == report.worst_case.k < 180
    for wrong in (dataclasses.replace(said, robust=0.4), dataclasses.replace(said, replay=PGD(Linf(0.3)))):
        found = examine(net, data, THREAT, record=wrong, limit=5)
        assert names(found.findings) == ["probabilities", "record"]
        assert "robust accuracy" in found.findings[1].evidence


def test_nothing_depends_on_batch_or_process(healthy, data, seen):
    again = examine(healthy, data, THREAT, limit=30)
    odd = examine(healthy, data, THREAT, limit=30, batch=17)
    assert again.accuracies == odd.accuracies
    assert again.curve == odd.curve


def test_progress_is_told_part_by_part(healthy, data):
    told = []
    examine(healthy, data, THREAT, limit=20, record=0.97, progress=lambda *row: told.append(row))
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert {todo for _, _, todo in told} == {len(told)}
    assert [name for name, _, _ in told][:3] == ["one batch", "record", "fgsm"]


def test_a_threat_of_ones_own_leaves_out_what_it_does_not_know(healthy, data):
    @dataclasses.dataclass(frozen=True)
    class Mine:
        inner: Linf = THREAT
        eps: float = EPS

        def __getattr__(self, name):
            return getattr(THREAT, name)

    seen = examine(healthy, data, Mine(), limit=20)
    assert seen.findings == []
    assert "square" not in seen.accuracies
    assert seen.curve == {}
    assert "Square and growing radii, which do not support Mine" in seen.left_out


def test_nobody_right_nothing_to_attack(healthy, data):
    wrong = dataclasses.replace(data, labels=(data.labels + 1) % 10)
    seen = examine(healthy, wrong, THREAT, limit=20)
    assert seen.findings == []
    assert "no image is classified correctly" in seen.left_out[0] or seen.accuracies["clean"].k > 0


def test_the_widest_radius_turns_every_image_grey():
    assert radii(Linf(0.1), (1, 8, 8))[-1] == 0.5
    assert radii(L2(0.5), (1, 8, 8))[-1] == 4
    assert radii(L2(0.5), (3, 224, 224))[-1] == 10
    assert radii(Linf(0.7), (1, 8, 8)) == [0.7]
    row = radii(Linf(8 / 255), (3, 32, 32))
    assert row[0] == 8 / 255
    assert all(math.isclose(b / a, row[1] / row[0]) for a, b in itertools.pairwise(row))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net: Wrapped(net, after=lambda z: (z, z)), "one tensor, got tuple"),
        (lambda net: Wrapped(net, after=lambda z: z[:, :7]), "10 classes, got 7"),
        (lambda net: Wrapped(net, after=lambda z: z / 0), "finite"),
        (lambda net: Wrapped(net, after=lambda z: z + 0 / (z[:1] - z[:1]).sum() if len(z) > 1 else z), "finite"),
        (lambda net: copy.deepcopy(net).half(), "float16.* type net.float"),
        (lambda net: nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), "channels"),
    ],
)
def test_nets_that_cannot_be_examined_are_refused_in_a_sentence(healthy, data, change, says):
    with pytest.raises(ModelError, match=says):
        doctor(change(healthy).eval(), data, THREAT)


def test_numbers_that_cannot_be_meant(healthy, data):
    with pytest.raises(DataError, match="batch"):
        doctor(healthy, data, THREAT, batch=0)
    with pytest.raises(ConfigError, match="at least 1 image"):
        doctor(healthy, data, THREAT, limit=0)
    with pytest.raises(ConfigError, match=r"0\.6925"):
        doctor(healthy, data, THREAT, record=69.25)


# A planted, guaranteed adversarial example.


class Corner(nn.Module):
    """Linear, and wrong in one corner of the ball only, by a thousandth; the classes between are never reached."""

    def __init__(self, classes):
        super().__init__()
        w = torch.linspace(-1, 1, 64)[(torch.arange(64) * 37) % 64].reshape(8, 8)
        self.w = nn.Parameter(w)
        self.classes = classes

    def forward(self, x):
        gap = ((x - 0.5) * self.w).sum((1, 2, 3)) - 0.999 * EPS * self.w.abs().sum()
        never = torch.full_like(gap, -0.5)
        return torch.stack([torch.zeros_like(gap), *[never] * (self.classes - 2), gap], 1)


class Funnel(Memory):
    """Right everywhere but around one random point in the ball of each image, to which the loss leads from afar."""

    def __init__(self, images, labels):
        super().__init__(nn.Identity(), images, EPS)
        noise = ardor.Noise(5, torch.arange(len(images)), "traps")
        far = 0.9 * EPS * (2 * noise.uniform(images.shape[1:]) - 1)
        self.register_buffer("traps", (images + far).clamp(0, 1))
        self.register_buffer("labels", labels)

    def forward(self, x):
        apart = torch.cdist(x.detach().flatten(1), self.images.flatten(1)).argmin(1)
        trap, y = self.traps[apart], self.labels[apart]
        z = 6 * F.one_hot(y, 10).to(x.dtype) - 5
        depth = 1.1 - 1.5 * (x - trap).square().sum((1, 2, 3)).add(1e-12).sqrt()
        return z.scatter(1, ((y + 1) % 10)[:, None], depth[:, None])


@pytest.mark.parametrize("name", ["paper", "autoattack", "apgd"])
def test_the_one_bad_corner_is_found(name):
    net = Corner(2 if name == "paper" else 4)
    y = torch.zeros(3, dtype=torch.int64)
    grey = ardor.data.split.Split(torch.full((3, 1, 8, 8), 0.5), y, net.classes, "grey", "test")
    with torch.no_grad():
        assert bool((net(grey.images).argmax(1) == 0).all())
        assert bool((net(grey.images + EPS * net.w.sign()).argmax(1) != 0).all())
        assert bool((net(grey.images + 0.99 * EPS * net.w.sign()).argmax(1) == 0).all())
    assert evaluate(net, grey, getattr(attacks.suites, name)(THREAT)).worst_case.k == 0


@pytest.mark.parametrize("attack", [attacks.APGD(THREAT), attacks.APGD(THREAT, loss="dlr"), PGD(THREAT, 40, EPS / 20)])
def test_a_planted_example_is_found(data, attack):
    some = data.limit(50)
    net = Funnel(some.images, some.labels)
    with torch.no_grad():
        assert bool((net(some.images).argmax(1) == some.labels).all())
        assert not bool((net(net.traps).argmax(1) == some.labels).any())
        corner = (some.images + EPS * (net.traps - some.images).sign()).clamp(0, 1)
        assert bool((net(corner).argmax(1) == some.labels).all()), "one step to the border is not enough"
    assert evaluate(net, some, Suite("one", THREAT, {"a": attack})).worst_case.k == 0
    assert evaluate(net, some, Suite("one", THREAT, {"a": FGSM(THREAT)})).worst_case.k == 50


def test_every_sign_is_measured_by_someone(seen):
    """What the doctor skips when all signs are explained is all that it could have found."""
    assert set(SYMPTOMS) == {*(flaw.partition(" ")[0] for flaw in ATTACKED), "one_step_wins"}
    assert isinstance(seen, Examination)
    assert CW in {type(a) for a in attacks.paper(THREAT).attacks.values()}
