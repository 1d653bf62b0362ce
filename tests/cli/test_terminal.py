"""Nothing that a file, a server or a user names reaches the terminal as a command to it, or whole."""

import io
import logging
import re

import pytest

from ardor.cli import display
from ardor.cli.main import main
from ardor.cli.terminal import Terminal, plain_logs
from ardor.errors import printable

HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\rd\x9b2Je\u202ef\x08g\u200bh\udc80i"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTILE, "abcd2Jefgh?i"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("one\ntwo\tthree é ★ → 数", "one\ntwo\tthree é ★ → 数"),
        ("x\u2028y\x85z\x00", "xyz"),
        ("\x1b", ""),
        ("", ""),
    ],
)
def test_control_characters_are_taken_out(text, expected):
    assert printable(text) == expected


def test_long_names_and_lines_are_cut_in_the_middle():
    assert printable("n" * 10**6 + " end") == "n" * 137 + "… (1,000,000 characters) …" + "n" * 137 + " end"
    cut = printable("a b " * 300_000 + "type --force")
    assert len(cut) <= 4000
    assert cut.endswith("type --force")
    assert printable("short\n" * 5000) == "short\n" * 5000, "many lines are no long line"


def test_a_console_prints_clean_texts_and_keeps_its_own_styles():
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, color_system="standard", width=5000)
    console.print(f"[bold]{HOSTILE}[/bold]")
    assert "\x1b[1m" in file.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) == "abcd2Jefgh?i\n"


def test_every_console_of_the_commands_is_a_terminal(request):
    assert {type(display.out), type(display.err)} == {Terminal}
    for path in (request.config.rootpath / "ardor" / "cli").rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"(?<![\w.])(Console|print)\(", path.read_text()), path


def test_results_errors_progress_and_logs_are_clean(capsys):
    display.say(HOSTILE)
    assert main(["evaluate", f"{HOSTILE}/{'n' * 10**6}"]) == 2
    assert main(["--debug", HOSTILE]) == 2
    with plain_logs():
        logging.lastResort.handle(logging.LogRecord("x", logging.WARNING, "f", 1, HOSTILE, (), None))
    shown = capsys.readouterr()
    for text in shown:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u200b]", text)
        assert text
    assert len(shown.err) < 20_000


def test_a_bar_shows_a_name_as_it_is(monkeypatch):
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, width=300)
    monkeypatch.setattr(display, "err", console)
    monkeypatch.setattr(display.sys, "stderr", type("Tty", (), {"isatty": lambda self: True})())
    with display.progress(f"[red]run{HOSTILE}", 3) as move:
        move(1, f"[bold]{HOSTILE}")
    text = file.getvalue()
    assert "[red]runa" in text
    assert "[bold]a" in text
    assert not re.search(r"\x1b\]|\x1b\[31m|\r[a-z]|\x9b|\u202e", text)
