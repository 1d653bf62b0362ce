"""The small run that tests of deployment train at the shell, and the threat radius that it was trained for."""

import pytest

from ardor.cli.main import main

EPS = 0.15


def train(run, epochs=1):
    """A run of SAT on the digits in the folder `run`, within Linf eps 0.15."""
    words = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--method", "sat"]
    words += ["--method.attack.steps", "1", "--threat.eps", str(EPS), "--recipe.batch", "128"]
    words += ["--recipe.epochs", str(epochs), "--recipe.augment", "none"]
    assert main(["train", *words, "--run", str(run)]) == 0
    return run


def onnx_packages():
    """onnx, onnxruntime and onnxscript; without them, the tests of the calling file are skipped."""
    names = ("onnx", "onnxruntime", "onnxscript")
    return [pytest.importorskip(name, reason="the extra onnx is not installed") for name in names]
