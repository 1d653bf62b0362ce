"""The nets. Each family is compared with a forward pass written by hand from the published parameter names, so a
stride, a shortcut or a name that is wrong cannot hide behind the parameter count."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ardor import models
from ardor.engine.flops import macs
from ardor.errors import ConfigError, ModelError
from tests.models.conftest import refused

RESNET50 = {"name": "resnet50"}
TRADES = {"name": "wide_resnet", "sub_block1": True}


def meta(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


def lived_in(net, seed=1):
    """Batch norm as after training: with fresh statistics several mistakes would be invisible."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        elif value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return net.eval()


# --- the architectures ---


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"name": "resnet18"}, 11_173_962),
        ({"name": "resnet18", "classes": 100}, 11_220_132),
        (RESNET50, 23_520_842),
        ({"name": "mobilenet_v2"}, 2_296_922),
        ({"name": "mobilenet_v2", "classes": 100}, 2_412_212),
        ({"name": "wide_resnet"}, 46_160_474),
        (TRADES, 48_262_586),
        ({"name": "wide_resnet_silu", "classes": 100}, 266_888_756),
        ({"name": "small_cnn", "width": 4}, 2_294),
        ({"name": "small_cnn", "width": 32}, 131_178),
    ],
    ids=str,
)
def test_parameter_counts_are_the_published_ones(options, count):
    assert sum(p.numel() for p in meta(**options).parameters()) == count


@pytest.mark.parametrize(
    ("name", "side", "gmac", "width"),
    [
        ("resnet18", 32, 0.555, 512),
        ("resnet50", 32, 1.30, 2048),
        ("mobilenet_v2", 32, 0.091, 1280),
        ("wide_resnet", 32, 6.66, 640),
        ("wide_resnet_silu", 32, 38.8, 1024),
        ("small_cnn", 8, 0.0003, 64),
        ("small_cnn", 28, 0.0037, 64),
    ],
)
def test_cost_and_feature_width(name, side, gmac, width):
    net, total = meta(name), 0

    def count(module, _, out):
        nonlocal total
        total += out[0].numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    channels = 1 if name == "small_cnn" else 3
    x = torch.empty(2, channels, side, side, device="meta")
    assert net.eval()(x).shape == (2, 10)
    assert net.features(x).shape == (2, width)
    assert total / 1e9 / 2 == pytest.approx(gmac, rel=0.02)  # the hooks ran twice, over one image each


