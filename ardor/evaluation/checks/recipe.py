"""What silently changes a run's result, from its config alone: checked before hours of training.

A check takes the config as a flat mapping: dotted key -> value. Missing numbers are NaN: no comparison holds for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ardor.data.augment import unnumbered
from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding, Severity
from ardor.storage.config import as_text, number
from ardor.types import Threat

FEW = 300
"""small_val: images. At a robust accuracy of 50 % their standard error is 2.9 points, more than late epochs differ."""

PAPERS = (215, 260, 285)
"""idle_milestone: of 300 epochs, the milestones that `Recipe` has by default."""

WIDE = 3 / 16
"""wide_crop: padding as a share of the side; CIFAR's is 1/8."""

LARGE = 64
"""narrow_crop: pixels of a side."""

NARROW = 1 / 16
"""narrow_crop: padding as a share of the side; CIFAR's is 1/8."""

MIRRORED = ("digits",)
"""mirrored: data whose mirror images are of no class."""

TRAINING, VALIDATION = "method.attack", "recipe.val_attack"

OFF = {
    ("ard", "alpha", 0): ("robust", "the teacher has no effect, and x' is not used"),
    ("ard", "alpha", 1): ("clean", "labels enter through the attack only, as released"),
    ("iad", "b", 0): ("self", "a = 1 on every image, as if the teacher were always right"),
    ("kd", "alpha", 0): ("distil", "the teacher teaches nothing"),
    ("kd", "alpha", 1): ("clean", "no label is learned from"),
    ("mart", "beta", 0): ("robust", "only the boosted cross-entropy is left"),
    ("rslad", "alpha", 0): ("robust", "x' is not used"),
    ("rslad", "alpha", 1): ("clean", "the student learns on x' only"),
    ("trades", "beta", 0): ("robust", "this is natural training, and x' is not used"),
    ("variance_gap", "alpha", 0): ("robust", "x' is left to the new terms alone"),
    ("variance_gap", "alpha", 1): ("clean", "x is left to the new terms alone"),
    ("variance_gap", "lc", 0): ("covariance", "no covariance is aligned"),
    ("variance_gap", "lg", 0): ("gram", "no Gram matrix is aligned"),
}
"""term_off: (method, field, value) -> the term whose weight is then 0, and the consequence."""

DIFFERENCES = {"igdm": "alpha", "saad": "alpha"}
"""half_precision: methods with a term of differences of logits, and the field of its weight."""

Config: TypeAlias = Mapping[str, Any]


def of_recipe(config: Config, judged: Threat | float | None = None) -> list[Finding]:
    """Every finding on the config of a run.

    Of a third-party method only the attack and `train_mode_attack` are checked. A missing value has no finding.

    Parameters
    ----------
    config : Mapping
        The content of config.yaml.
    judged : Threat, float or None
        The threat of the evaluation, or its radius in the norm of training, if it is known.
    """
    flat = dict(_flattened(config))
    findings = [*_attack(flat, TRAINING), *_attack(flat, VALIDATION), *_radii(flat, judged), *_milestones(flat)]
    findings += _drops(flat)
    findings += [
        *_weights(flat),
        *_training_attack(flat),
        *_length(flat),
        *_ramp(flat),
        *_validation(flat),
        *_numerics(flat),
    ]
    return [*findings, *_live_labels(flat), *_start(flat), *_extra(flat)]


