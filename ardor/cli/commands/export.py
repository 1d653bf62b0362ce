"""`ardor export`: a run, or any net with weights, to a file for a device, with the proof that it answers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ardor import data as datasets
from ardor.cli import display
from ardor.cli.selection import RUN, NetWords, Number, Overrides, data_of, find_data
from ardor.deployment.export import export as write
from ardor.deployment.export.formats import SUFFIX
from ardor.errors import ConfigError
from ardor.evaluation.report_files import reports_of
from ardor.storage.runs import Run


def export(
    run: Path | None = None,
    /,
    words: NetWords = RUN,
    *,
    to: Literal["onnx", "onnx-int8", "torch-export", "executorch", "executorch-int8"] = "onnx",
    out: Path | None = None,
    part: Literal["test", "val"] = "test",
    limit: int = 512,
    agreement: Number = 0.95,
    force: bool = False,
    overrides: Overrides,
) -> int:
    """Write a net to a file for a device, and compare the predictions of the file with those of the net.

    RUN is a folder that `ardor train` made; without it, name a net, its weights, the data and the file. Net and file
    are compared on images of the data, clean and adversarial; a file that does not match is refused. INT8 is calibrated
    on training images. Needs `pip install "ardor[onnx]"`.

    Examples:

    `ardor export runs/rslad`

    `ardor export runs/rslad --to onnx-int8 --out rslad.onnx`

    `ardor export --model net.py:build --weights w.safetensors --data npz:digits.npz --out net.onnx`

    Parameters
    ----------
    run
        Folder of a run; first.
    to
        Format: float32, INT8, torch's .pt2, or a .pte for phones.
    out
        The file; default in RUN.
    part
        Part of the data to compare net and file on.
    limit
        Largest number of images to compare on, and to calibrate on.
    agreement
        Share of equal predictions that INT8 must reach, in [0, 1].
    force
        Write a file that does not match; the file records it.
    """
    if run is None and words.model is not None and out is None:
        raise ConfigError("expected --out with --model, got none: type for example --out net.onnx")
    net, check, threat = words.load(run, part, overrides)
    calibrate = None  # some data are for evaluation only
    if to.endswith("int8"):
        calibrate = datasets.load(**find_data(data_of(run, words.data, words.trust_code), words.data, overrides))[0]
    with display.progress(f"{to} and its parity", 1):
        exported = write(
            net,
            out or Run(run or "").exported(words.checkpoint, SUFFIX[to], to.endswith("int8")),
            to=to,
            calibrate=calibrate,
            check=check,
            threat=threat,
            force=force,
            agreement=agreement,
            limit=limit,
            reports=reports_of(run)[0] if run else (),
            seed=words.seed,
        )
    display.say(str(exported))
    return 0
