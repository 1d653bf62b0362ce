"""What a Report, a Split, a Comparison and the records of epochs are shown as at the end of a notebook's cell."""

import inspect
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

import ardor
from ardor.attacks import suites
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.findings import Finding
from ardor.training.epoch import EpochRecord
from tests.conftest import splits


@pytest.fixture(scope="module")
def things():
    train, test = splits(40, 32)
    net = ardor.models.build("small_cnn", classes=4, width=2)
    other = ardor.models.build("small_cnn", classes=4, width=2, seed=1)
    recipe = ardor.Recipe(epochs=1, batch=20, augment="none", device="cpu")
    records = ardor.distill(net, None, ardor.methods.Natural(), train, recipe)
    reports = [ardor.evaluate(one, test, suites.quick(ardor.Linf(0.1))) for one in (net, other)]
    reports[0].title = "<b>mine</b>"
    comparison = compare(reports[:1], reports[1:], names=("<i>", "B"))
    return SimpleNamespace(
        split=replace(test, name="<script>", class_names=("<b>", "<i>", "c", "d")),
        report=reports[0],
        comparison=comparison,
        records=records,
    )


@pytest.mark.parametrize("name", ["split", "report", "comparison"])
def test_the_last_line_of_a_cell_is_short_and_escaped(things, name):
    thing = getattr(things, name)
    html = thing._repr_html_()
    assert len(html.splitlines()) <= 20
    assert "32" in repr(thing)
    assert len(repr(thing)) < 400
    assert not re.search("<(b|i|script)>", html)
    assert "&lt;" in html
    assert "tensor(" not in repr(thing) + html


def test_a_report_of_many_figures_keeps_its_table_short(things):
    many = replace(things.report, verdicts={f"a{i}": "r" * 32 for i in range(40)})
    assert len(many._repr_html_().splitlines()) <= 20
    assert "more" in many._repr_html_()
    found = replace(things.report, findings=[Finding("small_val", "warning", "seen", "type --recipe.val_size 300")])
    assert "pass val_size=300" in found._repr_html_()
    assert "small_val" in repr(found)


def test_the_records_of_epochs_are_one_line_each(things):
    assert repr(things.records) == f"[<EpochRecord {things.records[0]}>]"
    assert isinstance(things.records[0], EpochRecord)


def test_help_shows_the_arguments_of_distill():
    ours, theirs = inspect.signature(ardor.distill), inspect.signature(ardor.epochs)
    assert ours.parameters == theirs.parameters


def test_a_net_that_was_trained_here_is_not_noted_as_in_training_mode(things):
    train, test = splits(20, 8)
    net = ardor.models.build("small_cnn", classes=4, width=2)
    recipe = ardor.Recipe(epochs=1, batch=20, augment="none", device="cpu")
    for _ in ardor.epochs(net, None, ardor.methods.Natural(), train, recipe):
        assert not net.training
    assert "training_mode" not in [f.name for f in ardor.evaluate(net, test, suites.quick(ardor.Linf(0.1))).findings]
