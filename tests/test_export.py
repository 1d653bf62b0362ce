"""A net to a file: what stands in it, how far it answers as the net does, and what is refused, on real onnxruntime."""

import functools
import io
import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ardor
from ardor.cli import main
from ardor.config import read_yaml
from ardor.data.split import Split
from ardor.errors import CheckpointError, ConfigError, DataError, ExportError, ModelError, RunError
from ardor.export import Exported
from ardor.export.graph import quiet
from ardor.export.parity import match, measure
from ardor.export.runtime import Session
from ardor.export.sealed import probe, seal
from ardor.models import hash_of

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

EPS = 0.1
FILES = {"onnx": "net.onnx", "onnx-int8": "net-int8.onnx", "torch-export": "net.pt2"}


@pytest.fixture(scope="module")
def digits():
    train, _, test = ardor.data.load("digits")
    return train, test


@pytest.fixture(scope="module")
def net(digits):
    """A student that has learnt a little, with a normalisation and batch statistics of its own."""
    student = ardor.models.build("small_cnn", channels=1, width=8, mean=[0.3], std=[0.4])
    recipe = ardor.Recipe(epochs=2, batch=64, schedule="one-cycle", augment="none")
    ardor.distill(student, None, ardor.methods.Natural(), digits[0], recipe)
    return student.eval()


@pytest.fixture(scope="module")
def made(net, digits, tmp_path_factory):
    """Each kind of file, once."""
    folder, (train, test) = tmp_path_factory.mktemp("made"), digits
    words = {"calibrate": train, "check": test, "threat": ardor.Linf(EPS)}
    return {to: ardor.export(net, folder / name, to=to, **words) for to, name in FILES.items()}


@pytest.fixture
def once(monkeypatch):
    """Each net is traced once, where what comes after is tested."""
    room, programs, bodies = sys.modules["ardor.export"], {}, {}
    traced, to_onnx = room.traced, room.to_onnx

    def trace(net, shape):
        if net not in programs:
            programs[net] = traced(net, shape)
        return programs[net]

    def graph(program):
        if id(program) not in bodies:
            bodies[id(program)] = to_onnx(program)
        return bodies[id(program)]

    monkeypatch.setattr(room, "traced", trace)
    monkeypatch.setattr(room, "to_onnx", graph)


