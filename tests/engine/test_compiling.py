"""Compiled passes: equal to the net's, of its present weights, refused or said where they cannot be had."""

import copy
import shutil

import pytest
import torch
from torch import nn

import ardor
import ardor.models.builders
from ardor.attacks import Square, Suite
from ardor.attacks.apgd import APGD
from ardor.attacks.fab import FAB
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.engine import compiling
from ardor.engine.compiling import CompiledNet, compiled, require_compiler
from ardor.engine.folding import FoldedNet, folded
from ardor.engine.modes import attack_view
from ardor.errors import ConfigError
from ardor.methods import KD
from ardor.testing import TinyNet
from ardor.training.loop import distill
from tests.engine.conftest import X, net, recipe
from tests.fixtures.make import four_classes, trained

CPU = torch.device("cpu")
THREAT = Linf(0.1)
SEARCHES = Suite(
    "searches", THREAT,
    {"apgd": APGD(THREAT, 5), "apgd_t": APGD(THREAT, 5, loss="dlr", targets=2), "fab": FAB(THREAT, 5, targets=2),
     "square": Square(THREAT, 60)},
    sequential=True,
)  # fmt: skip


@pytest.fixture
def passes(monkeypatch):
    """Chunks of 5 images, compiled without a compiler; the number of images of every compiled pass."""
    seen = []

    def uncompiled(graph, x):
        assert not any(p.requires_grad for p in graph.parameters())
        return lambda x: (seen.append(len(x)), graph(x))[1]

    monkeypatch.setattr(compiling, "chunk_of", lambda size: 10)
    monkeypatch.setattr(compiling, "frozen_code", uncompiled)
    monkeypatch.setattr(compiling, "require_compiler", lambda word, device: None)
    monkeypatch.setattr("ardor.evaluation.verdicts.require_compiler", lambda word, device: None)
    monkeypatch.setattr("ardor.training.preflight.require_compiler", lambda word, device: None)
    return seen


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_verdicts_are_the_same_compiled_and_not(monkeypatch):
    """All attacks of AutoAttack, a few steps each, with machine code."""
    student, data, chunks = trained("four_classes"), four_classes(), []
    code = compiling.frozen_code

    def watched(graph, x):
        run = code(graph, x)
        return lambda x: (chunks.append(len(x)), run(x))[1]

    monkeypatch.setattr(compiling, "frozen_code", watched)
    monkeypatch.setattr(compiling, "chunk_of", lambda size: 10)
    threads, freezing = torch.get_num_threads(), torch._inductor.config.freezing
    one = ardor.evaluate(student, data, SEARCHES, compile=True)
    assert sum(chunks) > one.passes["square"][0] / 2
    assert set(chunks) == {5}
    assert (threads, freezing) == (torch.get_num_threads(), torch._inductor.config.freezing)
    other = ardor.evaluate(student, data, SEARCHES)
    assert one.verdicts == other.verdicts
    assert one.passes == other.passes


def test_whole_chunks_are_compiled_and_gradients_are_the_folded_nets(passes):
    student = net().eval()
    with attack_view(student), torch.no_grad():
        view = compiled(student, (1, 8, 8), 12)
        assert isinstance(view, CompiledNet)
        passes.clear()
        torch.testing.assert_close(view(X), student(X), rtol=1e-4, atol=1e-6)
        assert passes == [5, 5]
        torch.testing.assert_close(view(X[:3]), student(X[:3]), rtol=1e-4, atol=1e-6)
        assert passes == [5, 5]
    view(X[:5])  # a method's teacher is called with gradients on, for images that ask for none
    assert passes == [5, 5, 5]
    z = X.clone().requires_grad_()
    assert torch.autograd.grad(view(z).sum(), z)[0].abs().sum() > 0
    assert passes == [5, 5, 5]
    assert view.as_given() is student
    assert view.head is not None
    assert not isinstance(copy.copy(folded(student)), CompiledNet)


def test_weights_that_changed_are_compiled_again(passes):
    student = net().eval().requires_grad_(False)
    view = compiled(student, (1, 8, 8), 12)
    assert compiled(student, (1, 8, 8), 12) is view
    assert compiled(student, (1, 8, 8), 4) is not view
    for change in (student.linear.weight, next(student.buffers()), next(student.parameters())):
        view = compiled(student, (1, 8, 8), 12)
        change.data.mul_(-0.5)  # torch counts no version of this
        new = compiled(student, (1, 8, 8), 12)
        assert new is not view
        torch.testing.assert_close(new(X), student(X), rtol=1e-4, atol=1e-6)


