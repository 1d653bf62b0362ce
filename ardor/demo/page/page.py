"""Putting the page together: nets, digits, runtime and scripts in one file that opens offline.

What is shown is in page.html and in three scripts: digit.js brings a drawing to the form of the data, search.js looks
for the worst perturbation, page.js is the page. A policy in the page lets nothing else run and nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from ardor import models
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.demo.page.npm import VERSION, Runtime
from ardor.demo.page.shown import Shown, fooled, shown
from ardor.deployment.export import export
from ardor.deployment.export.onnx_session import Session
from ardor.errors import ArdorError
from ardor.evaluation.report import Report
from ardor.models import hash_of
from ardor.storage.files import write_atomic
from ardor.storage.runs import Run

SCRIPTS = ("digit.js", "search.js", "page.js")


@dataclass(frozen=True)
class Student:
    """A net of the page. title: what it is called there. onnx: its float32 file. report: what it withstood."""

    title: str
    says: str
    net: nn.Module
    onnx: bytes
    report: Report


def student_of(run: Path, title: str, says: str, report: Report, test: Split, threat: Linf) -> Student:
    """The best net of a run. Its ONNX file is taken where it is of the same weights, else a new export is made.

    Raises what `models.load` and `export` raise.
    """
    net = models.load(run)
    return Student(title, says, net, _kept(Run(run).exported(), net) or _exported(net, report, test, threat), report)


def write(
    path: Path,
    students: Sequence[Student],
    test: Split,
    threat: Linf,
    runtime: Runtime,
    *,
    intro: str,
    notes: Sequence[str],
) -> Path:
    """Write the page for two or more students on 8x8 digits, the undefended one first.

    threat: what they were trained and judged under, where the slider stands at first; it goes half as far again. The
    same arguments give the same bytes. Raises RunError where the file cannot be written.
    """
    from jinja2 import Environment, StrictUndefined  # here, for a page is rare
    from markupsafe import Markup

    digits = shown([student.net for student in students], test, threat)
    styles = _text("reporting", "style.css") + _text("demo.page", "style.css")
    own = "\n".join(["'use strict';", *(_text("demo.page", name) for name in SCRIPTS)])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_text("demo.page", "page.html")).render(
        policy=_policy([runtime.script, own], styles),
        style=Markup(styles),
        runtime=Markup(runtime.script),
        own=Markup(own),
        glue=_packed(runtime.glue.encode()),
        wasm=_packed(runtime.wasm),
        data=_data(students, digits, threat),
        students=[_row(student) for student in students],
        digits=digits,
        intro=intro,
        notes=notes,
        eps=threat.eps,
        far=_far(threat),
        version=VERSION,
    )
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _kept(path: Path, net: nn.Module) -> bytes | None:
    """The file of an earlier export, if it is whole, float32 and of these weights."""
    if not path.is_file():
        return None
    try:
        said = Session(path, threads=1).metadata
    except ArdorError:
        return None
    return path.read_bytes() if (said.get("to"), said.get("weights")) == ("onnx", hash_of(net)) else None


def _exported(net: nn.Module, report: Report, test: Split, threat: Linf) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = export(net, Path(folder) / "net.onnx", check=test, threat=threat, reports=[report])
        return made.path.read_bytes()


def _text(room: str, name: str) -> str:
    return files(f"ardor.{room}").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """Content-Security-Policy: these scripts and this style by hash; glue and wasm as blobs of the page's own."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts)} blob: 'wasm-unsafe-eval'",
            f"style-src {_hash(style)}",
            "connect-src blob:",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(content: bytes) -> str:
    """Gzip in base64: a third of the size, and the browser undoes both."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _data(students: Sequence[Student], digits: Sequence[Shown], threat: Linf) -> dict[str, Any]:
    """What the scripts read, as JSON."""
    return {
        "eps": threat.eps,
        "far": _far(threat),
        "first": _telling(students, digits),
        "nets": [{"title": s.title, "onnx": base64.b64encode(s.onnx).decode()} for s in students],
        "digits": [
            {
                "label": d.label,
                "image": [round(v, 6) for v in d.clean.flatten().tolist()],
                "worst": [[round(v, 6) for v in image.flatten().tolist()] for image in d.worst],
            }
            for d in digits
        ],
    }


def _telling(students: Sequence[Student], digits: Sequence[Shown]) -> int:
    """Which digit the page opens with: the first on which the first net falls and the last stands, if there is one."""
    for k, digit in enumerate(digits):
        first, last = (bool(fooled(students[i].net, digit, i)) for i in (0, -1))
        if first and not last:
            return k
    return 0


def _far(threat: Linf) -> float:
    """The end of the slider; without the digits that only binary fractions have."""
    return round(1.5 * threat.eps, 6)


def _row(student: Student) -> dict[str, Any]:
    clean, worst = student.report.clean, student.report.worst_case
    return {
        "title": student.title,
        "says": student.says,
        "parameters": f"{student.report.model['parameters']:,}",
        "n": clean.n,
        "clean": f"{100 * clean.value:.1f}",
        "worst": f"{100 * worst.value:.1f}",
        "spread": [f"{100 * p.interval[0]:.1f} – {100 * p.interval[1]:.1f}" for p in (clean, worst)],
    }