def of_images(config: Config, shape: tuple[int, int, int], recipe: str | None = None) -> list[Finding]:
    """Findings on values that are CIFAR's where the images are others.

    Parameters
    ----------
    config : Mapping
        The content of config.yaml.
    shape : tuple of int
        (C, H, W) of an image.
    recipe : str, optional
        The shipped recipe that has a variant for these data, where none was named.
    """
    flat, side = dict(_flattened(config)), min(shape[1:])
    size, data = f"{shape[1]} x {shape[2]}", flat.get("data.name")
    padding, augment = _number(flat, "recipe.padding"), flat.get("recipe.augment")
    findings = []
    taken = ["300 epochs"] if flat.get("recipe.epochs") == 300 else []
    taken += ["crop-flip"] if augment == "crop-flip" else []
    taken += ["eps 8/255"] if _number(flat, f"{TRAINING}.threat.eps") == 8 / 255 else []
    if recipe is not None and taken:
        evidence = f"no recipe is named, and {', '.join(taken)} on {data} are the papers' for CIFAR"
        advice = f"ardor train {recipe} --data {data} has those of {data}"
        findings.append(Finding("cifar_defaults", "note", evidence, advice))
    if augment in ("crop-flip", "crop") and padding > side * WIDE:
        evidence = f"images of {size} are padded by {padding:g} and cropped, as CIFAR's 32 x 32 are by 4"
        findings.append(Finding("wide_crop", "note", evidence, f"type --recipe.padding {max(1, side // 8)}"))
    if augment in ("crop-flip", "crop") and side > LARGE and padding < side * NARROW:
        evidence = f"crops of {size} are moved by at most {padding:g} pixels, CIFAR's of 32 x 32 by 4"
        advice = f"type --recipe.augment resized-{augment}"
        findings.append(Finding("narrow_crop", "note", evidence, advice))
    if str(augment).endswith("flip") and data in MIRRORED:
        evidence = f"half of the images of {data} are mirrored, and some are then no {data}"
        findings.append(Finding("mirrored", "note", evidence, "type --recipe.augment crop or --recipe.augment none"))
    return findings


def with_training(findings: list[Finding], trained: Config, judged: Threat | float) -> list[Finding]:
    """The findings of an evaluation and those on the training, each name once; the milestones are left out.

    Parameters
    ----------
    findings : list of Finding
        Of the evaluation.
    trained : Mapping
        The config of the run.
    judged : Threat or float
        The threat of the evaluation, or its radius in the norm of training.
    """
    names = {finding.name for finding in findings} | {"idle_milestone"}  # training displays it, once
    return [*findings, *(finding for finding in of_recipe(trained, judged) if finding.name not in names)]


def _attack(config: Config, where: str) -> Iterator[Finding]:
    """step_above_eps: steps lead from border to border. short_reach: all steps together cannot cross the ball."""
    eps, step, steps = (_number(config, f"{where}.{key}") for key in ("threat.eps", "step", "steps"))
    if step > eps * (1 + 1e-9):
        evidence = f"{where} takes steps of {as_text(step)} in a ball of {as_text(eps)}"
        yield Finding("step_above_eps", "warning", evidence, f"type --{where}.step with eps/4, {as_text(eps / 4)}")
    step = step if step > 0 else eps / 4
    if f"{where}.step" in config and steps * step < eps * (1 - 1e-9):
        taken = f"{steps:g} steps of {as_text(step)}, together" if steps > 1 else f"1 step of {as_text(step)},"
        evidence = f"{where} takes {taken} less than its eps {as_text(eps)}"
        advice = f"type --{where}.steps {math.ceil(eps / step)} or longer steps"
        yield Finding("short_reach", "warning", evidence, advice)


def _radii(config: Config, judged: Threat | float | None) -> Iterator[Finding]:
    """other_eps: the threat of validation, or that of the evaluation, is not that of training."""
    eps, val_eps = (_number(config, f"{where}.threat.eps") for where in (TRAINING, VALIDATION))
    norm, val_norm = (str(config.get(f"{where}.threat.name", "unknown norm")) for where in (TRAINING, VALIDATION))
    if _differ(eps, val_eps) or (norm != val_norm and not math.isnan(eps + val_eps)):
        evidence = f"trained at {norm} {as_text(eps)}, its checkpoint chosen at {val_norm} {as_text(val_eps)}"
        yield Finding("other_eps", "warning", evidence, "leave recipe.val_attack.threat out: it follows the method's")
    radius = float(getattr(judged, "eps", judged if isinstance(judged, float | int) else math.nan))
    judged_norm = type(judged).__name__ if hasattr(judged, "eps") else norm
    if _differ(eps, radius) or (norm.lower() != judged_norm.lower() and not math.isnan(eps + radius)):
        evidence = f"trained at {norm} eps {as_text(eps)}, judged at {judged_norm} eps {as_text(radius)}"
        advice = "quote both beside the figure, or train at the threat of the table"
        yield Finding("other_eps", "warning", evidence, advice)


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > 1e-6 * max(a, b)


