"""The recipe check on a config without a finding that is changed in one place."""

import copy
import functools

import pytest

import ardor
from ardor.evaluation import checks

LINF = {"name": "Linf", "eps": "8/255"}
ATTACK = {"name": "PGD", "threat": LINF, "steps": 10, "step": None, "loss": "ce"}
GOOD = {
    "method": {"name": "sat", "attack": {**ATTACK, "start": "uniform"}},
    "student": {"name": "resnet18"},
    "teacher": None,
    "data": {"name": "cifar10", "root": "data", "val": 0.1, "seed": 0, "protocol": "holdout"},
    "recipe": {
        "epochs": 200, "schedule": "milestones", "milestones": [100, 150], "drop": 0.1, "val_size": 1000,
        "val_attack": {**ATTACK, "start": "uniform"},
    },
}  # fmt: skip


def names(findings):
    return [f.name for f in findings]


def changed(**at):
    """GOOD with other values at dotted keys, dots written as two underscores."""
    config = copy.deepcopy(GOOD)
    for key, value in at.items():
        *path, last = key.split("__")
        functools.reduce(dict.__getitem__, path, config)[last] = value
    return config


def of(name, **options):
    """A configuration of `name` with an attack that has no finding."""
    return changed(method={"name": name, "attack": copy.deepcopy(GOOD["method"]["attack"]), **options})


def on(shape, recipe=None, **at):
    return checks.recipe.of_images(changed(**at), shape, recipe)


def test_defaults_of_cifar_on_other_images_are_noted():
    crop = {"recipe__augment": "crop-flip", "recipe__padding": 4}
    assert on((3, 32, 32), **crop) == on((3, 64, 64), student={"name": "resnet18"}, **crop) == []
    wide, mirrored = on((1, 8, 8), data={"name": "digits"}, **crop)
    assert (wide.name, wide.next) == ("wide_crop", "type --recipe.padding 1")
    assert mirrored.name == "mirrored"
    assert on((1, 8, 8), recipe__augment="none", recipe__padding=4) == []
    assert on((3, 224, 224), student={"name": "mine.py:Net"}, **crop | {"recipe__padding": 28}) == []
    (mirrored,) = on((1, 8, 8), data={"name": "digits"}, recipe__augment="resized-crop-flip")
    assert mirrored.name == "mirrored"
    (defaults,) = on((3, 32, 32), "sat", data={"name": "digits"}, recipe__augment="none", recipe__epochs=300)
    typed = {"recipe__augment": "none", "recipe__epochs": 3, "method__attack__threat__eps": 0.2}
    assert on((3, 32, 32), "sat", data={"name": "digits"}, **typed) == []
    assert "ardor train sat --data digits" in defaults.next


@pytest.mark.parametrize(
    ("recipe", "evidence", "advice"),
    [
        ({"augment": "resized-crop", "views": 0}, "recipe.views 0 draws", "type --recipe.views 32 to cache them"),
        ({"augment": "crop", "jitter": ["2/5", 0, 0, 0]}, "recipe.jitter draws", "nothing if that is meant"),
        ({"augment": "resized-crop", "views": 8, "randaugment": [2, 9]}, "recipe.randaugment draws", "nothing if that"),
    ],
)
def test_soft_labels_that_cannot_be_cached_are_noted(recipe, evidence, advice):
    config = changed(teacher={"name": "runs/t"})
    config["recipe"] |= recipe
    (live,) = checks.recipe.of_recipe(config)
    assert live.name == "live_labels"
    assert live.evidence.startswith(f"the teacher's soft labels are not cached: {evidence}")
    assert live.next.startswith(advice)
    assert checks.recipe.with_training([], config, 8 / 255) == [live], "beside an evaluation too"
    assert checks.recipe.of_recipe({**config, "teacher": None}) == []
    config["recipe"] |= {"views": 8, "jitter": [0, 0, 0, 0], "randaugment": [0, 9]}
    assert checks.recipe.of_recipe(config) == []


def test_milestones_are_noted_by_training_alone():
    config = changed(recipe__epochs=1, recipe__milestones=[1, 1, 1])
    assert "idle_milestone" in names(checks.recipe.of_recipe(config))
    assert checks.recipe.with_training([], config, 8 / 255) == []


