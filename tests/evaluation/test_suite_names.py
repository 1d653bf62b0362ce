"""Suites by name, as `ardor.evaluate` takes them."""

from dataclasses import replace

import pytest

import ardor
from ardor.attacks import suites
from ardor.errors import ConfigError
from tests.conftest import splits


def judge(suite, **options):
    _, test = splits(4, 8)
    return ardor.evaluate(ardor.models.build("small_cnn", classes=4, width=2), test, suite, **options)


def test_a_name_is_the_suite_of_that_name():
    threat = ardor.Linf(0.1)
    named, given = judge("quick", threat=threat), judge(suites.quick(threat))
    assert replace(named, seconds={}) == replace(given, seconds={})


def test_the_radius_of_a_name_alone_is_the_field_s():
    assert judge("quick").threat == judge(suites.quick(ardor.Linf(8 / 255))).threat
    assert [suites.named(name).name for name in suites.SUITES] == list(suites.SUITES)
    assert suites.named("square", ardor.L2(0.5)).threat == ardor.L2(0.5)


@pytest.mark.parametrize(
    ("suite", "options", "words"),
    [
        ("autoatack", {}, 'got "autoatack" (did you mean "autoattack"?)'),
        ("", {}, 'got ""'),
        (suites.quick(ardor.Linf(0.1)), {"threat": ardor.Linf(0.2)}, 'beside the suite quick, which has its own: pass'),
        ("quick", {"threat": 0.1}, "expected threat of evaluate as a Threat or None, got 0.1: type for example"),
        (ardor.attacks.PGD(), {}, "expected suite of evaluate as a Suite or text, got PGD"),
    ],
)  # fmt: skip
def test_bad_input(suite, options, words):
    with pytest.raises(ConfigError) as error:
        judge(suite, **options)
    assert words in str(error.value)
