"""Parity of a file with its net: what is refused, what is forced, and how it is counted."""

import math

import pytest
import torch
from torch import nn

import ardor
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import Match, Parity, match, measure
from ardor.errors import ExportError, RunError
from tests.deployment.conftest import onnx_packages
from tests.deployment.export.conftest import EPS, FILES, Tracing

onnx_packages()


def off_grid(x):
    """0 on the digits as they are, which are multiples of 1/16; not 0 on adversarial ones."""
    return 100 * (x * 16 - (x * 16).round()).abs().mean((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize("to", FILES)
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 3e-3, r"logits that differ by up to 0\.003\d* on clean images"),
        (lambda x: 1e3 * (torch.arange(10) == 3), "equal predictions on clean images"),
        (off_grid, r"got logits that differ by up to [\d.]+ on adversarial images"),
    ],
    ids=["a little", "another class", "only on adversarial images"],
)
def test_a_file_that_does_not_match_is_refused(net, digits, tmp_path, to, change, word):
    path = tmp_path / FILES[to]
    path.write_text("an earlier ardor-export-1")
    words = {"to": to, "calibrate": digits[0], "check": digits[1], "limit": 100, "threat": ardor.Linf(EPS)}
    if to == "onnx-int8" and "logits" in word:
        return  # INT8 is held to its predictions
    with pytest.raises(ExportError, match=word) as refused:
        ardor.export(Tracing(net, change), path, **words)
    assert "nothing was written; pass force=True" in str(refused.value)
    assert path.read_text() == "an earlier ardor-export-1"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("to", FILES)
def test_a_third_party_file_is_never_overwritten(net, digits, tmp_path, to):
    path = tmp_path / FILES[to]
    path.write_bytes(b"theirs")
    with pytest.raises(RunError, match="got a third-party file at .*: move it away"):
        ardor.export(net, path, to=to, calibrate=digits[0], check=digits[1], limit=20, force=True)
    assert path.read_bytes() == b"theirs"


def test_an_earlier_file_of_ours_is_replaced(net, made, digits, tmp_path):
    for to, name in FILES.items():
        (tmp_path / name).write_bytes(made[to].path.read_bytes())
        ardor.export(net, tmp_path / name, to=to, calibrate=digits[0], check=digits[1], limit=64, force=True)
        assert (tmp_path / name).read_bytes() != made[to].path.read_bytes()


def test_int8_of_few_images_has_a_warning(net, digits, tmp_path):
    words = {"to": "onnx-int8", "calibrate": digits[0], "check": digits[1], "force": True}
    assert "calibrated on 3 images" in str(ardor.export(net, tmp_path / "n.onnx", limit=3, **words))
    assert "calibrated" not in str(ardor.export(net, tmp_path / "n.onnx", limit=64, **words))


def test_a_forced_file_records_its_misses(net, digits, tmp_path):
    made = ardor.export(Tracing(net, lambda x: 1.0), tmp_path / "n.onnx", check=digits[1], limit=50, force=True)
    assert [miss[:30] for miss in made.forced] == ["logits that differ by up to 1 "] * 2
    assert Session(made.path).metadata["forced"] == list(made.forced)
    assert "warning: forced, with logits that differ by up to 1 on clean images" in str(made)


def test_int8_must_reach_the_agreement(net, made, digits, once, tmp_path):
    words = {"to": "onnx-int8", "calibrate": digits[0], "check": digits[1], "threat": ardor.Linf(EPS)}
    reached = made["onnx-int8"].parity.agreement
    assert 0.95 <= reached < 1
    with pytest.raises(ExportError, match="equal predictions on"):
        ardor.export(net, tmp_path / "n.onnx", agreement=reached + 1e-4, **words)
    assert ardor.export(net, tmp_path / "n.onnx", agreement=reached, **words).forced == ()


def test_match_counts():
    ours = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    theirs = torch.tensor([[0.0, 1.0], [2.0, 2.5], [0.0, 3.0], [0.0, 4.0]])
    batches = []

    def rows(values):
        def net(x):
            batches.append(len(x))
            return values[x[:, 0, 0, 0].long()]

        return net

    class Net(nn.Module):
        def forward(self, x):
            return rows(ours)(x)

    x = torch.arange(4.0).reshape(4, 1, 1, 1)
    result = match(Net(), rows(theirs), x, torch.tensor([1, 0, 1, 0]))
    assert (result.n, result.largest, result.equal, result.right, result.right_exported) == (4, 4.0, 2, 4, 2)
    assert batches == [1, 3, 1, 3], "one image alone, then the rest"
    assert result.agreement == 0.5


def test_the_difference_that_is_allowed_grows_with_the_logits(digits):
    """The rounding of float32 does. An operator that is wrong in the fourth digit is refused at any scale."""
    x, y, _ = digits[1].limit(20).batch(slice(None))

    def misses(scale, error):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
        net[1].weight.data = scale * net[1].weight.data / net(x).abs().max()
        one = match(net, lambda x: net(x) + error, x, y)
        return Parity(one, one, {}).misses(1e-4, 1.0)

    assert misses(20, 1e-3) == misses(0.1, 0.9e-4) == []
    assert len(misses(20, 1e-2)) == len(misses(0.1, 2e-4)) == 2


def test_a_logit_that_is_no_number_does_not_match(net, digits):
    result = measure(net, lambda x: torch.full((len(x), 10), torch.nan), digits[1].limit(20), ardor.Linf(EPS))
    assert len([miss for miss in result.misses(1e-4, 0.0) if "nan" in miss]) == 2
    number, none = Match(1, 0.5, 1, 1, 1), Match(1, float("nan"), 1, 1, 1)
    for one, two in ((number, none), (none, number)):
        assert math.isnan(Parity(one, two, {}).largest), "the largest of a number and none"


def test_the_seed_is_that_of_the_attacks_start(net, digits):
    """Seen from the images that the file is shown."""

    def shown(seed):
        images = []
        measure(net, lambda x: images.append(x.clone()) or net(x), digits[1].limit(20), ardor.Linf(EPS), seed)
        return torch.cat(images)

    one, two, again = shown(0), shown(1), shown(0)
    assert torch.equal(one, again)
    assert torch.equal(one[:20], two[:20]), "clean"
    assert not torch.equal(one[20:], two[20:])


def test_adversarial_images_are_those_of_the_evaluation(net, digits):
    """The figures of PGD-10 are as hard as those of the suite `quick`."""
    test = digits[1].limit(200)
    result = measure(net, net, test, ardor.Linf(EPS))
    robust = ardor.evaluate(net, test, ardor.attacks.quick(ardor.Linf(EPS))).worst_case.k
    assert abs(result.adversarial.right - robust) <= 6
    assert (result.largest, result.agreement) == (0, 1)
