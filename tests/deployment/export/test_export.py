"""A net to a file: its metadata, how INT8 is calibrated, and the nets of the papers, on real onnxruntime."""

import io
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ardor
import ardor.models.builders
from ardor.deployment.export.onnx_graph import quiet
from ardor.deployment.export.onnx_session import Session
from ardor.errors import DataError
from ardor.models import hash_of
from tests.deployment.conftest import onnx_packages
from tests.deployment.export.conftest import EPS, FILES, logits_of, split

onnx, ort, _ = onnx_packages()


def run(path, x):
    """The file on onnxruntime alone."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x.numpy()})[0]


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


# what is in the file


def test_the_float_file_answers_as_the_net_for_any_batch(net, made, digits):
    path, x = made["onnx"].path, digits[1].batch(slice(0, 100))[0]
    onnx.checker.check_model(str(path), full_check=True)
    for n in (1, 2, 7, 100):
        assert np.abs(run(path, x[:n]) - logits_of(net, x[:n])).max() < 1e-5
    graph = onnx.load(path).graph
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    assert [dim.dim_param or dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == ["batch", 10]


def test_normalisation_is_inside_and_batch_norm_is_folded(made):
    result = operators(made["onnx"].path)
    assert result[:2] == ["Sub", "Div"]
    assert "BatchNormalization" not in result
    assert result.count("Conv") == 4


def test_nodes_are_named_after_layers_and_contain_nothing_of_the_machine(made):
    names = [node.name for node in onnx.load(made["onnx"].path).graph.node]
    assert names[0].startswith("normalise/")
    assert any(name.startswith("layers.3.") for name in names)
    assert len(set(names)) == len(names)
    for to in ("onnx", "onnx-int8"):
        content = made[to].path.read_bytes()
        assert b".py" not in content
        assert b"stack_trace" not in content


def test_the_metadata_describe_the_file(net, made, digits):
    train, test = digits
    for to in ("onnx", "onnx-int8"):
        entries = {prop.key: prop.value for prop in onnx.load(made[to].path).metadata_props}
        assert sorted(entries) == ["ardor", "ardor.sha256"]
        metadata = json.loads(entries["ardor"])
        assert metadata == made[to].metadata
        assert (metadata["format"], metadata["ardor"], metadata["to"]) == ("ardor-export-1", ardor.__version__, to)
        assert metadata["net"] == net.built_as
        assert metadata["weights"] == hash_of(net)
        assert metadata["input"] == {
            "name": "images", "layout": "NCHW", "shape": [1, 8, 8], "dtype": "float32", "range": [0, 1],
            "normalisation": "inside",
        }  # fmt: skip
        assert metadata["classes"] == [str(c) for c in range(10)]
        assert metadata["threat"] == {"name": "Linf", "eps": EPS}
        assert metadata["check"] == {"name": "digits", "part": "test", "n": len(test), "hash": test.hash}
        assert metadata["versions"]["onnxruntime"] == ort.__version__
        assert metadata["forced"] == []
    assert json.loads(entries["ardor"])["calibration"] == {
        "name": "digits", "part": "train", "n": 512, "hash": train.limit(512).hash,
    }  # fmt: skip
    assert made["onnx"].metadata["calibration"] is None


def test_class_names_of_any_kind_are_kept(tmp_path):
    names = ("cat", "Größe", "猫 ネコ", 'a "quoted" \\ name\n', f'{{"format": "x", "seal": "{"0" * 64}"}}')
    images = replace(split((1, 8, 8), classes=5), class_names=names)
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    for path in (tmp_path / "n.onnx", tmp_path / "n.pt2"):
        made = ardor.export(one, path, to="onnx" if path.suffix == ".onnx" else "torch-export", check=images)
        assert made.metadata["classes"] == list(names)
    assert Session(tmp_path / "n.onnx").class_names == names
    result = {"ardor.json": ""}
    torch.export.load(tmp_path / "n.pt2", extra_files=result)
    assert json.loads(result["ardor.json"])["classes"] == list(names)


def test_the_seed_chooses_the_images_that_are_compared(digits, tmp_path):
    one, test = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits[1]
    made = ardor.export(one, tmp_path / "n.onnx", check=test, limit=20, seed=1)
    assert made.metadata["check"]["hash"] == test.limit(20, 1).hash != test.limit(20).hash


def test_the_accuracies_are_those_of_net_and_file(net, made, digits):
    test = digits[1]
    x, y, _ = test.batch(slice(None))
    for to in ("onnx", "onnx-int8"):
        ours, theirs = logits_of(net, x), run(made[to].path, x)
        clean = made[to].parity.clean
        assert (clean.n, clean.right) == (len(test), int((ours.argmax(1) == y.numpy()).sum()))
        assert clean.right_exported == int((theirs.argmax(1) == y.numpy()).sum())
        assert clean.equal == int((ours.argmax(1) == theirs.argmax(1)).sum())
        assert clean.largest == pytest.approx(float(np.abs(ours - theirs).max()), rel=0.2, abs=1e-5)
        adversarial = made[to].parity.adversarial
        assert adversarial.n == len(test)
        assert adversarial.right < clean.right - 50
        assert made[to].metadata["parity"]["adversarial"]["right"] == adversarial.right
        assert made[to].parity.attack["steps"] == 10
        assert made[to].parity.attack["threat"] == {"name": "Linf", "eps": EPS}


def test_reports_of_this_net_alone_are_taken_over(net, digits, tmp_path):
    test = digits[1].limit(40)
    mine = ardor.evaluate(net, test, ardor.attacks.quick(ardor.Linf(EPS)))
    other = ardor.evaluate(ardor.models.build("small_cnn", width=4), test, ardor.attacks.quick(ardor.Linf(EPS)))
    result = ardor.export(net, tmp_path / "n.onnx", check=test, reports=[other, mine]).metadata["reports"]
    (report,) = result
    assert report["suite"] == "quick"
    assert report["n"] == 40
    assert report["accuracy"] == {name: share.value for name, share in mine.figures().items()}


def test_the_same_export_gives_the_same_bytes(net, made, digits, tmp_path):
    for to in ("onnx", "onnx-int8"):
        words = {"calibrate": digits[0], "check": digits[1], "threat": ardor.Linf(EPS)}
        again = ardor.export(net, tmp_path / FILES[to], to=to, **words)
        assert again.path.read_bytes() == made[to].path.read_bytes()


def test_the_net_and_the_process_are_as_before(net, digits, tmp_path, capsys):
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        one = ardor.models.build("small_cnn", width=4)
        one.layers[0].eval()
        before = (hash_of(one), [m.training for m in one.modules()], torch.get_rng_state(), np.random.get_state()[1])
        for to, name in FILES.items():
            ardor.export(one, tmp_path / name, to=to, calibrate=digits[0], check=digits[1], limit=64, agreement=0.1)
        after = (hash_of(one), [m.training for m in one.modules()], torch.get_rng_state(), np.random.get_state()[1])
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
        assert (before[3] == after[3]).all()
        assert all(p.requires_grad and p.grad is None for p in one.parameters())
        assert root.handlers == []
        assert root.manager.disable == 0
    finally:
        root.handlers = handlers
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Pre-processing" not in shown.err
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES.values())


def test_what_an_exporter_logs_leaves_no_handler_behind(capsys):
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with quiet():
            logging.warning("of an exporter")
        assert root.handlers == []
        assert root.manager.disable == 0
    finally:
        root.handlers = handlers
    assert capsys.readouterr().err == ""


def test_a_net_in_training_mode_is_exported_as_it_is_evaluated(digits, tmp_path):
    one = ardor.models.build("small_cnn", width=4).train()
    one.layers.append(nn.Dropout(0.5))
    path = ardor.export(one, tmp_path / "n.onnx", check=digits[1], limit=32).path
    x = digits[1].batch(slice(0, 5))[0]
    assert np.abs(run(path, x) - logits_of(one.eval(), x)).max() < 1e-5


# INT8


def test_int8_is_qdq_with_a_scale_for_each_output_channel(made):
    model = onnx.load(made["onnx-int8"].path)
    onnx.checker.check_model(model, full_check=True)
    entries = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    by_output = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for conv in convolutions:
        activation, weight = (by_output[name] for name in conv.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        values, scales = (entries[name] for name in weight.input[:2])
        assert values.dtype == np.int8
        assert 32 < np.abs(values).max() <= 64
        assert scales.shape == (values.shape[0],)
        assert len(set(scales.tolist())) > 1
        assert entries[activation.input[1]].shape == ()
    assert {opset.domain for opset in model.opset_import} == {""}
    assert made["onnx-int8"].size < 0.7 * made["onnx"].size
    assert made["onnx-int8"].parity.agreement >= 0.95
    assert 1e-3 < made["onnx-int8"].parity.largest < 1


@pytest.mark.processor
def test_the_runtime_computes_the_int8_graph_itself(made, digits):
    """Not what is left of it where sums of two products saturate at 16 bits: x86 without VNNI, weights of 8 bits."""
    options, (x, *_) = ort.SessionOptions(), digits[1].batch(slice(None))
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(str(made["onnx-int8"].path), options, providers=["CPUExecutionProvider"])
    difference = np.abs(run(made["onnx-int8"].path, x) - plain.run(["logits"], {"images": x.numpy()})[0])
    assert difference.max() < 0.5, "a step of the last layer's activations or two"
    assert np.median(difference) < 1e-4


def test_int8_is_calibrated_on_the_training_images_alone(net, made, digits, once, tmp_path):
    train, test = digits
    graph = made["onnx-int8"].metadata["sha256"]
    dark = replace(test, images=test.images * 0.1)
    other = ardor.export(net, tmp_path / "a.onnx", to="onnx-int8", calibrate=train, check=dark, agreement=0.5)
    assert other.metadata["sha256"] == graph, "what it is checked on must not shape it"
    dark = replace(train, images=train.images * 0.1)
    other = ardor.export(net, tmp_path / "b.onnx", to="onnx-int8", calibrate=dark, check=test, force=True)
    assert other.metadata["sha256"] != graph
    assert other.parity.clean.agreement < made["onnx-int8"].parity.clean.agreement


def test_every_calibration_image_is_shown(net, digits, once, tmp_path):
    """A single bright image, the last one, must widen the ranges."""
    train, test = digits
    images = train.images[:130] * 0.2
    one = replace(train.take(slice(0, 130)), images=images)
    images = images.clone()
    images[-1] = 1.0
    two = replace(one, images=images)
    words = {"to": "onnx-int8", "check": test, "force": True, "limit": 130}
    a, b = (ardor.export(net, tmp_path / "n.onnx", calibrate=split, **words).metadata["sha256"] for split in (one, two))
    assert a != b


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, AveragedModel, lambda net: torch.compile(nn.DataParallel(net))]
)
def test_a_wrapped_net_is_exported_as_the_net_itself(net, digits, tmp_path, wrap):
    wrapped, x = wrap(net), digits[1].batch(slice(0, 9))[0]
    made = ardor.export(wrapped, tmp_path / "n.pt2", to="torch-export", check=digits[1].limit(20))
    assert (made.metadata["net"], made.metadata["weights"]) == (net.built_as, hash_of(net))
    assert made.parity.largest < 1e-5
    own = ardor.models.build("small_cnn", channels=1, width=4)
    own.module = own.normalise  # a class of the user's own, in which `module` is not the whole net
    ardor.export(own, tmp_path / "own.pt2", to="torch-export", check=digits[1].limit(20))
    assert np.allclose(torch.export.load(tmp_path / "own.pt2").module()(x), logits_of(own.eval(), x), atol=1e-5)


@pytest.mark.parametrize("part", ["val", "test"])
def test_calibration_on_anything_but_training_images_is_refused(net, digits, tmp_path, part):
    images = replace(digits[0], part=part)
    with pytest.raises(DataError, match=rf"expected training images to calibrate on, got digits \({part}\)"):
        ardor.export(net, tmp_path / "n.onnx", to="onnx-int8", calibrate=images, check=digits[1])
    assert not any(tmp_path.iterdir())


def test_test_images_that_are_called_training_images_are_refused(net, digits, tmp_path):
    train, test = digits
    mixed = replace(train, images=torch.cat([train.images[80:], test.images[:80]]))
    for images in (replace(test, part="train"), mixed):
        with pytest.raises(DataError, match="expected other images to calibrate on than to check on"):
            ardor.export(net, tmp_path / "n.onnx", to="onnx-int8", calibrate=images, check=test, limit=300)
    assert not any(tmp_path.iterdir())


def test_a_batch_norm_that_nothing_takes_up_stays_float(tmp_path):
    one = statistics(ardor.models.build("wide_resnet", depth=10, width=1), (3, 8, 8))
    words = {"calibrate": split((3, 8, 8), 64, "train"), "check": split((3, 8, 8))}
    made = ardor.export(one, tmp_path / "n.onnx", to="onnx-int8", agreement=0.5, **words)
    model = onnx.load(made.path)
    entries = {w.name for w in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    assert all(set(node.input[1:]) <= entries for node in norms)


def statistics(net, shape):
    """Batch statistics that are not 0 and 1."""
    net.train()
    with torch.no_grad():
        net(split(shape, 32, "train", seed=3).images)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data = torch.linspace(0.5, 1.5, len(m.weight))
            m.bias.data = torch.linspace(-0.1, 0.1, len(m.bias))
    return net.eval()


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("mobilenet_v2", {"width": 0.25})])
def test_the_papers_nets(name, options, once, tmp_path):
    shape = (3, 8, 8)
    one = statistics(ardor.models.build(name, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], **options), shape)
    words = {"calibrate": split(shape, 64, "train"), "check": split(shape), "threat": ardor.L2(0.5)}
    plain = ardor.export(one, tmp_path / "n.onnx", **words)
    assert plain.parity.largest < 1e-4
    assert plain.parity.agreement == 1
    assert "BatchNormalization" not in operators(plain.path)
    small = ardor.export(one, tmp_path / "q.onnx", to="onnx-int8", agreement=0.5, **words)
    assert small.size < 0.55 * plain.size
    x = words["check"].images
    ours = logits_of(one, x)
    assert np.linalg.norm(run(small.path, x) - ours) < 0.15 * np.linalg.norm(ours)


# torch-export


def test_the_torch_program_answers_as_the_net_for_any_batch(net, made, digits):
    result = {"ardor.json": ""}
    program = torch.export.load(io.BytesIO(made["torch-export"].path.read_bytes()), extra_files=result).module()
    x = digits[1].batch(slice(0, 9))[0]
    for n in (1, 9):
        assert np.abs(program(x[:n]).detach().numpy() - logits_of(net, x[:n])).max() < 1e-6
    metadata = json.loads(result["ardor.json"])
    assert metadata == made["torch-export"].metadata
    assert (metadata["to"], metadata["weights"], metadata["threat"]["eps"]) == ("torch-export", hash_of(net), EPS)