def run(path, x):
    """The file on onnxruntime alone."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x.numpy()})[0]


def logits_of(net, x):
    with torch.no_grad():
        return net(x).numpy()


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def split(shape, n=24, part="test", seed=0, classes=10):
    """Images in [0, 1] that no two parts share."""
    images = torch.from_numpy(np.random.default_rng([seed, len(part)]).random((n, *shape), dtype=np.float32))
    return Split(images, torch.arange(n) % classes, classes, "made", part)


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
    found = operators(made["onnx"].path)
    assert found[:2] == ["Sub", "Div"]
    assert "BatchNormalization" not in found
    assert found.count("Conv") == 4


def test_nodes_are_named_after_layers_and_nothing_tells_of_the_machine(made):
    names = [node.name for node in onnx.load(made["onnx"].path).graph.node]
    assert names[0].startswith("normalise/")
    assert any(name.startswith("layers.3.") for name in names)
    assert len(set(names)) == len(names)
    for to in ("onnx", "onnx-int8"):
        content = made[to].path.read_bytes()
        assert b".py" not in content
        assert b"stack_trace" not in content


def test_the_metadata_say_what_the_file_is(net, made, digits):
    train, test = digits
    for to in ("onnx", "onnx-int8"):
        held = {prop.key: prop.value for prop in onnx.load(made[to].path).metadata_props}
        assert sorted(held) == ["ardor", "ardor.sha256"]
        said = json.loads(held["ardor"])
        assert said == made[to].metadata
        assert (said["format"], said["ardor"], said["to"]) == ("ardor-export-1", ardor.__version__, to)
        assert said["net"] == net.built_as
        assert said["weights"] == hash_of(net)
        assert said["input"] == {
            "name": "images", "layout": "NCHW", "shape": [1, 8, 8], "dtype": "float32", "range": [0, 1],
            "normalisation": "inside",
        }  # fmt: skip
        assert said["classes"] == [str(c) for c in range(10)]
        assert said["threat"] == {"name": "Linf", "eps": EPS}
        assert said["check"] == {"name": "digits", "part": "test", "n": len(test), "hash": test.hash}
        assert said["versions"]["onnxruntime"] == ort.__version__
        assert said["forced"] == []
    assert json.loads(held["ardor"])["calibration"] == {
        "name": "digits", "part": "train", "n": 512, "hash": train.limit(512).hash,
    }  # fmt: skip
    assert made["onnx"].metadata["calibration"] is None


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
    found = ardor.export(net, tmp_path / "n.onnx", check=test, reports=[other, mine]).metadata["reports"]
    (kept,) = found
    assert kept["suite"] == "quick"
    assert kept["n"] == 40
    assert kept["accuracy"] == {name: share.value for name, share in mine.figures().items()}


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
    held = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    by_output = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for conv in convolutions:
        activation, weight = (by_output[name] for name in conv.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        values, scales = (held[name] for name in weight.input[:2])
        assert values.dtype == np.int8
        assert scales.shape == (values.shape[0],)
        assert len(set(scales.tolist())) > 1
        assert held[activation.input[1]].shape == ()
    assert {opset.domain for opset in model.opset_import} == {""}
    assert made["onnx-int8"].size < 0.7 * made["onnx"].size
    assert made["onnx-int8"].parity.agreement >= 0.95
    assert 1e-3 < made["onnx-int8"].parity.largest < 1


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
    held = {w.name for w in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    assert all(set(node.input[1:]) <= held for node in norms)


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
    found = {"ardor.json": ""}
    program = torch.export.load(io.BytesIO(made["torch-export"].path.read_bytes()), extra_files=found).module()
    x = digits[1].batch(slice(0, 9))[0]
    for n in (1, 9):
        assert np.abs(program(x[:n]).detach().numpy() - logits_of(net, x[:n])).max() < 1e-6
    said = json.loads(found["ardor.json"])
    assert said == made["torch-export"].metadata
    assert (said["to"], said["weights"], said["threat"]["eps"]) == ("torch-export", hash_of(net), EPS)


# parity


class Tracing(nn.Module):
    """Otherwise when it is traced: `change` of the images is added to the logits."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        logits = self.net(x)
        return logits + self.change(x) if torch.compiler.is_exporting() else logits


def off_grid(x):
    """0 on the digits as they are, which are multiples of 1/16; not 0 on adversarial ones."""
    return 100 * (x * 16 - (x * 16).round()).abs().mean((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize("to", FILES)
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 3e-4, r"logits that differ by up to 0\.0003\d* on clean images"),
        (lambda x: 1e3 * (torch.arange(10) == 3), "equal predictions on clean images"),
        (off_grid, r"got logits that differ by up to [\d.]+ on adversarial images"),
    ],
    ids=["a little", "another class", "only on adversarial images"],
)
def test_a_file_that_does_not_match_is_refused(net, digits, tmp_path, to, change, word):
    path = tmp_path / FILES[to]
    path.write_text("what was there")
    words = {"to": to, "calibrate": digits[0], "check": digits[1], "limit": 100, "threat": ardor.Linf(EPS)}
    if to == "onnx-int8" and "logits" in word:
        return  # INT8 is held to its predictions
    with pytest.raises(ExportError, match=word) as refused:
        ardor.export(Tracing(net, change), path, **words)
    assert "nothing was written; type --force" in str(refused.value)
    assert path.read_text() == "what was there"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_forced_file_says_that_it_does_not_match(net, digits, tmp_path):
    made = ardor.export(Tracing(net, lambda x: 1.0), tmp_path / "n.onnx", check=digits[1], limit=50, force=True)
    assert [miss[:30] for miss in made.forced] == ["logits that differ by up to 1 "] * 2
    assert Session(made.path).metadata["forced"] == list(made.forced)
    assert "warning: forced, with logits that differ by up to 1 on clean images" in str(made)


def test_int8_must_agree_as_far_as_is_asked(net, made, digits, once, tmp_path):
    words = {"to": "onnx-int8", "calibrate": digits[0], "check": digits[1], "threat": ardor.Linf(EPS)}
    reached = made["onnx-int8"].parity.agreement
    assert 0.95 <= reached < 1
    with pytest.raises(ExportError, match="equal predictions on"):
        ardor.export(net, tmp_path / "n.onnx", agreement=reached + 1e-4, **words)
    assert ardor.export(net, tmp_path / "n.onnx", agreement=reached, **words).forced == ()


