"""The `ardor` command: one table from word to command; every refusal is one sentence with exit code 2."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from ardor.cli.words import require_parts, split_words
from ardor.errors import ArdorError, ConfigError
from ardor.storage.imports import nearest
from ardor.version import __version__

COMMANDS = {
    "demo": "Train and attack a teacher and small students on handwritten digits, and write one page.",
    "train": "Train a student, from a teacher where the method has one, and keep the run in a folder.",
    "plan": "The cost of `ardor train` with the same words: passes, hours, memory.",
    "evaluate": "Attack a net on every test image: accuracies with 95 % intervals.",
    "doctor": "Look for what makes a net's robust accuracy wrong.",
    "gate": "Measure a teacher against its record before it is distilled from.",
    "compare": "Compare two nets image by image, with McNemar's test and intervals.",
    "bench": "Make a table of the papers or a study: ours beside theirs.",
    "report": "Write one HTML page about evaluated runs.",
    "export": "Write a net to a file for a device, compared with the net first.",
    "deploy": "Compare float32, ONNX and INT8 of a run: size, latency, robustness.",
    "push": "Write a run as a folder for the Hugging Face Hub, and upload it.",
}
"""The commands, in the order of the help; each is the function of that name in cli/commands/, imported when named."""

HELP = """From a robust teacher to a small model whose robustness is proven.

Start with `ardor demo`; then `ardor gate TEACHER`, `ardor plan RECIPE`, `ardor train RECIPE`, `ardor doctor RUN`,
`ardor evaluate RUN`, `ardor compare RUN RUN`, `ardor report RUN...`, `ardor export RUN`, `ardor deploy RUN`,
`ardor push RUN OWNER/NAME`; `ardor bench TABLE` makes the papers' tables. Numbers may be written 8/255. A method, net
or data set of your own is `file.py:Name`: nothing is registered. `--debug` adds an error's traceback.
"""

INTERRUPTED = 130
"""The exit code that a shell expects after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the words of a command line; return the exit code: 0, 2 for a refusal, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return run([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        stderr.print("\nardor: stopped; what was finished is kept, and the same command continues from it.")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        text = " ".join(str(error).split())
        if not isinstance(error, ArdorError | CycloptsError):
            text = f"internal error, {type(error).__name__}: {text}: type the same with --debug for the traceback"
        stderr.print(f"ardor: {text}", markup=False)
        return 2


def run(words: Sequence[str]) -> int:
    """Parse the words and call the command that they name. Raises ArdorError and CycloptsError."""
    command, bound = parse(words)
    if not words or words[0] not in COMMANDS:
        command(*bound.args, **bound.kwargs)
        return 0
    from ardor.cli.options import print_options  # here, for both import torch
    from ardor.engine.threads import restored

    with restored():
        code = command(*bound.args, **bound.kwargs)
    if command.__name__ == "help_print":
        arguments: dict[str, Any] = {}
        with suppress(CycloptsError):  # a word may be missing where help is requested
            arguments = parse([word for word in words if word not in ("--help", "-h")])[1].arguments
        print_options(words[0], arguments)
    return code if isinstance(code, int) else 0


def parse(words: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The function that the words call, and its arguments. Raises ConfigError and CycloptsError."""
    name = words[0] if words else "--help"
    if not name.startswith("-") and name not in COMMANDS:  # before a command is imported
        near = nearest(name, COMMANDS)
        raise ConfigError(f'expected a command, got "{name}"{near}: type one of {", ".join(COMMANDS)}')
    plain, overrides = split_words(words)
    require_parts(name, overrides)
    shell = App(
        "ardor",
        help=HELP,
        version=__version__,
        result_action="return_value",
        default_parameter=Parameter(name_transform=lambda name: name, negative="", consume_multiple=True),
        suppress_keyboard_interrupt=False,
    )
    for number, (word, text) in enumerate(COMMANDS.items()):
        function = f"ardor.cli.commands.{word}:{word}"
        shell.command(function, name=word, help=None if word == name else text, sort_key=number)
    command, bound, unparsed = shell.parse_args(plain, exit_on_error=False, print_error=False)
    if "overrides" in unparsed:
        bound.arguments["overrides"] = overrides
    return command, bound


if __name__ == "__main__":
    sys.exit(main())