def test_a_plain_configuration_has_none():
    assert checks.recipe.of_recipe(GOOD) == []
    assert checks.recipe.of_recipe(GOOD, 8 / 255) == []
    assert checks.recipe.of_recipe({}) == []
    method = {"name": "mine.py:Mine", "attack": "strong", "alpha": 0, "scale": 5}
    assert checks.recipe.of_recipe(changed(method=method)) == []


def test_milestones_beside_another_schedule_need_nothing_where_that_is_meant():
    """ardor train natural --recipe.schedule one-cycle: the milestones are those of the recipe."""
    (finding,) = checks.recipe.of_recipe(changed(recipe__schedule="one-cycle"))
    assert finding.next == "nothing, if one-cycle is meant; for their drops type --recipe.schedule milestones"


@pytest.mark.parametrize(
    ("config", "severity", "evidence"),
    [
        (changed(method__attack__step="9/255"), "warning", "step_above_eps: method.attack takes steps of 9/255 in"),
        (changed(recipe__val_attack__step=0.04), "warning", "step_above_eps: recipe.val_attack takes steps of 0.04"),
        (changed(method__attack__steps=3), "warning", "short_reach: method.attack takes 3 steps of 2/255, toge"),
        (changed(recipe__val_attack__step="0.003"), "warning", "short_reach: recipe.val_attack takes 10 steps of 0.0"),
        (changed(recipe__val_attack__threat={"name": "Linf", "eps": 0.031}),
         "warning", "other_eps: trained at Linf 8/255, its checkpoint chosen at Linf 0.031"),
        (changed(recipe__val_attack__threat={"name": "L2", "eps": "8/255"}),
         "warning", "other_eps: trained at Linf 8/255, its checkpoint chosen at L2 8/255"),
        (changed(recipe__milestones=[100, 200]), "warning", "idle_milestone: the rate never drops after epoch 200: "),
        (changed(recipe__milestones=[250, 300]), "warning", "idle_milestone: the rate never drops after epoch 250, 3"),
        (changed(recipe__milestones=[100, 100]), "warning", "idle_milestone: milestone 100 stands more than once"),
        (changed(recipe__drop=1.0), "warning", "idle_milestone: the rate is multiplied by 1 after epochs 100, 150"),
        (changed(recipe__schedule="cosine"), "note", "idle_milestone: the schedule cosine has no milestones, so th"),
        (changed(recipe__epochs=2, recipe__milestones=[1, 2, 2]),
         "note", "idle_milestone: the rate never drops after epoch 2: the run ends at 2"),
        (of("rslad", alpha="5/6", scale=0.1), "note", "kl_scale: the KL of rslad has the weight scale = 0.1"),
        (of("variance_gap", scale=2, lc=1, lg=1), "note", "kl_scale: the KL of variance_gap has the weight scale"),
        (of("ard", alpha=0.5, t=30, scale="1/10"),
         "note", "kl_scale: the KL of ard has the weight scale alpha t^2 = 45"),
        (of("ard", t=2, scale=0.5), "note", "kl_scale: the KL of ard has the weight scale alpha t^2 = 2"),
        (of("ard", alpha=0.25, t=4, scale=1), "note", "kl_scale: the KL of ard has the weight scale alpha t^2 = 4"),
        (of("iad", train_mode_attack=True), "warning", "bn_in_attack: the attack runs on the student in train mode"),
        (of("mine.py:Mine", train_mode_attack=True), "warning", "bn_in_attack: the attack runs on the student in"),
        (changed(data__protocol="paper"), "warning", "selection: data.protocol is paper: the test set chooses"),
        (of("ard", alpha=1, t=1, scale=1), "note", "term_off: alpha is 1, so the term clean of ard has no weight"),
        (of("kd", alpha=1, t=4), "note", "term_off: alpha is 1, so the term clean of kd"),
        (of("rslad", alpha=0, scale=1), "warning", "term_off: alpha is 0, so the term robust of rslad"),
        (of("rslad", alpha="1", scale=1), "note", "term_off: alpha is 1, so the term clean of rslad"),
        (of("trades", beta=0), "warning", "term_off: beta is 0, so the term robust of trades"),
        (of("mart", beta=0.0), "warning", "term_off: beta is 0, so the term robust of mart"),
        (of("iad", b=0), "warning", "term_off: b is 0, so the term self of iad has no weight"),
        (of("variance_gap", lc=0, lg=10), "note", "term_off: lc is 0, so the term covariance of variance_gap"),
        (of("variance_gap", lc=1, lg="0"), "note", "term_off: lg is 0, so the term gram of variance_gap"),
        (of("variance_gap", alpha=0), "note", "term_off: alpha is 0, so the term robust of variance_gap"),
        (of("variance_gap", alpha=1), "note", "term_off: alpha is 1, so the term clean of variance_gap"),
        (changed(method={"name": "trades", "attack": {**ATTACK, "start": "none"}}),
         "warning", "still_start: the attack of trades (none) begins at x"),
        (changed(method={"name": "trades", "attack": {"name": "FGSM", "threat": LINF, "loss": "ce"}}),
         "warning", "still_start: the attack of trades (FGSM) begins at x"),
        (of("iad", begin=201),
         "warning", "late_begin: the self term of iad begins in epoch 201, and the run ends after 200"),
        (of("variance_gap", lc=1, warmup=400),
         "warning", "long_warmup: lc grows over 400 epochs, and the run ends after 200, at 0.5 of lc"),
        (changed(recipe__val_size=100),
         "warning", "small_val: 100 images choose the checkpoint: at 50 % their standard error is 5 points"),
        (changed(data__val=299), "warning", "small_val: 299 images choose the checkpoint"),
        (changed(recipe__val_size=0, data__val=50), "warning", "small_val: 50 images choose the checkpoint"),
        (changed(recipe__eps_ramp=[10, 20]), "note",
         "eps_ramp: the training attack has radius 0 up to epoch 10 and its full one from epoch 20 of 200"),
        (changed(recipe__accumulate=4), "note", "split_batches: each batch was computed in 4 parts"),
        (changed(recipe__precision="bfloat16"), "note", "half_precision: the student learned in bfloat16"),
        (changed(recipe__attack_precision="bfloat16"),
         "note", "half_precision: the student was attacked while it learned in bfloat16"),
        (changed(recipe__teacher_precision="bfloat16"),
         "note", "half_precision: the teacher's passes were in bfloat16"),
        (of("igdm", alpha=1) | {"recipe": changed(recipe__teacher_precision="bfloat16")["recipe"]}, "warning",
         "half_precision: the teacher's passes were in bfloat16, where the differences of two nearly equal"),
        (changed(soft_labels="float16"), "note", "half_precision: the teacher's soft labels are kept in float16"),
        (of("igdm", alpha=1) | {"recipe": changed(recipe__precision="bfloat16")["recipe"]}, "warning",
         "half_precision: the student learned in bfloat16, where the differences of two nearly equal logits that igdm"),
        (of("igdm", alpha=0) | {"recipe": changed(recipe__precision="bfloat16")["recipe"]}, "note",
         "half_precision: the student learned in bfloat16"),
        (of("igdm", alpha=1) | {"recipe": changed(recipe__attack_precision="bfloat16")["recipe"]}, "note",
         "half_precision: the student was attacked"),
        (of("absld", drops=[215, 260, 285]), "warning",
         "other_drops: method.drops lower what absld adapts by at no epoch, and the rate drops after 100, 150"),
        (of("mtard", drops=[120, 150]), "warning",
         "other_drops: method.drops lower what mtard adapts by after epochs 120, 150"),
        (changed(processes=4), "note", "split_batches: 4 processes shared each batch"),
    ],
)  # fmt: skip
def test_each_finding_alone(config, severity, evidence):
    (finding,) = checks.recipe.of_recipe(config)
    assert f"{finding.name}: {finding.evidence}".startswith(evidence)
    assert finding.severity == severity
    assert finding.next


