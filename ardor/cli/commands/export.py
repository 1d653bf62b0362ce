"""`ardor export`: a run, or any net with weights, to a file for a device, with the proof that it answers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ardor import data as datasets
from ardor import models
from ardor.cli import display
from ardor.cli.selection import Overrides, config_of, find_threat, require_overrides, trained_threat
from ardor.data.split import Split
from ardor.deployment.export import export as write
from ardor.deployment.export.formats import SUFFIX
from ardor.errors import ConfigError
from ardor.evaluation.report_files import reports_of
from ardor.models.loading import net_for
from ardor.storage.config import arguments
from ardor.storage.runs import Run


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
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """Write a net to a file for a device, and prove that the file answers as the net does.

    RUN is a folder that `ardor train` made; without it, name a net, its weights, the data and the file. Net and file
    are compared on images of the data, clean and adversarial; a file that does not match is refused. INT8 is calibrated
    on training images. Needs `pip install "ardor[onnx]"`.

    Examples:

    `ardor export runs/rslad`

    `ardor export runs/rslad --to onnx-int8 --out rslad.onnx`

    `ardor export --model net.py:build --weights w.safetensors --data npz:digits.npz --out net.onnx`
    """
    _require_words(run, out, {"model": model, "weights": weights, "data": data})
    overrides = overrides or {}
    require_overrides(overrides, "threat", "data", "model")
    trained = config_of(run)
    threat_ = find_threat(threat, overrides, trained_threat(run))
    if run is not None:
        net = models.load(run, checkpoint=checkpoint)
        if "data" not in trained:
            raise ConfigError(f"expected the folder of a run, got {run}: type ardor export runs/NAME, or --model NAME")
    source = (trained["data"] if run else {"name": data}) | overrides.get("data", {})
    train, check = _splits(arguments(source, "data", datasets.load, datasets.reader(str(source["name"]))), to, part)
    if run is None:
        net = net_for("model", {"name": model, "weights": weights, **overrides.get("model", {})}, check, fresh=False)
    with display.progress(f"{to} and its parity", 1):
        made = write(
            net,
            Run(run).exported(checkpoint, SUFFIX[to], to.endswith("int8")) if run and out is None else Path(str(out)),
            to=to,
            calibrate=train,
            check=check,
            threat=threat_,
            force=force,
            agreement=agreement,
            limit=limit,
            reports=reports_of(run)[0] if run else (),
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
