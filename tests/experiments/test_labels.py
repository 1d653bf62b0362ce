"""The studies' methods: labels of four kinds in each problem, two teachers in one, and alignment on one side alone."""

import dataclasses
import inspect
import shutil

import pytest
import torch

import ardor
import ardor.models.loading
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.engine.modes import attack_view, freeze
from ardor.errors import ConfigError
from ardor.experiments.label_study import KINDS, Both, LabelKinds, _smoothed, both
from ardor.experiments.sheet import options
from ardor.losses import l_cov, l_gram
from ardor.methods import RSLAD, VarianceGap
from ardor.testing import TinyNet, check_method
from ardor.training.job import Job
from tests.conftest import Fixed, batch, filled, moved, pair

PAIRS = [(inner, outer) for inner in KINDS for outer in KINDS]


def teachers():
    natural = filled(TinyNet(1, 10, 12), 3).eval().requires_grad_(False)
    return Both(natural, pair()[1], 10).eval()


def target(kind, teacher, x, y, s):
    """The label's probabilities (B, 10), by hand."""
    rows = []
    for image, k in zip(x, y.tolist(), strict=True):
        if kind in ("hard", "smooth"):
            share = 0.0 if kind == "hard" else s
            row = torch.full((10,), share / 10, dtype=x.dtype)
            row[k] += 1 - share
        else:
            z = {"natural": teacher.natural, "robust": teacher.robust}[kind](image[None])[0]
            row = (z - z.max()).exp() / (z - z.max()).exp().sum()
        rows.append(row)
    return torch.stack(rows)


def divergence(p, z):
    """sum_c P_c log(P_c / Q_c), where 0 log 0 is 0."""
    q = (z - z.max(1, keepdim=True).values).exp()
    q = q / q.sum(1, keepdim=True)
    rows = [[a * (a / b).log() for a, b in zip(u, v, strict=True) if a > 0] for u, v in zip(p, q, strict=True)]
    return torch.stack([sum(row) for row in rows])


