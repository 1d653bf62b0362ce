"""bfloat16 stays inside the student's passes: what comes out, what learns, and whoever judges is float32."""

import copy

import pytest
import torch
import yaml
from nets import filled
from torch import nn

import ardor
from ardor import methods
from ardor.attacks import PGD, quick
from ardor.averaging import EMA
from ardor.checkpoint import read_tensors
from ardor.cli import main
from ardor.errors import ConfigError, RunError
from ardor.losses import ce, kl
from ardor.modes import attack_view
from ardor.noise import Noise
from ardor.precision import Computed, computed, passed
from ardor.recipe import Recipe
from ardor.testing import TinyNet
from ardor.threat import Linf
from ardor.train import distill, epochs, make_optimiser, step
from ardor.twin import Twin, twin_of
from ardor.validation import validate

PGD2 = PGD(Linf(0.1), steps=2, start="gaussian")
BOTH = {"precision": "bfloat16", "attack_precision": "bfloat16"}
CLASSES = 4
X = Noise(0, torch.arange(12), "x").uniform((1, 8, 8))
Y = torch.arange(12) % CLASSES


def splits(n=56):
    labels = torch.arange(n) % CLASSES
    drawn = Noise(0, torch.arange(n), "images").uniform((1, 8, 8))
    images = (drawn * 0.5 + labels[:, None, None, None] / (2 * CLASSES)).clamp(0, 1)
    whole = ardor.data.Split(images, labels, CLASSES, "made", "train")
    return whole.take(slice(0, 40)), whole.take(slice(40, n))


def net(seed=0, width=4):
    """One of ours, whose batch statistics are not those it was born with."""
    made = ardor.models.build("small_cnn", classes=CLASSES, channels=1, width=width, seed=seed)
    return filled(made, seed + 1).float()


def recipe(**changes):
    said = {"epochs": 2, "batch": 16, "lr": 0.05, "augment": "none", "val_attack": PGD2, "device": "cpu"}
    return Recipe(**(said | changes))


SEEN = []


class Spied(TinyNet):
    """A user's net: no twin, and it tells what it computed in. (who, phase, learns, attacked, dtype) go to SEEN."""

    phase = "elsewhere"

    def __init__(self, who, seed=0):
        super().__init__(1, CLASSES, 4, seed)
        self.who = who

    def forward(self, x):
        h = self.layers[0](x)
        said = (self.who, Spied.phase, self.training, x.requires_grad, str(h.dtype).removeprefix("torch."))
        SEEN.append(said)
        return super().forward(x)


class Phased:
    """A method whose passes are known as its own."""

    def __init__(self, method):
        self.method = method

    def terms(self, *args, **kwargs):
        Spied.phase = "terms"
        try:
            return self.method.terms(*args, **kwargs)
        finally:
            Spied.phase = "elsewhere"


def bits(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def off(a, b):
    """The length of a difference beside the length of what it should be."""
    return ((a - b).norm() / b.norm()).item()


ROUNDED = (1e-4, 0.05)
"""How far bfloat16, with its 8 bits, lies from float32: further than float32's own rounding, and not far."""


def logits_and_gradient(view, x=X):
    z = x.clone().requires_grad_()
    logits = view(z)
    (grad,) = torch.autograd.grad(ce(logits, Y).sum(), z)
    return logits.detach(), grad


# --- what a method gets


class Watch:
    """A user's method that looks at all it is given."""

    def __init__(self):
        self.wrong, self.given = [], []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.given.append(student)
        logits, h = student(x), student.features(x)
        again = student.head(h)
        self.wrong += [t.dtype for t in (logits, h, again, *student.parameters()) if t.dtype != torch.float32]
        assert not torch.is_autocast_enabled("cpu")
        return {"clean": ce(logits, y), "again": ce(again, y)}


@pytest.mark.parametrize("changes", [BOTH, {"precision": "bfloat16"}, {"attack_precision": "bfloat16"}])
def test_float32_comes_out_and_learns(tmp_path, changes):
    train, val = splits()
    student, method = net(), Watch()
    distill(student, None, method, train, recipe(**changes), val=val, run=tmp_path / "run", averaging=EMA(0.9))
    assert method.wrong == []
    assert all(isinstance(given, Computed) and given.as_given() is student for given in method.given)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in student.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in student.buffers())
    for name in ("last", "best", "averaged", "state"):
        tensors = read_tensors(tmp_path / "run" / f"{name}.safetensors")[0]
        assert {t.dtype for t in tensors.values()} <= {torch.float32, torch.int64}, name


def test_without_bfloat16_a_method_gets_the_net_itself():
    method, student = Watch(), net()
    distill(student, None, method, splits()[0], recipe(epochs=1))
    assert all(given is student for given in method.given)
    assert computed(student, "float32", "float32") is student


