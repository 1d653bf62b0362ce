"""Cells in the order of their needs: what a failed one stops, and who may make what beside whom."""

import dataclasses
import os
import signal
from functools import partial

import pytest

from ardor.cli.main import main
from ardor.errors import ConfigError, ModelError, RunError
from ardor.experiments import make_only, work
from ardor.experiments.cells import note_of, state_of
from ardor.experiments.coordinator import coordinating
from ardor.experiments.worker import make
from ardor.storage.locks import locked
from tests.experiments.conftest import ROW, bench, contents, table_in

TEACHER, NATURAL, RSLAD = "teacher-sat/s0", "natural-resnet18/s0", "rslad-resnet18/s0"


class Stub:
    """An engine that makes nothing: what each cell becomes is given."""

    def __init__(self, slots, **becomes):
        self.slots, self.becomes = slots, becomes
        self.running, self.most, self.order = [], 0, []

    def start(self, table, cell, progress):
        self.running.append(cell)
        self.most = max(self.most, len(self.running))

    def wait(self):
        cell = self.running.pop()
        self.order.append(cell.name)
        return cell, *self.becomes.get(cell.name.partition("-")[0], ("done", ""))


def silent(cell, event):
    pass


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_cell_comes_after_what_it_needs_and_no_more_are_made_at_once_than_fit(tmp_path, slots):
    engine, finished = Stub(slots), []
    assert work(table_in(tmp_path), silent, lambda cell: finished.append(cell.name), engine) == []
    assert sorted(finished) == [NATURAL, RSLAD, TEACHER]
    assert engine.order == finished
    assert finished.index(RSLAD) > finished.index(TEACHER)
    assert engine.most == min(slots, 2)


def test_a_failed_cell_stops_only_those_that_need_it(tmp_path):
    engine, finished = Stub(2, teacher=("failed", "no reason")), []
    problems = work(table_in(tmp_path), silent, lambda cell: finished.append(cell.name), engine)
    assert {p.cell.name: p.reason for p in problems} == {TEACHER: "no reason", RSLAD: f"it needs {TEACHER}"}
    assert finished == [NATURAL]


def broken(name):
    """A table in which the method of one cell is a user's that fails in its own way."""

    def change(table):
        cells = tuple(
            dataclasses.replace(c, config={**c.config, "method": {"name": f"{os.getcwd()}/mine.py:Mine"}})
            if c.name == name
            else c
            for c in table.cells
        )
        return dataclasses.replace(table, cells=cells)

    return change


def test_an_error_in_code_of_the_users_is_that_cells_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Mine:\n"
        "    needs_teacher = False\n"
        "    def terms(self, student, teacher, x, y, *, epoch, noise):\n"
        "        return {}[epoch]\n"
    )
    table, events = broken(NATURAL)(table_in(tmp_path / "bench")), []
    table = dataclasses.replace(table, cells=tuple(c for c in table.cells if c.name == NATURAL))
    (problem,) = work(table, lambda cell, event: events.append(event))
    assert problem.reason == "KeyError: 1"
    assert "return {}[epoch]" in "".join(event for event in events if isinstance(event, str))


# One coordinator


def test_a_second_coordinator_is_refused_and_nothing_is_written(copy, capsys):
    note = copy / "cells" / f"{NATURAL}.yaml"
    note.unlink()
    before = contents(copy)
    with coordinating(copy):
        assert bench("whitebox-digits", *ROW, out=copy) == 2
        error = capsys.readouterr().err
        assert f"expected to make the cells of {copy} alone, got process {os.getpid()} on " in error
        assert "--on ray" in error
    assert contents(copy) == before


def test_a_refused_coordinator_leaves_the_folder_free(copy):
    with coordinating(copy), pytest.raises(RunError, match="alone"), coordinating(copy):
        pass
    with coordinating(copy):
        pass


# --only


def only(copy, *names):
    return main(["bench", "whitebox-digits", *ROW, "--scale", "smoke", "--out", str(copy), "--only", *names])


def unmake(folder, *names):
    """Take one report of each cell, so that little is to be made."""
    for name in names:
        (folder / "cells" / name / "report-paper-linf-0.2-best-limit64.json").unlink()


def test_only_makes_that_cell_beside_a_coordinator(copy, capsys):
    unmake(copy, NATURAL, TEACHER)
    with coordinating(copy):
        assert only(copy, NATURAL) == 0
    table = table_in(copy)
    states = {cell.name: state_of(table.spec, cell)[0] for cell in table.cells}
    assert states == {TEACHER: "trained", NATURAL: "done", RSLAD: "done"}
    assert f"{NATURAL} finished" in capsys.readouterr().out


def test_only_is_refused_without_what_it_needs(copy, capsys):
    (copy / "cells" / f"{TEACHER}.yaml").unlink()
    assert only(copy, RSLAD) == 2
    error = capsys.readouterr().err
    assert f"expected {TEACHER} to be finished, which {RSLAD} needs, got foreign: type --only {TEACHER} first" in error


def test_the_same_cell_twice_is_refused_and_another_is_not(copy, capsys):
    unmake(copy, NATURAL, RSLAD)
    table = table_in(copy)
    lock = copy / "cells" / f"{NATURAL}.lock"
    with locked(lock):
        with pytest.raises(RunError, match=f"expected to make {NATURAL} alone, got process {os.getpid()}"):
            make_only(table, [NATURAL], silent)
        make_only(table, [RSLAD], silent)
    make_only(table, [NATURAL], silent)


def test_only_with_another_name_lists_the_cells_and_makes_none(copy):
    unmake(copy, NATURAL)
    before = contents(copy)
    with pytest.raises(
        ConfigError, match=r'got "natral-resnet18/s0" \(did you mean "natural-resnet18/s0"\?\)'
    ) as caught:
        make_only(table_in(copy), [NATURAL, "natral-resnet18/s0"], silent)
    assert all(name in str(caught.value) for name in (TEACHER, NATURAL, RSLAD))
    assert contents(copy) == before


def test_only_a_cell_that_cannot_be_made_is_refused(copy):
    (copy / "cells" / f"{NATURAL}.yaml").unlink()
    with pytest.raises(ModelError, match="got it foreign"):
        make_only(table_in(copy), [NATURAL], silent)


def test_a_cell_of_a_dying_process_is_waited_for(copy):
    """As the workers of a coordinator that was killed may live a moment longer."""
    unmake(copy, NATURAL)
    table = table_in(copy)
    cell = next(c for c in table.cells if c.name == NATURAL)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(note_of(table.spec, cell).with_suffix(".lock")):
            os.write(write, b"1")
            signal.pause()
    assert os.read(read, 1) == b"1"
    again = partial(make, table, cell, silent)
    assert again(wait=False)[0] == "open"
    assert again(wait=False)[1].startswith(f"process {child} on ")
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    assert again() == ("done", "")
    os.waitpid(child, 0)
