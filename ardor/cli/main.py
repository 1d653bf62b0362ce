"""The `ardor` command: one table from word to command; every refusal is one sentence with exit code 2.

Only modules that are loaded at once are imported here; the others inside `main`, where Ctrl-C ends without a traceback.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ardor.cli.sentences import in_words_of, sentence, signals

if TYPE_CHECKING:
    import inspect

SECTIONS = {
    "Start": {
        "demo": "Train and attack a teacher and small students on handwritten digits, and write one page.",
        "models": "List the trained nets that come with ardor; the leaderboard.",
    },
    "Data": {
        "data check": "Look over images before hours are spent on them: damage, sizes, classes, duplicates.",
        "data prepare": "Write a folder of images once as a store of raw pixels, which needs no decoding.",
        "data filter": "Keep the generated images of which a net is most confident.",
    },
    "Train": {
        "gate": "Measure a teacher against its record before it is distilled from.",
        "teachers rank": "Measure several teachers on the same images, side by side.",
        "plan": "The cost of `ardor train` with the same words: passes, hours, memory.",
        "train": "Train a student, from a teacher where the method has one, and keep the run in a folder.",
        "sweep": "Train a recipe with options that vary, and compare on validation images.",
        "runs": "List runs with their state, best figures and next step.",
    },
    "Judge": {
        "evaluate": "Attack a net on every test image: accuracies with 95 % intervals.",
        "check": "Compare an evaluated run with bounds, for continuous integration: by exit code.",
        "doctor": "Look for what makes a net's robust accuracy wrong.",
        "compare": "Compare two nets image by image, with McNemar's test and intervals.",
        "report": "Write one HTML page about evaluated runs.",
        "bench": "Make a table of the papers or a study: ours beside theirs.",
    },
    "Ship": {
        "export": "Write a net to a file for a device, compared with the net first.",
        "deploy": "Compare float32, ONNX and INT8 of a run: size, latency, robustness.",
        "push": "Write a run as a folder for the Hugging Face Hub, and upload it.",
    },
}
"""The commands by what one does, in the order of the help; each is the function of that name in cli/commands/, imported
when named: two words are the module and the function in it."""

COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}

GROUPS = {
    "data": "Check a data set, and prepare it for training.",
    "teachers": "Compare teachers before one is distilled from.",
}
"""The first of two words, and its own help."""

HELP = "From a robust teacher to a small model whose robustness is measured."

KEPT = {
    **dict.fromkeys(
        ("demo", "train", "bench", "sweep", "deploy", "data prepare"),
        "what was finished is kept, and the same command continues from it",
    ),
    "evaluate": "verdicts in a journal are kept, and the same command continues from them",
}
"""What Ctrl-C leaves of a command; nothing of the others."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the words of a command line.

    Returns
    -------
    int
        The exit code: 0, 2 for a refusal, 128 and the signal's number where one stopped the command: 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = command_of(words)
    with _printable(), signals() as received:
        try:
            return in_words_of(command, run, [word for word in words if word != "--debug"])
        except KeyboardInterrupt:
            received.append(signal.SIGINT)  # raised without a signal
        except Exception as error:
            if not received:  # else an error that a library raised in place of the interruption
                return in_words_of(command, _refuse, error, "--debug" in words)
        by = "" if received[0] == signal.SIGINT else f" by {signal.Signals(received[0]).name}"
        kept = f"; {KEPT[command]}" if command in KEPT else ""
        sys.stderr.write(f"\nardor: stopped{by}{kept}.\n")
        return 128 + received[0]


def command_of(words: Sequence[str]) -> str:
    """The command that a command line begins with, of one word or two; "" where there is none."""
    return next((name for n in (2, 1) if (name := " ".join(words[:n])) in COMMANDS), "")


@contextmanager
def _printable() -> Iterator[None]:
    """Characters that standard output cannot encode are replaced: a run's name must not fail a finished command."""
    stream: Any = sys.stdout
    errors = getattr(stream, "errors", None)
    if errors != "strict" or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