def _drops(config: Config) -> Iterator[Finding]:
    """other_drops: what a method lowers with the rate falls at other epochs."""
    drops, marks = (_integers(config.get(key)) for key in ("method.drops", "recipe.milestones"))
    epochs = _number(config, "recipe.epochs")
    if config.get("recipe.schedule") != "milestones" or not (drops and marks) or math.isnan(epochs):
        return
    own, of_rate = ([m for m in sorted(some) if m < epochs] for some in (drops, marks))
    if own != of_rate:
        at = f"after epochs {_row(own)}" if own else "at no epoch"
        evidence = f"method.drops lower what {config.get('method.name')} adapts by {at}, and the rate drops after "
        advice = f"type {' '.join(f'--method.drops {m}' for m in of_rate)}"
        yield Finding("other_drops", "warning", f"{evidence}{_row(of_rate) or 'none'}", advice)


def _milestones(config: Config) -> Iterator[Finding]:
    """idle_milestone: one without effect, or two at once; a note with another schedule, and of the defaults."""
    marks, epochs = _integers(config.get("recipe.milestones")), _number(config, "recipe.epochs")
    if not marks or math.isnan(epochs):
        return
    schedule, typed = (
        config.get("recipe.schedule", config.get("recipe.schedule.name", "milestones")),
        marks != [round(epochs * m / 300) for m in PAPERS],
    )
    late = sorted({m for m in marks if m >= epochs})
    twice = sorted({m for m in marks if marks.count(m) > 1 and m < epochs})
    idle = []
    if schedule != "milestones":
        idle += [f"the schedule {schedule} has no milestones, so that {_row(marks)} have no effect"] if typed else []
    elif _number(config, "recipe.drop") == 1:
        idle += [f"the rate is multiplied by 1 after epochs {_row(marks)}"]
    else:
        idle += [f"the rate never drops after epoch {_row(late)}: the run ends at {epochs:g}"] if late else []
        idle += [f"milestone {_row(twice)} stands more than once: its drops come at once"] if twice else []
    advice = (
        "type --recipe.milestones with epochs inside the run, each once, and --recipe.drop below 1"
        if schedule == "milestones"
        else f"nothing, if {schedule} is meant; for their drops type --recipe.schedule milestones"
    )
    if idle:
        severity: Severity = "warning" if typed and schedule == "milestones" else "note"
        yield Finding("idle_milestone", severity, "; ".join(idle), advice)


def _weights(config: Config) -> Iterator[Finding]:
    """kl_scale: with weight decay a scale of the KL is another experiment. unused_temperature, term_off: no weight."""
    name, scale, t = config.get("method.name"), _number(config, "method.scale"), _number(config, "method.t")
    weight, formula = scale, "scale"
    if name == "ard":
        weight *= _number(config, "method.alpha", 1.0) * _number(config, "method.t", 1.0) ** 2
        formula = "scale alpha t^2"
    if name in ("ard", "rslad", "variance_gap") and not math.isnan(weight) and weight not in (0, 1):
        evidence = f"the KL of {name} has the weight {formula} = {weight:.4g}"
        advice = "beside weight decay this is another experiment than a weight of 1: compare runs of one weight"
        yield Finding("kl_scale", "note", evidence, advice)
    if name in ("ard", "kd") and not math.isnan(t) and _number(config, "method.alpha") == 0:
        evidence = f"t is {as_text(t)}, and alpha is 0: the term with the temperature has no weight"
        advice = "type --method.alpha above 0; t changes nothing here"
        yield Finding("unused_temperature", "warning", evidence, advice)
    for (method, field, value), (term, consequence) in OFF.items():
        if name == method and _number(config, f"method.{field}") == value:
            evidence = f"{field} is {value}, so the term {term} of {name} has no weight: {consequence}"
            severity: Severity = "note" if value == 1 or name == "variance_gap" else "warning"
            yield Finding("term_off", severity, evidence, f"nothing if that is meant, else type --method.{field}")


