"""A .pte for phones: its logits, the part that XNNPACK computes, its metadata, and what is refused."""

import copy
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ardor
import ardor.attacks.suites
import ardor.models.builders
import ardor.models.loading
from ardor.cli.main import main
from ardor.deployment.export.executorch import Program, quantised
from ardor.deployment.export.onnx_graph import traced
from ardor.errors import CheckpointError, DataError, ExportError, ModelError
from ardor.models import hash_of
from tests.deployment.conftest import train
from tests.deployment.export.conftest import EPS, Tracing, logits_of, split, with_layer

runtime = pytest.importorskip("executorch.runtime", reason="the extra executorch is not installed")
pytest.importorskip("torchao", reason="the extra executorch is not installed")


@pytest.fixture(scope="module")
def phones(net, digits, tmp_path_factory):
    folder, (train, test) = tmp_path_factory.mktemp("phones"), digits
    words = {"calibrate": train, "check": test, "threat": ardor.Linf(EPS), "limit": 200}
    return {to: ardor.export(net, folder / f"{to}.pte", to=to, **words) for to in ("executorch", "executorch-int8")}


def loaded(path):
    """The file on ExecuTorch alone."""
    return runtime.Runtime.get().load_program(path)


def answers(path, x):
    method = loaded(path).load_method("forward")
    return torch.cat([method.execute([row[None].clone()])[0].clone() for row in x]).numpy()


def plan_of(path):
    from executorch.exir._serialize._program import deserialize_pte_binary

    plan = deserialize_pte_binary(path.read_bytes()).program.execution_plan[0]
    return [type(i.instr_args).__name__ for i in plan.chains[0].instructions], {d.id for d in plan.delegates}


def test_the_files_answer_as_the_net(net, phones, digits):
    x = digits[1].batch(slice(200, 260))[0]
    ours = logits_of(net, x)
    assert np.allclose(answers(phones["executorch"].path, x), ours, atol=1e-5)
    theirs = answers(phones["executorch-int8"].path, x)
    assert 0 < np.linalg.norm(theirs - ours) < 0.1 * np.linalg.norm(ours)
    assert (theirs.argmax(1) == ours.argmax(1)).mean() > 0.95
    assert phones["executorch"].parity.largest < 1e-4
    assert phones["executorch-int8"].parity.agreement >= 0.95
    assert phones["executorch-int8"].parity.adversarial.n == 200


def test_xnnpack_computes_it(phones):
    steps, backends = plan_of(phones["executorch"].path)
    assert steps == ["DelegateCall"]
    assert backends == {"XnnpackBackend"}
    assert phones["executorch"].metadata["xnnpack"] == {"share": 1.0, "outside": []}
    steps, backends = plan_of(phones["executorch-int8"].path)
    assert steps == ["DelegateCall", "KernelCall", "DelegateCall"]
    assert backends == {"XnnpackBackend"}
    metadata = phones["executorch-int8"].metadata["xnnpack"]
    assert metadata["outside"] == ["aten::squeeze_copy"]
    assert 0.95 < metadata["share"] < 1
    assert "outside XNNPACK, on ExecuTorch's own kernels: aten::squeeze_copy" in str(phones["executorch-int8"])
    assert "outside" not in str(phones["executorch"])


def test_each_output_channel_has_a_scale_of_its_own():
    one = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    graph = quantised(traced(one, (1, 8, 8)).module(), split((1, 8, 8), 10, "train")).graph
    targets = [str(node.target) for node in graph.nodes]
    assert sum("dequantize_per_channel" in target for target in targets) == 2
    with pytest.raises(DataError, match=r"expected training images to calibrate on, got made \(test\)"):
        quantised(traced(one, (1, 8, 8)).module(), split((1, 8, 8), 10, "test"))