@pytest.mark.parametrize(
    "config",
    [
        changed(method__attack__step="8/255"),
        changed(method__attack__steps=4),
        changed(method__attack__steps=4, method__attack__step="2/255"),
        changed(method__attack={"name": "FGSM", "threat": LINF, "loss": "ce"}),
        changed(method__attack={"name": "APGD", "threat": LINF, "steps": 1}),
        changed(recipe__val_attack__threat={"name": "Linf", "eps": 8 / 255}),
        changed(recipe__milestones=[100, 199]),
        changed(recipe__schedule="cosine", recipe__milestones=[143, 173, 190]),
        changed(recipe__schedule="milestones", recipe__milestones=[143, 173, 190]),
        changed(recipe__milestones=None),
        of("rslad", alpha="5/6", scale=1.0),
        of("ard", alpha=0.25, t=2, scale=1),
        of("ard", alpha=0.999, t=1, scale="1000/999"),
        of("iad", begin=200, b=0.1, t=3, train_mode_attack=False),
        of("mine.py:Mine", alpha=0, beta=0, t=9, begin=500, warmup=500, lc=1, scale=0.1),
        changed(method={"name": "sat", "attack": {**ATTACK, "start": "none"}}),
        of("variance_gap", lc=1, lg=1, warmup=200),
        of("trades", beta=6),
        changed(recipe__val_size=300),
        changed(recipe__val_size=0),
        changed(data__val=300),
        changed(data__val=0.001),
    ],
)  # fmt: skip
def test_a_hair_below_the_threshold_has_none(config):
    assert checks.recipe.of_recipe(config) == []


