"""The teacher whose answers are kept, and runs with a table: what it is asked, and that nothing else changes."""

import copy

import pytest
import torch

from ardor.data.augment import crop_flip
from ardor.errors import CheckpointError, RunError
from ardor.noise import Noise, order
from ardor.testing import TinyNet
from ardor.training.soft_labels import CachedTeacher
from ardor.training.soft_labels.teacher import CHECK_EVERY, live
from tests.training.soft_labels.conftest import CLASSES, Counted, N, opened, split


def seen(data, epoch, rows=slice(None), padding=2):
    """A batch as the loop sees it: images, labels, index, view."""
    x, y, index = data.batch(rows)
    x, view = crop_flip(x, Noise(0, index, "augment", epoch), padding)
    return x, y, index, view


# --- the teacher of a batch


def test_a_first_look_asks_and_a_second_does_not(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    cold = CachedTeacher(teacher, table, x, index, view)(x)
    assert teacher.calls == [32, 32]
    assert (cold - TinyNet.forward(teacher, x)).abs().max() < 1e-6
    table.calls, teacher.calls = 1, []
    warm = CachedTeacher(teacher, table, x, index, view)(x)
    assert teacher.calls == []
    assert torch.equal(warm, cold)
    assert not warm.requires_grad
    again = opened(tmp_path / "t", teacher, data)
    assert torch.equal(CachedTeacher(teacher, again, x, index, view)(x), cold)


def test_an_answer_does_not_depend_on_who_was_missing_with_it(tmp_path):
    """What a kill left, or another run was first to write, changes no bit."""
    data, teacher = split(), Counted()
    x, _, index, view = seen(data, 1)
    whole = CachedTeacher(teacher, opened(tmp_path / "a", teacher, data), x, index, view)(x)
    for number, share in enumerate((1, 5, 31, 33)):
        table = opened(tmp_path / f"b{number}", teacher, data)
        rows = order(number, "rows", 0, index)[:share]
        z = x[rows]
        CachedTeacher(teacher, table, z, index[rows], view[rows])(z)
        teacher.calls = []
        assert torch.equal(CachedTeacher(teacher, table, x, index, view)(x), whole)
        assert set(teacher.calls) == {32}


def test_only_the_missing_rows_are_asked_about(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    table.put(index[:39], view[:39], live(teacher, x, torch.arange(39)))
    table.calls, teacher.calls, asked = 1, [], []
    teacher.register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    CachedTeacher(teacher, table, x, index, view)(x)
    assert [torch.equal(z, x[39:].expand(32, -1, -1, -1)) for z in asked] == [True]


def test_anything_but_the_batch_itself_is_live(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    table.put(index, view, torch.full((N, CLASSES), 9.0))  # a table that would be noticed
    taught = CachedTeacher(teacher, table, x, index, view)
    assert torch.equal(taught(x.clone()), teacher(x))
    assert torch.equal(taught(x[:]), teacher(x))
    z = (0.9 * x).requires_grad_()
    (grad,) = torch.autograd.grad(taught(z).sum(), z)
    (true,) = torch.autograd.grad(teacher(z).sum(), z)
    assert torch.equal(grad, true)
    assert grad.abs().max() > 0
    assert torch.equal(taught.features(x), teacher.features(x))
    assert torch.equal(taught.head(teacher.features(x)), teacher(x))
    assert taught.linear is teacher.linear
    assert taught.as_given() is teacher
    x.requires_grad_()
    (grad,) = torch.autograd.grad(taught(x).sum(), x)
    assert grad.abs().max() > 0
    x.requires_grad_(False).mul_(0.5)
    assert torch.equal(taught(x), teacher(x)), "x is no longer what it was"


def test_a_teacher_in_train_mode_is_not_kept(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    taught = CachedTeacher(teacher.train(), table, x, index, view)
    taught(x)
    assert not table.get(index, view)[1].any()


def test_a_missing_attribute_is_missing(tmp_path):
    taught = CachedTeacher(Counted(), opened(tmp_path / "t"), *(seen(split(), 1)[i] for i in (0, 2, 3)))
    assert not hasattr(taught, "nothing")
    assert copy.copy(taught).linear is taught.linear


def test_answers_have_the_images_dtype(tmp_path):
    data, teacher = split(), Counted().double()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    x = x.double()
    answer = CachedTeacher(teacher, table, x, index, view)(x)
    assert answer.dtype == torch.float64
    assert (answer - teacher(x)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_spot_check_passes_what_is_right(tmp_path, dtype):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data, dtype=dtype)
    x, _, index, view = seen(data, 1)
    taught = CachedTeacher(teacher, table, x, index, view)
    answers = [taught(x)]
    teacher.calls = []
    answers += [taught(x) for _ in range(2 * CHECK_EVERY + 1)]
    assert teacher.calls == [32] * 3, "the first that finds anything, and one in CHECK_EVERY after it"
    assert all(torch.equal(a, answers[0]) for a in answers)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 3e-4), ("float16", 1e-2), ("float32", 1e9)])
def test_a_spot_check_refuses_what_is_wrong(tmp_path, dtype, off):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data, dtype=dtype)
    x, _, index, view = seen(data, 1)
    true = live(teacher, x, torch.arange(N))
    wrong = true.clone()
    wrong[5] *= 1 + min(off, 100)
    table.put(index, view, wrong)
    with pytest.raises(CheckpointError, match="others for 1 of 32 images .image 5 is off by"):
        CachedTeacher(teacher, table, x, index, view)(x)


def test_a_spot_check_lets_rounding_pass(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    near = live(teacher, x, torch.arange(N)) * (1 + 3e-5)
    table.put(index, view, near)
    assert torch.equal(CachedTeacher(teacher, table, x, index, view)(x), near)


def test_a_net_of_the_same_weights_that_answers_otherwise_is_found(tmp_path):
    class Louder(Counted):
        def head(self, features):
            return 2 * super().head(features)

    data, louder = split(), Counted()
    x, _, index, view = seen(data, 1)
    CachedTeacher(Counted(), opened(tmp_path / "t", Counted(), data), x, index, view)(x)
    with pytest.raises(RunError, match="made for another .net: "):
        opened(tmp_path / "t", Louder(), data)
    louder.head = lambda features: 2 * Counted.head(louder, features)  # what no name tells
    with pytest.raises(CheckpointError, match="32 of 32"):
        CachedTeacher(louder, opened(tmp_path / "t", louder, data), x, index, view)(x)