def test_passes_are_rounded_and_near():
    student = net()
    handle = computed(student, "bfloat16", "float32")
    for ours, theirs in ((handle, student), (handle.features, student.features)):
        low, high = ROUNDED
        assert low < off(ours(X), theirs(X)) < high
        assert ours(X).dtype == torch.float32
    h = student.features(X)
    assert ROUNDED[0] / 10 < off(handle.head(h), student.head(h)) < ROUNDED[1]
    attack_only = computed(student, "float32", "bfloat16")
    assert torch.equal(attack_only(X), student(X))
    assert torch.equal(attack_only.features(X), student.features(X))


def test_gradients_are_near_and_of_the_weights_themselves():
    student, other = net().train(), net().train()
    handle = computed(student, "bfloat16", "bfloat16")
    ce(handle(X), Y).mean().backward()
    ce(other(X), Y).mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in student.parameters())
    ours, theirs = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (student, other))
    assert ROUNDED[0] < off(ours, theirs) < 0.1
    assert off(student.layers[0][1].running_mean, other.layers[0][1].running_mean) < 0.02


def test_anything_else_is_the_nets_own():
    student = net()
    handle = computed(student, "bfloat16", "float32")
    assert handle.layers is student.layers
    assert all(p is q for p, q in zip(handle.parameters(), student.parameters(), strict=True))
    handle.train()
    assert student.training is handle.training is True
    assert handle.state_dict().keys() == student.state_dict().keys()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_a_net_without_features_says_so_itself():
    handle = computed(Plain(), "bfloat16", "bfloat16")
    assert not hasattr(handle, "features")
    with pytest.raises(AttributeError, match="'Plain' object has no attribute 'features'"):
        distill(Plain(), None, Watch(), splits()[0], recipe(**BOTH))
    with pytest.raises(AttributeError, match="__nothing__"):
        handle.__nothing__  # noqa: B018


def test_a_copy_of_the_handle_trains_the_copy():
    student = net().eval()
    before = bits(student)
    handle = computed(student, "bfloat16", "float32")
    other = copy.deepcopy(handle)
    assert isinstance(other, Computed)
    assert other.as_given() is not student
    assert torch.equal(other(X), handle(X))
    optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
    other.train()
    ce(other(X), Y).mean().backward()
    optimiser.step()
    assert same(bits(student), before)
    assert not student.training
    assert not any(torch.equal(p, q) for p, q in zip(other.as_given().parameters(), student.parameters(), strict=True))
    assert all(p.grad is None for p in student.parameters())
    assert copy.copy(handle).as_given() is student


# --- the attack


def test_the_attack_gets_the_twin_with_rounded_weights():
    student = net().train()
    exact = attack_view(student)
    with exact as view:
        theirs = logits_and_gradient(view)
    handle = computed(student, "float32", "bfloat16")
    with attack_view(handle) as view:
        assert isinstance(view, Twin)
        folded = view.__dict__["folded"]
        assert {f.__dict__["weight"].dtype for f in folded} == {torch.bfloat16}
        assert {f.__dict__["bias"].dtype for f in folded} == {torch.bfloat16}
        ours = logits_and_gradient(view)
        assert not student.training
        assert not any(p.requires_grad for p in student.parameters())
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert ROUNDED[0] < off(a, b) < ROUNDED[1]
    with attack_view(student) as view:
        assert all(map(torch.equal, logits_and_gradient(view), theirs)), "float32 again, to the last bit"


def test_a_first_pass_in_bfloat16_is_compared_in_float32(monkeypatch):
    """Else what bfloat16 rounds would pass for a trace that answers otherwise, or hide one."""
    student, dtypes = net().eval(), []
    real = ardor.twin._close
    monkeypatch.setattr("ardor.twin._close", lambda a, b: dtypes.append(off(a, b)) or real(a, b))
    twin = twin_of(student, torch.bfloat16)
    first = twin(X)
    assert max(dtypes) < 1e-5
    assert ROUNDED[0] < off(first, student(X)) < ROUNDED[1]
    assert torch.equal(first, twin(X)), "the first pass is one like the others"
    assert {f.__dict__["weight"].dtype for f in twin.__dict__["folded"]} == {torch.bfloat16}


def test_a_twin_that_answers_otherwise_leaves_the_net_in_bfloat16(caplog):
    student = net()
    handle = computed(student, "float32", "bfloat16")
    twin = twin_of(student.eval(), torch.bfloat16)
    twin.__dict__["graph"].linear = nn.Linear(16, CLASSES)
    with attack_view(handle) as view:
        answer = view(X)
        assert torch.equal(answer, passed(student, torch.bfloat16, X))
        assert answer.dtype == torch.float32
    assert "answers otherwise" in caplog.text
    with attack_view(handle) as view:
        assert isinstance(view, Computed)
        assert torch.equal(view(X), answer)
    with attack_view(student) as view:
        assert view is student