def test_match_counts():
    ours = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    theirs = torch.tensor([[0.0, 1.0], [2.0, 2.5], [0.0, 3.0], [0.0, 4.0]])
    looked_at = []

    def rows(values):
        def net(x):
            looked_at.append(len(x))
            return values[x[:, 0, 0, 0].long()]

        return net

    class Net(nn.Module):
        def forward(self, x):
            return rows(ours)(x)

    x = torch.arange(4.0).reshape(4, 1, 1, 1)
    found = match(Net(), rows(theirs), x, torch.tensor([1, 0, 1, 0]))
    assert (found.n, found.largest, found.equal, found.right, found.right_exported) == (4, 4.0, 2, 4, 2)
    assert looked_at == [1, 3, 1, 3], "one image alone, then the rest"
    assert found.agreement == 0.5


def test_a_logit_that_is_no_number_does_not_match(net, digits):
    found = measure(net, lambda x: torch.full((len(x), 10), torch.nan), digits[1].limit(20), ardor.Linf(EPS))
    assert len([miss for miss in found.misses(1e-4, 0.0) if "nan" in miss]) == 2


def test_adversarial_images_are_those_of_the_evaluation(net, digits):
    """The figures of PGD-10 are as hard as those of the suite `quick`."""
    test = digits[1].limit(200)
    found = measure(net, net, test, ardor.Linf(EPS))
    robust = ardor.evaluate(net, test, ardor.attacks.quick(ardor.Linf(EPS))).worst_case.k
    assert abs(found.adversarial.right - robust) <= 6
    assert (found.largest, found.agreement) == (0, 1)


# bad input


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_layer(function):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), Odd(function)), nn.Flatten(), nn.Linear(144, 10))


def test_an_operator_that_onnx_lacks_is_named_with_its_layer(digits, tmp_path):
    lacking = ((torch.special.i0, "prims.bessel_i0"), (lambda x: x.kthvalue(2, keepdim=True)[0] + x, "aten.kthvalue"))
    for function, name in (*lacking, (torch.special.erfinv, "prims.erf_inv")):
        with pytest.raises(ExportError, match=rf"got {name} in the layer 1\.1 \(Odd\): .*--to torch-export"):
            ardor.export(with_layer(function), tmp_path / "n.onnx", check=digits[1])
    assert ardor.export(with_layer(torch.special.i0), tmp_path / "n.pt2", to="torch-export", check=digits[1])


@pytest.mark.parametrize(
    "function",
    [lambda x: x if x.sum() > 0 else 2 * x, lambda x: x.reshape(2, -1, *x.shape[1:]).flatten(0, 1)],
    ids=["decides by values", "fixed batch"],
)
def test_a_net_that_cannot_be_traced_is_refused(digits, tmp_path, function):
    one = with_layer(lambda x: function(x) if torch.compiler.is_exporting() else x)
    with pytest.raises(ExportError, match="expected a net that can be traced with a free batch, got \\w+: ") as found:
        ardor.export(one, tmp_path / "n.onnx", check=digits[1])
    assert "\n" not in str(found.value)


def foreign(op="Relu", domain="", kind=1, shape=("n", 1, 8, 8), out=None, flat=True, **more):
    """A model that somebody else made: one node, then the sum over rows."""
    helper = onnx.helper
    nodes = [helper.make_node(op, ["x"], ["z"], name="block.2/odd", domain=domain, **more)]
    if flat:
        axes = [onnx.numpy_helper.from_array(np.array([1, 2]), "axes")]
        nodes.append(helper.make_node("ReduceSum", ["z", "axes"], ["y"], keepdims=0))
    else:
        axes, nodes[0].output[0] = [], "y"
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", kind, out)]
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, axes), opset_imports=opsets, ir_version=10)


def saved(model, tmp_path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (foreign("Odd", "mine"), "mine:Odd"),
        (foreign("Foo"), "Foo"),
        (foreign("Softplus", kind=11), "Softplus"),
        (foreign("Softplus", kind=16), "Softplus"),
    ],
    ids=["a domain of its own", "no such operator", "a type without kernel", "a type it never takes"],
)
def test_an_operator_that_the_runtime_lacks_is_named_with_its_layer(model, operator, tmp_path):
    path = saved(model, tmp_path)
    with pytest.raises(ExportError, match=rf"got {operator} in the layer block\.2 of {path}"):
        Session(path)