def _training_attack(config: Config) -> Iterator[Finding]:
    """bn_in_attack: steps move the batch statistics. still_start: at x the gradient of TRADES' KL is rounding."""
    if config.get("method.train_mode_attack") is True:
        steps = _number(config, f"{TRAINING}.steps")
        moved = f", which moves its batch statistics {steps:g} times a batch" if steps > 0 else ""
        evidence = f"the attack runs on the student in train mode{moved}"
        advice = "leave train_mode_attack out, unless it is the released form"
        yield Finding("bn_in_attack", "warning", evidence, advice)
    first = "FGSM" if config.get(f"{TRAINING}.name") == "FGSM" else config.get(f"{TRAINING}.start")
    if config.get("method.name") == "trades" and first in ("FGSM", "none"):
        evidence = f"the attack of trades ({first}) begins at x, where KL(f(x) || f(x')) has no gradient to climb"
        yield Finding("still_start", "warning", evidence, "type --method.attack.start gaussian")


def _ramp(config: Config) -> Iterator[Finding]:
    """eps_ramp: the student met the full radius late."""
    ramp = config.get("recipe.eps_ramp")
    if isinstance(ramp, list | tuple) and len(ramp) == 2:
        evidence = (
            f"the training attack has radius 0 up to epoch {ramp[0]:g} and its full one from epoch {ramp[1]:g} of "
            f"{_number(config, 'recipe.epochs'):g}"
        )
        yield Finding("eps_ramp", "note", evidence, "compare with runs of the same ramp")


def _length(config: Config) -> Iterator[Finding]:
    """late_begin: IAD's self term begins after the last epoch. long_warmup: the covariance weight grows to the end."""
    name, epochs = config.get("method.name"), _number(config, "recipe.epochs")
    begin, warmup = _number(config, "method.begin"), _number(config, "method.warmup")
    if name == "iad" and begin > epochs:
        evidence = f"the self term of iad begins in epoch {begin:g}, and the run ends after {epochs:g}: it never runs"
        yield Finding("late_begin", "warning", evidence, "type --method.begin as the same share of the run, 60 of 200")
    if name == "variance_gap" and _number(config, "method.lc") > 0 and warmup > epochs:
        evidence = f"lc grows over {warmup:g} epochs, and the run ends after {epochs:g}, at {epochs / warmup:.2g} of lc"
        yield Finding("long_warmup", "warning", evidence, "type --method.warmup with a few epochs")


def _extra(config: Config) -> Iterator[Finding]:
    """extra_images: the student met others than the data set's."""
    if extra := config.get("data.extra"):
        share, taught = _number(config, "data.extra_share"), config.get("data.extra_labels") == "teacher"
        labels = ", which the teacher labels where the method uses labels" if taught else ""
        evidence = f"{100 * share:.4g} % of each batch are images of {extra}{labels}"
        yield Finding("extra_images", "note", evidence, "compare with runs of the same images")


def _validation(config: Config) -> Iterator[Finding]:
    """selection: the test set chooses the checkpoint. small_val: the best of many epochs is the luckiest."""
    if config.get("data.protocol") == "paper":
        evidence = "data.protocol is paper: the test set chooses the checkpoint"
        yield Finding("selection", "warning", evidence, "report it as the papers' protocol, not as held out")
    sizes = [_number(config, "recipe.val_size"), _number(config, "data.val")]
    n = min((size for size in sizes if size >= 1), default=FEW)  # below 1: a share of an unknown number; 0: all
    if n < FEW:
        evidence = f"{n:g} images choose the checkpoint: at 50 % their standard error is {50 / math.sqrt(n):.2g} points"
        advice = f"type --recipe.val_size {FEW} or more where val has them, or quote the last checkpoint"
        yield Finding("small_val", "warning", evidence, advice)


