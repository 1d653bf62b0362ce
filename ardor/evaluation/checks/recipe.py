"""What in a run's configuration silently changes its result: seen before hours are spent, from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding, Severity, present
from ardor.storage.config import as_text, number

FEW = 300
"""small_val: images. At a robust accuracy of 50 % their standard error is 2.9 points, more than late epochs differ."""

PAPERS = (215, 260, 285)
"""idle_milestone: of 300 epochs, the places that `Recipe` fills in where no milestones were given."""

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
"""term_off: (method, field, value) -> the term whose weight is then 0, and what follows."""

Config = Mapping[str, Any]


def of_recipe(config: Config, eps: float | None = None) -> list[Finding]:
    """Every finding on the configuration of a run: its config.yaml, or the same before it begins.

    eps: the radius that the run will be judged at, where that is known. Of a user's own method only what every method
    may have is looked at: its attack, and `train_mode_attack`. What the configuration does not say is not judged.
    """
    findings = [check(config, where) for where in (TRAINING, VALIDATION) for check in (step_above_eps, short_reach)]
    findings += [validation_threat(config), judged_eps(config, eps), *milestones(config), kl_scale(config)]
    findings += [bn_in_attack(config), protocol(config), unused_temperature(config), *terms_off(config)]
    findings += [still_start(config), late_begin(config), long_warmup(config), small_val(config)]
    findings += [half_precision(config), split_batches(config)]
    return present(*findings)


def step_above_eps(config: Config, where: str) -> Finding | None:
    """A step longer than the radius: each leads from border to border, and nothing between is ever seen."""
    eps, step = _number(config, f"{where}.threat.eps"), _number(config, f"{where}.step")
    if eps is None or step is None or step <= eps * (1 + 1e-9):
        return None
    evidence = f"{where} takes steps of {as_text(step)} in a ball of {as_text(eps)}"
    return Finding("step_above_eps", "warning", evidence, f"type --{where}.step with eps/4, {as_text(eps / 4)}")


def short_reach(config: Config, where: str) -> Finding | None:
    """All steps together are shorter than the radius: the attack cannot cross its ball."""
    eps, steps = _number(config, f"{where}.threat.eps"), _number(config, f"{where}.steps")
    step = _number(config, f"{where}.step") or (None if eps is None else eps / 4)
    if "step" not in _piece(config, where) or eps is None or steps is None or step is None:
        return None
    if steps * step >= eps * (1 - 1e-9):
        return None
    evidence = f"{where} takes {steps:g} steps of {as_text(step)}, together less than its eps {as_text(eps)}"
    return Finding("short_reach", "warning", evidence, f"type --{where}.steps {math.ceil(eps / step)} or longer steps")


def validation_threat(config: Config) -> Finding | None:
    """The checkpoint is chosen under another threat than the method trains under."""
    trained, chosen = (_piece(config, f"{where}.threat") for where in (TRAINING, VALIDATION))
    a, b = (_number(config, f"{where}.threat.eps") for where in (TRAINING, VALIDATION))
    if a is None or b is None or (trained.get("name") == chosen.get("name") and math.isclose(a, b, rel_tol=1e-6)):
        return None
    evidence = f"trained at {_threat_text(trained, a)}, its checkpoint chosen at {_threat_text(chosen, b)}"
    return Finding("other_eps", "warning", evidence, "leave recipe.val_attack.threat away: it follows the method's")


def judged_eps(config: Config, eps: float | None) -> Finding | None:
    """The run will be judged at another radius than it trains at."""
    trained = _number(config, f"{TRAINING}.threat.eps")
    if eps is None or trained is None or math.isclose(trained, eps, rel_tol=1e-6):
        return None
    evidence = f"trained at eps {as_text(trained)}, judged at {as_text(eps)}"
    return Finding("other_eps", "warning", evidence, "say both beside the figure, or train at the radius of the table")


def milestones(config: Config) -> list[Finding]:
    """Milestones that change nothing, or twice at once. Those that nobody typed are a note, and none elsewhere."""
    recipe = _piece(config, "recipe")
    marks, epochs, drop = _integers(recipe.get("milestones")), _number(config, "recipe.epochs"), recipe.get("drop")
    if not marks or epochs is None:
        return []
    typed = marks != [round(epochs * m / 300) for m in PAPERS]
    if recipe.get("schedule", "milestones") != "milestones":
        idle = f"milestones {_row(marks)} stand beside schedule {recipe['schedule']}, which has none" if typed else ""
    elif drop is not None and _parse(drop) == 1:
        idle = f"the rate is multiplied by 1 after epochs {_row(marks)}"
    else:
        idle = "; ".join(_idle(marks, epochs))
    advice = "type --recipe.milestones with epochs inside the run, each once, and --recipe.drop below 1"
    return [Finding("idle_milestone", "warning" if typed else "note", idle, advice)] if idle else []


def _idle(marks: Sequence[int], epochs: float) -> list[str]:
    late = sorted({m for m in marks if m >= epochs})
    twice = sorted({m for m in marks if marks.count(m) > 1 and m < epochs})
    texts = [f"the rate never drops after epoch {_row(late)}: the run ends at {epochs:g}"] if late else []
    return texts + ([f"milestone {_row(twice)} stands more than once: its drops come at once"] if twice else [])


def kl_scale(config: Config) -> Finding | None:
    """A factor on the KL terms: beside weight decay another experiment, not another unit."""
    name, scale = _method(config), _number(config, "method.scale")
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
    """The attack runs in train mode: every step moves the batch statistics, towards images that nobody will show."""
    if _piece(config, "method").get("train_mode_attack") is not True:
        return None
    steps = _number(config, f"{TRAINING}.steps")
    moved = f", which moves its batch statistics {steps:g} times a batch" if steps else ""
    evidence = f"the attack sees the student in train mode{moved}"
    return Finding("bn_in_attack", "warning", evidence, "leave train_mode_attack away, unless it is the released form")


def protocol(config: Config) -> Finding | None:
    """The test set will choose the checkpoint."""
    if _piece(config, "data").get("protocol") != "paper":
        return None
    evidence = "data.protocol is paper: the test set chooses the checkpoint"
    return Finding("selection", "warning", evidence, "report it as the papers' protocol, not as held out")


def unused_temperature(config: Config) -> Finding | None:
    """A temperature in a term of weight 0."""
    name, t = _method(config), _number(config, "method.t")
    if name not in ("ard", "kd") or t is None or _number(config, "method.alpha") != 0:
        return None
    evidence = f"t is {as_text(t)}, and alpha is 0: the term with the temperature has no weight"
    return Finding("unused_temperature", "warning", evidence, "type --method.alpha above 0; t changes nothing here")


def terms_off(config: Config) -> list[Finding]:
    """Weights of 0 that leave a whole term of one of our methods out."""
    name, findings = _method(config), []
    for (method, field, value), (term, follows) in OFF.items():
        if name == method and _number(config, f"method.{field}") == value:
            evidence = f"{field} is {value}, so the term {term} of {name} has no weight: {follows}"
            severity: Severity = "note" if value == 1 or method == "variance_gap" else "warning"
            advice = f"nothing if that is meant, else type --method.{field}"
            findings.append(Finding("term_off", severity, evidence, advice))
    return findings


def still_start(config: Config) -> Finding | None:
    """TRADES attacks from x itself, where its KL is smallest and its gradient is rounding."""
    attack = _piece(config, TRAINING)
    first = "FGSM" if attack.get("name") == "FGSM" else attack.get("start")
    if _method(config) != "trades" or first not in ("FGSM", "none"):
        return None
    evidence = f"the attack of trades ({first}) begins at x, where KL(f(x) || f(x')) has no gradient to climb"
    return Finding("still_start", "warning", evidence, "type --method.attack.start gaussian")


def late_begin(config: Config) -> Finding | None:
    """IAD's self term would begin after the last epoch."""
    begin, epochs = _number(config, "method.begin"), _number(config, "recipe.epochs")
    if _method(config) != "iad" or begin is None or epochs is None or begin <= epochs:
        return None
    evidence = f"the self term of iad begins in epoch {begin:g}, and the run ends after {epochs:g}: it never runs"
    return Finding("late_begin", "warning", evidence, "type --method.begin as the same share of the run, 60 of 200")


