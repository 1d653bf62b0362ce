"""What cannot be exported, and files that are damaged, edited or third-party: each is refused in a sentence."""

import json
import logging
import sys
import types
import warnings

import numpy as np
import pytest
import torch

import ardor
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.seal import is_sealed, seal
from ardor.errors import CheckpointError, ConfigError, DataError, ExportError, ModelError, RunError
from ardor.models import hash_of
from tests.deployment.conftest import onnx_packages
from tests.deployment.export.conftest import foreign, saved, split, with_layer

onnx, ort, _ = onnx_packages()


def test_an_operator_that_onnx_lacks_is_named_with_its_layer(digits, tmp_path):
    lacking = ((torch.special.i0, "prims.bessel_i0"), (lambda x: x.kthvalue(2, keepdim=True)[0] + x, "aten.kthvalue"))
    for function, name in (*lacking, (torch.special.erfinv, "prims.erf_inv")):
        with pytest.raises(ExportError, match=rf"got {name} in the layer 1\.1 \(Odd\): .*to=\"torch-export\""):
            ardor.export(with_layer(function), tmp_path / "n.onnx", check=digits[1])
    assert ardor.export(with_layer(torch.special.i0), tmp_path / "n.pt2", to="torch-export", check=digits[1])


@pytest.mark.parametrize(
    "function",
    [lambda x: x if x.sum() > 0 else 2 * x, lambda x: x.reshape(2, -1, *x.shape[1:]).flatten(0, 1)],
    ids=["decides by values", "fixed batch"],
)
def test_a_net_that_cannot_be_traced_is_refused(digits, tmp_path, function, capsys):
    one = with_layer(lambda x: function(x) if torch.compiler.is_exporting() else x)
    with pytest.raises(ExportError, match="expected a net that can be traced with a free batch, got \\w+: ") as caught:
        ardor.export(one, tmp_path / "n.onnx", check=digits[1])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_a_net_that_cannot_be_copied_or_is_torchscript_is_refused(digits, tmp_path):
    one, script = with_layer(torch.relu), "expected a net in Python, got a TorchScript module"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        nets = [(torch.jit.trace(one.eval(), digits[1].batch(slice(0, 2))[0]), script)]
    one.scale = one[0].weight * 2
    for net, word in (
        *nets,
        (one, "expected a net that can be traced with a free batch, got RuntimeError: Only Tensors"),
    ):
        with pytest.raises(ExportError, match=word):
            ardor.export(net, tmp_path / "n.onnx", check=digits[1])


@pytest.mark.parametrize("cut", [torch.Tensor.detach, lambda x: (x > 0).float(), torch.no_grad()(lambda x: x + 1)])
def test_a_net_without_a_gradient_is_refused_before_it_is_traced(digits, tmp_path, cut, monkeypatch):
    monkeypatch.setattr(sys.modules["ardor.deployment.export.formats"], "traced", None)
    images = digits[1].images.clone()
    with pytest.raises(ExportError, match="expected a net with a gradient, .*, got Sequential without one: take out"):
        ardor.export(with_layer(cut), tmp_path / "n.onnx", check=digits[1])
    assert torch.equal(digits[1].images, images)
    assert not digits[1].images.requires_grad


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


def test_a_third_party_file_is_a_black_box_with_a_warning(tmp_path, caplog):
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
        (foreign(out=("n", 1, 8, 8), flat=False), r"float32 logits \(B, classes\), got"),
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
    first = Session(path)
    assert torch.allclose(first(x), 3 * x.sum((1, 2)))
    (tmp_path / "foreign.data").write_bytes(np.full((1, 1, 8, 8), 2, np.float32).tobytes())
    assert hash_of(Session(path)) != hash_of(first)


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
    """The file with other metadata and a valid seal of them."""
    model = onnx.load(made[to].path)
    del model.metadata_props[:]
    metadata = json.loads(json.dumps(made[to].metadata))
    change(metadata, model)
    return seal(model.SerializeToString(), metadata)


