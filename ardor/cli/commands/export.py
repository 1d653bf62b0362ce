"""`ardor export`: a run, or any net with weights, to a file for a device, with the proof that it answers alike."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ardor import data as datasets
from ardor import models
from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.nets import data_options, make_net, net_options
from ardor.cli.options import grouped, options_for, piece, values, with_options
from ardor.cli.selection import find_threat, first_stage, trained_threat
from ardor.data.split import Split
from ardor.deployment.export import export as write
from ardor.deployment.export.formats import SUFFIX
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.storage.config import read_yaml

NAMES = ("data", "model", "threat")

HELP = """Write a net to a file for a device, and prove that the file answers as the net does.

RUN is a folder that `ardor train` made; without it, name a net, its weights, the data and the file. Net and file are
compared on images of the data, clean and adversarial; a file that does not match is refused. INT8 is calibrated on
training images. Needs `pip install "ardor[onnx]"`.

Examples:

`ardor export runs/rslad`

`ardor export runs/rslad --to onnx-int8 --out rslad.onnx`

`ardor export --model net.py:build --weights w.safetensors --data npz:digits.npz --out net.onnx`
"""


def app(argv: Sequence[str]) -> App:
    """The command with the options of what `argv` or the run names."""
    asked = first_stage(argv, NAMES)
    config = Path(argv[0]) / "config.yaml" if argv and not argv[0].startswith("-") else None
    trained = read_yaml(config) if config and config.is_file() else {}
    threat = find_threat(asked, argv, trained_threat(trained)) or Linf()
    if "data" in asked.names:
        places = data_options(asked.names["data"])
    else:  # where a run's data lie may have changed since; what they are is its own
        places = options_for(datasets.load, skip=("name", "val", "seed", "limit", "protocol"))
    rows = [piece("threat", options_for(type(threat), threat)), piece("data", places)]
    rows += [piece("model", net_options(asked.names["model"]))] if "model" in asked.names else []
    options = grouped(rows, argv=list(argv), trained=trained, resolved_threat=threat)
    command = App(name="export", help=HELP)
    command.default(with_options(export, options))
    return command


def export(
    run: Annotated[Path | None, Parameter(name="RUN", help="a run's folder; must come first")] = None,
    /,
    *,
    to: Annotated[
        Literal["onnx", "onnx-int8", "torch-export", "executorch", "executorch-int8"],
        Parameter(help="float32, INT8, torch's own .pt2, or a .pte for phones"),
    ] = "onnx",
    out: Annotated[Path | None, Parameter(help="the file; default in RUN")] = None,
    model: Annotated[str | None, Parameter(help="a net's name or file.py:Name, instead of RUN")] = None,
    weights: Annotated[str | None, Parameter(help="its weights: .safetensors, or .pt read with weights_only")] = None,
    data: Annotated[str | None, Parameter(help="the data set of --model; of RUN it is the run's own")] = None,
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
    """Load the net, its data and its reports, and write the file."""
    _require_words(run, out, {"model": model, "weights": weights, "data": data})
    if run is not None:
        net = models.load(run, checkpoint=checkpoint)
        if "data" not in more.trained:
            raise ConfigError(f"expected the folder of a run, got {run}: type ardor export runs/NAME, or --model NAME")
    typed = {word[7:].partition("=")[0] for word in more.argv if word.startswith("--data.")}
    options = {key: value for key, value in values(more.data).items() if key in typed}
    train, check = _splits((more.trained["data"] if run else {"name": data}) | options, to, part)
    if run is None:
        named = values(more.model) | ({"weights": weights} if weights else {})
        net = make_net("model", str(model), named, check, fresh=False)
    with display.progress(f"{to} and its parity", 1):
        made = write(
            net,
            default_out(run, to, checkpoint) if run and out is None else Path(str(out)),
            to=to,
            calibrate=train,
            check=check,
            threat=more.resolved_threat,
            force=force,
            agreement=agreement,
            limit=limit,
            reports=reports_of(run) if run else (),
            seed=seed,
        )
    display.say(str(made))
    return 0


def _require_words(run: Path | None, out: Path | None, words: dict[str, str | None]) -> None:
    """One net, and all that it takes. Raises ConfigError."""
    got = [f"--{key} {value}" for key, value in words.items() if value is not None]
    if run is not None and got:
        raise ConfigError(
            f"expected either a run or --model with its words, got {run} and {' '.join(got)}: type one of them"
        )
    missing = [f"--{key}" for key in ("model", "data") if words[key] is None] + (["--out"] if out is None else [])
    if run is None and missing:
        raise ConfigError(
            f"expected RUN, or --model NAME --weights FILE --data NAME --out FILE, got no {' and no '.join(missing)}: "
            "type one of them"
        )


def _splits(source: dict[str, Any], to: str, part: str) -> tuple[Split | None, Split]:
    """The images that may calibrate, where it needs some, and those to compare on. Raises ConfigError, DataError."""
    if part == "test" and not to.endswith("int8"):
        return None, datasets.load_test(**source)  # some data are for evaluation only
    train, val, test = datasets.load(**source)
    return train, test if part == "test" else val


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
