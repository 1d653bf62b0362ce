"""What is asked of a net before any work: its weights, dtype, gradient, and layers of its own."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import ardor
from ardor import attacks, methods, models
from ardor.data.split import Split
from ardor.deployment.export import export
from ardor.diagnostics.teacher import examine_teacher
from ardor.engine.flops import macs
from ardor.errors import ArdorError, ConfigError, ModelError
from ardor.models.identity import signature_of
from tests.models.conftest import refused
from tests.training.conftest import recipe

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TRAIN = Split(X, torch.arange(32) % 4, 4, "toy", "train")
LINF = ardor.Linf(0.1)


class Cut(nn.Module):
    """A net whose images pass through NumPy."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(64, 4)

    def forward(self, x):
        return self.f(torch.from_numpy((x.detach().numpy() * 16).round() / 16).flatten(1))


def plain(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).to(dtype)


class Plainly(nn.Module):
    """A linear net behind a function of the images."""

    def __init__(self, before):
        super().__init__()
        self.f, self.before = nn.Linear(64, 4), before
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, x):
        return self.f(self.before(x).flatten(1))


class Extra(nn.Linear):
    """A layer with more state than its tensors."""

    def get_extra_state(self):
        return {"scale": 2}

    def set_extra_state(self, state):
        pass


def in_inference_mode():
    with torch.inference_mode():
        return plain()


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def frozen():
    return plain().requires_grad_(False)


def entries(net):
    """The calls that take a net, by name."""
    return {
        "evaluate": lambda: ardor.evaluate(net, TRAIN, attacks.paper(LINF)),
        "epochs": lambda: next(ardor.epochs(net, None, methods.SAT(), TRAIN, recipe())),
        "distill": lambda: ardor.distill(net, None, methods.SAT(), TRAIN, recipe()),
        "export": lambda: export(net, "net.onnx", check=TRAIN),
    }


@pytest.mark.parametrize("entry", entries(None))
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plain(torch.float16), r"float16 weights .*type net.float\(\) first"),
        (lambda: plain(torch.float64), r"float64 weights .*type net.float\(\) first"),
        (lambda: plain().to("meta"), "1.weight on the device meta"),
        (lazy, "1.weight not initialised"),
        (Cut, "gradient"),
        (lambda: Plainly(lambda x: x.sub_(0.5)), "in place"),
        (lambda: Plainly(lambda x: x.reshape(1, -1)), "batches"),
        (lambda: Plainly(lambda x: x[:1]), r"\(2, 4\)"),
        (in_inference_mode, "inference_mode"),
    ],
)
def test_a_net_that_does_not_work_is_refused_by_every_entry(tmp_path, monkeypatch, entry, make, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArdorError, match=words):
        entries(make())[entry]()
    assert not list(tmp_path.iterdir())


def test_square_judges_a_net_without_a_gradient_and_autoattack_flags_it():
    net = Cut()
    data = Split(X, net(X).argmax(1), 4, "toy", "test")
    suites = []
    for suite in (attacks.suites.square(LINF), attacks.autoattack(LINF)):
        few = {"square": dataclasses.replace(suite.attacks["square"], queries=300)}
        suites.append(dataclasses.replace(suite, attacks={**suite.attacks, **few}))
    square, auto = (ardor.evaluate(net, data, suite) for suite in suites)
    assert auto.worst_case == square.worst_case
    for report in (square, auto):
        assert "zero_gradients" in [finding.name for finding in report.findings]
    found = examine_teacher(net, data, LINF)
    assert found.refused
    assert "gradient" in str(found.findings)


def test_a_student_that_cannot_be_trained_is_refused():
    for net in (frozen(), nn.Sequential(nn.Flatten(), nn.AvgPool1d(16))):
        with pytest.raises(ModelError, match="a student with (a parameter|parameters) to train"):
            ardor.distill(net, None, methods.SAT(), TRAIN, recipe())
    broken = plain()
    broken[1].bias.data[0] = torch.nan
    with pytest.raises(ModelError, match=r"finite .*"):
        ardor.distill(broken, None, methods.SAT(), TRAIN, recipe())


def test_a_mask_with_infinities_is_no_divergence(tmp_path):
    net = Plainly(lambda x: x)
    ardor.distill(net, None, methods.Natural(), TRAIN, recipe(), run=tmp_path / "r")
    models.load_weights(net, tmp_path / "r" / "last.safetensors")
    net.f.bias.data[0] = float("inf")
    with pytest.raises(ModelError, match="finite"):
        next(ardor.epochs(net, None, methods.Natural(), TRAIN, recipe()))


