"""Trials that Optuna suggests: the same after an interruption, and a failed one ends nothing."""

import shutil

import pytest

from ardor.errors import ConfigError, RunError
from ardor.experiments.axes import parse_suggestions
from ardor.experiments.sweep_sheet import as_csv, figures_of
from ardor.experiments.trials import Trials, run_trials
from tests.experiments.conftest import contents
from tests.experiments.test_sweep import CONFIG, silent

pytest.importorskip("optuna")

WORDS = ["recipe.lr=log:0.01..0.3", "recipe.batch=16|32", "recipe.epochs=int:1..2"]


def study(folder, words=WORDS, seed=0):
    return Trials(CONFIG, parse_suggestions(words), folder, seed)


class Stub:
    """An engine that makes nothing, and gives each trial the score that `score` returns."""

    def __init__(self, slots=1):
        self.slots, self.running = slots, []

    def start(self, table, cell, progress):
        self.running.append(cell)

    def wait(self):
        return self.running.pop(0), "done", ""


@pytest.fixture
def scored(monkeypatch):
    """Robust accuracies as a function of the rate, without training; what was suggested."""
    from ardor.experiments import trials

    suggested = []

    def tell(self, cell, done):
        suggested.append(cell.row)
        self._study.tell(self._asked.pop(cell.name), -abs(cell.config["recipe"]["lr"] - 0.1))

    monkeypatch.setattr(trials.Trials, "tell", tell)
    monkeypatch.setattr(trials, "require_named", lambda *_: None)
    monkeypatch.setattr(trials, "write_sweep", lambda *_: [])
    return suggested


def test_suggestions_depend_on_the_seed_and_what_came_before_alone(tmp_path, scored):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_trials(study(tmp_path / name, seed=seed), 14, "", silent, engine=Stub())
    a, b, c = scored[:14], scored[14:28], scored[28:]
    assert a == b
    assert a != c
    assert len({row[1] for row in a}) == 14
    for number, rate, batch, epochs in a:
        assert 0.01 <= float(rate) <= 0.3
        assert batch in ("16", "32")
        assert epochs in ("1", "2")
        assert a[int(number)][0] == number
    early, late = ([abs(float(row[1]) - 0.1) for row in part] for part in (a[:10], a[10:]))
    assert min(late) < max(early), "the later ones come from what the earlier gave"


def test_several_at_once_are_different(tmp_path, scored):
    run_trials(study(tmp_path), 12, "", silent, engine=Stub(slots=4))
    assert sorted(int(row[0]) for row in scored) == list(range(12))
    assert len({row[1] for row in scored}) == 12


def test_an_interrupted_study_goes_on_as_the_whole_one(tmp_path):
    whole, broken = study(tmp_path / "whole"), study(tmp_path / "broken")
    run_trials(whole, 4, "", silent)

    def stop(cell, event):
        if cell.name.startswith("trial-002"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(broken, 4, "", stop)
    before = contents(tmp_path / "broken" / "cells" / "trial-001")
    resumed = study(tmp_path / "broken")
    assert run_trials(resumed, 4, "", silent) == []
    assert contents(tmp_path / "broken" / "cells" / "trial-001") == before
    assert as_csv(resumed.sweep, figures_of(resumed.sweep)) == as_csv(whole.sweep, figures_of(whole.sweep))
    assert (tmp_path / "broken" / "sweep.csv").read_bytes() == (tmp_path / "whole" / "sweep.csv").read_bytes()


def test_a_failed_trial_is_named_and_the_others_go_on(tmp_path):
    words = ["recipe.lr=1e30|0.1"]
    problems = run_trials(study(tmp_path, words), 6, "", silent)
    rates = {cell.name: cell.config["recipe"]["lr"] for cell in study_of(tmp_path, words, 6).sweep.cells}
    assert {problem.cell.name for problem in problems} == {name for name, rate in rates.items() if rate == "1e30"}
    assert set(rates.values()) == {"1e30", "0.1"}
    assert not list(tmp_path.rglob("*.pkl"))
    assert not list(tmp_path.rglob("*.db"))


def study_of(folder, words, number):
    again = study(folder, words)
    run_trials(again, number, "", silent)
    return again


def test_a_folder_is_of_one_study(tmp_path, scored):
    run_trials(study(tmp_path), 1, "", silent, engine=Stub())
    for other in ({"words": WORDS[:1]}, {"seed": 1}, {"words": ["recipe.lr=log:0.01..0.4", *WORDS[1:]]}):
        with pytest.raises(RunError, match="expected the sweep that .* is of, got another"):
            run_trials(study(tmp_path, **other), 1, "", silent, engine=Stub())
    run_trials(study(tmp_path), 3, "", silent, engine=Stub())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recipe.lrr=0..1", "did you mean lr="),
        ("recipe.epochs=1.5..2", "recipe.epochs"),
        ("recipe.epochs=1..20", "recipe.epochs as a whole number"),
        ("recipe.schedule=one-cycle|cosin", "cosin"),
        ("student.width=2|wide", "wide"),
    ],
)
def test_the_ends_and_choices_are_built_first(tmp_path, word, message):
    with pytest.raises(ConfigError, match=message):
        study(tmp_path / "out", [word])
    assert not list(tmp_path.iterdir())


def test_nothing_of_optuna_is_printed(tmp_path, scored, capfd):
    run_trials(study(tmp_path), 2, "", silent, engine=Stub())
    shutil.rmtree(tmp_path)
    assert capfd.readouterr() == ("", "")
