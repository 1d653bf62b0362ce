"""`ardor doctor`: whether a net's figures can be believed, in a minute, with evidence and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor import models
from ardor.cli import display
from ardor.cli.selection import Overrides, config_of, find_split, find_threat, require_overrides, trained_threat
from ardor.diagnostics.doctor import LIMIT, Examination, examine
from ardor.diagnostics.record import Record, record_of_run, validation_images
from ardor.errors import ConfigError
from ardor.models.loading import net_for
from ardor.storage.config import as_text
from ardor.training.recipe import find_device


def doctor(
    run: Annotated[Path | None, Parameter(name="RUN", help="a run's folder; must come first")] = None,
    /,
    *,
    model: Annotated[str | None, Parameter(help="a net's name or file.py:Name, instead of RUN")] = None,
    weights: Annotated[str | None, Parameter(help="its weights: .safetensors, or .pt read with weights_only")] = None,
    data: Annotated[str | None, Parameter(help="the data set; default the run's own")] = None,
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the run")] = "best",
    part: Annotated[Literal["test", "val", "train"], Parameter(help="of the data")] = "test",
    record: Annotated[float | None, Parameter(help="clean accuracy claimed on this data, in 0 .. 1")] = None,
    limit: Annotated[int, Parameter(help="how many images are attacked, classes in proportion")] = LIMIT,
    batch: Annotated[int, Parameter(help="images at a time")] = 256,
    seed: Annotated[int, Parameter(help="of the attacks' random starts")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda ...")] = "auto",
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """Look for what makes a net's robust accuracy wrong: hidden gradients, randomness, a wrong scale and the like.

    RUN is a folder that `ardor train` made: its net, data and threat are those of its config.yaml unless you type
    others, and the net is compared with the run's own record. Without RUN, name a net, its weights and the data, and
    with --record the clean accuracy that is claimed for it.

    Each finding is explained in docs/findings.md. The exit code is 1 where one of them is an error, else 0.

    Examples:

    `ardor doctor runs/rslad`

    `ardor doctor --model net.py:build --weights w.safetensors --data npz:digits.npz --threat.eps 0.15 --record 0.6925`
    """
    if (run is None) == (model is None):
        got = "none" if run is None else f"the run {run} and the model {model}"
        raise ConfigError(f"expected one net, got {got}: type ardor doctor RUN, or --model NAME --weights FILE")
    overrides = overrides or {}
    require_overrides(overrides, "threat", "data", "model")
    trained = config_of(run)
    threat_ = find_threat(threat, overrides, trained_threat(run))
    net = None if run is None else models.load(run, checkpoint=checkpoint)
    split = find_split(trained, data, part, overrides)
    if net is None:
        net = net_for("model", {"name": model, "weights": weights, **overrides.get("model", {})}, split, fresh=False)
    claimed, images = None if record is None else Record(record), None
    if claimed is None and run is not None and data is None and not overrides.get("data"):
        claimed = record_of_run(run, checkpoint)
        images = validation_images(run) if claimed else None
    with display.progress("doctor", 100) as move:
        seen = examine(
            net.to(find_device(device)),
            split,
            threat_,
            record=claimed,
            recorded=images,
            limit=limit,
            batch=batch,
            seed=seed,
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
    if claimed is None:
        seen.left_out.append("the net's own record: there is none, or the data are others; type --record 0.6925, say")
    under = f"{type(threat_).__name__} eps {as_text(threat_.eps)}"
    what = f"{run} ({checkpoint})" if run else str(model)
    display.say(f"{what} on {seen.n} images of {split.name} ({split.part}), {under}")
    display.say(text_of(seen))
    return 1 if any(finding.severity == "error" for finding in seen.findings) else 0


def text_of(seen: Examination) -> str:
    """The findings with evidence and next step, then what was looked at."""
    lines = [] if seen.findings else ["", "Nothing found."]
    for finding in seen.findings:
        lines += ["", f"{finding.severity}: {finding.name}", f"  seen  {finding.evidence}", f"  next  {finding.next}"]
    figures = ", ".join(f"{name} {100 * p.value:.1f} %" for name, p in seen.accuracies.items())
    curve = ", ".join(f"{100 * p.value:.1f} % at {eps:.3g}" for eps, p in seen.curve.items())
    lines += ["", "Looked at: images, modes, precision, outputs, randomness, company and gradients on one batch."]
    lines += [f"Right: {figures}."] if figures else []
    lines += [f"PGD over radii: {curve}."] if curve else []
    lines += [f"Left out: {'; '.join(seen.left_out)}."] if seen.left_out else []
    return "\n".join(lines)
