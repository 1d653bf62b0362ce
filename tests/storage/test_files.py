"""A file is replaced whole or not at all, whatever stops the writing."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch

from ardor.cli.main import main
from ardor.errors import CheckpointError, ConfigError, RunError
from ardor.models import build
from ardor.models.reading import read
from ardor.storage import files
from ardor.storage.config import read_yaml
from ardor.storage.files import remove, shortened, temporary_beside, write_atomic, write_text
from ardor.storage.tensors import read_tensors, write_tensors

DIES = """
import os, signal, sys
from pathlib import Path
from ardor.storage.files import write_atomic
write_atomic(Path(sys.argv[1]), lambda path: (path.write_text("half"), os.kill(os.getpid(), signal.SIGKILL)))
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "file.json"
    for text in ("one", "two"):
        assert write_text(path, text) == path
        assert path.read_text() == text
    assert names(path.parent) == ["file.json"]


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left"), RunError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_write_that_stops_half_way_leaves_what_was_there(tmp_path, error, raised):
    path = tmp_path / "file.json"
    path.write_text("before")

    def half(temporary):
        temporary.write_text("aft")
        raise error

    with pytest.raises(raised):
        write_atomic(path, half)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_call_of_the_system_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = write_text(tmp_path / "file.json", "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"expected to write .*file\.json, got No space left"):
        write_text(path, "after")
    assert (names(tmp_path), path.read_text()) == (["file.json"], "before")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*name another folder"):
        write_text(tmp_path / "file" / "below.json", "x")
    with pytest.raises(RunError, match="File name too long"):
        write_text(tmp_path / ("n" * 300) / "below.json", "x")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be flushed")
def test_the_folder_is_flushed_after_the_renaming_and_a_new_ones_parent(tmp_path, monkeypatch):
    done, real = [], {"fsync": os.fsync, "replace": os.replace}

    def fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self/fd") else "")
        real["fsync"](descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), real["replace"](*names)))
    write_text(tmp_path / "new" / "file.json", "x")
    assert [text for text in done if not text.endswith(".tmp")] == [str(tmp_path), "replace", str(tmp_path / "new")]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_and_texts_have_the_rights_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "w.safetensors", {}, {})
        write_text(tmp_path / "t.json", "x")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


def test_a_file_without_permission_is_refused_with_that_reason(tmp_path, monkeypatch):
    for name in ("w.safetensors", "c.yaml"):
        (tmp_path / name).write_text("x")

    def denied(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: Permission denied"):
        read_tensors(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: Permission denied"):
        read(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"c\.yaml: Permission denied"):
        read_yaml(tmp_path / "c.yaml")


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path):
    (tmp_path / ".mine.tmp").write_text("of no process of ours")
    ours = temporary_beside(tmp_path / "other.json")
    ours.write_text("still being written")
    died = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "a.json")], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 3
    write_text(tmp_path / "b.json", "x")
    assert names(tmp_path) == sorted([".mine.tmp", ours.name, "b.json"])


def test_of_another_machine_only_what_is_a_day_old_is_removed(tmp_path):
    other = re.sub(r"ardor-[0-9a-f]{8}", "ardor-00000000", temporary_beside(tmp_path / "a.json").name)
    (tmp_path / other).write_text("x")
    write_text(tmp_path / "b.json", "x")
    assert names(tmp_path) == sorted([other, "b.json"])
    os.utime(tmp_path / other, (time.time() - 2 * files.DAY,) * 2)
    write_text(tmp_path / "b.json", "x")
    assert names(tmp_path) == ["b.json"]


@pytest.mark.parametrize("text", ["x" * 4000, "é" * 203, "画" * 300, "..", "-x" * 200, "\udcff" * 300])
def test_a_name_is_cut_to_what_file_systems_take_and_stays_distinct(tmp_path, text):
    one, other = shortened(f"{text}a.json"), shortened(f"{text}b.json")
    assert one != other
    assert one[0] in (text[0], "~")  # undecodable bytes are left out
    assert one.endswith(".json")
    for name in (one, other):
        write_text(tmp_path / name, "x")  # its temporary name is longer, and cut too
    assert shortened("short.json") == "short.json"
    remove(tmp_path / one)
    assert names(tmp_path) == [other]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr("ardor.cli.commands.evaluate.judge", None)  # a call of it would be another error
    words = ["--model", "small_cnn", "--weights", str(tmp_path / "w.safetensors"), "--data", "digits"]
    write_tensors(tmp_path / "w.safetensors", build("small_cnn", channels=1).state_dict(), {})
    assert main(["evaluate", *words, "--suite", "quick", "--out", str(tmp_path / "deep/er/r.json")]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    tensors = {"a": torch.arange(3), "é": torch.ones(2, 2)}
    words = {name: f'"{name} ü' for name in ("net", "epoch", "val_robust", "kind", "x")}
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        write_tensors(path, tensors, words)
    assert len({path.read_bytes() for path in paths}) == 1
    read, metadata = read_tensors(paths[0])
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert {name: metadata[name] for name in words} == words
