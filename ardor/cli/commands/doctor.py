"""`ardor doctor`: whether a net's figures can be believed, in a minute, with evidence and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ardor.cli import display
from ardor.cli.selection import RUN, NetWords, Number, Overrides, device_of, of_package
from ardor.diagnostics.doctor import LIMIT, examine
from ardor.diagnostics.record import Record, record_of_run, validation_images
from ardor.evaluation import ci_files
from ardor.evaluation.ci_files import Case
from ardor.storage.config import as_text
from ardor.storage.runs import Run


def doctor(
    run: Path | None = None,
    /,
    words: NetWords = RUN,
    *,
    part: Literal["test", "val", "train"] = "test",
    record: Number | None = None,
    limit: int = LIMIT,
    batch: int | None = None,
    sarif: Path | None = None,
    junit: Path | None = None,
    overrides: Overrides,
) -> int:
    """Look for what makes a net's robust accuracy wrong: hidden gradients, randomness, a wrong scale and the like.

    RUN is a folder that `ardor train` made: its net, data and threat are those of its config.yaml unless you type
    others, and the net is compared with the run's record. Without RUN, name a net, its weights and the data, and
    with --record the clean accuracy that is claimed for it.

    Each finding has its evidence and the next step. The exit code is 1 where one of them is an error, else 0.

    `--recipe.device cuda:1` names the device; the default is a GPU if there is one.

    Examples:

    `ardor doctor runs/rslad`

    `ardor doctor --model net.py:build --weights w.safetensors --data npz:digits.npz --threat.eps 0.15 --record 0.6925`

    Parameters
    ----------
    run
        Folder of a run; first.
    part
        Part of the data.
    record
        Clean accuracy claimed on this data, in [0, 1].
    limit
        Largest number of images that are attacked, classes in proportion.
    batch
        Images at a time; default 256, or fewer where they are large.
    sarif
        File for the findings as SARIF 2.1.0, as code scanning takes it; - is standard output, instead of the text.
    junit
        File for the findings as JUnit XML; - is standard output, instead of the text.
    """
    display.require_files(sarif, junit)
    run, words = of_package(run, words)
    net, split, threat = words.load(run, part, overrides)
    claim, images = None if record is None else Record(record), None
    if claim is None and run is not None and words.data is None and not overrides.get("data"):
        claim = record_of_run(run, words.checkpoint)
        images = validation_images(run, words.trust_code) if claim else None
    with display.progress("doctor", 100) as move:
        examination = examine(
            net.to(device_of(overrides)),
            split,
            threat,
            record=claim,
            recorded=images,
            limit=limit,
            batch=batch,
            seed=words.seed,
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
    if claim is None:
        examination.left_out.append(
            "the net's record: there is none, or the data are others; type for example --record 0.6925"
        )
    name = f"{run} ({words.checkpoint})" if run else str(words.model)
    under = f"{type(threat).__name__} eps {as_text(threat.eps)}"
    text = f"{name} on {examination.n} images of {split.name} ({split.part}), {under}\n{examination.text()}"
    findings = examination.findings
    figures = {key: f"{share.k} of {share.n} right" for key, share in examination.accuracies.items()}
    cases = [Case("examined", text=text), *ci_files.cases_of(findings)]
    place = Run(run).config_file if run else _place_of(words)
    as_junit = ci_files.junit(f"ardor doctor {name}", cases, {"threat": under, **figures})
    display.result(text, {sarif: ci_files.sarif(findings, place), junit: as_junit})
    return 1 if any(finding.severity == "error" for finding in examination.findings) else 0


def _place_of(words: NetWords) -> Path:
    """The file of a net that is no run: its code, else its weights, else its name, which has no file here."""
    code = Path(str(words.model).partition(":")[0])
    return code if code.suffix == ".py" else Path(words.weights or str(words.model))