def test_a_file_of_somebody_else_is_a_black_box_and_is_said_to_be(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        session = Session(saved(foreign(), tmp_path))
    assert "was not exported by ardor: it is judged as a black box" in caplog.text
    assert session.foreign
    assert session.metadata == {}
    assert session.class_names == ()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(session(x), x.sum((1, 2)))


def test_a_foreign_file_with_a_fixed_batch_takes_any_number_of_images(tmp_path):
    session = Session(saved(foreign(shape=(4, 1, 8, 8)), tmp_path))
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(session(x), x.sum((1, 2)))
    assert session(x[:1]).shape == (1, 8)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (foreign(shape=("n", 32, 32, 3)), r"looks like \(B, H, W, C\)"),
        (foreign("Identity", kind=2, flat=False), r"got tensor\(uint8\)"),
        (foreign(shape=("n", 64), out=("n", 64), flat=False), r"\['n', 64\]"),
        (foreign(out=("n", 1, 8, 8), flat=False), r"expected logits \(B, classes\)"),
    ],
    ids=["layout", "uint8", "flat", "no logits"],
)
def test_a_foreign_file_for_other_images_is_refused(model, word, tmp_path):
    with pytest.raises(ModelError, match=word):
        Session(saved(model, tmp_path))


def test_weights_that_lie_beside_a_foreign_file_are_found(tmp_path):
    model = foreign("Mul")
    model.graph.node[0].input.append("by")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1, 8, 8), 3, np.float32), "by"))
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path, save_as_external_data=True, location="foreign.data", size_threshold=100)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Session(path)(x), 3 * x.sum((1, 2)))


def test_a_foreign_file_with_two_outputs_is_refused(tmp_path):
    model = foreign()
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    with pytest.raises(ModelError, match="got 1 and 2"):
        Session(saved(model, tmp_path))


@pytest.mark.parametrize("cut", [0, 10, 1000, -1, -100, -3000], ids=str)
def test_a_truncated_file_is_refused(made, cut, tmp_path):
    with pytest.raises(CheckpointError, match="copy or export it again"):
        Session(saved(made["onnx"].path.read_bytes()[:cut], tmp_path))


@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_a_flipped_bit_anywhere_is_noticed(made, to, tmp_path):
    whole = made[to].path.read_bytes()
    for place in [*range(5, len(whole), len(whole) // 40), *range(len(whole) - 90, len(whole), 9)]:
        content = bytearray(whole)
        content[place] ^= 4
        with pytest.raises((CheckpointError, ModelError, ExportError)):
            Session(saved(bytes(content), tmp_path))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html>not found</html>", "expected a whole ONNX file"),
        (b"", "which is empty"),
    ],
)
def test_something_else_is_refused(content, word, tmp_path):
    with pytest.raises(CheckpointError, match=word):
        Session(saved(content, tmp_path))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        Session(tmp_path / "none.onnx")


def resealed(made, change, to="onnx"):
    """The file with other metadata, its seal made anew: as by somebody who means it."""
    model = onnx.load(made[to].path)
    del model.metadata_props[:]
    said = json.loads(json.dumps(made[to].metadata))
    change(said, model)
    return seal(model.SerializeToString(), said)


def scaled(said, model):
    """The graph takes images in 0..255 from now on."""
    first = next(node for node in model.graph.node if node.op_type == "Sub")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "by"))
    model.graph.node.insert(0, onnx.helper.make_node("Div", [first.input[0], "by"], ["scaled"], name="scale"))
    first.input[0] = "scaled"


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda said, _: said["input"].update(shape=[3, 8, 8]), ModelError, "as its metadata says"),
        (lambda said, _: said["input"].update(layout="NHWC"), ModelError, r"for NHWC in \[0, 1\]"),
        (lambda said, _: said["input"].update(range=[0, 255]), ModelError, r"NCHW in \[0, 255\]"),
        (scaled, ModelError, "answer its metadata's probe"),
        (lambda said, _: said.update(probe=[0.0] * 9), ModelError, "answer its metadata's probe"),
        (lambda said, _: said.update(format="ardor-export-9"), CheckpointError, "format ardor-export-9"),
        (lambda said, _: said.pop("input"), CheckpointError, "KeyError"),
        (lambda said, _: said.update(input=None), CheckpointError, "TypeError"),
        (lambda said, _: said.update(to="tflite"), CheckpointError, "KeyError"),
    ],
)
def test_a_file_that_is_not_what_its_metadata_say_is_refused(made, change, error, word, tmp_path):
    for to in ("onnx", "onnx-int8"):
        assert not Session(resealed(made, lambda said, model: None, to)).foreign
        with pytest.raises(error, match=word):
            Session(saved(resealed(made, change, to), tmp_path))