def test_the_rounded_twin_follows_training():
    student = net()
    handle = computed(student, "bfloat16", "bfloat16")
    with attack_view(handle) as view:
        before = view(X)
    with torch.no_grad():
        student.layers[0][0].weight.mul_(2)
        student.layers[1][1].running_mean.add_(0.3)
    with attack_view(handle) as view:
        assert off(view(X), student.eval()(X)) < ROUNDED[1]
        assert not torch.equal(view(X), before)


@pytest.mark.parametrize("make", [net, lambda: filled(Spied("student"), 1).float()], ids=["ours", "users"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_kind_of_view_computes_in_bfloat16(make, training):
    student, other = make().eval(), make().eval()
    before = bits(student)
    with attack_view(other, training=training) as view:
        theirs = logits_and_gradient(view)
    with attack_view(computed(student, "float32", "bfloat16"), training=training) as view:
        assert isinstance(view, Computed) == (training or isinstance(student, Spied))
        ours = logits_and_gradient(view)
        assert student.training == training
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert ROUNDED[0] < off(a, b) < 0.1
    assert not student.training
    assert same(bits(student), before) != training, "batch statistics drift where the attack is in train mode"
    with attack_view(computed(student, "bfloat16", "float32"), training=training) as view:
        assert not isinstance(view, Computed), "bfloat16 is the training's alone"
        passes = logits_and_gradient(view)
    assert off(passes[0], theirs[0]) < 1e-2


def test_attacks_in_bfloat16_are_as_strong_to_its_accuracy():
    student = net().eval()
    found = []
    for view in (student, computed(student, "float32", "bfloat16")):
        with attack_view(view) as seen:
            x_adv = PGD(Linf(0.1), steps=5).maximise(lambda z, f=seen: ce(f(z), Y), X, Noise(0, torch.arange(12)))
        assert x_adv.dtype == torch.float32
        assert (x_adv - X).abs().max() <= 0.1 + 1e-6
        found.append(ce(student(x_adv), Y).mean().item())
    clean = ce(student(X), Y).mean().item()
    assert found[1] > clean
    assert found[1] - clean == pytest.approx(found[0] - clean, rel=0.05)


# --- in the loop


@pytest.mark.parametrize("attack", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", ["float32", "bfloat16"])
@pytest.mark.parametrize("train_mode", [False, True])
def test_only_the_students_own_passes_are_in_bfloat16(training, attack, train_mode):
    SEEN.clear()
    train, val = splits()
    method = Phased(methods.IAD(begin=1, train_mode_attack=train_mode, attack=PGD2))
    chosen = recipe(epochs=1, precision=training, attack_precision=attack)
    student = filled(Spied("student"), 1).float()
    distill(student, filled(Spied("teacher"), 2).float(), method, train, chosen, val=val, averaging=EMA())
    ardor.evaluate(student, val, quick(Linf(0.1)))
    seen = set(SEEN)
    assert {dtype for who, *_, dtype in seen if who == "teacher"} == {"float32"}
    assert {dtype for _, phase, *_, dtype in seen if phase == "elsewhere"} == {"float32"}
    own = {s[2:] for s in seen if s[:2] == ("student", "terms")}
    assert own == {(train_mode, True, attack), (True, False, training)}


METHODS = [
    methods.RSLAD(attack=PGD2), methods.ARD(train_mode_attack=True, attack=PGD2), methods.TRADES(attack=PGD2),
    methods.MART(attack=PGD2), methods.IAD(begin=1, attack=PGD2), methods.VarianceGap(attack=PGD2, lc=0.1),
    methods.SAT(attack=PGD2), methods.KD(),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_method_learns_alike_to_its_accuracy(method):
    train, _ = splits()
    runs = []
    for changes in ({}, BOTH):
        student, own = net(), copy.deepcopy(method)
        record = distill(student, net(5, 6), own, train, recipe(epochs=1, lr=0.01, **changes))[-1]
        runs.append((record, bits(student), [p.detach().clone() for p in getattr(own, "parameters", tuple)()]))
    exact, rounded = runs
    assert exact[0].terms.keys() == rounded[0].terms.keys()
    assert rounded[0].loss == pytest.approx(exact[0].loss, rel=0.05)
    assert rounded[0].loss != exact[0].loss
    for p, q in zip(exact[2], rounded[2], strict=True):
        assert off(p, q) < 0.05
    assert {t.dtype for t in rounded[1].values()} == {torch.float32, torch.int64}
    if isinstance(method, methods.VarianceGap):
        assert {"covariance", "gram"} <= rounded[0].terms.keys()
        assert rounded[2]


def test_a_step_moves_float32_weights_by_less_than_bfloat16_could_hold():
    student = net()
    with torch.no_grad():
        student.linear.bias.fill_(1.0)
    optimiser = make_optimiser(student, methods.Natural(), recipe())
    optimiser.param_groups[0]["lr"] = 1e-4
    handle = computed(student.train(), "bfloat16", "bfloat16")
    step(handle, None, methods.Natural(), optimiser, X, Y, epoch=1, noise=Noise(0, torch.arange(12)))
    moved = (student.linear.bias.detach() - 1).abs()
    assert ((moved > 0) & (moved < 1e-3)).all()


def test_the_teacher_answers_in_float32_also_by_its_twin():
    wrong, teacher = [], net(5).eval()

    class Asks:
        def terms(self, student, teacher_, x, y, *, epoch, noise):
            with attack_view(student) as view:
                x_adv = PGD2.maximise(lambda z: ce(view(z), y), x, noise)
            wrong.extend(z for z in (x, x_adv) if off(teacher_(z), teacher(z)) > 1e-5)
            return {"robust": kl(teacher_(x_adv), student(x_adv))}

    distill(net(), teacher, Asks(), splits()[0], recipe(**BOTH))
    assert wrong == []


def test_what_validation_says_is_what_a_loaded_copy_gets(tmp_path):
    """The twin of the attacks, which rounds, is not the one that is judged."""
    train, val = splits()
    student, method = net(), methods.RSLAD(attack=PGD2)
    record = distill(student, net(5), method, train, recipe(**BOTH), val=val, run=tmp_path / "run")[-1]
    loaded = ardor.models.load(tmp_path / "run", checkpoint="last")
    assert validate(loaded, val, method, recipe()) == (record.val_clean, record.val_robust)
    with attack_view(student) as view:
        ours = view(X)
    with attack_view(loaded) as view:
        assert torch.equal(view(X), ours)


@pytest.mark.parametrize("stop", [1, 2])
def test_going_on_equals_never_having_stopped(tmp_path, stop):
    train, val = splits()

    def run(folder, most=None):
        student, method = net(3), methods.VarianceGap(attack=PGD2, lc=0.1)
        words = (student, net(4, 6), method, train, recipe(epochs=3, **BOTH))
        for record in epochs(*words, val=val, run=folder, averaging=EMA(0.9)):
            if record.epoch == most:
                break
        return bits(student) | {f"W/{k}": v for k, v in bits(method.projector_).items()}

    whole = run(tmp_path / "a")
    run(tmp_path / "b", stop)
    assert same(run(tmp_path / "b"), whole)
    for name in ("state", "averaged", "best"):
        one, other = (read_tensors(tmp_path / folder / f"{name}.safetensors") for folder in ("a", "b"))
        assert same(one[0], other[0])
        assert one[1] == other[1]


def test_a_run_says_what_it_computed_in_and_belongs_to_that(tmp_path):
    train, _ = splits()
    words = (None, methods.Natural(), train)
    distill(net(), *words, recipe(epochs=1, precision="bfloat16"), run=tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["recipe"]["precision"], config["recipe"]["attack_precision"]) == ("bfloat16", "float32")
    with pytest.raises(RunError, match=r"recipe.precision: float32 here, bfloat16 there"):
        distill(net(), *words, recipe(epochs=1), run=tmp_path / "run")
    for key in ("precision", "attack_precision"):
        with pytest.raises(ConfigError, match=rf"recipe.{key} as one of float32, bfloat16, got 'float16'"):
            recipe(**{key: "float16"})


def test_the_shell_takes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "train", "--data", "digits", "--data.limit", "64", "--student", "small_cnn", "--student.width", "2",
        "--method", "sat", "--method.attack.steps", "1", "--threat.eps", "0.1", "--recipe.epochs", "1",
        "--recipe.batch", "32", "--recipe.augment", "none", "--recipe.val_size", "8", "--recipe.device", "cpu",
    ]  # fmt: skip
    assert main([*words, "--recipe.precision", "bfloat16", "--recipe.attack_precision", "bfloat16", "--run", "r"]) == 0
    said = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["recipe"]
    assert (said["precision"], said["attack_precision"]) == ("bfloat16", "bfloat16")
    assert main(["train", "r"]) == 0
    assert main(["evaluate", "r", "--suite", "quick", "--limit", "8"]) == 0
    assert main([*words, "--recipe.precision", "float16", "--run", "other"]) != 0