def test_weights_are_eight_bits_wide(tmp_path):
    one = ardor.models.build("small_cnn", channels=1, width=32)
    words = {"calibrate": split((1, 8, 8), 70, "train"), "check": split((1, 8, 8)), "agreement": 0.5}
    made = ardor.export(one, tmp_path / "s.pte", to="executorch-int8", **words)
    assert made.size < 0.35 * 4 * sum(p.numel() for p in one.parameters())


def test_a_net_with_sums_and_batch_norms_before_convolutions(tmp_path):
    one = ardor.models.build("wide_resnet", depth=10, width=1, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    made = ardor.export(one, tmp_path / "n.pte", to="executorch", check=split((3, 8, 8)))
    assert made.metadata["xnnpack"] == {"share": 1.0, "outside": []}


def test_the_metadata_are_in_the_program(net, phones, digits):
    for to, made in phones.items():
        (text,) = loaded(made.path).load_method("ardor").execute([])
        metadata = json.loads(text)
        assert {key: value for key, value in metadata.items() if key != "seal"} == made.metadata
        assert metadata["input"] == {
            "name": "images", "layout": "NCHW", "shape": [1, 8, 8], "dtype": "float32", "range": [0, 1],
            "normalisation": "inside", "batch": 1,
        }  # fmt: skip
        assert (metadata["to"], metadata["weights"]) == (to, hash_of(net))
        assert set(metadata["versions"]) == {"torch", "executorch", "torchao"}
        assert metadata["calibration"] == (None if to == "executorch" else metadata["calibration"])
    assert metadata["calibration"]["part"] == "train"
    assert (metadata["calibration"]["n"], metadata["check"]["n"]) == (200, 200)


def test_the_seal_is_checked_as_it_is_documented(phones):
    content = phones["executorch"].path.read_bytes()
    (seal,) = re.findall(rb'"seal": "([0-9a-f]{64})"', content)
    assert hashlib.sha256(content.replace(seal, b"0" * 64)).hexdigest().encode() == seal


def test_a_program_is_a_net_of_its_own(net, phones, digits):
    program = Program(phones["executorch"].path)
    x = digits[1].batch(slice(0, 6))[0]
    assert np.allclose(program(x).numpy(), logits_of(net, x), atol=1e-5)
    channels_last = x.double().contiguous(memory_format=torch.channels_last)
    assert torch.equal(program(channels_last), program(x))
    assert program.class_names == tuple("0123456789")
    assert copy.deepcopy(program) is program
    assert hash_of(program) == hash_of(Program(phones["executorch"].path))
    assert hash_of(program) != hash_of(Program(phones["executorch-int8"].path))
    report = ardor.evaluate(program, digits[1].limit(20), ardor.attacks.suites.square(ardor.Linf(0.01)))
    assert report.n == 20
    assert "without_gradients" in {finding.name for finding in report.findings}
    with pytest.raises(ModelError, match=r"expected images \(B, 1, 8, 8\) for .*, got \(2, 3, 8, 8\)"):
        program(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match="expected an attack without gradients"):
        program(x.clone().requires_grad_())


def test_the_same_export_gives_the_same_bytes(net, phones, digits, tmp_path):
    words = {"check": digits[1], "threat": ardor.Linf(EPS), "limit": 200}
    again = ardor.export(net, tmp_path / "n.pte", to="executorch", **words)
    assert again.path.read_bytes() == phones["executorch"].path.read_bytes()


def test_every_calibration_image_is_seen(digits, tmp_path):
    """What is bright comes last, after a first batch that is dark: a range without it would cut it off."""
    one = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    train, check = split((1, 8, 8), 70, "train"), split((1, 8, 8), 40)
    train.images[:64] *= 0.01
    made = ardor.export(one, tmp_path / "n.pte", to="executorch-int8", calibrate=train, check=check, agreement=0.5)
    ours = logits_of(one, check.images)
    assert np.linalg.norm(answers(made.path, check.images) - ours) < 0.2 * np.linalg.norm(ours)


def test_a_file_that_does_not_match_is_refused_or_forced(net, digits, tmp_path):
    other = Tracing(net, lambda x: 0.01 * x.mean((1, 2, 3)).unsqueeze(1).sin())
    where, words = tmp_path / "n.pte", {"to": "executorch", "check": digits[1].limit(40)}
    with pytest.raises(ExportError, match="expected executorch to match the net, got logits that differ"):
        ardor.export(other, where, **words)
    assert not where.exists()
    assert ardor.export(other, where, force=True, **words).forced
    assert Program(where).metadata["forced"]


def test_operators_that_it_lacks_are_named_with_their_layer(tmp_path):
    with pytest.raises(ExportError, match=r"that ExecuTorch has, got aten.i0 in the layer 1.1 \(Odd\)"):
        ardor.export(with_layer(torch.special.i0), tmp_path / "n.pte", to="executorch", check=split((1, 8, 8)))


def test_operators_that_xnnpack_lacks_are_computed_and_recorded(tmp_path):
    one = with_layer(lambda x: torch.cumsum(x, 1))
    names = tuple(f'{{"format": "größe {k}", "seal": "{"0" * 64}"}}' for k in range(10))
    made = ardor.export(one, tmp_path / "n.pte", to="executorch", check=replace(split((1, 8, 8)), class_names=names))
    assert Program(made.path).class_names == names
    assert made.metadata["xnnpack"]["outside"] == ["aten::cumsum"]
    assert 0.5 < made.metadata["xnnpack"]["share"] < 1


def test_a_damaged_file_is_refused_before_it_is_run(phones, tmp_path):
    content, path = phones["executorch"].path.read_bytes(), tmp_path / "n.pte"
    for place in np.random.default_rng(0).integers(0, 8 * len(content), 30):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"n\.pte"):
            Program(path)
    for cut in (0, 10, 1000, len(content) - 1):
        with pytest.raises(CheckpointError, match=r"without a seal|other bytes"):
            Program(content[:cut])
    with pytest.raises(CheckpointError, match="expected a .pte file, got .*absent.pte"):
        Program(tmp_path / "absent.pte")