def test_an_edited_file_is_refused(made, tmp_path):
    model = onnx.load(made["onnx"].path)
    model.metadata_props.add(key="more", value="of somebody")
    with pytest.raises(CheckpointError, match="as it was exported, got other bytes"):
        Session(saved(model, tmp_path))
    said = made["onnx"].metadata | {"parity": {}}
    model = onnx.load(made["onnx"].path)
    model.metadata_props[0].value = json.dumps(said)
    with pytest.raises(CheckpointError, match="as it was exported, got other bytes"):
        Session(saved(model, tmp_path))


@pytest.mark.parametrize("n", [1, 126, 127, 128, 16383, 16384, 70000])
def test_sealed_metadata_of_any_length_are_read_by_everybody(n):
    body = foreign().SerializeToString()
    content = seal(body, {"a": "ä" * n})
    held = {prop.key: prop.value for prop in onnx.load_from_string(content).metadata_props}
    assert json.loads(held["ardor"]) == {"a": "ä" * n}
    assert ort.InferenceSession(content).get_modelmeta().custom_metadata_map == held


def test_sealed_metadata_of_every_length_about_a_byte_of_its_count():
    body = foreign().SerializeToString()
    for n in range(90, 140):
        held = {prop.key: prop.value for prop in onnx.load_from_string(seal(body, {"a": "a" * n})).metadata_props}
        assert json.loads(held["ardor"]) == {"a": "a" * n}


@pytest.mark.parametrize("key", [b"\x05ardor", b"\x0cardor.sha256"])
def test_a_broken_key_does_not_make_a_file_somebody_elses(made, key, tmp_path):
    content = made["onnx"].path.read_bytes()
    assert content.count(key) == 1
    with pytest.raises(CheckpointError):
        Session(saved(content.replace(key, key[:1] + b"b" + key[2:]), tmp_path))


