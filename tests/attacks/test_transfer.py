"""Transfer: the images are the source's, and every file names it."""

import pytest
import torch
from torch import nn

import ardor
import ardor.data.split
import ardor.models.builders
import ardor.models.loading
from ardor.attacks import CW, PGD, Suite, suites
from ardor.attacks.threat import L2, Linf
from ardor.attacks.transfer import Transfer
from ardor.cli.main import main
from ardor.engine.modes import attack_view
from ardor.errors import RunError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out
from ardor.evaluation.verdicts import evaluate
from ardor.models import hash_of
from ardor.noise import Noise
from ardor.testing import TinyNet, problem
from ardor.testing.shared import require_same, snapshot, trained
from tests.conftest import batch
from tests.fixtures.make import begun_from

pytestmark = pytest.mark.processor

THREATS = [Linf(0.1), L2(0.7)]
NET = trained(1, 8, 10, 0).eval()


def source(seed=4):
    """A net that learned the same images, in train mode, with a parameter off."""
    net = trained(1, 8, 10, 0)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.add_(0.1 * Noise(seed, torch.tensor([i]), "other").normal((p.numel(),), p.dtype).reshape(p.shape))
    net.train()
    net.layers[0].eval()
    next(net.parameters()).requires_grad_(False)
    return net


def split(images=20):
    x, y, index = problem(1, 8, 10, 0, images)
    return ardor.data.split.Split(x, y, 10, "made", "test", index=index)


class Uncalled(nn.Module):
    """Must not be called."""

    def forward(self, x):
        raise AssertionError("the attacked net was called")


def attacks(threat):
    return [PGD(threat, steps=4), CW(threat, steps=4)]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("which", [0, 1])
def test_images_are_the_sources_and_the_attacked_net_is_not_called(threat, which):
    x, y, _ = batch()
    attack, other = attacks(threat)[which], source()
    with attack_view(other) as view:
        expected = attack(view, x, y, batch()[2])  # a new stream for each call
    assert torch.equal(Transfer(attack, other)(Uncalled(), x, y, batch()[2]), expected)
    with attack_view(NET) as view:
        assert not torch.equal(attack(view, x, y, batch()[2]), expected)


def test_the_source_is_left_as_it_was():
    x, y, noise = batch()
    other = source()
    before = snapshot(other)
    Transfer(PGD(Linf(0.1), steps=3), other)(NET, x, y, noise)
    require_same(before, snapshot(other), "Transfer", "on the source")

    class Fails:
        def __call__(self, net, x, y, noise):
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        Transfer(Fails(), other)(NET, x, y, noise)
    require_same(before, snapshot(other), "Transfer", "on the source")


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_the_suite_is_the_papers(threat):
    other = source()
    suite = suites.transfer(threat, other)
    margin = "transfer_cw_inf" if isinstance(threat, Linf) else "transfer_cw_l2"
    assert (suite.name, suite.threat, suite.sequential, list(suite.attacks)) == (
        "transfer", threat, False, ["transfer_pgd20", margin]
    )  # fmt: skip
    pgd, cw = suite.attacks.values()
    assert pgd.attack == PGD(threat, steps=20, step=threat.eps / 4)
    assert cw.attack == CW(threat, steps=20, step=threat.eps / 4)
    assert pgd.source is cw.source is other
    assert pgd.weights == cw.weights == hash_of(other)


def test_verdicts_are_the_attacked_nets_on_the_sources_images():
    data, other = split(), source().float()
    net = trained(1, 8, 10, 0).float().eval()
    suite = suites.transfer(Linf(0.15), other)
    report = evaluate(net, data, suite, batch=20)
    clean = net(data.images).argmax(1) == data.labels
    for name, attack in suite.attacks.items():
        with attack_view(other) as view:
            x_adv = attack.attack(view, data.images, data.labels, Noise(0, data.index, name))
        stands = net(x_adv).argmax(1) == data.labels
        both = zip(clean.tolist(), stands.tolist(), strict=True)
        wanted = "".join("-" if not right else "r" if robust else "b" for right, robust in both)
        assert report.verdicts[name] == wanted
        torch.testing.assert_close(adversarial(net, data, name, attack, batch=20), x_adv, rtol=0, atol=1e-6)
    assert "b" in "".join(report.verdicts.values())
    assert "r" in "".join(report.verdicts.values())


