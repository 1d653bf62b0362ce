"""What silently changes a run's result, from its config alone: checked before hours of training.

A check takes the config as a flat mapping: dotted key -> value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding, Severity, present
from ardor.storage.config import as_text, number

FEW = 300
"""small_val: images. At a robust accuracy of 50 % their standard error is 2.9 points, more than late epochs differ."""

PAPERS = (215, 260, 285)
"""idle_milestone: of 300 epochs, the milestones that `Recipe` has by default."""

TRAINING, VALIDATION = "method.attack", "recipe.val_attack"

OFF = {
    ("ard", "alpha", 0): ("robust", "the teacher teaches nothing, and x' is made for nothing"),
    ("ard", "alpha", 1): ("clean", "labels enter through the attack only, as released"),
    ("iad", "b", 0): ("self", "a = 1 on every image, as if the teacher were always right"),
    ("kd", "alpha", 0): ("distil", "the teacher teaches nothing"),
    ("kd", "alpha", 1): ("clean", "no label is learned from"),
    ("mart", "beta", 0): ("robust", "only the boosted cross-entropy is left"),
    ("rslad", "alpha", 0): ("robust", "x' is made for nothing"),
    ("rslad", "alpha", 1): ("clean", "the student learns on x' only"),
    ("trades", "beta", 0): ("robust", "this is natural training, and x' is made for nothing"),
    ("variance_gap", "alpha", 0): ("robust", "x' is left to the new terms alone"),
    ("variance_gap", "alpha", 1): ("clean", "x is left to the new terms alone"),
    ("variance_gap", "lc", 0): ("covariance", "no covariance is aligned"),
    ("variance_gap", "lg", 0): ("gram", "no Gram matrix is aligned"),
}
"""term_off: (method, field, value) -> the term whose weight is then 0, and the consequence."""

Config: TypeAlias = Mapping[str, Any]


def of_recipe(config: Config, eps: float | None = None) -> list[Finding]:
    """Every finding on the config of a run.

    Of a third-party method only the attack and `train_mode_attack` are checked. A missing value has no finding.

    Parameters
    ----------
    config : Mapping
        The content of config.yaml.
    eps : float or None
        The radius of the evaluation, on the scale of [0, 1], if it is known.
    """
    flat = dict(_flattened(config))
    findings = [check(flat, where) for where in (TRAINING, VALIDATION) for check in (step_above_eps, short_reach)]
    findings += [validation_threat(flat), evaluation_eps(flat, eps), milestones(flat), kl_scale(flat)]
    findings += [bn_in_attack(flat), protocol(flat), unused_temperature(flat), *terms_off(flat)]
    findings += [still_start(flat), late_begin(flat), long_warmup(flat), small_val(flat)]
    findings += [half_precision(flat), split_batches(flat)]
    return present(*findings)


def with_training(findings: list[Finding], trained: Config, eps: float) -> list[Finding]:
    """The findings of an evaluation and those on the training, each name once.

    Parameters
    ----------
    findings : list of Finding
        Of the evaluation.
    trained : Mapping
        The config of the run.
    eps : float
        The radius of the evaluation.
    """
    names = {finding.name for finding in findings}
    return [*findings, *(finding for finding in of_recipe(trained, eps) if finding.name not in names)]


def step_above_eps(config: Config, where: str) -> Finding | None:
    """A step longer than the radius leads from border to border: the attack never tries the inside."""
    eps, step = _number(config, f"{where}.threat.eps"), _number(config, f"{where}.step")
    if eps is None or step is None or step <= eps * (1 + 1e-9):
        return None
    evidence = f"{where} takes steps of {as_text(step)} in a ball of {as_text(eps)}"
    return Finding("step_above_eps", "warning", evidence, f"type --{where}.step with eps/4, {as_text(eps / 4)}")


def short_reach(config: Config, where: str) -> Finding | None:
    """All steps together are shorter than the radius: the attack cannot cross its ball."""
    eps, steps = _number(config, f"{where}.threat.eps"), _number(config, f"{where}.steps")
    if f"{where}.step" not in config or eps is None or steps is None:
        return None
    step = _number(config, f"{where}.step") or eps / 4
    if steps * step >= eps * (1 - 1e-9):
        return None
    evidence = f"{where} takes {steps:g} steps of {as_text(step)}, together less than its eps {as_text(eps)}"
    return Finding("short_reach", "warning", evidence, f"type --{where}.steps {math.ceil(eps / step)} or longer steps")


def validation_threat(config: Config) -> Finding | None:
    """The checkpoint is chosen under another threat than the training's."""
    (norm, eps), (val_norm, val_eps) = (
        (config.get(f"{where}.threat.name"), _number(config, f"{where}.threat.eps")) for where in (TRAINING, VALIDATION)
    )
    if eps is None or val_eps is None or (norm == val_norm and math.isclose(eps, val_eps, rel_tol=1e-6)):
        return None
    trained, chosen = f"{norm or 'eps'} {as_text(eps)}", f"{val_norm or 'eps'} {as_text(val_eps)}"
    evidence = f"trained at {trained}, its checkpoint chosen at {chosen}"
    return Finding("other_eps", "warning", evidence, "leave recipe.val_attack.threat away: it follows the method's")


