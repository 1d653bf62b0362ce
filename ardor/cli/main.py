"""The shell: one visible table from word to command, and every refusal as one sentence with exit code 2."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from ardor.cli.commands import bench, compare, demo, deploy, doctor, evaluate, export, gate, plan, push, report, train
from ardor.cli.options import SPELLING
from ardor.engine.threads import restored
from ardor.errors import ArdorError
from ardor.version import __version__

COMMANDS: dict[str, Callable[[Sequence[str]], App]] = {
    "demo": demo.app,
    "train": train.app,
    "plan": plan.app,
    "evaluate": evaluate.app,
    "doctor": doctor.app,
    "gate": gate.app,
    "compare": compare.app,
    "bench": bench.app,
    "report": report.app,
    "export": export.app,
    "deploy": deploy.app,
    "push": push.app,
}

HELP = """From a robust teacher to a small model whose robustness is proven.

Start with `ardor demo`; then `ardor gate TEACHER`, `ardor plan RECIPE`, `ardor train RECIPE`, `ardor doctor RUN`,
`ardor evaluate RUN`, `ardor compare RUN RUN`, `ardor report RUN...`, `ardor export RUN`, `ardor deploy RUN`,
`ardor push RUN OWNER/NAME`; `ardor bench TABLE` makes the papers' tables. Numbers may be written 8/255. A method, net
or data set of your own is `file.py:Name`: nothing is registered. `--debug` adds an error's traceback.
"""

INTERRUPTED = 130  # what a shell expects of a program that was stopped by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the words of a command line; return the exit code: 0, 2 for a refusal, 130 for Ctrl-C."""
    words = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return run(words)
    except (ArdorError, CycloptsError) as error:
        if debug:
            traceback.print_exc()
        sentence = " ".join(str(error).split())
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"ardor: {sentence}", markup=False)
        return 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"ardor: expected this to work, got {cause}: type the same with --debug to see where", markup=False
        )
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("\nardor: stopped; what was finished is kept, and the same command goes on with it.")
        return INTERRUPTED


def run(words: Sequence[str]) -> int:
    """Find the command and run it with what follows its name. Raises ArdorError and CycloptsError."""
    shell = App(
        "ardor",
        help=HELP,
        version=__version__,
        result_action="return_value",
        default_parameter=SPELLING,
        suppress_keyboard_interrupt=False,  # Ctrl-C is answered by `main`, with what to do next
    )
    for name, make in COMMANDS.items():
        shell.command(make(words[1:] if words[:1] == [name] else ()))
    with restored():
        code = shell(words, exit_on_error=False, print_error=False)
    return code if isinstance(code, int) else 0


def _underscored(word: str) -> str:
    """--val-every is --val_every; values stay as they are."""
    if not word.startswith("--"):
        return word
    key, equals, value = word[2:].partition("=")
    return f"--{key.replace('-', '_')}{equals}{value}"


if __name__ == "__main__":
    sys.exit(main())