def long_warmup(config: Config) -> Finding | None:
    """The covariance weight would still grow when the run ends."""
    warmup, epochs, lc = (_number(config, key) for key in ("method.warmup", "recipe.epochs", "method.lc"))
    if _method(config) != "variance_gap" or not lc or warmup is None or epochs is None or warmup <= epochs:
        return None
    evidence = f"lc grows over {warmup:g} epochs, and the run ends after {epochs:g}, at {epochs / warmup:.2g} of lc"
    return Finding("long_warmup", "warning", evidence, "type --method.warmup with a few epochs")


def small_val(config: Config) -> Finding | None:
    """So few validation images that the best of many epochs is the luckiest."""
    sizes = [_number(config, "recipe.val_size"), _number(config, "data.val")]
    counts = [n for n in sizes if n is not None and n >= 1]  # below 1: a share of a number that nobody says; 0: all
    if not counts or min(counts) >= FEW:
        return None
    n = min(counts)
    evidence = f"{n:g} images choose the checkpoint: at 50 % their standard error is {50 / math.sqrt(n):.2g} points"
    advice = f"type --recipe.val_size {FEW} or more where val has them, or quote the last checkpoint"
    return Finding("small_val", "warning", evidence, advice)


def half_precision(config: Config) -> Finding | None:
    """bfloat16 or float16 took part: declared, and another result than float32's."""
    recipe, labels = _piece(config, "recipe"), config.get("soft_labels")
    parts = {"learned": recipe.get("precision"), "was attacked while it learned": recipe.get("attack_precision")}
    texts = [f"the student {what} in {value}" for what, value in parts.items() if value not in (None, "float32")]
    texts += [f"the teacher's soft labels are kept in {labels}"] if labels == "float16" else []
    if not texts:
        return None
    return Finding("half_precision", "note", ", ".join(texts), "compare with runs of the same precision, or float32")