def resealed(content, old, new):
    """An edited file whose seal is of what it is now."""
    (seal,) = re.findall(rb'"seal": "([0-9a-f]{64})"', content)
    assert content.count(old) == 1
    edited = content.replace(seal, b"0" * 64).replace(old, new)
    return edited.replace(b"0" * 64, hashlib.sha256(edited).hexdigest().encode())


def test_a_file_that_does_not_match_its_metadata_is_refused(phones):
    content, metadata = phones["executorch"].path.read_bytes(), phones["executorch"].metadata
    with pytest.raises(CheckpointError, match="got format ardor-export-9"):
        Program(resealed(content, b'"ardor-export-1"', b'"ardor-export-9"'))
    first = json.dumps(metadata["probe"])[:6].encode()
    with pytest.raises(ModelError, match="of its metadata's probe"):
        Program(resealed(content, b'"probe": ' + first, b'"probe": ' + first[:1] + b"9" + first[2:]))


def test_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train("r")
    assert main(["export", "r", "--to", "executorch", "--limit", "20"]) == 0
    assert "r/best.pte (executorch, " in capsys.readouterr().out
    assert Program("r/best.pte").metadata["weights"] == hash_of(ardor.models.load("r"))


def test_the_shell_judges_a_program_on_its_runtime(phones, tmp_path, capsys):
    file = tmp_path / "net-int8.pte"
    file.write_bytes(phones["executorch-int8"].path.read_bytes())
    assert main(["evaluate", str(file), "--limit", "8"]) == 0
    (saved,) = tmp_path.glob("report-square-*.json")
    report = ardor.Report.load(saved)
    assert report.threat["eps"] == EPS
    assert report.model["to"] == "executorch-int8"
    assert "executorch" in report.title
    assert [finding.name for finding in report.findings] == ["without_gradients"]
    assert main(["evaluate", str(file), "--limit", "8", "--suite", "quick"]) == 2
    assert "expected an attack without gradients" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none.pte")]) == 2
    assert "expected a .pte file" in capsys.readouterr().err
