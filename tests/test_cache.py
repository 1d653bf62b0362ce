"""The teacher's soft labels, kept: exact, never wrong, shared, and the live teacher wherever they cannot answer."""

import copy
import logging
import multiprocessing
import os
import resource
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ardor.attacks import PGD
from ardor.cache import SoftLabels, Taught, enumerable, saving
from ardor.cache import table as tables
from ardor.cache.cost import crop_of, views_met
from ardor.cache.taught import CHECK_EVERY, live
from ardor.data.augment import crop_flip
from ardor.data.split import Split
from ardor.errors import CheckpointError, ConfigError, DataError, RunError
from ardor.losses import kl
from ardor.methods import IAD, RSLAD, VarianceGap
from ardor.modes import freeze
from ardor.noise import Noise, order
from ardor.recipe import Recipe
from ardor.testing import TinyNet
from ardor.threat import Linf
from ardor.train import make_optimiser, step

CLASSES, N = 4, 40
FORK = multiprocessing.get_context("fork")


def split(n=N, seed=0, channels=1, size=8, index=None, dtype=torch.uint8):
    index = torch.arange(n) if index is None else index
    images = Noise(seed, index, "images").integers(256, (channels, size, size)).to(torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    return Split(images, index % CLASSES, CLASSES, "drawn", "train", index=index)


class Counted(TinyNet):
    """A teacher that remembers how many images each forward was given."""

    def __init__(self, seed=5):
        super().__init__(1, CLASSES, 16, seed)
        self.calls = []
        for name, buffer in self.named_buffers():
            if "running" in name:
                drawn = Noise(seed, torch.arange(len(buffer)), name).uniform(())
                buffer.copy_(0.1 + 0.1 * drawn if "var" in name else 0.2 * drawn - 0.1)
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)


def opened(folder, teacher=None, data=None, **kwargs):
    return SoftLabels.open(folder, teacher or Counted(), data or split(), **{"padding": 2, **kwargs})


def labels(index, view, seed=0):
    """What some other program might have put: logits that depend on image, view and seed alone."""
    return Noise(seed, index * 1000 + view, "labels").normal((CLASSES,))


def everything(views=50, n=N):
    return torch.arange(n).repeat_interleave(views), torch.arange(views).repeat(n)


def seen(data, epoch, rows=slice(None), padding=2):
    """A batch as the loop sees it: images, labels, index, view."""
    x, y, index = data.batch(rows)
    x, view = crop_flip(x, Noise(0, index, "augment", epoch), padding)
    return x, y, index, view


# --- the table