def evaluation_eps(config: Config, eps: float | None) -> Finding | None:
    """The radius of the evaluation is not that of the training."""
    trained = _number(config, f"{TRAINING}.threat.eps")
    if eps is None or trained is None or math.isclose(trained, eps, rel_tol=1e-6):
        return None
    evidence = f"trained at eps {as_text(trained)}, judged at {as_text(eps)}"
    return Finding("other_eps", "warning", evidence, "say both beside the figure, or train at the radius of the table")


def milestones(config: Config) -> Finding | None:
    """Milestones that have no effect, or twice at once: a note where they are the defaults, and only past the end."""
    marks, epochs = _integers(config.get("recipe.milestones")), _number(config, "recipe.epochs")
    schedule = config.get("recipe.schedule", "milestones")
    if not marks or epochs is None:
        return None
    typed = marks != [round(epochs * m / 300) for m in PAPERS]
    late = sorted({m for m in marks if m >= epochs})
    twice = sorted({m for m in marks if marks.count(m) > 1 and m < epochs})
    idle = []
    if schedule != "milestones":
        idle += [f"milestones {_row(marks)} stand beside schedule {schedule}, which has none"] if typed else []
    elif _number(config, "recipe.drop") == 1:
        idle += [f"the rate is multiplied by 1 after epochs {_row(marks)}"]
    else:
        idle += [f"the rate never drops after epoch {_row(late)}: the run ends at {epochs:g}"] if late else []
        idle += [f"milestone {_row(twice)} stands more than once: its drops come at once"] if twice else []
    advice = "type --recipe.milestones with epochs inside the run, each once, and --recipe.drop below 1"
    return Finding("idle_milestone", "warning" if typed else "note", "; ".join(idle), advice) if idle else None


def kl_scale(config: Config) -> Finding | None:
    """A factor on the KL terms: with weight decay another experiment, not another unit."""
    name, scale = config.get("method.name"), _number(config, "method.scale")
    if name not in ("ard", "rslad", "variance_gap") or scale is None:
        return None
    weight, formula = scale, "scale"
    if name == "ard":
        alpha, t = _number(config, "method.alpha"), _number(config, "method.t")
        weight, formula = scale * (1 if alpha is None else alpha) * (1 if t is None else t) ** 2, "scale alpha t^2"
    if weight in (0, 1):  # 0 is a term that is off
        return None
    evidence = f"the KL of {name} has the weight {formula} = {weight:.4g}"
    advice = "beside weight decay this is another experiment than a weight of 1: compare runs of one weight"
    return Finding("kl_scale", "note", evidence, advice)


def bn_in_attack(config: Config) -> Finding | None:
    """The attack runs in train mode: every step moves the batch statistics towards images that are never evaluated."""
    if config.get("method.train_mode_attack") is not True:
        return None
    steps = _number(config, f"{TRAINING}.steps")
    moved = f", which moves its batch statistics {steps:g} times a batch" if steps else ""
    evidence = f"the attack sees the student in train mode{moved}"
    return Finding("bn_in_attack", "warning", evidence, "leave train_mode_attack away, unless it is the released form")


def protocol(config: Config) -> Finding | None:
    """The test set will choose the checkpoint."""
    if config.get("data.protocol") != "paper":
        return None
    evidence = "data.protocol is paper: the test set chooses the checkpoint"
    return Finding("selection", "warning", evidence, "report it as the papers' protocol, not as held out")


def unused_temperature(config: Config) -> Finding | None:
    """A temperature in a term of weight 0."""
    name, t = config.get("method.name"), _number(config, "method.t")
    if name not in ("ard", "kd") or t is None or _number(config, "method.alpha") != 0:
        return None
    evidence = f"t is {as_text(t)}, and alpha is 0: the term with the temperature has no weight"
    return Finding("unused_temperature", "warning", evidence, "type --method.alpha above 0; t changes nothing here")