def bn(s, name, x):
    return F.batch_norm(x, *(s[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")))


def conv(s, name, x, stride=1, padding=0, groups=1):
    return F.conv2d(x, s[f"{name}.weight"], None, stride, padding, 1, groups)


def linear(s, name, x):
    return F.linear(F.avg_pool2d(x, x.shape[-1])[:, :, 0, 0], s[f"{name}.weight"], s[f"{name}.bias"])


def resnet18_by_hand(s, x):
    out = F.relu(bn(s, "bn1", conv(s, "conv1", x, 1, 1)))
    for layer in (1, 2, 3, 4):
        for k in (0, 1):
            at, stride = f"layer{layer}.{k}", 2 if layer > 1 and k == 0 else 1
            inner = F.relu(bn(s, f"{at}.bn1", conv(s, f"{at}.conv1", out, stride, 1)))
            inner = bn(s, f"{at}.bn2", conv(s, f"{at}.conv2", inner, 1, 1))
            if stride == 2:
                out = bn(s, f"{at}.shortcut.1", conv(s, f"{at}.shortcut.0", out, 2))
            out = F.relu(inner + out)
    return linear(s, "linear", out)


def resnet50_by_hand(s, x):
    out = F.relu(bn(s, "bn1", conv(s, "conv1", x, 1, 1)))
    for layer, repeats in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for k in range(repeats):
            at, stride = f"layer{layer}.{k}", 2 if layer > 1 and k == 0 else 1
            inner = F.relu(bn(s, f"{at}.bn1", conv(s, f"{at}.conv1", out)))
            inner = F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv2", inner, stride, 1)))
            inner = bn(s, f"{at}.bn3", conv(s, f"{at}.conv3", inner))
            if k == 0:
                out = bn(s, f"{at}.shortcut.1", conv(s, f"{at}.shortcut.0", out, stride))
            out = F.relu(inner + out)
    return linear(s, "linear", out)


def mobilenet_v2_by_hand(s, x):
    out = F.relu(bn(s, "bn1", conv(s, "conv1", x, 1, 1)))
    for k in range(17):
        at, stride = f"layers.{k}", 2 if k in (3, 6, 13) else 1
        inner = F.relu(bn(s, f"{at}.bn1", conv(s, f"{at}.conv1", out)))
        inner = F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv2", inner, stride, 1, inner.shape[1])))
        inner = bn(s, f"{at}.bn3", conv(s, f"{at}.conv3", inner))
        if k in (0, 1, 10, 16):  # stride 1 and other channels: 32-16, 16-24, 64-96, 160-320
            out = inner + bn(s, f"{at}.shortcut.1", conv(s, f"{at}.shortcut.0", out))
        else:
            out = inner if stride == 2 else inner + out
    return linear(s, "linear", F.relu(bn(s, "bn2", conv(s, "conv2", out))))


def wide_resnet_by_hand(s, x):
    out = conv(s, "conv1", x, 1, 1)
    for block in (1, 2, 3):
        for k in (0, 1):
            at, stride = f"block{block}.layer.{k}", 2 if block > 1 and k == 0 else 1
            active = F.relu(bn(s, f"{at}.bn1", out))
            inner = F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv1", active, stride, 1)))
            if k == 0:
                out = conv(s, f"{at}.convShortcut", active, stride)
            out = out + conv(s, f"{at}.conv2", inner, 1, 1)
    return linear(s, "fc", F.relu(bn(s, "bn1", out)))


def wide_resnet_silu_by_hand(s, x):
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])
    out = conv(s, "init_conv", (x - mean[:, None, None]) / std[:, None, None], 1, 1)
    for group in (0, 1, 2):
        for k in (0, 1):
            at, stride = f"layer.{group}.block.{k}", 2 if group > 0 and k == 0 else 1
            active = F.silu(bn(s, f"{at}.batchnorm_0", out))
            padded = F.pad(active, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            inner = F.silu(bn(s, f"{at}.batchnorm_1", conv(s, f"{at}.conv_0", padded, stride)))
            if k == 0:
                out = conv(s, f"{at}.shortcut", active, stride)
            out = out + conv(s, f"{at}.conv_1", inner, 1, 1)
    return linear(s, "logits", F.silu(bn(s, "batchnorm", out)))


def small_cnn_by_hand(s, x):
    for k, stride in enumerate((1, 2, 1, 2)):
        x = F.relu(bn(s, f"layers.{k}.1", conv(s, f"layers.{k}.0", x, stride, 1)))
    return linear(s, "linear", x)


FAMILIES = {
    "resnet18": {},
    "resnet50": {},
    "mobilenet_v2": {},
    "wide_resnet": {"depth": 16, "width": 2, "sub_block1": True},
    "wide_resnet_silu": {"depth": 16, "width": 2},
    "small_cnn": {"width": 8},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_forward_pass_is_the_published_one(name):
    net = lived_in(models.build(name, channels=3, classes=7, **FAMILIES[name]))
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = net(x)
        by_hand = globals()[f"{name}_by_hand"](net.state_dict(), x)
        assert logits.shape == (3, 7)
        assert logits.std() > 1e-3  # a dead net would agree with anything
        torch.testing.assert_close(logits, by_hand, rtol=1e-4, atol=1e-5)
        assert torch.equal(logits, net.head(net.features(x)))
        torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), logits, rtol=1e-4, atol=1e-5)
        traced = torch.fx.symbolic_trace(net)  # the faster twin of an attack is made from a trace
        torch.testing.assert_close(traced(x), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_is_used(name):
    options = {key: value for key, value in FAMILIES[name].items() if key != "sub_block1"}
    net = models.build(name, channels=3, **options)
    net(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("side", [4, 8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_cnn_takes_small_images(side, channels):
    net = models.build("small_cnn", channels=channels, width=4).eval()
    assert net(torch.rand(2, channels, side, side)).shape == (2, 10)


def test_trades_initial_weights():
    net = models.build("wide_resnet", depth=16, width=4)
    weight = net.block2.layer[1].conv1.weight  # 128 planes
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert not net.fc.bias.any()


# --- normalisation ---


@pytest.mark.parametrize("name", FAMILIES)
def test_normalisation_is_the_first_layer_and_not_in_the_state_dict(name):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    net = lived_in(models.build(name, channels=3, mean=mean, std=std, **FAMILIES[name]))
    raw = lived_in(models.build(name, channels=3, mean=(0, 0, 0), std=(1, 1, 1), **FAMILIES[name]))
    x = torch.rand(2, 3, 16, 16)
    z = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(net(x), raw(z), rtol=1e-4, atol=1e-5)
    assert list(net.state_dict()) == list(raw.state_dict())
    assert not [n for n in net.state_dict() if n.endswith((".mean", ".std"))]


def test_silu_defaults_are_deepminds():
    def numbers(**options):
        layer = models.build("wide_resnet_silu", depth=10, width=1, **options).normalise
        return [] if isinstance(layer, nn.Identity) else torch.cat([layer.mean, layer.std]).flatten().tolist()

    assert numbers(classes=10) == pytest.approx([0.4914, 0.4822, 0.4465, 0.2471, 0.2435, 0.2616])
    assert numbers(classes=100) == pytest.approx([0.5071, 0.4865, 0.4409, 0.2673, 0.2564, 0.2762])
    assert numbers(channels=1) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (0.5,)}, ["one of them"]),
        ({"mean": (0.5, 0.5), "std": (1, 1)}, ["1 numbers", "got 2"]),
        ({"mean": (0.5,), "std": (0,)}, ["above 0"]),
    ],
)
def test_bad_normalisation(options, words):
    with refused(ConfigError, *words):
        models.build("small_cnn", **options)


# --- require_fit ---


class Answers(nn.Module):
    """A net that answers what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.answer = answer

    def forward(self, x):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_require_fit_passes_and_restores_modes():
    net = models.build("small_cnn", width=4)
    net.train()
    net.layers[1].eval()
    net.linear.weight.requires_grad_(False)

    def condition():
        return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()], models.hash_of(net)

    before = condition()
    models.require_fit(net, (1, 8, 8), 10)
    with pytest.raises(ModelError):
        models.require_fit(net, (3, 8, 8), 10)
    assert condition() == before
    with pytest.raises(ModelError, match="Double"):  # images are float32, and a net that cannot take them is refused
        models.require_fit(net.double(), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((torch.zeros(1, 10), torch.zeros(1)), ["one tensor", "tuple"]),
        ({"logits": torch.zeros(1, 10)}, ["one tensor", "dict"]),
        (None, ["one tensor", "NoneType"]),
        (torch.zeros(10), [r"\(10,\)", "squeeze"]),
        (torch.zeros(1, 10, 1, 1), [r"\(1, 10, 1, 1\)"]),
        (torch.zeros(2, 10), [r"\(2, 10\)"]),
        (torch.zeros(1, 100), ["10 classes", "got 100", "choose a net for 10 classes"]),
        (torch.full((1, 10), float("nan")), ["finite", "nan"]),
        (torch.full((1, 10), float("inf")), ["finite", "inf"]),
        (torch.zeros(1, 10, dtype=torch.int64), ["floating-point"]),
        (ValueError("no\nsuch size"), ["teacher", r"\(1, 3, 8, 8\)", "ValueError: no"]),
    ],
    ids=lambda v: str(v)[:30],
)
def test_require_fit_refuses_an_answer(answer, words):
    with refused(ModelError, *words):
        models.require_fit(Answers(answer), (3, 8, 8), 10, who="teacher")


@pytest.mark.parametrize("name", FAMILIES)
def test_require_fit_refuses_other_channels(name):
    net = models.build(name, channels=3, **FAMILIES[name])
    with refused(ModelError, "1 image channels", "got a net for 3", "pass channels=1"):
        models.require_fit(net, (1, 16, 16), 10)


def test_require_fit_sees_a_grey_image_turned_colour_by_three_means():
    net = models.build("resnet18", mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)  # broadcasting hides it from everything else
    with refused(ModelError, "1 image channels", "got a net for 3"):
        models.require_fit(net, (1, 8, 8), 10)


def test_macs_are_counted_on_a_pass_that_leaves_nothing_behind():
    """The papers' costs (0.555 and 0.091 GMAC), and a layer by hand; hooks and modes are as before."""
    for name, gmac in (("resnet18", 0.555), ("mobilenet_v2", 0.091)):
        net = models.build(name)
        net.layers[0].train(False) if hasattr(net, "layers") else None
        modes = [module.training for module in net.modules()]
        assert macs(net, (3, 32, 32)) / 1e9 == pytest.approx(gmac, abs=6e-4)
        assert [module.training for module in net.modules()] == modes
        assert not any(module._forward_hooks for module in net.modules())
    conv = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(6 * 16, 5))
    assert macs(conv, (4, 8, 8)) == 6 * 16 * (2 * 9) + 6 * 16 * 5


def test_hooks_are_removed_from_a_net_that_cannot_take_the_image():
    net = models.build("small_cnn")
    with pytest.raises(RuntimeError):
        macs(net, (3, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_the_width_of_mobilenet_v2():
    """Width 1 is the published net, and a quarter is what the small benches train."""
    whole, plain = (models.build("mobilenet_v2", **options) for options in ({"width": 1.0}, {}))
    assert {k: v.shape for k, v in whole.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    quarter = models.build("mobilenet_v2", channels=1, width=0.25)
    assert sum(p.numel() for p in quarter.parameters()) == 165_586
    assert quarter.eval().features(torch.zeros(1, 1, 8, 8)).shape == (1, 320)
    assert 0.4e6 < macs(quarter, (1, 8, 8)) < 0.6e6
    with pytest.raises(ConfigError, match="expected a width above 0, got 0"):
        models.build("mobilenet_v2", width=0)
