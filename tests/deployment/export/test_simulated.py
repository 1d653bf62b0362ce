"""The simulated graph beside onnxruntime itself: the same logits, the net's gradients, and its limits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ardor
from ardor.attacks import APGD, PGD, Square
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.operators import OPERATORS
from ardor.deployment.export.simulated import Simulated
from ardor.engine import threads
from ardor.errors import ExportError, ModelError
from ardor.evaluation.attacked import adversarial
from ardor.models import hash_of
from ardor.noise import seeded
from tests.deployment.conftest import onnx_packages
from tests.fixtures.make import trained

onnx, ort, _ = onnx_packages()
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.processor

IMAGES = (3, 2, 6, 6)


def model_of(nodes, fixed=None, shape=IMAGES, opset=20, kind=TensorProto.FLOAT):
    """A model of these nodes from `x` to `out`, of the type `kind`, with the fixed arrays by name."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    end = helper.make_tensor_value_info("out", kind, None)
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


def require_equal(model, x):
    """The simulation gives the runtime's logits."""
    theirs, ours = both(model, x)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


W = random(4, 2, 3, 3, seed=1).numpy()
ONE = {
    "Abs": {}, "Celu": {"alpha": 0.5}, "DepthToSpace": {"blocksize": 1}, "Elu": {"alpha": 0.7}, "Erf": {},
    "Exp": {}, "Flatten": {"axis": -2}, "Gelu": {"approximate": "tanh"},
    "GlobalAveragePool": {}, "GlobalMaxPool": {}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "HardSwish": {},
    "Identity": {}, "LeakyRelu": {"alpha": 0.2}, "LogSoftmax": {"axis": 1}, "Mish": {}, "Neg": {}, "Reciprocal": {},
    "Relu": {}, "Sigmoid": {}, "Softmax": {"axis": -1}, "Softplus": {}, "Tanh": {}, "Transpose": {"perm": [0, 2, 3, 1]},
}  # fmt: skip
MANY = {
    "add": ("Add", {"b": random(2, 1, 6, seed=2).numpy()}, {}),
    "average pool": ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}),
    "average pool with pads": ("AveragePool", {}, {"kernel_shape": [2, 3], "pads": [1] * 4, "count_include_pad": 1}),
    "average pool, uneven pads": ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0]}),
    "average pool, ceil": ("AveragePool", {}, {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1}),
    "batch norm": (
        "BatchNormalization",
        {k: np.abs(random(2, seed=s).numpy()) + 0.1 for s, k in enumerate(("scale", "shift", "mean", "variance"))},
        {"epsilon": 0.01},
    ),
    "clip nothing": ("Clip", {}, {}),
    "clip below": ("Clip", {"low": np.float32(0.1)}, {}),
    "clip at both ends": ("Clip", {"low": np.float32(-0.3), "high": np.float32(0.6)}, {}),
    "clip above": ("Clip", {"": None, "high": np.float32(0.6)}, {}),
    "convolution": ("Conv", {"w": W}, {"pads": [1, 0, 1, 0], "strides": [2, 1], "kernel_shape": [3, 3]}),
    "convolution, uneven pads": ("Conv", {"w": W, "bias": W[:, 0, 0, 0]}, {"pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    "convolution by group": ("Conv", {"w": W[:, :1]}, {"group": 2}),
    "transposed convolution": (
        "ConvTranspose",
        {"w": W[:2]},
        {"pads": [1, 2, 1, 2], "strides": [2, 2], "output_padding": [1, 0], "dilations": [1, 2]},
    ),
    "einsum": ("Einsum", {"b": W[0, 0]}, {"equation": "bcij,kl->bckl"}),
    "divide": ("Div", {"b": np.float32([[[[0.25]], [[2.0]]]])}, {}),
    "expand": ("Expand", {"shape": np.int64([1, 1, 6, 6])}, {}),
    "gather": ("Gather", {"index": np.int64([[3, -1], [0, 2]])}, {"axis": 2}),
    "gather one": ("Gather", {"index": np.int64(1)}, {"axis": -1}),
    "instance norm": ("InstanceNormalization", {"scale": W[0, 0, 0, :2], "shift": W[0, 0, 1, :2]}, {"epsilon": 0.1}),
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
    "wrap": ("Pad", {"pads": np.int64([0, 1, 1, 2, 0, 0, 3, 6])}, {"mode": "wrap"}),
    "repeat the edge": ("Pad", {"pads": np.int64([1, 2, 1, -1]), "": None, "a": np.int64([-1, 0])}, {"mode": "edge"}),
    "power": ("Pow", {"b": np.float32(2)}, {}),
    "absolute sum": ("ReduceL1", {"axes": np.int64([1])}, {}),
    "length": ("ReduceL2", {"axes": np.int64([1])}, {}),
    "soft maximum": ("ReduceLogSumExp", {"axes": np.int64([1, 3])}, {}),
    "smallest of all": ("ReduceMin", {}, {}),
    "largest over space": ("ReduceMax", {"axes": np.int64([2, 3])}, {"keepdims": 0}),
    "mean over space": ("ReduceMean", {"axes": np.int64([-1, -2])}, {}),
    "mean of all": ("ReduceMean", {}, {"keepdims": 0}),
    "no mean at all": ("ReduceMean", {}, {"noop_with_empty_axes": 1}),
    "sum over channels": ("ReduceSum", {"axes": np.int64([1])}, {"keepdims": 0}),
    "reshape": ("Reshape", {"shape": np.int64([0, -1, 4])}, {}),
    "nearest": (
        "Resize",
        {"": None, "scales": np.float32([1, 1, 2, 1.5])},
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "bilinear": ("Resize", {"": None, "scales": np.float32([1, 1, 2, 1.5])}, {"mode": "linear"}),
    "bicubic": (
        "Resize",
        {"": None, " ": None, "sizes": np.int64([3, 2, 9, 4])},
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    ),
    "slice backwards": ("Slice", {n: np.int64([v]) for n, v in (("from", -1), ("to", -99), ("a", 2), ("by", -2))}, {}),
    "slice": (
        "Slice",
        {"from": np.int64([1, 0]), "to": np.int64([-1, 9]), "axes": np.int64([2, 3]), "by": np.int64([1, 2])},
        {},
    ),
    "split": ("Split", {"sizes": np.int64([2, 4])}, {"axis": 3}),
    "sum": ("Sum", {"b": random(6, seed=5).numpy(), "c": np.float32(2)}, {}),
    "subtract": ("Sub", {"b": random(6, seed=5).numpy()}, {}),
    "unsqueeze": ("Unsqueeze", {"axes": np.int64([0, -1])}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_an_operator_of_one_input_is_the_runtimes(name):
    require_equal(model_of([helper.make_node(name, ["x"], ["out"], **ONE[name])]), random(*IMAGES))


@pytest.mark.parametrize("name", MANY)
def test_an_operator_of_several_inputs_is_the_runtimes(name):
    kind, fixed, words = MANY[name]
    outputs = ["first", "out"] if kind == "Split" else ["out"]
    node = helper.make_node(kind, ["x", *(key.strip() for key in fixed)], outputs, **words)
    require_equal(model_of([node], {k: v for k, v in fixed.items() if k.strip()}), random(*IMAGES))


@pytest.mark.parametrize("shape", [(3, 2, 6), (3, 2, 6, 6, 6)], ids=["one axis", "three axes"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_windows_have_as_many_axes_as_the_file_has(kind, shape):
    axes = len(shape) - 2
    words = {} if kind.startswith("Conv") else {"kernel_shape": [3] * axes}
    node = helper.make_node(kind, ["x", *([] if words else ["w"])], ["out"], pads=[1] * 2 * axes, **words)
    require_equal(model_of([node], {} if words else {"w": random(2, 2, *[3] * axes).numpy()}, shape), random(*shape))


@pytest.mark.parametrize("kind", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_a_choice_by_a_comparison_is_the_runtimes(kind):
    nodes = [helper.make_node(kind, ["x", "b"], ["m"]), helper.make_node("Where", ["m", "x", "b"], ["out"])]
    x = random(*IMAGES)
    require_equal(model_of(nodes, {"b": x.flip(3).numpy() + x[:, :, :1].numpy() * 0}), x)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_to_space_are_the_runtimes(mode):
    node = helper.make_node("DepthToSpace", ["x"], ["out"], blocksize=2, mode=mode)
    require_equal(model_of([node], shape=(3, 8, 2, 3)), random(3, 8, 2, 3))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0)])
def test_a_linear_layer_is_the_runtimes(a, b):
    transposed = {name: 1 for name, value in (("transA", a), ("transB", b)) if value}  # the default is 0
    nodes = [helper.make_node("Gemm", ["x", "w", "c"], ["out"], alpha=0.5, beta=2.0, **transposed)]
    w = random(*((5, 6) if b else (6, 5)), seed=6).numpy()
    require_equal(model_of(nodes, {"w": w, "c": w[0, :5]}, shape=(6, 6)), random(6, 6))


KINDS = ("DOUBLE", "FLOAT16", "BFLOAT16", "UINT8", "INT8", "INT16", "INT32", "INT64", "BOOL")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_is_the_runtimes_and_has_a_gradient_where_it_is_to_a_float(kind):
    nodes = [
        helper.make_node(
            "Cast",
            [
                "x",
            ],
            ["z"],
            to=getattr(TensorProto, kind),
        ),
        helper.make_node("Cast", ["z"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["back", "x"], ["out"]),
    ]
    model, x = model_of(nodes), (3 * random(*IMAGES)).abs()
    require_equal(model, x)
    (grad,) = torch.autograd.grad(Simulated(model.SerializeToString())(x.requires_grad_()).sum(), x)
    assert grad.unique().tolist() == [2.0 if "FLOAT" in kind or kind == "DOUBLE" else 1.0]


VARIANTS = {
    "SAME_UPPER": (helper.make_node("Conv", ["x", "w"], ["out"], auto_pad="SAME_UPPER"), 20),
    "output_shape": (helper.make_node("ConvTranspose", ["x", "w"], ["out"], output_shape=[9, 9]), 20),
    "dilations": (helper.make_node("AveragePool", ["x"], ["out"], kernel_shape=[2, 2], dilations=[2, 2]), 20),
    "asymmetric pads": (helper.make_node("ConvTranspose", ["x", "w"], ["out"], pads=[0, 1, 1, 1]), 20),
    "no such mode": (helper.make_node("Pad", ["x", "p"], ["out"], mode="mirror"), 20),
    "no such input": (helper.make_node("Relu", ["nothing"], ["out"]), 20),
    "another domain": (helper.make_node("Relu", ["x"], ["out"], domain="theirs"), 20),
    "no such operator": (helper.make_node("CumSum", ["x", "p"], ["out"]), 20),
    "opset 12": (helper.make_node("Softmax", ["x"], ["out"]), 12),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_that_is_not_simulated_is_named_with_its_layer(name):
    node, opset = VARIANTS[name]
    node.name = "here/node"
    model = model_of([node], {"w": W[:2], "p": np.int64([0] * 7 + [1])}, opset=opset)
    where = "opset 13 or later" if opset < 13 else f"with gradients, got {node.op_type} in the layer here"
    with pytest.raises(ExportError, match=where):
        Simulated(model.SerializeToString())(random(*IMAGES))


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
    elsewhere = {"Gemm", "Cast", "Concat", "Log", "Shape", "Sqrt", "Squeeze", "DequantizeLinear", "Where"}
    assert tested | elsewhere | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"} == {*OPERATORS}


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


class Varied(nn.Module):
    """Variants of operators that exported nets have, and a part in float64."""

    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(1, 4, 3), nn.CircularPad2d(2), nn.LocalResponseNorm(3), nn.ConvTranspose2d(4, 4, 2, 2)
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(4, track_running_stats=False), nn.Upsample((7, 5)))
        self.last = nn.Linear(140, 10)

    def forward(self, x):
        return self.last(self.layers((2 * x.double() - 1).float()).flatten(1))


def exported(net, tmp_path, data):
    with seeded(0):
        net = net().eval() if isinstance(net, type) else net
        return net, Session(ardor.export(net, tmp_path / "n.onnx", check=data, threat=ardor.Linf(0.1)).path)


def test_the_variants_that_torch_exports_have_the_nets_gradients(tmp_path):
    test = ardor.data.load("digits")[2].limit(24)
    net, file = exported(Varied, tmp_path, test)
    assert file.without_gradients == ""
    x = test.batch(slice(None))[0].requires_grad_()
    ours, theirs = (torch.autograd.grad(one(x)[:, 3].sum(), x)[0] for one in (file, net))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


class Odd(nn.Module):
    """With an operator that is not simulated."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.cumsum(x.flatten(1), 1) / 64)


class Whole(nn.Module):
    """Whose file has no gradient: all passes through integers."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        whole = (16 * x).to(torch.int32).float()
        return self.last((whole if torch.compiler.is_exporting() else whole + 16 * x - (16 * x).detach()).flatten(1))


@pytest.mark.parametrize(("net", "word"), [(Odd, "CumSum"), (Whole, "through integers")])
def test_a_file_that_is_not_simulated_is_judged_without_gradients(tmp_path, net, word):
    test = ardor.data.load("digits")[2].limit(24)
    _, file = exported(net, tmp_path, test)
    with pytest.raises(ExportError, match=f"expected .* a?.*gradient.*, got .*{word}.* by suite=.square."):
        ardor.evaluate(file, test, ardor.attacks.quick(ardor.Linf(0.1)))
    square = ardor.attacks.Suite("square", ardor.Linf(0.1), {"square": Square(ardor.Linf(0.1), queries=3)})
    (finding,) = [f for f in ardor.evaluate(file, test, square).findings if f.name == "without_gradients"]
    assert word in finding.evidence


@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_a_simulation_with_other_logits_is_not_followed(judged, monkeypatch, to):
    monkeypatch.setitem(OPERATORS, "MaxPool", lambda x, **_: nn.functional.avg_pool2d(x, 2))
    assert "a distance of" in Session(judged[1][to].name).without_gradients


def test_a_split_of_another_shape_is_refused_before_gradients(judged):
    with pytest.raises(ModelError, match="expected images"):
        judged[1]["onnx"](torch.zeros(2, 3, 8, 8, requires_grad=True))


def test_what_was_hashed_is_what_computes(judged, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(Path(judged[1]["onnx"].name).read_bytes())
    file, x = Session(path), judged[2].batch(slice(0, 5))[0]
    before = file(x)
    path.write_bytes(b"something else by now")
    with threads.restored():
        torch.set_num_threads(torch.get_num_threads() + 1)  # another session is opened
        assert torch.allclose(file(x), before, atol=1e-6)