def terms_off(config: Config) -> Iterator[Finding]:
    """Weights of 0 that remove a term of one of our methods."""
    for (name, field, value), (term, consequence) in OFF.items():
        if config.get("method.name") == name and _number(config, f"method.{field}") == value:
            evidence = f"{field} is {value}, so the term {term} of {name} has no weight: {consequence}"
            severity: Severity = "note" if value == 1 or name == "variance_gap" else "warning"
            yield Finding("term_off", severity, evidence, f"nothing if that is meant, else type --method.{field}")


def still_start(config: Config) -> Finding | None:
    """TRADES attacks from x itself, where its KL is smallest and its gradient is rounding."""
    first = "FGSM" if config.get(f"{TRAINING}.name") == "FGSM" else config.get(f"{TRAINING}.start")
    if config.get("method.name") != "trades" or first not in ("FGSM", "none"):
        return None
    evidence = f"the attack of trades ({first}) begins at x, where KL(f(x) || f(x')) has no gradient to climb"
    return Finding("still_start", "warning", evidence, "type --method.attack.start gaussian")


def late_begin(config: Config) -> Finding | None:
    """IAD's self term would begin after the last epoch."""
    begin, epochs = _number(config, "method.begin"), _number(config, "recipe.epochs")
    if config.get("method.name") != "iad" or begin is None or epochs is None or begin <= epochs:
        return None
    evidence = f"the self term of iad begins in epoch {begin:g}, and the run ends after {epochs:g}: it never runs"
    return Finding("late_begin", "warning", evidence, "type --method.begin as the same share of the run, 60 of 200")


def long_warmup(config: Config) -> Finding | None:
    """The covariance weight would still grow when the run ends."""
    warmup, epochs, lc = (_number(config, key) for key in ("method.warmup", "recipe.epochs", "method.lc"))
    if config.get("method.name") != "variance_gap" or not lc or warmup is None or epochs is None or warmup <= epochs:
        return None
    evidence = f"lc grows over {warmup:g} epochs, and the run ends after {epochs:g}, at {epochs / warmup:.2g} of lc"
    return Finding("long_warmup", "warning", evidence, "type --method.warmup with a few epochs")


def small_val(config: Config) -> Finding | None:
    """So few validation images that the best of many epochs is the luckiest."""
    sizes = [_number(config, "recipe.val_size"), _number(config, "data.val")]
    counts = [n for n in sizes if n is not None and n >= 1]  # below 1: a share of an unknown number; 0: all
    if not counts or min(counts) >= FEW:
        return None
    n = min(counts)
    evidence = f"{n:g} images choose the checkpoint: at 50 % their standard error is {50 / math.sqrt(n):.2g} points"
    advice = f"type --recipe.val_size {FEW} or more where val has them, or quote the last checkpoint"
    return Finding("small_val", "warning", evidence, advice)


def half_precision(config: Config) -> Finding | None:
    """bfloat16 or float16 took part: the result is not float32's."""
    parts = {"precision": "learned", "attack_precision": "was attacked while it learned"}
    values = {what: config.get(f"recipe.{key}") for key, what in parts.items()}
    texts = [f"the student {what} in {value}" for what, value in values.items() if value not in (None, "float32")]
    texts += ["the teacher's soft labels are kept in float16"] if config.get("soft_labels") == "float16" else []
    if not texts:
        return None
    return Finding("half_precision", "note", ", ".join(texts), "compare with runs of the same precision, or float32")


def split_batches(config: Config) -> Finding | None:
    """Several processes: batch norm, covariances and Gram matrices are over each one's share of a batch."""
    processes = _number(config, "processes") or 1
    if processes < 2 or config.get("recipe.sync_batchnorm") is True:
        return None
    evidence = f"{processes:g} processes shared each batch: batch statistics are over one share each"
    return Finding("split_batches", "note", evidence, "compare with runs of as many processes where the net has any")


def _flattened(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _number(config: Config, key: str) -> float | None:
    return _parsed(config.get(key))


def _parsed(value: Any) -> float | None:
    """The number that a value is, None for anything else."""
    try:
        return number(value) if isinstance(value, str | int | float) else None
    except ConfigError:
        return None


def _integers(value: Any) -> list[int]:
    return [int(v) for v in map(_parsed, value) if v is not None] if isinstance(value, list | tuple) else []


def _row(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