def test_a_net_that_draws_leaves_the_generator_as_it_was(digits, tmp_path):
    one = with_layer(lambda x: x + 0 * torch.rand_like(x))
    before = torch.get_rng_state()
    ardor.export(one, tmp_path / "n.pt2", to="torch-export", check=digits[1].limit(20))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(net, digits, made, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    word = rf'the package {package} for .*: type pip install "ardor\[onnx\]"'
    with pytest.raises(ConfigError, match=word):
        ardor.export(net, tmp_path / "n.onnx", check=digits[1])
    if package == "onnxruntime":
        with pytest.raises(ConfigError, match=word):
            Session(made["onnx"].path)
    else:
        assert Session(made["onnx"].path).metadata, "reading needs the runtime alone"
    assert ardor.export(net, tmp_path / "n.pt2", to="torch-export", check=digits[1].limit(9))


@pytest.mark.parametrize(
    ("name", "words", "error", "word"),
    [
        ("n.onnx", {"to": "tflite"}, ConfigError, "onnx, onnx-int8, torch-export"),
        ("n.pt2", {}, ConfigError, r"NAME\.onnx for onnx"),
        ("n.onnx", {"to": "torch-export"}, ConfigError, r"NAME\.pt2 for torch-export"),
        ("n.onnx", {"agreement": 95}, ConfigError, r"share in \(0, 1\]"),
        ("n.onnx", {"check": None}, ConfigError, "pass check=test"),
        ("n.onnx", {"to": "onnx-int8", "calibrate": None}, ConfigError, "got no calibrate"),
        ("n.onnx", {"to": "onnx-int8", "check": None}, ConfigError, "got no check"),
        ("n.onnx", {"limit": 0}, ConfigError, "limit of at least 1"),
        ("n.onnx", {"check": split((3, 8, 8))}, ModelError, "3 image channels"),
        ("n.onnx", {"to": "onnx-int8", "calibrate": split((3, 8, 8), part="train")}, DataError, "one shape"),
    ],
)
def test_words_that_do_not_fit_are_refused(net, digits, tmp_path, name, words, error, word):
    given = {"calibrate": None if "to" not in words else digits[0], "check": digits[1]} | words
    with pytest.raises(error, match=word):
        ardor.export(net, tmp_path / name, **given)
    assert not any(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(net, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"expected to write .*n\.onnx"):
        ardor.export(net, tmp_path / "file" / "n.onnx", check=digits[1].limit(9))


# the runtime


def test_a_session_is_a_net_of_its_own(net, made, digits):
    session = Session(made["onnx"].path, threads=1)
    x = digits[1].batch(slice(0, 6))[0]
    assert np.allclose(session(x).numpy(), logits_of(net, x), atol=1e-5)
    assert session(x.double()).dtype == torch.float32
    assert not session.foreign
    assert session.shape == (1, 8, 8)
    assert session.class_names == tuple(str(c) for c in range(10))
    assert hash_of(session) != hash_of(Session(made["onnx-int8"].path))
    assert hash_of(session) == hash_of(Session(made["onnx"].path))
    with pytest.raises(ModelError, match=r"expected images \(B, 1, 8, 8\)"):
        session(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match="expected an attack without gradients"):
        session(x.requires_grad_())
    ardor.models.require_fit(session, (1, 8, 8), 10)


def test_a_file_is_judged_without_gradients(net, made, digits):
    test, threat = digits[1].limit(40), ardor.Linf(EPS)
    suite = ardor.attacks.Suite("square", threat, {"square": ardor.attacks.Square(threat, queries=60)})
    ours, theirs = (ardor.evaluate(one, test, suite) for one in (net, Session(made["onnx"].path)))
    assert theirs.verdicts == ours.verdicts
    assert "b" in theirs.verdicts["square"]
    (finding,) = [f for f in theirs.findings if f not in ours.findings]
    assert (finding.name, finding.severity) == ("without_gradients", "note")
    assert "computes on onnxruntime" in finding.evidence
    with pytest.raises(ModelError, match="expected an attack without gradients"):
        ardor.evaluate(Session(made["onnx"].path), test, ardor.attacks.quick(threat))


def test_a_report_of_a_file_of_somebody_else_says_so(digits, tmp_path):
    model = foreign(out=("n", 8))
    images = replace(digits[1].limit(16), labels=digits[1].limit(16).labels % 8, classes=8, class_names=())
    suite = ardor.attacks.Suite("square", ardor.Linf(EPS), {"square": ardor.attacks.Square(queries=2)})
    report = ardor.evaluate(Session(saved(model, tmp_path)), images, suite)
    assert "was not exported by ardor: it is judged as a black box" in str(report)


def test_threads_are_torchs_or_those_that_are_typed(made):
    assert Session(made["onnx"].path).session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    assert Session(made["onnx"].path, threads=2).session.get_session_options().intra_op_num_threads == 2


def test_the_probe_is_an_image_that_anybody_can_make():
    image = probe((2, 3, 4))
    assert image.shape == (1, 2, 3, 4)
    assert [round(float(v) * 255) for v in image.flatten()[:8]] == [0, 37, 74, 111, 148, 185, 222, 3]
    assert (image >= 0).all()
    assert (image <= 1).all()


# the shell


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell") / "run"
    words = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--method", "sat"]
    words += ["--method.attack.steps", "1", "--threat.eps", "0.15", "--recipe.epochs", "1", "--recipe.batch", "128"]
    assert main(["train", *words, "--recipe.augment", "none", "--run", str(folder)]) == 0
    return folder


def test_the_shell_exports_a_run(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(trained), "--suite", "quick", "--limit", "50"]) == 0
    (trained / "report-damaged.json").write_text("{")
    capsys.readouterr()
    assert main(["export", str(trained), "--limit", "60"]) == 0
    shown = capsys.readouterr().out
    assert "| adversarial | 60 |" in shown
    session = Session(trained / "best.onnx")
    assert session.metadata["weights"] == hash_of(ardor.models.load(trained))
    assert session.metadata["threat"] == {"name": "Linf", "eps": 0.15}
    assert session.metadata["check"]["part"] == "test"
    (report,) = session.metadata["reports"]
    assert report["n"] == 50
    words = ["--to", "onnx-int8", "--out", "small.onnx", "--limit", "60", "--agreement", "0.5"]
    assert main(["export", str(trained), *words, "--part", "val", "--threat", "l2", "--threat.eps", "0.5"]) == 0
    said = Session(tmp_path / "small.onnx").metadata
    assert (said["to"], said["check"]["part"], said["calibration"]["part"]) == ("onnx-int8", "val", "train")
    assert said["threat"] == {"name": "L2", "eps": 0.5}
    assert main(["export", str(trained), "--to", "torch-export", "--checkpoint", "last", "--limit", "9"]) == 0
    assert (trained / "last.pt2").exists()


def test_the_shell_finds_data_that_have_moved(trained, tmp_path, monkeypatch):
    asked = []

    @functools.wraps(ardor.data.load)
    def load(**source):
        asked.append(source)
        raise DataError("seen")

    monkeypatch.setattr(ardor.data, "load", load)
    monkeypatch.chdir(tmp_path)
    own = read_yaml(trained / "config.yaml")["data"]
    assert main(["export", str(trained)]) == 2
    assert main(["export", str(trained), "--data.root", "elsewhere"]) == 2
    assert asked == [own, own | {"root": "elsewhere"}]


def test_the_shell_refuses_in_one_sentence(trained, tmp_path, capsys):
    where = tmp_path / "n.onnx"
    words = ["--to", "onnx-int8", "--out", str(where), "--limit", "200", "--agreement", "1", "--threat.eps", "0.3"]
    code = main(["export", str(trained), *words])
    assert (code, where.exists()) in ((2, False), (0, True)), "whether INT8 agrees everywhere is the net's affair"
    if code == 2:
        assert "type --force" in capsys.readouterr().err
        assert main(["export", str(trained), *words, "--force"]) == 0
        assert Session(where).metadata["forced"]
    assert main(["export", str(tmp_path / "none")]) == 2
    assert main(["export", str(trained), "--to", "tflite"]) == 2


def test_a_run_of_the_papers_protocol_is_still_calibrated_on_its_training_images(trained):
    source = read_yaml(trained / "config.yaml")["data"] | {"protocol": "paper"}
    train, val, _ = ardor.data.load(**source)
    assert (train.part, val.part) == ("train", "val")


def test_exported_shows_itself(made):
    text = str(made["onnx"])
    assert isinstance(made["onnx"], Exported)
    assert text.startswith(f"{made['onnx'].path} (onnx, 0.04 MB)")
    assert "100.00 %" in text


def test_the_shell_judges_a_file_on_its_runtime(trained, tmp_path, capsys):
    file = tmp_path / "best-int8.onnx"
    assert main(["export", str(trained), "--to", "onnx-int8", "--out", str(file), "--limit", "60", "--force"]) == 0
    assert main(["evaluate", str(file), "--limit", "20"]) == 0
    (saved,) = tmp_path.glob("report-*.json")
    report = ardor.Report.load(saved)
    assert report.suite == "square"
    assert report.title == f"{file} (onnxruntime {ort.__version__})"
    assert report.threat["eps"] == 0.15, "the threat of the file, not the default"
    assert report.training == {}
    assert "without_gradients" in [finding.name for finding in report.findings]
    judged = ardor.evaluate(
        Session(file), ardor.data.load("digits")[2].limit(20), ardor.attacks.suites.square(ardor.Linf(0.15)), batch=20
    )
    assert report.verdicts == judged.verdicts
    assert main(["evaluate", str(file), "--limit", "20", "--suite", "transfer", "--transfer_from", str(trained)]) == 0
    assert len(list(tmp_path.glob("report-transfer-*.json"))) == 1
    capsys.readouterr()
    assert main(["evaluate", str(file), "--limit", "20", "--suite", "paper"]) == 2
    assert "expected an attack without gradients" in capsys.readouterr().err


def test_the_shell_asks_for_the_data_of_somebody_elses_file(made, tmp_path, capsys):
    model = onnx.load(made["onnx"].path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    assert main(["evaluate", str(tmp_path / "theirs.onnx")]) == 2
    assert "expected --data with a name" in capsys.readouterr().err
    words = ["--data", "digits", "--limit", "10", "--threat.eps", "0.05"]
    assert main(["evaluate", str(tmp_path / "theirs.onnx"), *words]) == 0
    assert "black box" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "none.onnx")]) == 2
    assert "expected an ONNX file" in capsys.readouterr().err
