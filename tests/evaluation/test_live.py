"""Progress that is shown without being requested: on a terminal and in a notebook, and nowhere else."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

import ardor
from ardor.attacks import suites
from ardor.errors import ConfigError
from ardor.evaluation import live
from ardor.evaluation.live import Line, clear, cleared, shown
from ardor.evaluation.progress import Progress, line_of
from ardor.training.epoch import Pace, StepProgress
from tests.conftest import splits


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # pytest sets the streams themselves again before each test
    streams = SimpleNamespace(stderr=stream, stdout=Terminal(), modules=sys.modules)
    monkeypatch.setattr(live, "sys", streams)
    monkeypatch.setattr(live, "EVERY", 0.0)
    return stream


@pytest.fixture
def kernel(monkeypatch):
    """What IPython displays in a kernel: a list of the states of each place."""
    places = []

    def display(content, *, raw, display_id):
        assert raw
        assert display_id is True
        places.append([content["text/plain"]])
        states = places[-1]
        return SimpleNamespace(update=lambda content, raw: states.append(content["text/plain"]))

    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(live, "EVERY", 0.0)
    return places


def visible(text):
    """What a terminal shows after a text without line feeds."""
    line = ""
    for part in text.split("\r"):
        line = part + line[len(part) :]
    return line.rstrip()


def train(progress=True, epochs=2, **options):
    data, _ = splits(80, 8)
    net = ardor.models.build("small_cnn", classes=4, width=2)
    recipe = ardor.Recipe(epochs=epochs, batch=4, augment="none", device="cpu", lr=0.01)
    return ardor.epochs(net, None, ardor.methods.Natural(), data, recipe, progress=progress, **options)


def judge(progress=True):
    _, test = splits(8, 32)
    net = ardor.models.build("small_cnn", classes=4, width=2)
    return ardor.evaluate(net, test, suites.quick(ardor.Linf(0.1)), batch=8, progress=progress)


def test_a_terminal_shows_a_line_and_has_none_when_a_record_comes(terminal):
    for record in train():
        assert f"epoch {record.epoch}/2, step 10/20, loss" in terminal.getvalue()
        assert visible(terminal.getvalue()) == ""
    judge()
    assert re.search(r"clean: \d+ %, 32/32 images", terminal.getvalue())
    assert re.search(r"pgd_10: 100 %, (\d+)/\1 images", terminal.getvalue())
    assert visible(terminal.getvalue()) == ""
    assert "\n" not in terminal.getvalue()


def test_a_notebook_shows_one_place_for_a_call(kernel, capfd):
    list(train())
    assert len(kernel) == 1
    assert any("epoch 1/2, step 10/20" in state for state in kernel[0])
    assert kernel[0][-1] == ""
    judge()
    assert len(kernel) == 2
    assert kernel[1][-1] == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [False, None])
def test_false_silences(progress, terminal, kernel):
    list(train(progress))
    judge(progress)
    assert terminal.getvalue() == ""
    assert kernel == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_script_in_a_pipe_shows_nothing(stream, terminal, monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(live.sys, stream, pipe)
    list(train())
    judge()
    assert terminal.getvalue() == ""
    assert pipe.getvalue() == ""


def test_streams_that_are_missing_or_closed(terminal, monkeypatch):
    closed = io.StringIO()  # its isatty raises ValueError
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(live.sys, "stderr", stream)
        assert shown(True, str) is None


def test_ipython_on_a_terminal_is_a_terminal(terminal, monkeypatch):
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    shown(True, str)("here")
    assert visible(terminal.getvalue()) == "here"


def test_only_the_first_process_shows_it(terminal, monkeypatch):
    monkeypatch.setattr(live.distributed, "rank", lambda: 1)
    assert shown(True, str) is None


def test_a_function_gets_the_events_and_nothing_is_shown(terminal):
    events = []
    list(train(events.append))
    assert [event.step for event in events] == [10, 20, 10, 20]
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("call", [train, judge])
@pytest.mark.parametrize("progress", ["yes", 1, "tqdm"])
def test_bad_input(call, progress):
    with pytest.raises(ConfigError, match="expected progress of (epochs|evaluate) as a function or True or False"):
        list(call(progress))


def test_a_line_is_cleared_after_an_error_and_control_characters_do_not_pass(terminal):
    line = shown(True, lambda event: f"\x1b[31m{event}\x07")
    with pytest.raises(ZeroDivisionError), cleared(line):
        line("half")
        assert visible(terminal.getvalue()) == "half"
        assert "\x1b" not in terminal.getvalue()
        raise ZeroDivisionError
    assert visible(terminal.getvalue()) == ""


def test_a_shorter_line_leaves_nothing_of_a_longer_one_and_a_long_one_is_cut(terminal, monkeypatch):
    monkeypatch.setattr(live.shutil, "get_terminal_size", lambda: SimpleNamespace(columns=20))
    line = shown(True, str)
    line("a" * 50)
    assert visible(terminal.getvalue()) == "a" * 19
    line("b")
    assert visible(terminal.getvalue()) == "b"


def test_a_line_changes_five_times_a_second_at_most(monkeypatch):
    states, now = [], [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    line = Line(str, SimpleNamespace(put=states.append))
    for i in range(30):
        now[0] = i / 16
        line(i)
    assert states == [str(i) for i in range(0, 30, 4)]
    clear(line)
    line(99)
    assert states[-2:] == ["", "99"]


def test_what_a_caller_of_the_command_sees_is_not_doubled(terminal, tmp_path):
    """`ardor train` and `ardor demo` have a display of their own."""
    from ardor.demo.demo import jobs
    from ardor.demo.work import train_epochs

    list(train_epochs(jobs(tmp_path, ["natural"], [0], quick=True)[-1]))
    assert terminal.getvalue() == ""


def test_the_pace_counts_from_this_process_and_the_lines_have_units():
    now = [0.0]
    pace = Pace(lambda: now[0])
    now[0] = 10.0
    event = StepProgress(6, 10, 5, 10, 1234.5, {"clean": 0.5, "robust": 0.75})
    assert pace(event) == "epoch 6/10, step 5/10, loss 1.2500, 1,234 images/s, 90 s left".replace("90 s", "2 min")
    inside = Pace(lambda: now[0])
    now[0] = 20.0
    event = StepProgress(1, 2, 8, 10, 1.0, {}, earlier=6)
    assert inside(event).endswith("images/s, 60 s left")  # ten seconds for two steps, twelve to come
    progress = Progress("apgd_t", 2, 9, 64, 128, 0.5, 0.25, 90.0)
    assert line_of(progress) == "apgd_t 2/9: 25 %, 64/128 images, 50.00 % robust so far, at most 2 min left"
    assert "left" not in line_of(Progress("fgsm", 1, 1, 1, 2, 0.5, 0.25, None))
