"""`ardor export`: a run to a file for a device, with the proof that the file answers as the net does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ardor import data as datasets
from ardor import models, threads
from ardor.commands import draw
from ardor.commands.evaluate import trained_threat
from ardor.commands.words import find_threat, first_stage
from ardor.config import read_yaml
from ardor.errors import ConfigError
from ardor.export import SUFFIX
from ardor.export import export as write
from ardor.options import grouped, options_for, piece, values, with_options
from ardor.report import Report
from ardor.threat import Linf

HELP = """Write a run's net to a file for a device, and prove that the file answers as the net does.

RUN is a folder that `ardor train` made. Net and file are compared on images of its data, clean and adversarial; a file
that does not match is refused. INT8 is calibrated on training images. Needs `pip install "ardor[onnx]"`.

Examples:

`ardor export runs/rslad`

`ardor export runs/rslad --to onnx-int8 --out rslad.onnx`
"""


def app(argv: Sequence[str]) -> App:
    """The command with the options of the threat that `argv` or the run names."""
    asked = first_stage(argv, ("threat",))
    config = Path(argv[0]) / "config.yaml" if argv and not argv[0].startswith("-") else None
    trained = read_yaml(config) if config and config.is_file() else {}
    threat = find_threat(asked, argv, trained_threat(trained)) or Linf()
    # where the data lie may have changed since; what they are is the run's own
    places = options_for(datasets.load, skip=("name", "val", "seed", "limit", "protocol"))
    rows = [piece("threat", options_for(type(threat), threat)), piece("data", places)]
    options = grouped(rows, argv=list(argv), trained=trained, resolved_threat=threat)
    command = App(name="export", help=HELP)
    command.default(with_options(export, options))
    return command


def export(
    run: Annotated[Path, Parameter(name="RUN", help="a run's folder; must come first")],
    /,
    *,
    to: Annotated[
        Literal["onnx", "onnx-int8", "torch-export", "executorch", "executorch-int8"],
        Parameter(help="float32, INT8, torch's own .pt2, or a .pte for phones"),
    ] = "onnx",
    out: Annotated[Path | None, Parameter(help="the file; default in RUN")] = None,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the run")] = "best",
    part: Annotated[Literal["test", "val"], Parameter(help="of the data, to compare net and file on")] = "test",
    limit: Annotated[int, Parameter(help="images to compare on, and to calibrate on, at most")] = 512,
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    agreement: Annotated[float, Parameter(help="share of equal predictions that INT8 must reach")] = 0.95,
    force: Annotated[
        bool, Parameter(help="write a file that does not match, with that recorded in it", negative="")
    ] = False,
    seed: Annotated[int, Parameter(help="of the attack's random start")] = 0,
    more: Any = None,
) -> int:
    """Load the run, its data and its reports, and write the file."""
    net = models.load(run, checkpoint=checkpoint)
    if "data" not in more.trained:
        raise ConfigError(f"expected the folder of a run, got {run}: type ardor export runs/NAME, or ardor.export()")
    threads.keep_memory()
    typed = {word[7:].partition("=")[0] for word in more.argv if word.startswith("--data.")}
    elsewhere = {key: value for key, value in values(more.data).items() if key in typed}
    train, val, test = datasets.load(**more.trained["data"] | elsewhere)
    with draw.progress(f"{to} and its parity", 1):
        made = write(
            net,
            default_out(run, to, checkpoint) if out is None else out,
            to=to,
            calibrate=train,
            check=test if part == "test" else val,
            threat=more.resolved_threat,
            force=force,
            agreement=agreement,
            limit=limit,
            reports=reports_of(run),
            seed=seed,
        )
    draw.say(str(made))
    return 0


def default_out(run: Path, to: str, checkpoint: str) -> Path:
    """CHECKPOINT.onnx, CHECKPOINT-int8.onnx, CHECKPOINT.pt2 and so on in the run's folder."""
    return run / f"{checkpoint}{'-int8' if to.endswith('int8') else ''}{SUFFIX[to]}"


def reports_of(run: Path) -> list[Report]:
    """The reports in a run's folder that can be read; whose net they judged is looked at later."""
    found = []
    for path in sorted(run.glob("report-*.json")):
        with contextlib.suppress(ConfigError):
            found.append(Report.load(path))
    return found