def test_the_code_keeps_the_weights_that_it_was_made_of(passes):
    student = net().eval().requires_grad_(False)
    view = compiled(student, (1, 8, 8), 12)
    before = view(X[:5])
    student.linear.weight.data.mul_(2)
    folded(student)
    assert torch.equal(view(X[:5]), before)


def test_every_forward_pass_of_square_is_compiled(passes):
    student, data = trained("four_classes"), four_classes().take(torch.arange(10))
    suite = Suite("square", THREAT, {"square": Square(THREAT, 20)}, sequential=True)
    report = ardor.evaluate(student, data, suite, compile=True, batch=5)
    assert sum(passes) > report.passes["square"][0] / 2
    assert report.verdicts == ardor.evaluate(student, data, suite, batch=5).verdicts


def test_a_success_of_the_code_alone_does_not_count(monkeypatch, passes):
    """Code that misclassifies everything: the net as given has the last word."""
    monkeypatch.setattr(compiling, "close", lambda a, b: True)
    monkeypatch.setattr(compiling, "frozen_code", lambda graph, x: lambda x: -graph(x))
    student, data = trained("four_classes"), four_classes()
    tiny = Linf(1e-6)
    report = ardor.evaluate(student, data, Suite("s", tiny, {"square": Square(tiny, 3)}, sequential=True), compile=True)
    assert "b" not in report.verdicts["square"]
    assert report.verdicts["square"].count("r") == report.figures()["clean"].k


def test_a_journal_may_be_continued_without_compilation(passes, tmp_path):
    student, data = trained("four_classes"), four_classes()
    one = ardor.evaluate(student, data, SEARCHES, compile=True, journal=tmp_path / "j")
    passes.clear()
    other = ardor.evaluate(student, data, SEARCHES, journal=tmp_path / "j")
    assert one.verdicts == other.verdicts
    assert passes == []


def test_training_compiles_the_teacher_once(passes, monkeypatch):
    made = []
    code = compiling.frozen_code
    monkeypatch.setattr(compiling, "frozen_code", lambda graph, x: (made.append(1), code(graph, x))[1])
    data = ardor.data.split.Split(X, torch.arange(12) % 4, 4, "x", "train")
    records = {}
    for on in (False, True):
        student, teacher = net(1), net(2, width=8)
        records[on] = distill(student, teacher, KD(), data, recipe(batch=5, compile=on))
    assert len(made) == 1
    assert sum(passes) >= 2 * 10
    for a, b in zip(records[False], records[True], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_no_compiler_is_refused_before_the_attack(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"a C\+\+ compiler for .*compile.*, got no .* on this machine: install one"):
        require_compiler("--compile", CPU)
    student, data = trained("four_classes"), four_classes()
    with pytest.raises(ConfigError, match="leave compile= out"):
        ardor.evaluate(student, data, SEARCHES, compile=True, journal=tmp_path / "j")
    assert not (tmp_path / "j").exists()
    with pytest.raises(ConfigError, match="apt install"):
        distill(net(), net(), KD(), data, recipe(compile=True), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/false")
    for run, what in ((lambda x: 1 / 0, "division by zero"), (lambda x: x, "wrong sums")):
        monkeypatch.setattr(torch, "compile", lambda function, run=run: run)
        with pytest.raises(ConfigError, match=f"to compile for .*, got {what}: install one"):
            require_compiler("--compile", CPU)


def test_what_cannot_be_compiled_is_said_before_the_attack(monkeypatch, passes, caplog):
    data = four_classes()
    third, ours = TinyNet(*data.shape[:1], data.classes, 4), trained("four_classes")

    class Layer(nn.Identity):
        pass

    third.add_module("mine", Layer())
    report = ardor.evaluate(third.eval(), data, SEARCHES, compile=True)
    assert caplog.text.count("TinyNet is not compiled: it has layers") == 1
    assert report.verdicts == ardor.evaluate(third, data, SEARCHES).verdicts

    def fails(graph, x):
        raise RuntimeError("dynamo lost\n its way")

    monkeypatch.setattr(compiling, "frozen_code", fails)
    view = compiled(ours.eval(), data.shape, 8)
    assert isinstance(view, FoldedNet)
    assert caplog.text.count("cannot be compiled, so its passes are uncompiled: dynamo lost its way") == 1
    monkeypatch.setattr(compiling, "frozen_code", lambda graph, x: lambda x: -graph(x))
    assert isinstance(compiled(ours, data.shape, 8), FoldedNet)
    assert "answers otherwise when compiled" in caplog.text


def test_an_exported_file_is_not_compiled(tmp_path, capsys):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"")
    assert main(["evaluate", str(file), "--compile"]) != 0
    assert "compile" in capsys.readouterr().err