def test_the_report_names_the_source_and_so_do_file_and_journal(tmp_path):
    data, net = split(10), TinyNet().eval()
    one, two = (suites.transfer(Linf(0.1), source(seed).float()) for seed in (4, 5))
    hashes = [next(iter(suite.attacks.values())).weights for suite in (one, two)]
    assert hashes[0] != hashes[1]
    report = evaluate(net, data, one, batch=10, journal=tmp_path / "journal")
    assert {attack["weights"] for attack in report.attacks.values()} == {hashes[0]}
    with pytest.raises(RunError):
        evaluate(net, data, two, batch=10, journal=tmp_path / "journal")
    again = evaluate(net, data, one, batch=10, journal=tmp_path / "journal")
    assert again.verdicts == report.verdicts
    names = [default_out(tmp_path, suite, "best").name for suite in (one, two)]
    assert names == [f"report-transfer-linf-0.1-from_{h[:6]}-best.json" for h in hashes]


def test_a_suite_may_mix_transfer_with_others():
    data = split(10)
    net = trained(1, 8, 10, 0).float().eval()
    threat = Linf(0.1)
    both = Suite("mixed", threat, {"pgd": PGD(threat, steps=2), "transfer": Transfer(PGD(threat, steps=2), net)})
    report = evaluate(net, data, both, batch=10)
    assert set(report.verdicts) == {"pgd", "transfer"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small runs on digits, and one on five classes of them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, net in (("one", "natural"), ("two", "seed5")):
        words = ["--data", "digits", "--method", "natural", *begun_from(net), "--recipe.device", "cpu"]
        assert main(["train", *words, "--recipe.val_size", "20", "--run", str(folder / name)]) == 0
    return folder


def sentence(capsys):
    message = capsys.readouterr().err.strip()
    assert message.startswith("ardor: ")
    assert "\n" not in message
    return message


def test_evaluate_a_run_by_transfer(runs, capsys):
    words = ["--suite", "transfer", "--threat.eps", "0.1", "--limit", "40"]
    assert main(["evaluate", str(runs / "one"), *words, "--transfer_from", str(runs / "two")]) == 0
    weights = hash_of(ardor.models.load(runs / "two"))
    (path,) = (runs / "one").glob("report-*.json")
    assert path.name == f"report-transfer-linf-0.1-from_{weights[:6]}-best-limit40.json"
    report = Report.load(path)
    assert {attack["weights"] for attack in report.attacks.values()} == {weights}
    shown = report.figures()
    net, source = (ardor.models.load(runs / name) for name in ("one", "two"))
    data = ardor.data.load_test("digits").limit(40)
    again = evaluate(net, data, suites.transfer(Linf(0.1), source), batch=40)
    assert again.verdicts == report.verdicts
    assert shown["worst_case"].n == 40
    # a white-box attack is at least as strong
    assert main(["evaluate", str(runs / "one"), *words, "--transfer_from", str(runs / "one")]) == 0
    weights = ardor.models.hash_of(ardor.models.load(runs / "one"))
    direct = Report.load(runs / "one" / f"report-transfer-linf-0.1-from_{weights[:6]}-best-limit40.json").figures()
    assert direct["worst_case"].k < shown["worst_case"].k


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "transfer"], "expected --transfer_from for --suite transfer, and only there or for deployed, got"),
        (["--transfer_from", "SOURCE"], "got SOURCE for --suite paper"),
        (["--suite", "transfer", "--transfer_from", "nowhere"], "nowhere"),
    ],
)
def test_a_source_goes_with_transfer_alone(runs, capsys, words, message):
    before = sorted((runs / "two").iterdir())
    capsys.readouterr()
    words = [word.replace("SOURCE", str(runs / "one")) for word in words]
    assert main(["evaluate", str(runs / "two"), *words]) == 2
    assert message.replace("SOURCE", str(runs / "one")) in sentence(capsys)
    assert sorted((runs / "two").iterdir()) == before


def test_a_source_of_other_classes_is_refused(runs, tmp_path, capsys):
    from safetensors.torch import save_file

    save_file(ardor.models.build("small_cnn", classes=5, channels=1).state_dict(), tmp_path / "five.safetensors")
    (tmp_path / "five.py").write_text(
        "import ardor\n\n\ndef five(classes=5, channels=1):\n    return ardor.models.build('small_cnn', classes=5)\n"
    )
    capsys.readouterr()
    name = f"{tmp_path / 'five.py'}:five"
    assert main(["evaluate", str(runs / "two"), "--suite", "transfer", "--transfer_from", name]) == 2
    assert "surrogate" in sentence(capsys)