@pytest.mark.parametrize(("inner", "outer"), PAIRS)
def test_terms_equal_their_definition(inner, outer):
    x, y, noise = batch()
    point, teacher, (student, _) = moved(x), teachers(), pair()
    twin, asked = pair()[0], pair()[0].eval()
    method = LabelKinds(inner, outer, alpha=0.7, s=0.2, attack=Fixed(point))
    terms = method.terms(student, teacher, x, y, epoch=1, noise=noise)

    p = target(outer, teacher, x, y, 0.2)
    assert list(terms) == ["robust", "clean"]
    torch.testing.assert_close(terms["robust"], 0.7 * divergence(p, twin(point)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms["clean"], 0.3 * divergence(p, twin(x)), rtol=1e-9, atol=1e-12)
    climbed = divergence(target(inner, teacher, x, y, 0.2), asked(point))
    torch.testing.assert_close(method.attack.value, climbed.detach(), rtol=1e-9, atol=1e-12)
    assert method.attack.noise is noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_robust_labels_in_both_problems_are_rslad_bit_for_bit(dtype):
    x, y, _ = batch()
    attack = PGD(Linf(0.1), steps=3, start="gaussian")
    found = []
    for method, teach in ((LabelKinds(attack=attack), teachers()), (RSLAD(attack=attack), pair()[1])):
        student = pair()[0].to(dtype)
        terms = method.terms(student, teach.to(dtype), x.to(dtype), y, epoch=1, noise=batch()[2])
        sum(term.mean() for term in terms.values()).backward()
        found.append([*terms.values(), *(p.grad for p in student.parameters()), *student.buffers()])
    assert all(map(torch.equal, *found))


def test_the_defaults_are_rslads():
    assert (LabelKinds().inner, LabelKinds().outer) == ("robust", "robust")
    assert (LabelKinds().alpha, LabelKinds().attack) == (RSLAD().alpha, RSLAD().attack)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_smoothed_labels_sum_to_one(classes):
    y = torch.arange(6) % classes
    x = torch.zeros(6, 1, 2, 2, dtype=torch.float64)
    p = _smoothed(y, classes, 0.1, x).softmax(1)
    torch.testing.assert_close(p.sum(1), torch.ones(6, dtype=x.dtype))
    torch.testing.assert_close(p.gather(1, y[:, None])[:, 0], torch.full((6,), 0.9 + 0.1 / classes, dtype=x.dtype))
    others = p[torch.arange(classes)[None] != y[:, None]]
    torch.testing.assert_close(others, torch.full_like(others, 0.1 / classes))
    assert _smoothed(y, classes, 0.1, x.float()).dtype == torch.float32


@pytest.mark.parametrize(("inner", "outer"), [("robust", "natural"), ("hard", "smooth"), ("smooth", "hard")])
def test_the_contract(inner, outer):
    teacher = Both(TinyNet(1, 10, 12, 3), TinyNet(1, 10, 16, 1), 10)
    check_method(LabelKinds(inner, outer), teacher=teacher)


def test_both_is_the_robust_teacher_when_asked_itself_and_frozen_whole():
    x, _, _ = batch()
    teacher = teachers()
    assert torch.equal(teacher(x), teacher.robust(x))
    assert not torch.equal(teacher(x), teacher.natural(x))
    teacher.train().requires_grad_(True)
    with freeze(teacher) as net:
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
    with attack_view(teacher) as net:
        torch.testing.assert_close(net(x), teacher.robust(x))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for number, method in enumerate(("natural", "sat")):
        words = ["--data", "digits", "--data.limit", "100", "--student", "small_cnn", "--student.width", "4"]
        recipe = ["--recipe.epochs", "1", "--recipe.device", "cpu", "--recipe.seed", str(number)]
        recipe += ["--recipe.augment", "none", "--recipe.val_size", "20"]
        assert main(["train", *words, *recipe, "--method", method, "--run", str(folder / method)]) == 0
    return folder


def config_of(runs, method=None, teacher=None, place="ardor.experiments.label_study"):
    return {
        "data": {"name": "digits", "limit": 64},
        "student": {"name": "small_cnn", "width": 4},
        "method": {"name": f"{place}:LabelKinds", **(method or {})},
        "teacher": {
            "name": f"{place}:both", "natural": str(runs / "natural"), "robust": str(runs / "sat"), **(teacher or {})
        },
        "recipe": {"epochs": 1, "augment": "none", "device": "cpu", "val_size": 20},
    }  # fmt: skip


@pytest.mark.parametrize("place", ["ardor.experiments.label_study", "ardor.bench.labels"])
def test_both_loads_two_runs(runs, place):
    """The second is the module's name in a run's config.yaml of before it moved."""
    job = Job.from_config(config_of(runs, place=place))
    assert isinstance(job.method, LabelKinds)
    found = [both(str(runs / "natural"), str(runs / "sat")), job.teacher]
    for teacher in found:
        assert isinstance(teacher, Both)
        for net, name in ((teacher.natural, "natural"), (teacher.robust, "sat")):
            assert ardor.models.hash_of(net) == ardor.models.hash_of(ardor.models.load(runs / name))
        assert teacher.classes == 10


def test_trust_reaches_the_runs_of_both(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("from ardor.models.small import small_cnn as net\n")
    shutil.copytree(runs / "sat", tmp_path / "own")
    text = (tmp_path / "own/config.yaml").read_text().replace("name: small_cnn", "name: own.py:net")
    (tmp_path / "own/config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="trust_code=True"):
        Job.from_config(config_of(runs, teacher={"robust": "own"}))
    teacher = Job.from_config(config_of(runs, teacher={"robust": "own"}), trust_code=True).teacher
    assert isinstance(teacher, Both)
    assert "trust_code" not in vars(teacher)["built_as"]


def test_a_run_is_trained_by_both(runs, tmp_path):
    words = options(config_of(runs, {"inner": "smooth", "outer": "natural"}))
    assert main(["train", *words, "--gate=false", "--run", str(tmp_path / "run")]) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "inner: smooth" in config
    assert "outer: natural" in config


@pytest.mark.parametrize(
    ("method", "teacher"), [({"inner": "soft"}, {}), ({"outer": "classes"}, {}), ({}, {"natural": "nowhere"})]
)
def test_an_unknown_kind_or_teacher_is_refused(runs, method, teacher):
    with pytest.raises(ConfigError):
        Job.from_config(config_of(runs, method, teacher))


# Alignment on one side


def aligned(sets, epoch=2, **options):
    x, y, noise = batch()
    point, (student, teacher) = moved(x), pair(student=8, teacher=8)
    method = VarianceGap(sets=sets, warmup=4, attack=Fixed(point), **options)
    method.prepare(student, teacher, x)
    return method.terms(student, teacher, x, y, epoch=epoch, noise=noise), x, point, teacher


def test_alignment_on_clean_and_on_adversarial_images_add_up_to_both():
    """To the terms' own definition, each side by itself."""
    found = {sets: aligned(sets) for sets in ("both", "clean", "adversarial")}
    for name in ("covariance", "gram"):
        whole, clean, adversarial = (found[sets][0][name] for sets in ("both", "clean", "adversarial"))
        torch.testing.assert_close(whole, clean + adversarial, rtol=1e-12, atol=0)
        assert not torch.equal(clean, adversarial)
    _, x, point, teacher = found["clean"]
    twin = pair(student=8, teacher=8)[0]
    h_adv, h, t, t_adv = twin.features(point), twin.features(x), teacher.features(x), teacher.features(point)
    by_hand = {
        ("clean", "covariance"): 0.5 * 0.001 / 2 * l_cov(h, t, t, None),
        ("adversarial", "covariance"): 0.5 * 0.001 / 2 * l_cov(h_adv, t_adv, t, None),
        ("clean", "gram"): 5 * l_gram(twin.head(h), teacher.head(t)),
        ("adversarial", "gram"): 5 * l_gram(twin.head(h_adv), teacher.head(t_adv)),
    }
    for (sets, name), value in by_hand.items():
        torch.testing.assert_close(found[sets][0][name], value)


def test_sides_leave_rslads_terms_alone():
    plain = aligned("both", lc=0, lg=0)[0]
    for sets in ("both", "clean", "adversarial"):
        terms = aligned(sets)[0]
        assert all(torch.equal(terms[name], plain[name]) for name in ("robust", "clean"))
    assert set(plain) == {"robust", "clean"}


def test_fields_are_what_the_shell_shows():
    assert [f.name for f in dataclasses.fields(LabelKinds)] == ["inner", "outer", "alpha", "s", "attack"]
    assert list(inspect.signature(both).parameters) == ["natural", "robust", "classes", "trust_code"]
