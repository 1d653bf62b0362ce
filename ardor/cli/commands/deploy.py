"""`ardor deploy`: a run as a device would get it, float32, ONNX and INT8 side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor import models
from ardor.cli import display
from ardor.cli.selection import Overrides, config_of, find_threat, require_overrides, trained_threat
from ardor.deployment.variants.comparison import DeploymentReport
from ardor.deployment.variants.run_files import deploy_run, files_of, prepare
from ardor.engine.threads import threads_for, use_threads
from ardor.errors import ConfigError
from ardor.evaluation.progress import Progress
from ardor.evaluation.report_files import reports_of
from ardor.storage.config import build
from ardor.storage.runs import Run


def deploy(
    run: Annotated[Path, Parameter(name="RUN", help="a run's folder; must come first")],
    /,
    *,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the run")] = "best",
    part: Annotated[Literal["test", "val"], Parameter(help="of the data, to judge on")] = "test",
    limit: Annotated[int, Parameter(help="at most so many images, classes in proportion")] = 1000,
    queries: Annotated[int, Parameter(help="of Square, for each image")] = 5000,
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    agreement: Annotated[float, Parameter(help="share of equal predictions that INT8 must reach")] = 0.95,
    force: Annotated[
        bool, Parameter(help="write a file that does not match, with that recorded in it", negative="")
    ] = False,
    batch: Annotated[int, Parameter(help="images at a time, at most")] = 256,
    seed: Annotated[int, Parameter(help="of the attacks' random starts")] = 0,
    threads: Annotated[int | None, Parameter(help="of torch; default 1 for a small net on a CPU")] = None,
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """Compare a run's net with what a device would get: size, latency, and what each form withstands.

    RUN is a folder that `ardor train` made. Its ONNX and INT8 files are exported where they are missing or of other
    weights, then float32, ONNX and INT8 are judged on the same images: under images made against the float32 net, under
    white-box attacks on what is judged, and under Square. Needs `pip install "ardor[onnx]"`.

    Example:

    `ardor deploy runs/rslad`

    Stopped at any moment, the same command goes on. `ardor report RUN...` then shows the table, and size against robust
    accuracy for every run.
    """
    overrides = overrides or {}
    require_overrides(overrides, "threat", "data")
    trained = config_of(run)
    threat_ = find_threat(threat, overrides, trained_threat(run))
    net = models.load(run, checkpoint=checkpoint)
    if "data" not in trained:
        raise ConfigError(f"expected the folder of a run, got {run}: type ardor deploy runs/NAME")
    train, val, test = build(trained["data"] | overrides.get("data", {}), "data")
    check = (test if part == "test" else val).limit(limit)
    models.require_fit(net, check.shape, check.classes, "net")
    use_threads(threads_for(net, check.shape) if threads is None else threads)
    with display.progress("export", 2) as move:
        made_of = prepare(
            net,
            files_of(run, checkpoint),
            train,
            check,
            threat_,
            force=force,
            agreement=agreement,
            reports=reports_of(run)[0],
            seed=seed,
        )
        for done, form in enumerate(made_of, 1):
            move(done, form)
    with display.evaluation() as tell:

        def told(form: str, now: Progress) -> None:
            tell(replace(now, attack=f"{form}: {now.attack}"))

        made = deploy_run(
            run,
            net,
            check,
            threat_,
            checkpoint=checkpoint,
            queries=queries,
            batch=batch,
            seed=seed,
            journal=True,
            progress=told,
        )
    say(run, made)
    return 0


def say(run: Path, made: DeploymentReport) -> None:
    """The table, and where it is kept."""
    display.say(f"{made}\n\nSaved to {Run(run).comparison(made.checkpoint)}.")