def test_what_is_put_is_got_and_nothing_else(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.tensor([3, 3, 39, 0]), torch.tensor([0, 49, 49, 7])
    assert not table.get(index, view)[1].any()
    given = labels(index, view)
    assert torch.equal(table.put(index, view, given), given)
    logits, known = table.get(index, view)
    assert known.all()
    assert logits.dtype == torch.float32
    assert torch.equal(logits, given)
    all_known = table.get(*everything())[1]
    assert all_known.sum() == 4
    assert all_known[[150, 199, 1999, 7]].all()


def test_the_layout_is_as_documented(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.tensor([3, 39]), torch.tensor([7, 49])
    table.put(index, view, labels(index, view))
    raw = np.memmap(tmp_path / "t" / "table.bin", "<f4", "r", shape=(N, 50, CLASSES))
    assert np.array_equal(raw[[3, 39], [7, 49]], labels(index, view).numpy())
    assert not raw[5].any()
    assert {p.name for p in (tmp_path / "t").iterdir()} == {
        "identity.yaml", "images.bin", "table.bin", "sums.bin", "lock",
    }  # fmt: skip


def test_the_first_answer_stays(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.arange(4), torch.arange(4)
    first, second = labels(index, view, 1), labels(index, view, 2)
    table.put(index[:2], view[:2], first[:2])
    expected = torch.cat([first[:2], second[2:]])
    assert torch.equal(table.put(index, view, second), expected)
    assert torch.equal(table.get(index, view)[0], expected)


def test_a_table_is_opened_again_and_grows(tmp_path):
    index, view = torch.arange(10), torch.arange(10)
    small = opened(tmp_path / "t", data=split(10))
    small.put(index, view, labels(index, view))
    large = opened(tmp_path / "t")
    assert torch.equal(large.get(index, view)[0], labels(index, view))
    large.put(index + 20, view, labels(index + 20, view))
    again = opened(tmp_path / "t", data=split(10))
    assert again.get(index, view)[1].all()
    assert opened(tmp_path / "t").get(index + 20, view)[1].all(), "a smaller split cut the table short"


def test_a_subset_another_order_and_other_labels_share_the_table(tmp_path):
    index, view = torch.arange(N), torch.zeros(N, dtype=torch.int64)
    opened(tmp_path / "t").put(index, view, labels(index, view))
    data = split()
    relabelled = Split(data.images, (data.labels + 1) % CLASSES, CLASSES, "drawn", "train")
    for other in (data.take([7, 3, 30]), data.take(torch.arange(N - 1, -1, -1)), relabelled):
        table = opened(tmp_path / "t", data=other)
        logits, known = table.get(other.index, torch.zeros(len(other), dtype=torch.int64))
        assert known.all()
        assert torch.equal(logits, labels(other.index, torch.zeros(len(other), dtype=torch.int64)))


def test_float16_halves_the_table_and_rounds_once(tmp_path):
    table = opened(tmp_path / "t", dtype="float16")
    index, view = everything()
    given = labels(index, view)
    rounded = table.put(index, view, given)
    assert torch.equal(rounded, given.half().float())
    assert torch.equal(table.get(index, view)[0], rounded)
    assert (tmp_path / "t" / "table.bin").stat().st_size == N * 50 * CLASSES * 2


@pytest.mark.parametrize(("dtype", "bad"), [("float32", float("nan")), ("float32", float("inf")), ("float16", 1e5)])
def test_what_cannot_be_held_is_given_back_and_not_kept(tmp_path, dtype, bad):
    table = opened(tmp_path / "t", dtype=dtype)
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, bad, 3.0, 4.0]])
    index = torch.tensor([0, 1])
    assert torch.equal(table.put(index, index, given).nan_to_num(nan=-1), given.nan_to_num(nan=-1))
    assert table.get(index, index)[1].tolist() == [True, False]


def test_without_flip_odd_views_take_no_room(tmp_path):
    data = split()
    table = opened(tmp_path / "t", data=data, flip=False)
    assert table.views == 25
    assert (tmp_path / "t" / "table.bin").stat().st_size == N * 25 * CLASSES * 4
    _, view = crop_flip(data.batch(slice(None))[0], Noise(0, data.index), 2, flip=False)
    table.put(data.index, view, labels(data.index, view))
    assert torch.equal(table.get(data.index, view)[0], labels(data.index, view))
    plain = opened(tmp_path / "p", padding=0, flip=False)
    assert plain.views == 1


@pytest.mark.parametrize(("view", "flip"), [(50, True), (-1, True), (50, False), (-2, False)])
def test_a_view_that_is_not_of_this_table_is_refused(tmp_path, view, flip):
    table = opened(tmp_path / "t", flip=flip)
    with pytest.raises(ConfigError, match=f"expected views below 50, got {view}"):
        table.get(torch.tensor([1]), torch.tensor([view]))
    with pytest.raises(ConfigError, match="padding and flip"):
        table.put(torch.tensor([1]), torch.tensor([view]), torch.zeros(1, CLASSES))


# --- whose it is


