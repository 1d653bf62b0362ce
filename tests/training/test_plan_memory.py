"""Memory that does not suffice ends in a sentence."""

import os
import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import ardor
from ardor.errors import ConfigError, ModelError
from ardor.losses import ce
from ardor.training.memory import explain_oom, is_oom, largest_batch
from tests import warm
from tests.training.conftest import ERRORS, Greedy, job_for


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_the_largest_half_that_fits_is_named(error, tmp_path):
    tried = []
    job = job_for(Greedy(9, error, tried), batch=32, run=tmp_path / "r")
    assert is_oom(error)
    assert largest_batch(job) == 8
    assert tried == [32, 16, 8, 8]  # the optimiser's momentum is there from the second step on
    said = explain_oom(error, job)
    assert isinstance(said, ConfigError)
    assert "expected a step of 32 images to fit into the memory of cpu, got out of memory" in str(said)
    assert str(said).endswith(": pass batch=8, which fits")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text("")
    assert f'pass batch=8 run="{tmp_path / "r"}-batch8", which' in str(explain_oom(error, job))


def test_words_for_the_other_ends():
    error = ERRORS[0]
    none = str(explain_oom(error, job_for(Greedy(1, error, []), batch=32)))
    assert "got out of memory (Tried to allocate 2.00 GiB)" in none
    assert "a smaller student=" in none
    all_fit = str(explain_oom(error, job_for(Greedy(99, error, []), batch=32)))
    assert "though steps of 32 images fit: pass val_size=6" in all_fit
    assert largest_batch(job_for(Greedy(99, error, []), batch=1000)) == 40  # there are no more
    assert largest_batch(job_for(Greedy(2, error, []), batch=32)) == 2
    assert largest_batch(job_for(Greedy(1, error, []), batch=1, student=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))


def test_the_advice_for_validation_is_half_of_what_is_attacked_at_once(monkeypatch):
    def advice(val=12, **recipe):
        job = job_for(Greedy(99, ERRORS[0], []), **recipe)
        return str(explain_oom(ERRORS[0], replace(job, val=job.val.take(slice(0, val)))))

    assert "pass val_size=3, which" in advice(val_size=6)
    assert "pass val_size=1, which" in advice(val=1)  # 0 would be all
    monkeypatch.setattr("ardor.training.memory.batch_for", lambda data: 4)
    assert "pass val_size=2, which" in advice(val_size=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        SystemError("<class '_tokenize.TokenizerIter'> returned NULL without setting an exception"),
    ],
    ids=lambda e: str(e)[:30],
)
def test_lack_of_memory_is_known_by_its_type_and_words_however_deep(error):
    assert is_oom(error)
    while_saying_so = ModelError("expected the student to take an image")
    while_saying_so.__context__ = error
    assert is_oom(while_saying_so)
    outer = ValueError()
    outer.__cause__ = while_saying_so
    assert is_oom(outer)
    imported = ImportError("cannot import name 'x'")
    imported.__cause__, imported.__context__ = ValueError(), error
    assert is_oom(imported), "a cause does not hide what came before"
    assert not is_oom(None)


def test_errors_in_a_circle_are_looked_at_once():
    one, other = ValueError(), ValueError()
    one.__context__, other.__cause__ = other, one
    assert not is_oom(one)


def test_other_errors_are_no_lack_of_memory():
    assert not is_oom(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_oom(ValueError("out of memory"))
    wrapped = ModelError("expected the student to take an image")
    wrapped.__cause__ = ERRORS[1]
    assert is_oom(wrapped)
    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch(job_for(Greedy(2, RuntimeError("shapes"), [])))


def test_what_the_failed_step_held_is_freed_before_the_search():
    class Holding:
        def __init__(self):
            self.alive = []

        def __deepcopy__(self, memo):
            return self

        def terms(self, student, teacher, x, y, *, epoch, noise):
            import weakref

            self.alive = [ref for ref in self.alive if ref() is not None]
            held = nn.Linear(1, 1)
            if len(x) > 8:
                self.alive.append(weakref.ref(held))
                raise MemoryError
            assert not self.alive
            return {"clean": ce(student(x), y)}

    job = job_for(Holding(), batch=16)
    with pytest.raises(MemoryError) as caught:
        ardor.distill(job.student, None, job.method, job.train, job.recipe)
    assert job.method.alive[0]() is not None
    assert "batch=8" in str(explain_oom(caught.value, job))


REAL = """
import resource, torch, ardor
from dataclasses import replace
from pathlib import Path
from ardor.data.split import Split
from ardor.methods import Natural
from ardor.training.cost import plan
from ardor.training.job import Job
from ardor.training.memory import explain_oom, is_oom
from ardor.testing.shared import problem

class Wide(torch.nn.Module):
    # activations of torch's own kernels alone: oneDNN, which compiles its kernels, was seen to crash without memory
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10, 16000))
    def forward(self, x):
        return (x.flatten(1)[:, :10, None] * self.weight).relu().sum(2)

x, y, index = problem(3, 32, images=256)
data = Split(x, y, 10, "toy", "train", index=index)
recipe = ardor.Recipe(batch=256, epochs=1, device="cpu", augment="none")
job = Job(Wide(), None, Natural(), data, data.take(slice(0, 4)), recipe, Path("run"))
plan(replace(job, recipe=replace(recipe, batch=4)))  # what torch imports at a first step is there before the limit is
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 200_000_000,) * 2)
try:
    plan(job)
except Exception as error:
    assert is_oom(error), error
    said = explain_oom(error, job)
print(said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_real_limit_ends_in_one_sentence(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads need memory too, and OpenMP does not ask whether it got it
    done = warm.run([sys.executable, "-c", REAL], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = re.search(r"expected a step of 256 images.*pass batch=(\d+), which fits$", done.stdout.strip())
    assert found, done.stdout
    assert int(found[1]) in (128, 64, 32, 16)