def _live_labels(config: Config) -> Iterator[Finding]:
    """live_labels: views without numbers, on which a teacher's logits cannot be cached."""
    augment, views = str(config.get("recipe.augment")), _number(config, "recipe.views", 0)
    jitter, operations = (_numbers(config.get(f"recipe.{key}")) for key in ("jitter", "randaugment"))
    erase, cutout = (_number(config, f"recipe.{key}", 0) for key in ("erase", "cutout"))
    late, mix = config.get("recipe.late"), str(config.get("recipe.mix", "none"))
    reason = unnumbered(augment, views, jitter, operations, erase, cutout, None if late is None else str(late), mix)
    if reason and any(key.startswith("teacher.") for key in config):
        drawn = "recipe.views" not in reason or ";" in reason
        advice = "nothing if that is meant, else leave it out" if drawn else "type --recipe.views 32 to cache them"
        yield Finding("live_labels", "note", f"the teacher's soft labels are not cached: {reason}", advice)


def _differs(config: Config, method: str, weight: str) -> bool:
    """Whether a run is by this method, with its term of differences."""
    return config.get("method.name") == method and _number(config, f"method.{weight}", 1) != 0


def _numerics(config: Config) -> Iterator[Finding]:
    """half_precision: not float32's result. split_batches: batch statistics over each process's share of a batch."""
    parts = {"precision": "learned", "attack_precision": "was attacked while it learned"}
    values = {what: config.get(f"recipe.{key}") for key, what in parts.items()}
    texts = [f"the student {what} in {value}" for what, value in values.items() if value not in (None, "float32")]
    if (of_teacher := config.get("recipe.teacher_precision")) not in (None, "float32"):
        texts.append(f"the teacher's passes were in {of_teacher}")
    texts += ["the teacher's soft labels are kept in float16"] if config.get("soft_labels") == "float16" else []
    method = next((name for name, weight in DIFFERENCES.items() if _differs(config, name, weight)), None)
    low = [key for key in ("precision", "teacher_precision") if config.get(f"recipe.{key}") not in (None, "float32")]
    if method is not None and low:
        evidence = f"{', '.join(texts)}, where the differences of two nearly equal logits that {method} compares cancel"
        advice = f"type {' '.join(f'--recipe.{key} float32' for key in low)}"
        yield Finding("half_precision", "warning", evidence, advice)
    elif texts:
        advice = "compare with runs of the same precision, or float32"
        yield Finding("half_precision", "note", ", ".join(texts), advice)
    processes = _number(config, "processes")
    if processes >= 2 and config.get("recipe.sync_batchnorm") is not True:
        evidence = f"{processes:g} processes shared each batch: batch statistics are over one share each"
        advice = "compare with runs of as many processes where the net has any"
        yield Finding("split_batches", "note", evidence, advice)
    elif (count := _number(config, "recipe.accumulate")) >= 2:
        evidence = f"each batch was computed in {count:g} parts: batch statistics are over one part each"
        yield Finding("split_batches", "note", evidence, "compare with runs of as many parts where the net has any")


def _start(config: Config) -> Iterator[Finding]:
    """started_from: weights that others trained, with their licence, or without their head."""
    weights, licence, head = (config.get(f"fingerprint.start.{key}") for key in ("weights", "licence", "head"))
    texts = [f"the student started from {weights}, licence {licence}"] if weights else []
    texts += [f"its head was {head}"] if head else []
    if texts:
        advice = "say so beside the figures, and keep to the licence" if weights else "say so beside the figures"
        yield Finding("started_from", "note", "; ".join(texts), advice)


def _flattened(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _number(config: Config, key: str, missing: float = math.nan) -> float:
    return _value(config.get(key), missing)


def _numbers(values: Any) -> list[float]:
    return [_value(v, 0) for v in values] if isinstance(values, list | tuple) else []


def _value(value: Any, missing: float) -> float:
    try:
        return number(value) if isinstance(value, str | int | float) else missing
    except ConfigError:
        return missing


def _integers(value: Any) -> list[int]:
    return [int(v) for v in value if isinstance(v, int | float)] if isinstance(value, list | tuple) else []


def _row(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
