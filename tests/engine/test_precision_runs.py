"""Runs in bfloat16: what learns, and whoever judges, is float32."""

import copy

import pytest
import torch
import yaml

import ardor
import ardor.models.loading
from ardor import methods
from ardor.attacks import quick
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.engine.modes import attack_view
from ardor.engine.precision import computed
from ardor.errors import ConfigError, RunError
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.training.averaging import EMA
from ardor.training.loop import distill, step
from ardor.training.state import make_optimiser
from ardor.training.validation import validate
from tests.conftest import bits, filled, splits
from tests.engine.conftest import BOTH, PGD2, SEEN, Spied, X, Y, net, off, recipe


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


def test_a_run_says_what_it_computed_in_and_belongs_to_that(tmp_path):
    train, _ = splits()
    words = (None, methods.Natural(), train)
    distill(net(), *words, recipe(epochs=1, precision="bfloat16"), run=tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["recipe"]["precision"], config["recipe"]["attack_precision"]) == ("bfloat16", "float32")
    with pytest.raises(RunError, match=r"recipe.precision: float32 here, bfloat16 there"):
        distill(net(), *words, recipe(epochs=1), run=tmp_path / "run")
    for key in ("precision", "attack_precision"):
        with pytest.raises(ConfigError, match=rf"recipe.{key} as one of float32, bfloat16.*, got 'float8'"):
            recipe(**{key: "float8"})


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
