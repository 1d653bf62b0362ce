"""Write the generated pages of the site: the API from the docstrings, the commands from their own help."""

from __future__ import annotations

import importlib
import inspect
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ardor.cli.main import COMMANDS, main

MODULES = {
    "ardor": "The names that one types first.",
    "ardor.attacks": "Attacks and threats.",
    "ardor.attacks.suites": "Suites of attacks by name.",
    "ardor.methods": "The training methods.",
    "ardor.models": "Nets, and nets with weights by name.",
    "ardor.data": "Data sets as splits.",
    "ardor.data.images": "What can stand in place of a tensor of images.",
    "ardor.losses": "Losses per example.",
    "ardor.noise": "Random numbers per image.",
    "ardor.engine": "The net as an attack sees it.",
    "ardor.training": "The loop, its recipe and averages.",
    "ardor.training.optimisers": "Optimisers.",
    "ardor.training.soft_labels": "Cached soft labels.",
    "ardor.training.trackers": "TensorBoard, W&B and MLflow.",
    "ardor.training.job": "A run from a configuration.",
    "ardor.training.cost": "What a run costs.",
    "ardor.evaluation": "Verdicts and reports.",
    "ardor.evaluation.proportion": "Accuracies with their intervals.",
    "ardor.evaluation.comparison": "Two nets on the same images.",
    "ardor.evaluation.comparison.wording": "A comparison in words.",
    "ardor.diagnostics": "What can make a robust accuracy wrong.",
    "ardor.diagnostics.data": "Checks of a data set.",
    "ardor.diagnostics.record": "The record of a net.",
    "ardor.diagnostics.teacher": "The teacher gate.",
    "ardor.deployment.export": "Files for devices.",
    "ardor.deployment.variants": "Float32, ONNX and INT8 side by side.",
    "ardor.deployment.hub": "The Hugging Face Hub.",
    "ardor.reporting": "The HTML page.",
    "ardor.experiments": "Tables, studies and sweeps.",
    "ardor.testing": "The contracts of an attack and a method.",
    "ardor.types": "The shapes of methods and attacks.",
    "ardor.errors": "Every error.",
}
"""The public modules with what they are about, in the order of the reference."""

WIDTH = 84


def write_pages(reference: Path) -> None:
    """Write reference/api/ and reference/commands/, each with an index."""
    described: dict[int, str] = {}
    for module, about in MODULES.items():
        _write(reference / "api" / f"{module}.rst", api_page(module, about, described))
    _write(reference / "api" / "index.md", index("API", "Generated from the docstrings.", MODULES, str))
    for command, about in COMMANDS.items():
        _write(reference / "commands" / f"{_file(command)}.md", command_page(command, about))
    text = "What `ardor COMMAND --help-all` prints."
    _write(reference / "commands" / "index.md", index("Commands", text, COMMANDS, _file, "ardor "))


def _file(command: str) -> str:
    return command.replace(" ", "_")


def _write(path: Path, text: str) -> None:
    """Write a page where it differs: Sphinx reads only what has changed."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def index(title: str, text: str, rows: Mapping[str, str], file: Any, prefix: str = "") -> str:
    """A page with a row for each generated one."""
    suffix = "rst" if title == "API" else "md"
    table = "".join(f"| [`{prefix}{name}`]({file(name)}.{suffix}) | {about} |\n" for name, about in rows.items())
    tree = "\n".join(f"{name.removeprefix('ardor.')} <{file(name)}>" for name in rows)  # short, for the sidebar
    return f"# {title}\n\n{text}\n\n| | |\n|---|---|\n{table}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def api_page(name: str, about: str, described: dict[int, str]) -> str:
    """A table of a module's public names, then each with its docstring, unless an earlier page has it."""
    module = importlib.import_module(name)
    public = {each: getattr(module, each) for each in public_names(name)}
    public = {each: value for each, value in public.items() if not inspect.ismodule(value)}
    own = {each: value for each, value in public.items() if described.setdefault(id(value), name) == name}
    rows = "".join(f"   ~{described[id(value)]}.{each}\n" for each, value in public.items())
    return f"{name}\n{'=' * len(name)}\n\n{about}\n\n.. autosummary::\n   :nosignatures:\n\n{rows}\n" + "".join(
        f".. auto{kind(value)}:: {name}.{each}\n{members(value)}\n" for each, value in own.items()
    )


def public_names(name: str) -> list[str]:
    """`__all__`, or the names without an underscore that the module defines."""
    module = importlib.import_module(name)
    defined = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == name and n[0] != "_"}
    if name == "ardor.errors":
        return [n for n, v in defined.items() if inspect.isclass(v)]
    return list(getattr(module, "__all__", defined))


def kind(value: Any) -> str:
    """The word of the autodoc directive."""
    if inspect.isclass(value):
        return "exception" if issubclass(value, Exception) else "class"
    return "function" if inspect.isroutine(value) else "data"


def members(value: Any) -> str:
    """The option that adds methods and attributes."""
    return "   :members:\n" if inspect.isclass(value) else ""


def command_page(command: str, about: str) -> str:
    """What `ardor COMMAND --help-all` prints."""
    os.environ["COLUMNS"], os.environ["NO_COLOR"] = str(WIDTH), "1"
    shown = io.StringIO()
    with redirect_stdout(shown):
        main([*command.split(), "--help-all"])
    lines = "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())
    return f"# `ardor {command}`\n\n{about}\n\n```text\n{lines}\n```\n"
