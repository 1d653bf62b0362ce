"""`ardor deploy`: a run as a device would get it, float32, ONNX and INT8 side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ardor import data, models
from ardor.cli import display
from ardor.cli.selection import Checkpoint, Number, Overrides, find_data, find_threat, threat_of
from ardor.deployment.variants.run_files import deploy_run, files_of, place_of, prepare
from ardor.engine.threads import threads_for, use_threads
from ardor.errors import ArdorError
from ardor.evaluation.report_files import reports_of
from ardor.storage.runs import Run


def deploy(
    run: Path,
    /,
    *,
    checkpoint: Checkpoint = "best",
    part: Literal["test", "val"] = "test",
    limit: int = 1000,
    queries: int = 5000,
    threat: str | None = None,
    agreement: Number = 0.95,
    force: bool = False,
    batch: int = 256,
    seed: int = 0,
    threads: int | None = None,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Compare a run's net with what a device would get: size, latency, and the robustness of each form.

    RUN is a folder that `ardor train` made. Its ONNX and INT8 files are exported where they are missing or of other
    weights, then float32, ONNX and INT8 are evaluated on the same images: under images made against the float32
    net, under white-box attacks on each form, and under Square. Needs `pip install "ardor[onnx]"`.

    Example:

    `ardor deploy runs/rslad`

    Stopped at any moment, the same command continues. `ardor report RUN...` then shows the table, and size against
    robust accuracy for every run.

    Parameters
    ----------
    run
        Folder of a run; first.
    checkpoint
        Checkpoint of the run.
    part
        Part of the data to evaluate on.
    limit
        Largest number of images, classes in proportion.
    queries
        Queries of Square for each image.
    threat
        linf or l2; default the run's.
    agreement
        Share of equal predictions that INT8 must reach, in [0, 1].
    force
        Write a file that does not match; the file records it.
    batch
        Images at a time, at most.
    seed
        Seed of the attacks' random starts.
    threads
        Threads of torch; default 1 for a small net on a CPU.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    source = find_data(Run(run).part("data", trust_code=trust_code), None, overrides)
    used = find_threat(threat, overrides, threat_of(run))
    net = models.load(run, checkpoint=checkpoint, trust_code=trust_code)
    train, val, test = data.load(**source)
    check = (test if part == "test" else val).limit(limit)
    models.require_fit(net, check.shape, check.classes, "net")
    use_threads(threads_for(net, check.shape) if threads is None else threads)
    with Run(run).held("deploy"):  # the files, reports and hashes of one process belong together
        with display.progress("export", 2) as move:
            files, reports = files_of(run, checkpoint), reports_of(run)[0]
            names = prepare(
                net, files, train, check, used, force=force, agreement=agreement, reports=reports, seed=seed
            )
            done, refusal = 0, None
            try:
                for name in names:
                    done += 1
                    move(done, name)
            except ArdorError as error:
                if done == 0:  # there is no ONNX file
                    raise
                refusal = error
        with display.evaluation() as show:
            report = deploy_run(
                run,
                net,
                check,
                used,
                checkpoint=checkpoint,
                queries=queries,
                batch=batch,
                seed=seed,
                refused="" if refusal is None else str(refusal),
                journal=True,
                progress=lambda name, event: show(replace(event, attack=f"{name}: {event.attack}")),
            )
    place, usual = place_of(run, report), Run(run).comparison(report.checkpoint)
    kept = "" if place == usual else f"{usual} has more images, queries or forms, or another threat, and is kept. "
    display.say(f"{report}\n\n{kept}Saved to {place}.")
    if refusal is not None:
        raise refusal
    return 0
