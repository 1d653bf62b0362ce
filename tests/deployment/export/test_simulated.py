"""The simulated graph beside onnxruntime itself: the same logits, the net's gradients, and its limits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ardor
from ardor.attacks import APGD, PGD, Square
from ardor.data.split import Split
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.operators import OPERATORS
from ardor.deployment.export.simulated import Simulated
from ardor.engine import threads
from ardor.errors import ExportError, ModelError
from ardor.evaluation.attacked import adversarial
from ardor.models import hash_of
from tests.fixtures.make import trained

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.processor

IMAGES = (3, 2, 6, 6)


def model_of(nodes, fixed=None, out="out", shape=IMAGES, opset=20):
    """A model of these nodes from `x` to `out`, with the fixed arrays by name."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    end = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    fixed = [numpy_helper.from_array(np.asarray(value), name) for name, value in (fixed or {}).items()]
    graph = helper.make_graph(nodes, "g", [image], [end], fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def both(model, x):
    """The logits of the runtime, and of the simulation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    body = model.SerializeToString()
    session = ort.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": x.numpy()})
    return torch.from_numpy(theirs), Simulated(body)(x)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


W = random(4, 2, 3, 3, seed=1).numpy()
ONE = {
    "Abs": {}, "Elu": {"alpha": 0.7}, "Erf": {}, "Exp": {}, "Flatten": {"axis": 2}, "Gelu": {"approximate": "tanh"},
    "GlobalAveragePool": {}, "GlobalMaxPool": {}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "HardSwish": {},
    "Identity": {}, "LeakyRelu": {"alpha": 0.2}, "LogSoftmax": {"axis": 1}, "Neg": {}, "Reciprocal": {}, "Relu": {},
    "Sigmoid": {}, "Softmax": {"axis": -1}, "Softplus": {}, "Tanh": {}, "Transpose": {"perm": [0, 2, 3, 1]},
}  # fmt: skip
MANY = {
    "add": ("Add", {"b": random(2, 1, 6, seed=2).numpy()}, {}),
    "average pool": ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}),
    "average pool with pads": ("AveragePool", {}, {"kernel_shape": [2, 3], "pads": [1] * 4, "count_include_pad": 1}),
    "batch norm": (
        "BatchNormalization",
        {k: np.abs(random(2, seed=s).numpy()) + 0.1 for s, k in enumerate(("scale", "shift", "mean", "variance"))},
        {"epsilon": 0.01},
    ),
    "clip at both ends": ("Clip", {"low": np.float32(-0.3), "high": np.float32(0.6)}, {}),
    "clip above": ("Clip", {"": None, "high": np.float32(0.6)}, {}),
    "convolution": ("Conv", {"w": W}, {"pads": [1, 0, 1, 0], "strides": [2, 1], "kernel_shape": [3, 3]}),
    "convolution, uneven pads": ("Conv", {"w": W, "bias": W[:, 0, 0, 0]}, {"pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    "convolution by group": ("Conv", {"w": W[:, :1]}, {"group": 2}),
    "divide": ("Div", {"b": np.float32([[[[0.25]], [[2.0]]]])}, {}),
    "expand": ("Expand", {"shape": np.int64([1, 1, 6, 6])}, {}),
    "gather": ("Gather", {"index": np.int64([[3, -1], [0, 2]])}, {"axis": 2}),
    "gather one": ("Gather", {"index": np.int64(1)}, {"axis": -1}),
    "layer norm": ("LayerNormalization", {"scale": W[0, 0, 0, :1].repeat(6), "shift": W[0, 0, 1, :1].repeat(6)}, {}),
    "matrix product": ("MatMul", {"b": random(6, 5, seed=3).numpy()}, {}),
    "largest of two": ("Max", {"b": random(6, seed=4).numpy()}, {}),
    "smallest of two": ("Min", {"b": random(6, seed=4).numpy()}, {}),
    "max pool": ("MaxPool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max pool, ceil": ("MaxPool", {}, {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1}),
    "max pool, uneven pads": ("MaxPool", {}, {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0]}),
    "multiply": ("Mul", {"b": np.float32(-3)}, {}),
    "leaky by channel": ("PRelu", {"slope": np.float32([[[0.1]], [[-0.5]]])}, {}),
    "pad": ("Pad", {"pads": np.int64([0, 0, 1, 2, 0, 0, 3, 0]), "value": np.float32(0.5)}, {}),
    "pad two axes": ("Pad", {"pads": np.int64([1, 2, 0, 3]), "": None, "axes": np.int64([-1, 2])}, {}),
    "reflect": ("Pad", {"pads": np.int64([0, 0, 1, 2, 0, 0, 3, 1])}, {"mode": "reflect"}),
    "power": ("Pow", {"b": np.float32(2)}, {}),
    "largest over space": ("ReduceMax", {"axes": np.int64([2, 3])}, {"keepdims": 0}),
    "mean over space": ("ReduceMean", {"axes": np.int64([-1, -2])}, {}),
    "mean of all": ("ReduceMean", {}, {"keepdims": 0}),
    "no mean at all": ("ReduceMean", {}, {"noop_with_empty_axes": 1}),
    "sum over channels": ("ReduceSum", {"axes": np.int64([1])}, {"keepdims": 0}),
    "reshape": ("Reshape", {"shape": np.int64([0, -1, 4])}, {}),
    "slice": (
        "Slice",
        {"from": np.int64([1, 0]), "to": np.int64([-1, 9]), "axes": np.int64([2, 3]), "by": np.int64([1, 2])},
        {},
    ),
    "subtract": ("Sub", {"b": random(6, seed=5).numpy()}, {}),
    "unsqueeze": ("Unsqueeze", {"axes": np.int64([0, -1])}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_an_operator_of_one_input_is_the_runtimes(name):
    model = model_of([helper.make_node(name, ["x"], ["out"], **ONE[name])])
    theirs, ours = both(model, random(*IMAGES))
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MANY)
def test_an_operator_of_several_inputs_is_the_runtimes(name):
    kind, fixed, words = MANY[name]
    node = helper.make_node(kind, ["x", *fixed], ["out"], **words)
    theirs, ours = both(model_of([node], {k: v for k, v in fixed.items() if k}), random(*IMAGES))
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0)])
def test_a_linear_layer_is_the_runtimes(a, b):
    transposed = {name: 1 for name, value in (("transA", a), ("transB", b)) if value}  # the default is 0
    nodes = [helper.make_node("Gemm", ["x", "w", "c"], ["out"], alpha=0.5, beta=2.0, **transposed)]
    w = random(*((5, 6) if b else (6, 5)), seed=6).numpy()
    theirs, ours = both(model_of(nodes, {"w": w, "c": w[0, :5]}, shape=(6, 6)), random(6, 6))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_free_batch_is_reshaped_by_its_own_size():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Concat", ["shape", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("Log", ["flat"], ["log"]),
        helper.make_node("Sqrt", ["flat"], ["root"]),
        helper.make_node("Cast", ["log"], ["cast"], to=TensorProto.INT64),
        helper.make_node("Cast", ["cast"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["back", "last"], ["three"]),
        helper.make_node("Squeeze", ["three", "last"], ["two"]),
        helper.make_node("Add", ["two", "root"], ["out"]),
    ]
    fixed = {"rest": np.int64([-1]), "last": np.int64([2])}
    theirs, ours = both(model_of(nodes, fixed, shape=("n", 2, 6, 6)), random(5, 2, 6, 6).abs() + 0.1)
    assert ours.shape == (5, 72)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_every_operator_is_held_against_the_runtime():
    tested = {*ONE, *(kind for kind, *_ in MANY.values())}
    assert tested | {"Gemm", "Cast", "Concat", "Log", "Shape", "Sqrt", "Squeeze", "DequantizeLinear"} == {*OPERATORS}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantised_values_are_the_runtimes_to_the_last_bit(dtype, axis):
    scale, zero = (np.float32([0.031, 0.11]), dtype([3, 0])) if axis else (np.float32(0.031), dtype(7))
    words = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **words),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["out"], **words),
    ]
    x = random(*IMAGES) * 3
    x[0, 0] = torch.arange(36).reshape(6, 6) * 0.0155  # halves of a step among them: both round to even
    theirs, ours = both(model_of(nodes, {"s": scale, "z": zero}), x)
    assert torch.equal(ours, theirs)


def test_rounding_passes_gradients_and_clipping_stops_them():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["out"]),
    ]
    model = model_of(nodes, {"s": np.float32(0.1), "z": np.int8(-128)}, shape=(1, 5))
    x = torch.tensor([[-0.2, 0.01, 0.04, 25.4, 25.7]], requires_grad=True)
    (grad,) = torch.autograd.grad(Simulated(model.SerializeToString())(x).sum(), x)
    assert torch.allclose(grad, torch.tensor([[0.0, 1, 1, 1, 0]])), "below -128 the ReLU, above 127 what INT8 cuts off"


def test_the_clipped_share_is_returned_by_value():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "low"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "low"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "s", "mid"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "mid"], ["half"]),
        helper.make_node("Neg", ["half"], ["minus"]),
        helper.make_node("QuantizeLinear", ["minus", "s", "mid"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "up"], ["out"]),
    ]
    fixed = {"s": np.float32(1), "low": np.int8(-128), "mid": np.int8(0), "up": np.int8(5)}
    simulated = Simulated(model_of(nodes, fixed, shape=(1, 4)).SerializeToString())
    x = torch.tensor([[-3.0, 100, 200, 300]])
    assert simulated.clipped(x) == {"x": 0.25, "relu": 0.5, "minus": 0.0}, "what a ReLU takes is no loss"
    assert simulated.clipped(-x)["x"] == 0.0


# a net's file


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A trained net, its two files, and digits."""
    folder, (train, _, test) = tmp_path_factory.mktemp("judged"), ardor.data.load("digits")
    net = trained("mixed")
    words = {"calibrate": train, "check": test, "threat": ardor.Linf(0.1), "agreement": 0.5}
    files = {to: ardor.export(net.eval(), folder / f"{to}.onnx", to=to, **words).path for to in ("onnx", "onnx-int8")}
    return net, {to: Session(file) for to, file in files.items()}, test


@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_the_simulated_graph_answers_as_the_runtime_does(judged, to):
    _, files, test = judged
    x = test.batch(slice(0, 200))[0]
    with torch.no_grad():
        theirs, ours = files[to](x), files[to].simulated(x)
    step = 1e-4 if to == "onnx" else 0.02 * float(theirs.abs().max())  # INT8: a rounding may fall the other way
    assert (ours - theirs).abs().max() < step
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.99


def test_a_float_files_gradients_are_the_nets(judged):
    net, files, test = judged
    x = test.batch(slice(0, 50))[0].requires_grad_()
    (ours,) = torch.autograd.grad(ardor.losses.margin(files["onnx"](x), test.labels[:50]).sum(), x)
    (theirs,) = torch.autograd.grad(ardor.losses.margin(net(x), test.labels[:50]).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_the_logits_are_the_runtimes_with_and_without_gradients(judged):
    x = judged[2].batch(slice(0, 20))[0]
    file = judged[1]["onnx-int8"]
    logits = file(x.clone().requires_grad_())
    assert logits.requires_grad
    assert torch.equal(logits, file(x)), "to the last bit: ties of an INT8 file must stay ties"
    assert not file(x.clone().requires_grad_().detach()).requires_grad
    with torch.no_grad():
        assert not file(x.clone().requires_grad_()).requires_grad
    poor = Session(file.name)
    vars(poor)["simulated"] = lambda z: z.flatten(1)[:, :10]  # a simulation that is wrong
    assert torch.equal(poor(x.clone().requires_grad_()), file(x))


def test_the_simulation_is_no_part_of_the_file(judged):
    file = judged[1]["onnx-int8"]
    before = hash_of(file)
    assert file.simulated is file.simulated
    assert hash_of(file) == before
    assert list(file.parameters()) == []


def test_attacks_along_the_simulated_gradients_break_the_file_itself(judged):
    net, files, test = judged
    test, threat = test.limit(150), ardor.Linf(0.1)
    suite = ardor.attacks.Suite("s", threat, {"pgd": PGD(threat, steps=10), "apgd": APGD(threat, steps=10)})
    ours, theirs = (ardor.evaluate(one, test, suite) for one in (net, files["onnx-int8"]))
    assert theirs.clean.k > 100
    assert theirs.robust("pgd").k < 0.8 * theirs.clean.k
    assert abs(theirs.robust("pgd").k - ours.robust("pgd").k) < 12, "nearly as many as along the net's own"
    images = adversarial(files["onnx-int8"], test, "pgd", PGD(threat, steps=10))
    correct = Session(files["onnx-int8"].name)(images).argmax(1) == test.labels
    assert "".join("r" if s else "b" for s in correct) == theirs.verdicts["pgd"].replace("-", "b")


def test_no_gradients_are_a_black_boxs(judged, tmp_path):
    model = onnx.load(judged[1]["onnx"].name)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    file = Session(tmp_path / "theirs.onnx")
    with pytest.raises(ModelError, match="expected an attack without gradients on .*theirs.onnx, a black box, got"):
        file(torch.zeros(1, 1, 8, 8, requires_grad=True))
    with torch.no_grad():
        assert file(torch.zeros(1, 1, 8, 8, requires_grad=True)).shape == (1, 10), "no gradient is requested"
    test = judged[2].limit(20)
    square = ardor.attacks.Suite("square", ardor.Linf(0.1), {"square": Square(ardor.Linf(0.1), queries=3)})
    assert ardor.evaluate(file, test, square).n == 20


class Odd(nn.Module):
    """With an operator that is not simulated."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.cumsum(x.flatten(1), 1) / 64)


def test_an_operator_that_is_not_simulated_is_named(tmp_path):
    test = ardor.data.load("digits")[2].limit(24)
    with torch.random.fork_rng():
        file = Session(ardor.export(Odd().eval(), tmp_path / "odd.onnx", check=test, threat=ardor.Linf(0.1)).path)
    with pytest.raises(ExportError, match="expected operators that can be simulated with gradients, got CumSum"):
        ardor.evaluate(file, test, ardor.attacks.quick(ardor.Linf(0.1)))
    square = ardor.attacks.Suite("square", ardor.Linf(0.1), {"square": Square(ardor.Linf(0.1), queries=3)})
    (finding,) = [f for f in ardor.evaluate(file, test, square).findings if f.name == "without_gradients"]
    assert "CumSum" in finding.evidence


def test_an_operator_of_another_domain_is_not_simulated():
    node = helper.make_node("Relu", ["x"], ["out"], domain="theirs", name="here/relu")
    with pytest.raises(ExportError, match="got Relu in the layer here"):
        Simulated(model_of([node]).SerializeToString())


def test_a_split_of_another_shape_is_refused_before_gradients(judged):
    with pytest.raises(ModelError, match="expected images"):
        judged[1]["onnx"](torch.zeros(2, 3, 8, 8, requires_grad=True))
    assert isinstance(judged[2], Split)


def test_what_was_hashed_is_what_computes(judged, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(Path(judged[1]["onnx"].name).read_bytes())
    file, x = Session(path), judged[2].batch(slice(0, 5))[0]
    before = file(x)
    path.write_bytes(b"something else by now")
    with threads.restored():
        torch.set_num_threads(torch.get_num_threads() + 1)  # another session is opened
        assert torch.allclose(file(x), before, atol=1e-6)
