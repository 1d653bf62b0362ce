"""Which report of a run is shown."""

import os
from types import SimpleNamespace

import pytest

from ardor.errors import ConfigError
from ardor.evaluation import report_files
from ardor.evaluation.report_files import place_of, shown_reports
from tests.evaluation.comparison.conftest import letters, report

NEAR, FAR = {"name": "Linf", "eps": "8/255"}, {"name": "Linf", "eps": 0.2}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Writes a run with reports: (suite, right of n, n, changes); the net of every run has the hash "net"."""
    fake = SimpleNamespace(load=lambda run, checkpoint, trust_code: None)
    monkeypatch.setattr(report_files, "models", fake)
    monkeypatch.setattr(report_files, "is_of", lambda model, net: model["hash"] == "net")

    def make(name, *reports):
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text("method: {attack: {threat: {name: Linf, eps: 8/255}}}")
        (run / "best.safetensors").touch()
        for k, (suite, n, more) in enumerate(reports):
            more = {"hash": "net"} | more
            report(letters(n, n // 2), suite=suite, **more).save(run / f"report-{suite}-linf-{k}-best.json")
        return run

    return make


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        ([("quick", 40, {}), ("autoattack", 40, {}), ("paper", 40, {})], 1),
        ([("paper", 40, {}), ("autoattack", 20, {})], 1),
        ([("paper", 20, {}), ("paper", 40, {})], 1),
        ([("paper", 40, {"threat": FAR}), ("paper", 40, {"threat": NEAR})], 1),
        ([("autoattack", 40, {"hash": "older weights"}), ("paper", 40, {})], 1),
        ([("mine", 40, {}), ("deployed", 40, {})], 0),
        ([("paper", 40, {"seed": 1}), ("paper", 40, {"seed": 0})], 1),
    ],
)
def test_the_strongest_report_is_shown_whatever_its_age(runs, reports, shown):
    run = runs("a", *reports)
    for order in (1, -1):
        for age, path in enumerate(sorted(run.glob("report-*"))[::order]):
            os.utime(path, (age, age))
        suite, n, more = reports[shown]
        (found,) = shown_reports([run])
        expected = (suite, n, more.get("threat", NEAR), more.get("seed", 0))
        assert (found.suite, found.n, found.threat, found.seed) == expected


def test_several_runs_are_shown_by_the_strongest_suite_that_all_have(runs):
    a = runs("a", ("autoattack", 40, {}), ("paper", 40, {}), ("quick", 40, {}))
    b = runs("b", ("paper", 40, {}), ("quick", 40, {}))
    assert [report.suite for report in shown_reports([a, b])] == ["paper", "paper"]
    assert [report.suite for report in shown_reports([a, b], "quick")] == ["quick", "quick"]
    c = runs("c", ("autoattack", 40, {"threat": FAR}))
    assert [report.suite for report in shown_reports([c, a, b])] == ["autoattack", "paper", "paper"]
    with pytest.raises(ConfigError, match=r"by the suite autoattack of the weights in .*b, got none: type ardor eval"):
        shown_reports([a, b], "autoattack")
    with pytest.raises(ConfigError, match=r"got 1 of other weights: type ardor evaluate \S*d$"):
        shown_reports([runs("d", ("paper", 40, {"hash": "older weights"}))])


@pytest.mark.parametrize(
    ("words", "beside"),
    [
        ({"n": 20}, True),
        ({"suite": "quick"}, True),
        ({"suite": "autoattack"}, False),
        ({"n": 60}, False),
        ({"n": 20, "hash": "other weights"}, False),
        ({}, False),
    ],
)
def test_a_weaker_report_is_written_beside_a_fuller_one(tmp_path, words, beside):
    path = report(letters(40, 9), "net").save(tmp_path / "mine.json")
    n = words.pop("n", 40)
    new = report(letters(n, 9), words.pop("hash", "net"), **words)
    place = place_of(new, path)
    assert (place != path) == beside
    assert place_of(new, new.save(place)) == place
    assert place_of(new, path) == place, "the same before and after"


def test_a_file_that_is_no_report_is_written(tmp_path):
    assert place_of(report(letters(4, 1)), tmp_path / "new.json") == tmp_path / "new.json"
