"""`ardor doctor` on a run and on a net of one's own."""

import json

import pytest

import ardor.models.loading
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.diagnostics.doctor import examine
from ardor.diagnostics.record import record_of_run, validation_images
from tests.fixtures.make import begun_from

pytestmark = pytest.mark.processor

# At the shell.
TRAIN = [
    "train", "--data", "digits", *begun_from("natural", epochs=3), "--recipe.device", "cpu", "--method", "natural",
    "--recipe.val_attack.threat.eps", "0.05", "--recipe.val_size", "100",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell")
    assert main([*TRAIN, "--run", str(folder / "net")]) == 0
    return folder


@pytest.fixture
def run(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    return runs / "net"


def test_a_run_is_its_own_record(run):
    line = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()][-1]
    last, images = record_of_run(run, "last"), validation_images(run)
    assert (last.clean, last.robust, last.replay) == (line["val_clean"], line["val_robust"], PGD(Linf(0.05), steps=10))
    assert len(images) == 100
    net = ardor.models.load(run, checkpoint="last")
    seen = examine(net, images, Linf(0.05), record=last, limit=1)
    assert seen.accuracies["clean on val"].value == line["val_clean"]
    assert seen.accuracies["robust on val"].value == line["val_robust"]


def test_the_record_is_of_the_checkpoint_that_is_asked_for(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    for name in ("best", "last"):
        (tmp_path / f"{name}.safetensors").write_bytes((run / f"{name}.safetensors").read_bytes())
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(range(3), key=lambda i: (lines[i]["val_robust"], -i))
    for i, line in enumerate(lines):
        line["val_clean"] = i / 10
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (record_of_run(tmp_path, "best").clean, record_of_run(tmp_path, "last").clean) == (best / 10, 0.2)
    said = (run / "config.yaml").read_text().replace("name: PGD", "name: mine.py:PGD")
    (tmp_path / "config.yaml").write_text(said)
    assert record_of_run(tmp_path, "best").replay is None, "an attack of a user's own is not rebuilt"
    lines[2]["val_clean"] = None
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert record_of_run(tmp_path, "last") is None


def shown(capsys, *words):
    capsys.readouterr()
    code = main(["doctor", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_shell_says_what_was_looked_at(run, capsys):
    code, out, _ = shown(capsys, "net", "--limit", "20", "--threat.eps", "8/255")
    assert code == 0
    assert "net (best) on 20 images of digits (test), Linf eps 8/255" in out
    assert "No findings." in out
    assert "clean on val" in out
    assert "robust on val" in out
    assert "PGD over radii: " in out
    assert "Left out" not in out


def test_the_shell_shows_findings_and_fails(run, capsys, tmp_path):
    code, out, _ = shown(capsys, "net", "--limit", "20", "--record", "0.2")
    assert code == 1
    assert "error: record" in out
    assert "seen  clean accuracy on test is" in out
    assert "next  look for other weights" in out
    code, out, _ = shown(capsys, "net", "--limit", "20", "--data", "digits", "--data.protocol", "paper")
    assert code == 0, "a warning is no error"
    assert "warning: selection" in out
    assert "Left out: the net's record" in out


NET = """
import ardor
from torch import nn

class Soft(nn.Module):
    def __init__(self, how="softmax"):
        super().__init__()
        self.net, self.how = ardor.models.load("net"), how

    def forward(self, x):
        z = self.net(x)
        return {"softmax": z.softmax(1), "tuple": (z, z), "plain": z}[self.how]
"""


def test_the_shell_takes_a_net_of_ones_own(run, capsys):
    (run.parent / "soft.py").write_text(NET)
    words = ["--model", "soft.py:Soft", "--data", "digits", "--limit", "20"]
    code, out, _ = shown(capsys, *words)
    assert code == 1
    assert "error: probabilities" in out
    assert "Left out: attacks" in out
    code, out, err = shown(capsys, *words, "--model.how", "tuple")
    assert code == 2
    assert out == ""
    assert "got tuple: return only the logits" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected RUN, or --model NAME --weights FILE --data NAME, got neither"),
        (["net", "--model", "small_cnn"], "expected a run or --model, got net and --model small_cnn"),
        (["nowhere"], "nowhere"),
        (["net", "--record", "97"], "0.6925"),
        (["net", "--limit", "0"], "at least 1 image"),
        (["net", "--imgs", "5"], "--imgs"),
        (["net", "--threat", "l3"], "l2, linf"),
    ],
)
def test_the_shell_refuses_in_one_sentence(run, capsys, words, says):
    code, _, err = shown(capsys, *words)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_the_shells_options_are_few(run, capsys):
    import inspect

    from ardor.cli.commands.doctor import doctor as command

    assert len(inspect.signature(command).parameters) <= 15
    code, out, _ = shown(capsys, "--help")
    assert code == 0
    assert all(word in out for word in ("RUN", "--record", "--weights", "next step"))