def scaled(metadata, model):
    """The graph takes images in 0..255 from now on."""
    first = next(node for node in model.graph.node if node.op_type == "Sub")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "by"))
    model.graph.node.insert(0, onnx.helper.make_node("Div", [first.input[0], "by"], ["scaled"], name="scale"))
    first.input[0] = "scaled"


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda metadata, _: metadata["input"].update(shape=[3, 8, 8]), ModelError, r"got NCHW \[3, 8, 8\] in"),
        (lambda metadata, _: metadata["input"].update(layout="NHWC"), ModelError, r"got NHWC .* in \[0, 1\]"),
        (lambda metadata, _: metadata["input"].update(range=[0, 255]), ModelError, r"NCHW .* in \[0, 255\]"),
        (scaled, ModelError, "of its metadata's probe"),
        (lambda metadata, _: metadata.update(probe=[0.0] * 9), ModelError, "of its metadata's probe"),
        (lambda metadata, _: metadata.update(format="ardor-export-9"), CheckpointError, "format ardor-export-9"),
        (lambda metadata, _: metadata.pop("input"), CheckpointError, "the key input"),
        (lambda metadata, _: metadata.update(input=None), CheckpointError, "keys with values as input"),
        (lambda metadata, _: metadata.update(to="tflite"), CheckpointError, "to tflite"),
    ],
)
def test_a_file_that_does_not_match_its_metadata_is_refused(made, change, error, word, tmp_path):
    for to in ("onnx", "onnx-int8"):
        assert not Session(resealed(made, lambda metadata, model: None, to)).foreign
        with pytest.raises(error, match=word):
            Session(saved(resealed(made, change, to), tmp_path))


def test_float32_must_reproduce_the_recorded_logits_closely(made):
    def nearly(metadata, model):
        metadata["probe"] = [1.01 * value for value in metadata["probe"]]

    with pytest.raises(ModelError, match="of its metadata's probe"):
        Session(resealed(made, nearly))
    assert not Session(resealed(made, nearly, "onnx-int8")).foreign, "processors round INT8 differently"


def test_an_edited_file_is_refused(made, tmp_path):
    model = onnx.load(made["onnx"].path)
    model.metadata_props.add(key="more", value="third-party")
    with pytest.raises(CheckpointError, match="as it was exported, got other bytes"):
        Session(saved(model, tmp_path))
    metadata = made["onnx"].metadata | {"versions": {}}
    model = onnx.load(made["onnx"].path)
    model.metadata_props[0].value = json.dumps(metadata)
    with pytest.raises(CheckpointError, match="as it was exported, got other bytes"):
        Session(saved(model, tmp_path))


def test_sealed_metadata_of_any_length_are_read_by_every_runtime():
    body = foreign().SerializeToString()
    for n in (1, *range(90, 140), 16383, 16384, 70000):  # about the lengths at which a varint gets another byte
        metadata = {"a": "a" * n, "b": "ä"}
        content = seal(body, metadata)
        entries = {prop.key: prop.value for prop in onnx.load_from_string(content).metadata_props}
        assert json.loads(entries["ardor"]) == metadata
        assert ort.InferenceSession(content).get_modelmeta().custom_metadata_map == entries


def test_a_seal_is_the_end_of_the_file():
    content = seal(b"body", {"a": 1})
    digest = content[-64:].decode()
    assert is_sealed(content, digest)
    assert not is_sealed(content[:-1] + b"#", digest), "what follows the sealed bytes is the seal and nothing else"


@pytest.mark.parametrize("key", [b"\x05ardor", b"\x0cardor.sha256"])
def test_a_file_with_a_broken_key_is_not_third_party(made, key, tmp_path):
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


@pytest.mark.parametrize("package", ["executorch", "torchao"])
def test_the_packages_for_phones_are_named_with_their_command(net, digits, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, "executorch", types.ModuleType("executorch"))
    monkeypatch.setitem(sys.modules, package, None)
    word = rf'the package {package} for to=\"executorch\", got none: type pip install "ardor\[executorch\]"'
    with pytest.raises(ConfigError, match=word):
        ardor.export(net, tmp_path / "n.pte", to="executorch", check=digits[1])
    with pytest.raises(ConfigError, match=r"a file called NAME.pte for executorch, got .*n.onnx"):
        ardor.export(net, tmp_path / "n.onnx", to="executorch", check=digits[1])


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


def test_what_is_written_is_read_back_before(net, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["ardor.deployment.export.formats"], "seal", lambda body, metadata: seal(body, metadata)[:-1] + b"#"
    )
    with pytest.raises(CheckpointError, match="expected the exported model as it was exported"):
        ardor.export(net, tmp_path / "n.onnx", check=digits[1].limit(9))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(net, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"expected to write .*n\.onnx"):
        ardor.export(net, tmp_path / "file" / "n.onnx", check=digits[1].limit(9))