def changed(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.linear.bias[0] += 1e-7
    return other


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"teacher": changed(Counted())}, "teacher: "),
        ({"dtype": "float16"}, "dtype: float16 here, float32 there"),
        ({"padding": 3}, "padding: 3 here, 2 there"),
        ({"flip": False}, "flip: False here, True there"),
        ({"classes": 5}, "classes: 5 here, 4 there"),
        ({"data": split(size=10)}, "shape: "),
        ({"data": split(seed=1)}, "40 of 40 differ, the first is image 0"),
        ({"data": split(dtype=torch.float32)}, "other images"),
    ],
)
def test_a_table_of_another_is_refused_and_untouched(tmp_path, kwargs, said):
    opened(tmp_path / "t").put(torch.arange(N), torch.arange(N), labels(torch.arange(N), torch.arange(N)))
    before = {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()}
    with pytest.raises(RunError, match=said) as caught:
        opened(tmp_path / "t", **kwargs)
    assert str(caught.value).startswith("expected the soft labels of ")
    assert {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()} == before


def test_one_changed_image_is_enough(tmp_path):
    opened(tmp_path / "t")
    data = split()
    data.images[17, 0, 3, 3] ^= 1
    with pytest.raises(RunError, match=r"1 of 40 differ, the first is image 17"):
        opened(tmp_path / "t", data=data)