@pytest.mark.parametrize("kind", ["extra", "sparse", "quantised", "frozen script"])
def test_state_other_than_dense_tensors_is_judged_and_no_student(kind):
    net = nn.Sequential(nn.Flatten(), Extra(64, 4)).eval()
    if kind == "sparse":
        net[1] = nn.Linear(64, 4)
        net.register_buffer("mask", torch.eye(3).to_sparse())
    elif kind == "quantised":
        net = torch.ao.quantization.quantize_dynamic(plain().eval(), {nn.Linear})
    elif kind == "frozen script":
        net = torch.jit.freeze(torch.jit.script(plain().eval()))
    square = attacks.Suite("s", LINF, {"square": attacks.Square(LINF, queries=2)})
    report = ardor.evaluate(net, TRAIN, square)
    assert report.model["hash"] == ardor.evaluate(net, TRAIN, square).model["hash"]
    with pytest.raises(ModelError, match=r"student .*(dense|parameters to train)"):
        next(ardor.epochs(net, None, methods.SAT(), TRAIN, recipe()))
    ardor.distill(plain(), net, methods.KD(), TRAIN, recipe())


def test_a_teacher_that_shares_layers_with_the_student_is_refused():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    student, teacher = (nn.Sequential(body, nn.Linear(144, 4)) for _ in range(2))
    before = copy.deepcopy(body.state_dict())
    tied = copy.deepcopy(teacher)
    tied[1].weight = student[1].weight
    dropout = nn.Dropout()
    for a, b, words in (
        (student, teacher, "shares 7 parameters and buffers with the student"),
        (student, student, "shares 9 parameters and buffers"),
        (student, tied, "shares 1 parameters"),
        (nn.Sequential(dropout, plain()), nn.Sequential(dropout, plain()), "shares 1 layers"),
    ):
        with pytest.raises(ModelError, match=rf"{words}.*copy.deepcopy\(teacher\)"):
            ardor.distill(a, b, methods.RSLAD(), TRAIN, recipe())
    assert all(torch.equal(v, before[k]) for k, v in body.state_dict().items())


def test_a_default_dtype_of_float64_changes_nothing():
    expected = ardor.models.build("small_cnn", classes=4, channels=1, width=4)
    records = ardor.distill(expected, None, methods.SAT(), TRAIN, recipe(epochs=1))
    suite = attacks.quick(LINF)
    torch.set_default_dtype(torch.float64)
    try:
        data = Split((X * 255).to(torch.uint8), TRAIN.labels, 4, "toy", "test")
        ardor.evaluate(plain(torch.float32), data, suite)
        net = ardor.models.build("small_cnn", classes=4, channels=1, width=4)
        again = ardor.distill(net, None, methods.SAT(), TRAIN, recipe(epochs=1))
        ardor.evaluate(net, data, suite)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again[0].loss == records[0].loss
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def exported(net):
    dim = torch.export.Dim.DYNAMIC
    return torch.export.export(net.eval(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: dim},)).module()


@pytest.mark.parametrize("wrap", [torch.jit.script, exported, nn.DataParallel], ids=["script", "export", "parallel"])
def test_scripted_and_exported_nets_are_judged_as_the_net_itself(wrap):
    data, suite = Split(X, plain()(X).argmax(1), 4, "toy", "test"), attacks.quick(LINF)
    net = wrap(plain())
    flags = [p.requires_grad for p in net.parameters()]
    assert ardor.evaluate(net, data, suite).verdicts == ardor.evaluate(plain(), data, suite).verdicts
    assert [p.requires_grad for p in net.parameters()] == flags
    assert not examine_teacher(net, data, LINF).refused
    if wrap is exported:
        with pytest.raises(ModelError, match="exported program: train the net that it was exported from"):
            ardor.distill(net, None, methods.SAT(), TRAIN, recipe())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_large_images_need_the_papers_stem(name):
    width = {"width": 0.25} if name == "mobilenet_v2" else {}
    small, large = (models.build(name, classes=3, stem=stem, **width).eval() for stem in ("cifar", "imagenet"))
    models.require_fit(small, (3, 64, 64), 3, "student")
    with refused(ModelError, "student for images of 65 x 64", "CIFAR's form", 'stem="imagenet"'):
        models.require_fit(small, (3, 65, 64), 3, "student")
    models.require_fit(large, (3, 65, 64), 3, "student")
    assert macs(large, (3, 96, 96)) < macs(small, (3, 96, 96)) / 8
    again = models.build(**large.built_as).eval()
    x = torch.rand(2, 3, 96, 96)
    assert torch.equal(again(x), large(x))
    assert torch.equal(large.head(large.features(x)), large(x))
    assert signature_of(small).digest == signature_of(models.build(name, classes=3, **width)).digest
    with refused(ConfigError, "stem of cifar or imagenet", "cifra"):
        models.build(name, stem="cifra")


def test_a_wide_resnet_for_large_images_is_timms():
    net = models.build("wide_resnet", depth=10, width=1)
    with refused(ModelError, "CIFAR's form", "timm:wide_resnet50_2"):
        models.require_fit(net, (3, 96, 96), 10, "student")
    vars(net)["loaded_from"] = "file"
    with refused(ModelError, "CIFAR's form", "choose a net for such images"):
        models.require_fit(net, (3, 96, 96), 10, "teacher")
