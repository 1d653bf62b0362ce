"""The page to draw on: nets, digits, runtime and scripts in one file that opens offline.

Its layout is in page.html and its behaviour in three scripts: digit.js converts a drawing to the form of the data,
search.js searches the worst perturbation, page.js is the rest.
The page's Content-Security-Policy bars any other script and any request.
"""

from __future__ import annotations

import base64
import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ardor import models
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.demo.page.npm import VERSION, Runtime
from ardor.demo.page.shown import Shown, fooled, shown
from ardor.deployment.export import export
from ardor.deployment.export.formats import exported_from
from ardor.deployment.export.onnx_session import Session
from ardor.errors import ArdorError
from ardor.evaluation.report import Report
from ardor.reporting.template import package_text, render
from ardor.storage.files import write_text
from ardor.storage.runs import Run

PACKAGE = "ardor.demo.page"
SCRIPTS = ("digit.js", "search.js", "page.js")


@dataclass(frozen=True)
class Student:
    """A net of the page.

    Parameters
    ----------
    title, says : its name on the page, and a line below it.
    net, onnx : the net, and its float32 ONNX file.
    report : on the net, for the table of accuracies.
    """

    title: str
    says: str
    net: nn.Module
    onnx: bytes
    report: Report


def student_of(run: Path, title: str, says: str, report: Report, test: Split, threat: Linf) -> Student:
    """The best net of a run, with the run's ONNX file if it is float32 and of the same weights, else a new export.

    Parameters
    ----------
    run : folder of the run.
    title, says, report : as in `Student`.
    test, threat : for the checks of an export.

    Raises
    ------
    ArdorError
        As `ardor.models.load` and `ardor.export` do.
    """
    net = models.load(run)
    onnx = _exported(Run(run).exported(), net)
    if onnx is None:
        with tempfile.TemporaryDirectory() as folder:
            file = export(net, Path(folder) / "net.onnx", check=test, threat=threat, reports=[report])
            onnx = file.path.read_bytes()
    return Student(title, says, net, onnx, report)


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
    """Write the page for two or more students on 8x8 digits. The same arguments give the same bytes.

    Parameters
    ----------
    path : file of the page.
    students : the undefended one first.
    test : split of the digits.
    threat : of training and evaluation; the slider starts at its eps, and its end is 1.5 eps.
    runtime : the files of onnxruntime-web.
    intro, notes : the first paragraph, and the limits of the evidence.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    RunError
        Where the file cannot be written.
    """
    digits = shown([student.net for student in students], test, threat)
    far = round(1.5 * threat.eps, 6)  # without the decimals of binary fractions
    own = "\n".join(["'use strict';", *(package_text(PACKAGE, name) for name in SCRIPTS)])
    text = render(
        PACKAGE,
        "page.html",
        styles=[package_text(PACKAGE, "style.css")],
        scripts=[runtime.script, own],
        sources=("blob:", "'wasm-unsafe-eval'"),
        directives=("connect-src blob:",),
        title="ardor: draw a digit, then attack it",
        glue=_packed(runtime.glue.encode()),
        wasm=_packed(runtime.wasm),
        data=_data(students, digits) | {"eps": threat.eps, "far": far},
        students=students,
        digits=digits,
        intro=intro,
        notes=notes,
        eps=threat.eps,
        far=far,
        version=VERSION,
    )
    return write_text(path, text)


def _exported(path: Path, net: nn.Module) -> bytes | None:
    """The file of an earlier export; None where it is damaged, not float32 or of other weights."""
    try:
        metadata = Session(path, threads=1).metadata if path.is_file() else {}
    except ArdorError:
        return None
    return path.read_bytes() if metadata.get("to") == "onnx" and exported_from(metadata, net) else None


def _packed(content: bytes) -> str:
    """Gzip in base64, which the browser decodes: a third of the size."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _data(students: Sequence[Student], digits: Sequence[Shown]) -> dict[str, Any]:
    """The data of the scripts. first: a digit on which the first net fails and the last does not, to open with."""
    telling = [fooled(students[0].net, d, 0) and not fooled(students[-1].net, d, -1) for d in digits]
    return {
        "first": telling.index(True) if True in telling else 0,
        "nets": [{"title": s.title, "onnx": base64.b64encode(s.onnx).decode()} for s in students],
        "digits": [{"label": d.label, "image": _rounded(d.clean), "worst": [*map(_rounded, d.worst)]} for d in digits],
    }


def _rounded(image: Tensor) -> list[float]:
    return [round(value, 6) for value in image.flatten().tolist()]
