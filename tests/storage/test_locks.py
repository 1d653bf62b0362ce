"""Lock files: one holder among threads, processes and forks; a dead one's is free."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from ardor.errors import RunError
from ardor.storage.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from ardor.storage.locks import locked
with locked(Path(sys.argv[1]), wait=False) as mine:
    print(mine, flush=True)
    time.sleep(100 if mine else 0)
"""


def other(path):
    """Another process that tries to hold `path`, and whether it does."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    return child, child.stdout.readline() == "True\n"


def test_another_process_holds_one_file_alone_until_it_is_killed(tmp_path):
    path = tmp_path / "new" / "a.lock"
    child, holds = other(path)
    try:
        assert holds
        with locked(path, wait=False) as mine, locked(tmp_path / "new" / "b.lock", wait=False) as free:
            assert (mine, free) == (False, True)
        waited = []
        thread = threading.Thread(target=lambda: waited.append(locked(path).__enter__()), daemon=True)
        thread.start()
        time.sleep(0.2)
        assert not waited
    finally:
        child.kill()
        child.wait()
    thread.join(20)
    assert waited == [True]


def test_a_held_file_is_refused_to_others_and_free_afterwards(tmp_path):
    path = tmp_path / "a.lock"
    with pytest.raises(KeyError), locked(path) as mine:
        assert mine
        assert not other(path)[1]
        with locked(path, wait=False) as again:  # a lock of this process is no lock of both
            assert not again
        raise KeyError
    with locked(path, wait=False) as mine:
        assert mine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is none")
def test_a_fork_does_not_outlive_the_holder(tmp_path):
    """A worker that was forked meanwhile holds nothing once its parent was killed."""
    read, write = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            with locked(tmp_path / "a.lock"):
                worker = os.fork()
                if worker:
                    os.write(write, str(worker).encode())
                time.sleep(100)
        finally:
            os._exit(0)
    worker = int(os.read(read, 20))
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        with locked(tmp_path / "a.lock", wait=False) as mine:
            assert mine
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def without(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    with (
        pytest.raises(RunError, match=f"expected a file system with locks for .*, got {os.strerror(number)}: name a"),
        locked(tmp_path / "a.lock"),
    ):
        raise AssertionError("held")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="expected to write"), locked(tmp_path / "file" / "a.lock"):
        raise AssertionError("held")


def test_a_wait_is_reported_with_the_process_that_is_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ardor.storage.locks.FIRST", 0.1)
    path = tmp_path / "a.lock"
    child, _ = other(path)
    threading.Timer(1.0, child.kill).start()
    with locked(path) as mine:
        assert mine
    child.wait()
    assert len(caplog.messages) == 1, "once a minute"
    assert caplog.messages[0].startswith(
        f"waiting for {path}, held by process {child.pid} on {platform.node()} since 20"
    )


def test_a_file_system_without_locks_is_no_reason_to_stop_where_none_is_required(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", without)
    with locked(tmp_path / "a.lock", wait=False, required=False) as mine:
        assert mine
    assert "a second process there would not be refused" in caplog.text
