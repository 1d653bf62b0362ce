"""A call of the system that fails, at any point of a run, is a sentence; the same call again ends as if none had."""

import errno

import pytest

from ardor import methods
from ardor.errors import RunError
from ardor.training.averaging import EMA
from ardor.training.loop import distill
from tests.conftest import fail, splits
from tests.training.conftest import ended, net, recipe, require_same


def trained(folder):
    train, val = splits(n=16, val=8)
    settings = recipe(epochs=2, batch=8, milestones=())
    distill(net(), None, methods.Natural(), train, settings, val=val, run=folder, averaging=EMA(0.5))
    return ended(folder)


@pytest.mark.parametrize(("what", "least"), [("write", 8), ("fsync", 20), ("replace", 10)])
@pytest.mark.parametrize("kind", [RunError, KeyboardInterrupt])
def test_each_write_and_renaming_of_a_run_may_fail(tmp_path, monkeypatch, what, least, kind):
    with monkeypatch.context() as patch:
        calls = fail(patch, what, 0, None)
        whole = trained(tmp_path / "whole")
    assert calls[0] >= least
    error = KeyboardInterrupt() if kind is KeyboardInterrupt else OSError(errno.ENOSPC, "No space left on device")
    for number in range(1, calls[0] + 1):
        run = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(kind) as caught:
            fail(patch, what, number, error)
            trained(run)
        if kind is RunError:
            assert "expected to write" in str(caught.value)
        assert not list(run.glob("*.tmp")), number
        require_same(trained(run), whole)