def split_batches(config: Config) -> Finding | None:
    """Several processes: batch norm, covariances and Gram matrices are over each one's share of a batch."""
    processes = _parse(config.get("processes")) or 1
    if processes < 2 or _piece(config, "recipe").get("sync_batchnorm") is True:
        return None
    evidence = f"{processes:g} processes shared each batch: batch statistics are over one share each"
    return Finding("split_batches", "note", evidence, "compare with runs of as many processes where the net has any")


def _method(config: Config) -> Any:
    return _piece(config, "method").get("name")


def _piece(config: Config, where: str) -> Mapping[str, Any]:
    """The mapping at the dotted key, empty where there is none."""
    node: Any = config
    for key in where.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _number(config: Config, where: str) -> float | None:
    """The number at the dotted key, or None where there is none."""
    piece, _, key = where.rpartition(".")
    return _parse(_piece(config, piece).get(key))


def _parse(value: Any) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        return number(value)
    except ConfigError:
        return None


def _integers(value: Any) -> list[int]:
    return [int(v) for v in map(_parse, value) if v is not None] if isinstance(value, list | tuple) else []


def _row(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)


def _threat_text(threat: Mapping[str, Any], eps: float) -> str:
    return f"{threat.get('name', 'eps')} {as_text(eps)}"


def with_training(findings: list[Finding], trained: Mapping[str, Any], eps: float) -> list[Finding]:
    """The findings of an evaluation and those of the training, each name once."""
    names = {finding.name for finding in findings}
    return [*findings, *(finding for finding in of_recipe(trained, eps) if finding.name not in names)]