def _refuse(error: Exception, debug: bool) -> int:
    """Write an error as one sentence."""
    import traceback

    from ardor.cli.terminal import Terminal

    stderr = Terminal(stderr=True, highlight=False, soft_wrap=True)
    if debug:
        stderr.print(traceback.format_exc(), markup=False)
    stderr.print(f"ardor: {sentence(error)}", markup=False)
    return 2


def run(words: Sequence[str]) -> int:
    """Parse the words and call the command that they name. Raises ArdorError and CycloptsError."""
    from cyclopts import CycloptsError

    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("--help", "-h", "--help-all"):
        from ardor.cli.help import print_commands

        print_commands(HELP, SECTIONS)
        return 0
    words = [word.replace("_", "-") if word.startswith("--help") else word for word in words]
    words = ["--help" if word == "-h" else word for word in words]
    command = command_of(words)
    if command and words[len(command.split()) :] == ["--help"]:
        from ardor.cli.help import print_first

        print_first(command)
        return 0
    words = ["--help" if word == "--help-all" else word for word in words]
    function, bound = parse(words)
    if not command:
        function(*bound.args, **bound.kwargs)
        return 0
    from ardor.cli.options import print_options  # here, for both import torch
    from ardor.engine.threads import restored

    with restored():
        code = function(*bound.args, **bound.kwargs)
    if function.__name__ == "help_print":
        arguments: dict[str, Any] = {}
        with suppress(CycloptsError):  # a word may be missing where help is requested
            arguments = parse([word for word in words if word not in ("--help", "-h")])[1].arguments
        print_options(command, arguments)
    return code if isinstance(code, int) else 0


def parse(words: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The function that the words call, and its arguments. Raises ConfigError and CycloptsError."""
    from cyclopts import App, Parameter

    from ardor.cli.words import require_parts, require_present, split_words
    from ardor.version import __version__

    command = command_of(words)
    if words and not command and not words[0].startswith("-"):  # before a command is imported
        _require_group(words)
    completable: Callable[[str], Callable[..., int]] | None = None
    if words and words[0].replace("_", "-") == "--install-completion":
        from ardor.cli import completion  # imports all commands

        completable = completion.completable
    plain, overrides = split_words(words) if command else (list(words) or ["--help"], {})
    require_parts(command, overrides)
    require_present(command, plain)
    shell = App(
        "ardor",
        help=HELP,
        version=__version__,
        result_action="return_value",
        default_parameter=Parameter(name_transform=lambda name: name, negative="", consume_multiple=True),
        suppress_keyboard_interrupt=False,
    )
    groups = {name: App(name, help=text, sort_key=len(COMMANDS)) for name, text in GROUPS.items()}
    for number, (name, text) in enumerate(COMMANDS.items()):
        group, _, word = name.rpartition(" ")
        function = completable(name) if completable else f"ardor.cli.commands.{group or word}:{word}"
        groups.get(group, shell).command(function, name=word, help=None if name == command else text, sort_key=number)
    for app in groups.values():
        shell.command(app)
    shell.register_install_completion_command(help="Complete the words of ardor in this shell from now on.")
    called, bound, unparsed = shell.parse_args(plain, exit_on_error=False, print_error=False)
    if "overrides" in unparsed:
        bound.arguments["overrides"] = overrides
    return called, bound


def _require_group(words: Sequence[str]) -> None:
    """Refuse words that begin with no command, but for a group's alone or with --help. Raises ConfigError."""
    from ardor.errors import ConfigError
    from ardor.storage.imports import nearest

    if words[0] in GROUPS and (len(words) == 1 or words[1].startswith("-")):
        return
    got = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    raise ConfigError(f'expected a command, got "{got}"{nearest(got, COMMANDS)}: type one of {", ".join(COMMANDS)}')


if __name__ == "__main__":
    sys.exit(main())
