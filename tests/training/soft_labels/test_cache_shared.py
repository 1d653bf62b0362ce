"""A table of soft labels under several processes, a kill at any moment and a full disk."""

import logging
import multiprocessing
import os
import resource
import signal
import time

import pytest
import torch

from ardor.data.split import Split
from ardor.errors import RunError
from ardor.noise import order
from tests.training.soft_labels.conftest import CLASSES, N, everything, labels, opened, split

FORK = multiprocessing.get_context("fork")


# --- several processes, and what ends them


def wait(*processes):
    for process in processes:
        process.join()
        assert process.exitcode == 0


def write_all(folder, seed, path, both):
    table = opened(folder)
    index, view = everything()
    said = torch.empty(len(index), CLASSES)
    both.wait()
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
    both.wait()
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
    assert [r.message.count("computes every batch") for r in caplog.records] == [1]
    logits, known = table.get(index, view)
    assert 0 < known.sum() < len(index)
    assert torch.equal(logits[known], said[known])
    with pytest.raises(RunError, match="expected to write"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            opened(tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_table_that_is_cut_short_meanwhile_is_reported_and_filled_again(tmp_path, caplog):
    """A memory map of it would end the process by SIGBUS."""
    table = opened(tmp_path / "t")
    index, view = everything()
    true = table.put(index, view, labels(index, view))
    for name in ("table.bin", "sums.bin"):
        os.truncate(tmp_path / "t" / name, 5000)
    logits, known = table.get(index, view)
    assert 0 < known.sum() < len(index)
    assert torch.equal(logits[known], true[known])
    assert [record.message.count("was cut short") for record in caplog.records] == [1]
    assert torch.equal(table.put(index, view, true), true)
    assert table.get(index, view)[1].all()


def test_a_folder_that_goes_away_does_not_end_the_run(tmp_path, caplog):
    table = opened(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(table.put(*everything(), labels(*everything())), labels(*everything()))
    assert "computes every batch" in caplog.text


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
