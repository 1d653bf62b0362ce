"""The journal: no verdict is lost or computed twice, after any interruption and in any number of processes."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading

import numpy as np
import pytest
import torch

from ardor.errors import RunError
from ardor.evaluation.journal import Batch, BatchVerdict, Journal
from tests.conftest import fail
from tests.evaluation.conftest import IDENTITY, batches, entry_of, run_stage


def test_every_batch_is_computed_once_and_read_afterwards(tmp_path):
    first, done = run_stage(tmp_path / "j")
    assert done == [0, 1, 2, 3]
    assert all(fresh for _, fresh in first)
    again, none = run_stage(tmp_path / "j")
    assert none == []
    assert [e for e, _ in again] == [e for e, _ in first]
    assert not any(fresh for _, fresh in again)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries, done = run_stage(None)
    assert len(entries) == 4
    assert done == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_only_added_to(tmp_path):
    path = tmp_path / "j" / "journal.jsonl"
    run_stage(tmp_path / "j", count=2)
    before = path.read_bytes()
    run_stage(tmp_path / "j", count=4)
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_that_a_kill_cut_short_is_done_again(tmp_path, cut):
    complete, _ = run_stage(tmp_path / "j")
    path = tmp_path / "j" / "journal.jsonl"
    text = path.read_bytes()
    path.write_bytes(text[:-cut])
    again, done = run_stage(tmp_path / "j")
    assert done == [3]
    assert [e for e, _ in again] == [e for e, _ in complete]
    assert path.read_bytes() == text  # the torn end is gone, not left in the middle


def test_a_damaged_line_is_ignored(tmp_path, caplog):
    run_stage(tmp_path / "j")
    path = tmp_path / "j" / "journal.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"rbr"', '"rrr"')  # a flipped bit that is still JSON
    path.write_text("\n".join(lines) + "\n")
    again, done = run_stage(tmp_path / "j")
    assert done == [1]
    assert again[1][0].letters == "rbr"
    assert "damaged line" in caplog.text


def test_another_identity_is_refused_and_nothing_is_touched(tmp_path):
    run_stage(tmp_path / "j")
    before = {p.name: p.read_bytes() for p in (tmp_path / "j").iterdir()}
    other = {"model": {"hash": "b"}, "seed": 0}
    with pytest.raises(RunError, match="model.hash: b here, a there.*pass journal="):
        run_stage(tmp_path / "j", identity=other)
    assert {p.name: p.read_bytes() for p in (tmp_path / "j").iterdir()} == before


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="with other files"):
        run_stage(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_kill_while_the_folder_was_made_is_harmless(tmp_path):
    (tmp_path / "claims.lock").touch()
    (tmp_path / ".identity.yaml.1.tmp").write_text("half")
    assert run_stage(tmp_path)[1] == [0, 1, 2, 3]


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="expected to write"):
        run_stage(tmp_path / "file" / "j")


def test_work_that_fails_leaves_its_batch_to_others(tmp_path):
    def fail(batch):
        if batch.number == 1:
            raise KeyboardInterrupt
        return entry_of("apgd/0", batch), None

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "j", work=fail)
    assert run_stage(tmp_path / "j")[1] == [1, 2, 3]


def test_a_full_disk_leaves_the_journal_whole(tmp_path):
    """A limit on the size of a file, in a process of its own: the system refuses the line half way."""
    run_stage(tmp_path / "j", count=2)
    before = (tmp_path / "j" / "journal.jsonl").read_bytes()
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path / "j", len(before) + 40))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert (tmp_path / "j" / "journal.jsonl").read_bytes().startswith(before)
    _, done = run_stage(tmp_path / "j")
    assert done == [2, 3]
    lines = (tmp_path / "j" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["entry"]["number"] for line in lines] == [0, 1, 2, 3]


def _fill(folder, size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        run_stage(folder)
    except RunError as error:
        os._exit(7 if "expected to write" in str(error) and "free space" in str(error) else 8)
    os._exit(9)


@pytest.mark.parametrize(("what", "least"), [("write", 3), ("fsync", 15), ("replace", 5)])
def test_each_write_and_renaming_of_a_journal_may_fail(tmp_path, monkeypatch, what, least):
    """The images of a batch too; the same call again ends as if nothing had."""

    def whole(folder):
        work = lambda batch: (entry_of("apgd/0", batch), np.ones((1, 1, 2, 2), np.float32))  # noqa: E731
        with Journal.open(folder, IDENTITY, images=True) as book:
            return sorted(entry.number for _, entry, _ in book.complete("apgd/0", batches(), work))

    with monkeypatch.context() as patch:
        calls = fail(patch, what, 0, None)
        assert whole(tmp_path / "whole") == [0, 1, 2, 3]
    assert calls[0] >= least
    for number in range(1, calls[0] + 1):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(RunError, match="expected to write"):
            fail(patch, what, number, OSError(errno.ENOSPC, "No space left on device"))
            whole(folder)
        assert whole(folder) == [0, 1, 2, 3]
        assert len((folder / "journal.jsonl").read_text().splitlines()) == 4
        assert not list(folder.rglob("*.tmp"))


def _share(folder, out, all_started):
    done = []

    def work(batch):
        if not done:
            all_started.wait(600)  # each has a batch of its own
        done.append(batch.number)
        return entry_of("apgd/0", batch), None

    entries, _ = run_stage(folder, work=work, count=20)
    out.put((done, [e.letters for e, _ in entries]))


def test_three_processes_share_and_never_compute_the_same(tmp_path):
    context = multiprocessing.get_context("fork")
    out, all_started = context.Queue(), context.Barrier(3)
    children = [context.Process(target=_share, args=(tmp_path / "j", out, all_started)) for _ in range(3)]
    for child in children:
        child.start()
    results = [out.get(timeout=600) for _ in children]
    for child in children:
        child.join()
    assert sorted(number for done, _ in results for number in done) == list(range(20))
    assert all(done for done, _ in results)
    assert all(letters == results[0][1] for _, letters in results)


def _hang(folder, ready):
    def work(batch):
        ready.put(batch.number)
        signal.pause()

    run_stage(folder, work=work)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_wait_for_anothers_batch_is_reported_with_its_process(tmp_path, monkeypatch, caplog, stopped):
    monkeypatch.setattr("ardor.storage.locks.FIRST", 0.3)
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    child = context.Process(target=_hang, args=(tmp_path / "j", ready))
    child.start()
    assert ready.get(timeout=600) == 0
    if stopped:
        os.kill(child.pid, signal.SIGSTOP)
    threading.Timer(1.5, child.kill).start()
    _, done = run_stage(tmp_path / "j")
    child.join()
    assert sorted(done) == [0, 1, 2, 3]
    assert len(caplog.messages) == 1, "once a minute"
    assert f"waiting for batch 0 of apgd/0 in {tmp_path / 'j'}, taken by process {child.pid} on " in caplog.text


@pytest.mark.parametrize("again", [False, True])
def test_a_journal_that_is_deleted_or_replaced_gets_no_verdicts(tmp_path, again):
    def work(batch):
        if batch.number == 1:
            shutil.rmtree(tmp_path / "j")
            if again:
                run_stage_elsewhere()
        return entry_of("apgd/0", batch), None

    def run_stage_elsewhere():
        run_stage(tmp_path / "other", identity={"model": {"hash": "b"}, "seed": 0})
        (tmp_path / "other").rename(tmp_path / "j")

    with pytest.raises(RunError, match="deleted, moved or replaced"):
        run_stage(tmp_path / "j", work=work)
    if again:
        assert len((tmp_path / "j" / "journal.jsonl").read_text().splitlines()) == 4, "its own"


def test_the_file_of_a_long_names_images_can_be_written(tmp_path):
    stage = f"{'/é' * 300}/0"
    entry = BatchVerdict(stage, 0, [0], "b")
    images = np.zeros((1, 1, 2, 2), np.float32)
    for _ in range(2):
        with Journal.open(tmp_path / "j", IDENTITY, images=True) as book:
            list(book.complete(stage, [Batch(0, torch.arange(1), [0])], lambda batch: (entry, images)))
            assert book.images_of(stage, 0).shape == images.shape


def test_a_dead_process_frees_its_batch(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    child = context.Process(target=_hang, args=(tmp_path / "j", ready))
    child.start()
    assert ready.get(timeout=600) == 0
    with Journal.open(tmp_path / "j", IDENTITY) as book:
        work = lambda batch: (entry_of("apgd/0", batch), None)  # noqa: E731
        rows = book.complete("apgd/0", batches(), work)
        assert sorted(next(rows)[0].number for _ in range(3)) == [1, 2, 3]
        child.kill()
        child.join()
        assert next(rows)[0].number == 0
        assert list(rows) == []