def test_a_milestone_after_the_end_drops_neither_once_nor_twice():
    (finding,) = checks.recipe.of_recipe(changed(recipe__milestones=[50, 50, 200, 200, 300]))
    assert finding.evidence == (
        "the rate never drops after epoch 200, 300: the run ends at 200; "
        "milestone 50 stands more than once: its drops come at once"
    )


def test_an_unused_temperature_is_not_the_term_that_is_off():
    findings = checks.recipe.of_recipe(of("ard", alpha=0, t=30, scale=1))
    assert names(findings) == ["unused_temperature", "term_off"]
    assert findings[0].evidence == "t is 30, and alpha is 0: the term with the temperature has no weight"
    assert names(checks.recipe.of_recipe(of("kd", alpha="0", t=4))) == ["unused_temperature", "term_off"]
    assert names(checks.recipe.of_recipe(of("iad", b=0.1, t=4, alpha=0))) == []


def test_the_judged_radius_is_compared_with_the_trained_one():
    config = changed(method__attack__threat={"name": "Linf", "eps": 0.031})
    config["recipe"]["val_attack"]["threat"] = {"name": "Linf", "eps": 0.031}
    assert checks.recipe.of_recipe(config) == checks.recipe.of_recipe(config, 0.031) == []
    (finding,) = checks.recipe.of_recipe(config, 8 / 255)
    assert (finding.name, finding.evidence) == ("other_eps", "trained at Linf eps 0.031, judged at Linf eps 8/255")
    assert checks.recipe.of_recipe(changed(method={"name": "natural"}), 0.1) == []


def test_values_that_are_no_numbers_have_no_finding():
    odd = changed(method__attack__step="long", recipe__epochs=[1], recipe__val_size=True, data="cifar10")
    assert checks.recipe.of_recipe(odd) == []
    assert checks.recipe.of_recipe(changed(recipe="fast", method=["sat"])) == []


@pytest.mark.parametrize(
    ("threat", "seen"),
    [
        (ardor.L2(128 / 255), "trained at Linf eps 8/255, judged at L2 eps 128/255"),
        (ardor.L2(8 / 255), "trained at Linf eps 8/255, judged at L2 eps 8/255"),
        (ardor.Linf(0.2), "trained at Linf eps 8/255, judged at Linf eps 0.2"),
        (ardor.Linf(8 / 255), None),
    ],
)
def test_another_threat_of_the_evaluation_is_named_with_norm_and_radius(threat, seen):
    evidence = [f.evidence for f in checks.recipe.of_recipe(GOOD, threat)]
    assert evidence == ([] if seen is None else [seen])


def test_drops_of_a_method_are_those_of_the_rate():
    assert checks.recipe.of_recipe(of("absld", drops=[150, 100, 260])) == []
    (finding,) = checks.recipe.of_recipe(of("absld", drops=[100]))
    assert finding.next == "type --method.drops 100 --method.drops 150"
    cosine = of("absld", drops=[100]) | {"recipe": changed(recipe__schedule="cosine")["recipe"]}
    assert "other_drops" not in names(checks.recipe.of_recipe(cosine))