def test_one_index_for_two_images_is_refused(tmp_path):
    data = split()
    with pytest.raises(RunError, match="other images"):
        opened(tmp_path / "t", data=Split(data.images, data.labels, CLASSES, "d", "train", index=data.index // 2))
    with pytest.raises(DataError, match="got -1"):
        opened(tmp_path / "u", data=Split(data.images, data.labels, CLASSES, "d", "train", index=data.index - 1))
    with pytest.raises(ConfigError, match="float32 or float16"):
        opened(tmp_path / "u", dtype="bfloat16")
    assert not (tmp_path / "u").exists()


def test_files_from_another_table_say_nothing(tmp_path):
    """A teacher's numbers copied under another's name have the checksums of another table."""
    index, view = everything()
    opened(tmp_path / "a").put(index, view, labels(index, view))
    opened(tmp_path / "b", teacher=changed(Counted()))
    for name in ("table.bin", "sums.bin"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    assert not opened(tmp_path / "b", teacher=changed(Counted())).get(index, view)[1].any()


def test_an_entry_counts_only_in_its_place(tmp_path):
    table = opened(tmp_path / "t")
    index, view = everything()
    table.put(index, view, labels(index, view))
    for name, size in (("table.bin", 4 * CLASSES), ("sums.bin", 4)):
        path = tmp_path / "t" / name
        path.write_bytes(path.read_bytes()[size:] + bytes(size))  # all answers one view too early
    assert not opened(tmp_path / "t").get(index, view)[1].any()


@pytest.mark.parametrize("name", ["table.bin", "sums.bin"])
def test_a_damaged_entry_is_unknown_and_mended(tmp_path, name):
    table = opened(tmp_path / "t")
    index, view = everything()
    table.put(index, view, labels(index, view))
    size = 4 * CLASSES if name == "table.bin" else 4
    with (tmp_path / "t" / name).open("r+b") as file:
        file.seek(1234 * size)
        byte = file.read(1)
        file.seek(1234 * size)
        file.write(bytes([byte[0] ^ 1]))
    known = table.get(index, view)[1]
    assert (~known).nonzero().flatten().tolist() == [1234]
    table.put(index, view, labels(index, view))
    assert torch.equal(table.get(index, view)[0], labels(index, view))
    assert table.get(index, view)[1].all()


@pytest.mark.parametrize("name", ["table.bin", "sums.bin"])
def test_a_file_that_was_cut_short_or_lost_leaves_unknown_entries(tmp_path, name):
    index, view = everything()
    opened(tmp_path / "t").put(index, view, labels(index, view))
    path = tmp_path / "t" / name
    os.truncate(path, path.stat().st_size // 2)
    known = opened(tmp_path / "t").get(index, view)[1]
    assert known[:1000].all()
    assert not known[1000:].any()
    path.unlink()
    assert not opened(tmp_path / "t").get(index, view)[1].any()


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="got the file"):
        opened(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="with other files"):
        opened(tmp_path / "full")
    assert {p.name for p in (tmp_path / "full").iterdir()} <= {"thesis.tex", "lock"}
    with pytest.raises(RunError, match="expected to write"):
        opened(tmp_path / "file" / "below")
    opened(tmp_path / "t")
    (tmp_path / "t" / "identity.yaml").write_text(": : :")
    with pytest.raises(RunError, match="identity"):
        opened(tmp_path / "t")


# --- several processes, and what ends them


def wait(*processes):
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def write_all(folder, seed, path, both):
    table = opened(folder)
    index, view = everything()
    said = torch.empty(len(index), CLASSES)
    both.wait(60)
    for rows in order(seed, "write", 0, torch.arange(len(index))).split(16):
        said[rows] = table.put(index[rows], view[rows], torch.full((len(rows), CLASSES), float(seed)))
    torch.save(said, path)


def race(folder):
    """Two processes write other answers everywhere, and a reader looks on: what each was told, and what is kept."""
    folder.mkdir()
    both, table = FORK.Barrier(3), opened(folder / "t")
    writers = [FORK.Process(target=write_all, args=(folder / "t", s, folder / f"{s}.pt", both)) for s in (1, 2)]
    index, view = everything()
    for writer in writers:
        writer.start()
    both.wait(60)
    met = torch.zeros(len(index))
    while any(w.is_alive() for w in writers):
        logits, known = table.get(index, view)
        assert (logits[known] == logits[known][:, :1]).all(), "a mixture of two writers"
        now = torch.where(known, logits[:, 0], torch.zeros(()))
        assert ((met == 0) | (met == now)).all(), "an answer changed"
        met = now
    wait(*writers)
    final, known = table.get(index, view)
    assert known.all()
    return final, [torch.load(folder / f"{seed}.pt") for seed in (1, 2)]


def test_two_processes_agree_on_who_was_first(tmp_path):
    for number in range(10):
        final, told = race(tmp_path / str(number))
        assert all(torch.equal(said, final) for said in told)
        if len(final.unique()) == 2:
            return
    pytest.fail("each time one of them had done all before the other came: nothing was tested")


def open_one(folder, n, path):
    table = opened(folder, data=split(n))
    index = torch.arange(n)
    table.put(index, index, labels(index, index))
    path.touch()


def test_processes_may_make_a_table_together(tmp_path):
    sizes = [10, N, 20, 30]
    makers = [FORK.Process(target=open_one, args=(tmp_path / "t", n, tmp_path / str(n))) for n in sizes]
    for maker in makers:
        maker.start()
    wait(*makers)
    index = torch.arange(N)
    logits, known = opened(tmp_path / "t").get(index, index)
    assert known.all()
    assert torch.equal(logits, labels(index, index))


def write_for_ever(folder):
    table = opened(folder)
    index, view = everything()
    while True:
        for rows in torch.arange(len(index)).split(50):
            table.put(index[rows], view[rows], labels(index[rows], view[rows]))
        os.truncate(folder / "sums.bin", 0)  # forget all, and begin again
        os.truncate(folder / "sums.bin", len(index) * 4)


def test_a_kill_at_any_moment_leaves_no_wrong_row(tmp_path):
    index, view = everything()
    true = labels(index, view)
    for number in range(6):
        folder = tmp_path / str(number)
        writer = FORK.Process(target=write_for_ever, args=(folder,))
        writer.start()
        while not (folder / "sums.bin").exists() or not any((folder / "sums.bin").read_bytes()):
            time.sleep(0.001)
        time.sleep(0.005 * number)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        table = opened(folder)  # the dead one's lock is free
        logits, known = table.get(index, view)
        assert torch.equal(logits[known], true[known])
        assert torch.equal(table.put(index, view, true), true)
        assert table.get(index, view)[1].all()


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_write_cut_short_anywhere_is_never_believed(tmp_path, monkeypatch, cut):
    table = opened(tmp_path / "t")
    index, view = torch.arange(4), torch.arange(4)
    write, calls = os.pwrite, []

    def half(file, data, place):
        calls.append(place)
        if len(calls) == cut:
            write(file, data[: len(data) // 2], place)
            raise KeyboardInterrupt
        return write(file, data, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(KeyboardInterrupt):
            table.put(index, view, labels(index, view))
    logits, known = table.get(index, view)
    assert known.sum() == (cut - 1) // 2
    assert torch.equal(logits[known], labels(index, view)[known])
    assert torch.equal(table.put(index, view, labels(index, view)), labels(index, view))
    assert torch.equal(table.get(index, view)[0], labels(index, view))


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path, caplog):
    table = opened(tmp_path / "t", dtype="float16")
    index, view = everything()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.WARNING):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            said = table.put(index, view, labels(index, view))
            assert torch.equal(said, labels(index, view).half().float()), "as the table would have said it"
            table.put(index, view, labels(index, view))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [r.message.count("asked live") for r in caplog.records] == [1]
    logits, known = table.get(index, view)
    assert 0 < known.sum() < len(index)
    assert torch.equal(logits[known], said[known])
    with pytest.raises(RunError, match="expected to write"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            opened(tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_folder_that_goes_away_does_not_end_the_run(tmp_path, caplog):
    table = opened(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(table.put(*everything(), labels(*everything())), labels(*everything()))
    assert "asked live" in caplog.text


def rss_anon():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory in use")
def test_neither_memory_nor_disk_holds_what_nobody_has_met(tmp_path):
    data = split()
    far = Split(data.images, data.labels, CLASSES, "far", "train", index=torch.arange(N) * 2500)
    table = opened(tmp_path / "t", data=far, classes=100, padding=4)
    view = torch.zeros(N, dtype=torch.int64)
    before = rss_anon()
    for v in range(160):
        table.put(far.index, view + v, torch.ones(N, 100))
        table.get(far.index, view + v)
    assert rss_anon() - before < 20_000, "KiB of a table of 6 GB"
    assert (tmp_path / "t" / "table.bin").stat().st_size == (39 * 2500 + 1) * 162 * 400
    assert sum(p.stat().st_blocks * 512 for p in (tmp_path / "t").iterdir()) < 50e6


# --- the teacher of a batch


def test_a_first_look_asks_and_a_second_does_not(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    cold = Taught(teacher, table, x, index, view)(x)
    assert teacher.calls == [32, 32]
    assert (cold - TinyNet.forward(teacher, x)).abs().max() < 1e-6
    table.asked, teacher.calls = 1, []
    warm = Taught(teacher, table, x, index, view)(x)
    assert teacher.calls == []
    assert torch.equal(warm, cold)
    assert not warm.requires_grad
    again = opened(tmp_path / "t", teacher, data)
    fetched = again.get(index, view)
    assert torch.equal(Taught(teacher, again, x, index, view, fetched)(x), cold)


def test_an_answer_does_not_depend_on_who_was_missing_with_it(tmp_path):
    """What a kill left, or another run was first to write, changes no bit."""
    data, teacher = split(), Counted()
    x, _, index, view = seen(data, 1)
    whole = Taught(teacher, opened(tmp_path / "a", teacher, data), x, index, view)(x)
    for number, share in enumerate((1, 5, 31, 33)):
        table = opened(tmp_path / f"b{number}", teacher, data)
        rows = order(number, "rows", 0, index)[:share]
        z = x[rows]
        Taught(teacher, table, z, index[rows], view[rows])(z)
        teacher.calls = []
        assert torch.equal(Taught(teacher, table, x, index, view)(x), whole)
        assert set(teacher.calls) == {32}


def test_only_the_missing_rows_are_asked_about(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    table.put(index[:39], view[:39], live(teacher, x, torch.arange(39)))
    table.asked, teacher.calls, asked = 1, [], []
    teacher.register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    Taught(teacher, table, x, index, view)(x)
    assert [torch.equal(z, x[39:].expand(32, -1, -1, -1)) for z in asked] == [True]


def test_anything_but_the_batch_itself_is_live(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    table.put(index, view, torch.full((N, CLASSES), 9.0))  # a table that would be noticed
    taught = Taught(teacher, table, x, index, view)
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
    taught = Taught(teacher.train(), table, x, index, view)
    taught(x)
    assert not table.get(index, view)[1].any()


def test_a_missing_attribute_is_missing(tmp_path):
    taught = Taught(Counted(), opened(tmp_path / "t"), *(seen(split(), 1)[i] for i in (0, 2, 3)))
    assert not hasattr(taught, "nothing")
    assert copy.copy(taught).linear is taught.linear


def test_answers_have_the_images_dtype(tmp_path):
    data, teacher = split(), Counted().double()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    x = x.double()
    answer = Taught(teacher, table, x, index, view)(x)
    assert answer.dtype == torch.float64
    assert (answer - teacher(x)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_spot_check_passes_what_is_right(tmp_path, dtype):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data, dtype=dtype)
    x, _, index, view = seen(data, 1)
    taught = Taught(teacher, table, x, index, view)
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
        Taught(teacher, table, x, index, view)(x)


def test_a_spot_check_lets_rounding_pass(tmp_path):
    data, teacher = split(), Counted()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    near = live(teacher, x, torch.arange(N)) * (1 + 3e-5)
    table.put(index, view, near)
    assert torch.equal(Taught(teacher, table, x, index, view)(x), near)


def test_a_net_of_the_same_weights_that_answers_otherwise_is_found(tmp_path):
    class Louder(Counted):
        def head(self, features):
            return 2 * super().head(features)

    data, louder = split(), Counted()
    x, _, index, view = seen(data, 1)
    Taught(Counted(), opened(tmp_path / "t", Counted(), data), x, index, view)(x)
    with pytest.raises(RunError, match="made for another .net: "):
        opened(tmp_path / "t", Louder(), data)
    louder.head = lambda features: 2 * Counted.head(louder, features)  # what no name tells
    with pytest.raises(CheckpointError, match="32 of 32"):
        Taught(louder, opened(tmp_path / "t", louder, data), x, index, view)(x)


# --- runs


METHODS = {
    "rslad": RSLAD(attack=PGD(Linf(0.1), steps=2, start="gaussian")),
    "iad": IAD(begin=1, attack=PGD(Linf(0.1), steps=2)),
    "variance_gap": VarianceGap(attack=PGD(Linf(0.1), steps=2, start="gaussian")),
}


def trained(method, table, teacher, epochs=2, batch=16):
    """A few epochs as the loop does them: the student's weights and all losses."""
    data, student = split(), TinyNet(1, CLASSES, 8, 3).train()
    method = copy.deepcopy(method)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, data.batch(slice(0, batch))[0])
    optimiser, losses = make_optimiser(student, method, Recipe(lr=0.05)), []
    with freeze(teacher):
        for epoch in range(1, epochs + 1):
            for rows in order(0, "order", epoch, data.index).split(batch):
                x, y, index, view = seen(data, epoch, rows)
                taught = teacher if table is None else Taught(teacher, table, x, index, view)
                noise = Noise(0, index, "method", epoch)
                losses += step(student, taught, method, optimiser, x, y, epoch=epoch, noise=noise).values()
    return [p.detach().clone() for p in student.parameters()], torch.stack(losses)


@pytest.mark.parametrize("name", METHODS)
def test_runs_with_a_table_are_equal_to_the_last_bit(tmp_path, name):
    teacher, method = Counted(), METHODS[name]
    plain = trained(method, None, teacher)
    teacher.calls = []
    cold = trained(method, opened(tmp_path / "t", teacher), teacher)
    if name == "rslad":
        assert set(teacher.calls) == {32}
        teacher.calls = []
    table = opened(tmp_path / "t", teacher)
    table.asked = 1
    warm = trained(method, table, teacher)
    if name == "rslad":
        assert teacher.calls == [], "a second run never asks about clean images"
    again = trained(method, opened(tmp_path / "t", teacher), teacher)
    for run in (cold, again):
        assert torch.equal(run[1], warm[1])
        assert all(map(torch.equal, run[0], warm[0]))
    assert (warm[1] - plain[1]).abs().max() < 1e-5, "after six steps; a step alone is below"


def test_a_step_with_a_warm_table_is_the_live_one(tmp_path):
    data, teacher, student = split(), Counted(), TinyNet(1, CLASSES, 8, 3).eval()
    table = opened(tmp_path / "t", teacher, data)
    x, _, index, view = seen(data, 1)
    taught = Taught(teacher, table, x, index, view)
    taught(x)
    assert (kl(taught(x), student(x)) - kl(teacher(x), student(x))).abs().max() < 1e-6


# --- what it costs


def test_views_met_are_those_measured():
    met = [views_met(epochs, 162) for epochs in (30, 100, 200, 300)]
    assert [round(m) for m in met] == [27, 75, 115, 137]
    drawn = [len(set(Noise(0, torch.tensor([i]), "v").integers(162, (100,))[0].tolist())) for i in range(200)]
    assert abs(sum(drawn) / 200 - met[1]) < 1.5


def test_what_a_table_saves():
    found = saving(Recipe(epochs=300), 50_000, 10)
    assert (found.views, round(found.cold, 3), found.warm) == (162, 0.544, 1.0)
    assert found.size == 50_000 * (162 * (40 + 4) + 8)
    assert saving(Recipe(epochs=300), 50_000, 10, "float16").size == 162_000_000 + 162 * 50_000 * 4 + 400_000
    assert saving(Recipe(epochs=10, augment="none"), 100, 10).cold == pytest.approx(0.9)
    assert saving(Recipe(epochs=10, augment="crop", padding=1), 100, 10).views == 9
    assert saving(Recipe(epochs=1), 100, 10).cold == pytest.approx(0)


def test_the_size_said_is_the_size_on_disk(tmp_path):
    recipe = Recipe(padding=2)
    opened(tmp_path / "t", dtype="float16")
    sizes = [(tmp_path / "t" / f"{name}.bin").stat().st_size for name in ("table", "sums", "images")]
    assert sum(sizes) == saving(recipe, N, CLASSES, "float16").size


def test_what_can_be_kept():
    assert [enumerable(Recipe(augment=a)) for a in ("crop-flip", "crop", "none")] == [None] * 3
    assert "augment cutmix" in enumerable(SimpleNamespace(augment="cutmix"))
    assert crop_of(Recipe()) == (4, True)
    assert crop_of(Recipe(augment="crop", padding=2)) == (2, False)
    assert crop_of(Recipe(augment="none")) == (0, False)


def test_the_system_without_locks_is_told(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args):
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match="file locks"):
        opened(tmp_path / "t")


def test_the_chunk_belongs_to_the_identity(tmp_path, monkeypatch):
    opened(tmp_path / "t")
    monkeypatch.setattr(tables, "CHUNK", 16)
    with pytest.raises(RunError, match="chunk: 16 here, 32 there"):
        opened(tmp_path / "t")


def test_a_net_without_parameters_may_teach(tmp_path):
    assert opened(tmp_path / "t", nn.Flatten()).identity["device"] == "cpu"
