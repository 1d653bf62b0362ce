"""The board that a terminal shows, and the plain lines elsewhere."""

import io
import os
import pty
import threading

import pytest
from rich.console import Console

from ardor.cli import display
from ardor.evaluation.progress import Progress
from ardor.training.epoch import StepProgress
from tests.training.trackers.conftest import epoch, finish


@pytest.fixture
def run(tmp_path):
    return tmp_path / "rslad"


# The board


def shown(board):
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None, soft_wrap=True)
    console.print(board)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_board_with_epochs_alone(run):
    clock = iter([0.0, 60.0, 120.0, 180.0]).__next__
    board = display.Board(4, str(run), clock)
    [head] = shown(board)
    assert head.startswith(f"{run}  epoch 1/4")
    assert "left" not in head
    board.update(epoch(1, best=True))
    head, loss, val = shown(board)
    assert "epoch 2/4" in head
    assert head.endswith("3 min left")
    assert loss == "loss 0.7500  kl 0.5000  ce 0.2500"
    assert val == "val 71.0 clean 41.0 robust at epoch 1  best 71.0 clean 41.0 robust at epoch 1"
    board.update(epoch(2))
    assert shown(board)[2] == "val 72.0 clean 42.0 robust at epoch 2  best 71.0 clean 41.0 robust at epoch 1"
    board.update(epoch(3, val=False))
    assert shown(board)[2].startswith("val 72.0 clean 42.0 robust at epoch 2")
    board.update(epoch(4, val=False))
    assert "epoch 4/4" in shown(draw_at(board, 240.0))[0]


def draw_at(board, now):
    board._clock = lambda: now
    return board


def test_the_board_with_steps(run):
    board = display.Board(4, str(run), lambda: 0.0)
    board.update(StepProgress(1, 4, 5, 10, 1234.4, {"kl": 1.0, "ce": 0.5}))
    head, loss = shown(draw_at(board, 30.0))
    assert "epoch 1/4" in head
    assert head.endswith("step 5/10  4 min left")  # 210 s
    assert loss == "loss 1.5000  kl 1.0000  ce 0.5000  1234 images/s"
    board.update(epoch(1))
    assert "step 5" not in shown(board)[0]
    assert "1234 images/s" in shown(board)[1]


def test_the_board_of_a_run_that_goes_on(run):
    finish(run, epoch(1, best=True))
    finish(run, epoch(2))
    board = display.Board(4, str(run), lambda: 0.0)
    head, val = shown(board)
    assert "epoch 3/4" in head
    assert val == "val 72.0 clean 42.0 robust at epoch 2  best 71.0 clean 41.0 robust at epoch 1"
    board.update(StepProgress(3, 4, 1, 2, 10, {"kl": 1.0}))
    assert shown(draw_at(board, 20.0))[0].endswith("60 s left"), "at the pace of this process, not of all epochs"


def test_the_pace_of_a_run_that_goes_on_inside_an_epoch(run):
    board = display.Board(4, str(run), lambda: 0.0)
    board.update(StepProgress(1, 4, 90, 100, 10, {"kl": 1.0}, earlier=80))
    assert shown(draw_at(board, 10.0))[0].endswith("5 min left"), "310 s: ten of its own steps took 10 s"


def test_off_a_terminal_a_plain_line_per_epoch(run, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(display, "err", Console(file=file, highlight=False, soft_wrap=True))
    records = [epoch(1, best=True), epoch(2)]
    with display.watching(4, str(run)) as show:
        for record in records:
            show(record)
    assert file.getvalue() == "".join(f"{record}\n" for record in records)
    assert file.getvalue().startswith(
        "epoch 1/4  loss 0.7500  kl 0.5000  ce 0.2500  val 71.0 clean 41.0 robust *  lr 0.1"
    )
    file.truncate(0)
    with display.watching(4, str(run), quiet=True) as tell:
        tell(epoch(1))
        tell(StepProgress(1, 4, 5, 10, 1.0, {"kl": 1.0}))
    assert file.getvalue().strip("\0") == ""
    monkeypatch.setattr(display, "err", Console(file=file, force_terminal=True))  # FORCE_COLOR into a file, say
    with display.watching(4, str(run)) as tell:
        tell(StepProgress(1, 4, 5, 10, 1.0, {"kl": 1.0}))
    assert file.getvalue().strip("\0") == ""


def test_on_a_terminal_the_board_is_drawn_and_goes(run, monkeypatch):
    ours, theirs = pty.openpty()
    seen = []
    reader = threading.Thread(target=lambda: seen.append(read_all(ours)))
    reader.start()
    with os.fdopen(theirs, "w") as file:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(display, "err", Console(file=file, highlight=False, soft_wrap=True, width=100))
        with display.watching(4, "runs/x") as tell:
            tell(StepProgress(1, 4, 5, 10, 1234.4, {"kl": 1.0}))
            tell(epoch(1, best=True))
    reader.join()
    text = seen[0].decode()
    assert "runs/x" in text
    assert "images/s" in text
    assert "epoch 1/4  loss 0.7500  kl 0.5000  ce 0.2500  val 71.0 clean 41.0 robust *  lr 0.1  2.0 s" in text
    assert text.rstrip().endswith("\x1b[2K"), "the board itself does not stay"


def read_all(end):
    read = b""
    while True:
        try:
            part = os.read(end, 4096)
        except OSError:
            part = b""
        if not part:
            return read
        read += part


# Lines where standard error is no terminal


@pytest.fixture
def lines(monkeypatch):
    """The lines on a standard error that is no terminal; `next` waits for one that fits."""
    read, written = os.pipe()
    with open(read) as lines, open(written, "w", buffering=1) as stream:
        monkeypatch.setattr(display, "err", Console(file=stream, highlight=False, soft_wrap=True))
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(display, "INTERVAL", 0.001)
        yield lambda word: next(line for line in lines if word in line)


def test_a_part_that_takes_long_shows_lines_off_a_terminal(lines):
    with display.progress("plan", 3) as move:
        assert lines("plan").startswith("plan: 0 %")
        move(1, "steps")
        assert lines("steps").startswith("plan: 33 %, steps, 0 s so far")


def test_an_evaluation_shows_lines_off_a_terminal(lines):
    with display.evaluation() as show:
        assert lines("evaluation: 0 %")
        show(Progress("PGD-20", 1, 1, 30, 60, 0.45, 0.4, None))
        assert "30/60 images" in lines("PGD-20")


def test_training_shows_lines_inside_an_epoch_off_a_terminal(lines, run):
    with display.watching(4, str(run)) as show:
        assert "epoch 1/4" in lines(str(run))
        show(StepProgress(2, 4, 5, 10, 1234.4, {"kl": 1.0}))
        assert "step 5/10" in lines("epoch 2/4")


def test_a_quiet_process_starts_no_lines(lines):
    before = threading.active_count()
    with display.progress("x", 1), display.evaluation(quiet=True), display.watching(1, "r", quiet=True):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
