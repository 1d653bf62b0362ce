"""Figures of runs and measurements: what is drawn, what is refused, and matplotlib as it was before."""

import math
import sys

import matplotlib
import numpy as np
import pytest

from ardor import plot
from ardor.errors import ConfigError, RunError
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.variance import GapPoint
from ardor.plot.sheet import Figure
from ardor.plot.style import KNOWN
from ardor.storage.runs import Run
from ardor.training.epoch import EpochRecord, History
from tests import warm


def record(epoch, robust=0.3, **changes):
    terms = {"clean": 0.5 / epoch, "robust": 1 / epoch}
    values = {"val_clean": 0.5, "val_robust": robust, "best": epoch == 2} | changes
    return EpochRecord(epoch, 3, sum(terms.values()), terms, 0.1, 1.0, **values)


RECORDS = History(record(e, e / 10) for e in (1, 2, 3))


def points(bend=1.0):
    return [
        GapPoint(r / 255, math.exp(-bend * r / 10), 1.0, -0.02 * bend * r, -0.01 * bend * r, 0.0) for r in (0, 4, 8)
    ]


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


def test_curves_of_one_run():
    above, below = plot.curves(RECORDS).axes
    assert lines(above)["robust"] == [[1, 10], [2, 20], [3, 30]]
    assert lines(above)["clean"] == [[1, 50], [2, 50], [3, 50]]
    assert lines(above)["best"] == [[2, 20]]
    assert lines(below)["loss"] == pytest.approx(np.array([[1, 1.5], [2, 0.75], [3, 0.5]]))
    assert set(lines(below)) == {"loss", "clean", "robust"}
    assert above.get_ylim() == (0, 100)


def test_curves_of_several_runs_have_their_names_and_styles():
    above, below = plot.curves({"rslad": RECORDS, "SAT": RECORDS[:2]}).axes
    assert {"rslad robust", "SAT robust"} <= set(lines(above))
    assert set(lines(below)) == {"rslad", "SAT"}
    assert [line.get_color() for line in below.get_lines()] == [KNOWN["rslad"].colour, KNOWN["sat"].colour]


def test_curves_without_validation_are_the_loss_alone():
    (ax,) = plot.curves([record(e, val_clean=None, val_robust=None) for e in (1, 2)]).axes
    assert ax.get_ylabel() == "loss"


def test_curves_where_some_epochs_were_validated_and_an_average_was():
    some = [record(1, val_clean=None, val_robust=None), record(2, averaged_robust=0.4), record(3)]
    above, _ = plot.curves(some).axes
    assert lines(above)["robust"] == [[2, 30], [3, 30]]
    assert lines(above)["robust, average"] == [[2, 40]]


def test_curves_of_a_folder_are_those_of_its_records(tmp_path):
    (tmp_path / "config.yaml").write_text("method: {name: sat}\n")
    for one in RECORDS:
        Run(tmp_path).append(vars(one))
    assert lines(plot.curves(tmp_path).axes[0]) == lines(plot.curves(RECORDS).axes[0])
    assert lines(plot.curves(str(tmp_path)).axes[1]) == lines(plot.curves(RECORDS).axes[1])


def test_radius_of_several_nets():
    (ax,) = plot.radius({"rslad": points(), "sat": points(2)}, eps=8 / 255).axes
    curves = [line.get_xydata() for line in ax.get_lines() if len(line.get_xydata()) == 3]
    assert curves[0][:, 0] == pytest.approx([0, 4, 8])
    assert curves[1][:, 1] == pytest.approx([100 * math.exp(-r / 5) for r in (0, 4, 8)])
    assert {"rslad", "sat", "eps 8/255"} <= {text.get_text() for text in ax.texts}
    assert ax.get_xlabel() == "radius eps, in 1/255"


def test_radius_needs_no_features():
    (ax,) = plot.radius([GapPoint(eps, 1 - eps) for eps in (0.2, 0.0, 0.1)]).axes
    assert ax.get_lines()[0].get_xdata() == pytest.approx([0, 0.1, 0.2])
    assert ax.get_xlabel() == "radius eps"


def test_variance_gap_has_its_correlation():
    left, right = plot.variance_gap(points()).axes
    gaps, robust = left.get_lines()[0].get_data()
    assert gaps == pytest.approx([0, 4, 8])
    expected = np.corrcoef(gaps, robust)[0, 1]
    assert left.get_legend().get_texts()[0].get_text() == f"r = {expected:.2f}".replace("-", "−")
    assert right.get_lines()[1].get_ydata() == pytest.approx([0, -4, -8])


def test_a_constant_has_no_correlation():
    left, _ = plot.variance_gap({"a": [GapPoint(0, 0.5, 1, 0, 0, 0), GapPoint(0.1, 0.5, 1, 0, 0.1, 0)]}).axes
    assert "undefined" in left.get_legend().get_texts()[0].get_text()


def test_accuracies_have_whiskers():
    share = Proportion(45, 100)
    (ax,) = plot.accuracies({"pgd": share}).axes
    assert ax.get_lines()[0].get_xdata() == pytest.approx([100 * end for end in share.interval])
    assert ax.get_lines()[1].get_xdata() == pytest.approx([45])


def test_the_folder_of_a_run_without_an_epoch_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("recipe: {}\n")
    with pytest.raises(ConfigError, match="at least one epoch, got .: pass"):
        plot.curves(".")


def test_rows_that_are_left_out_are_told():
    shares = {str(k): Proportion(k, 100) for k in range(41)}
    assert plot.accuracies(shares).axes[0].get_title(loc="left") == "the first 40 of 41"
    del shares["40"]
    assert plot.accuracies(shares).axes[0].get_title(loc="left") == ""


NO_FEATURES = [GapPoint(0.0, 0.9), GapPoint(0.1, 0.5)]


@pytest.mark.parametrize(
    ("draw", "value", "words"),
    [
        (plot.curves, [], "expected at least one epoch, got []"),
        (plot.curves, {}, "expected one run at least, got an empty dict"),
        (plot.curves, 3, "expected at least one epoch, got 3"),
        (plot.curves, [1, 2], "expected records of epochs, got int"),
        (plot.curves, {"a": [{"epoch": 1}]}, "expected records of epochs, got dict"),
        (plot.radius, [], "expected points over the radius, got list"),
        (plot.radius, "runs/mine", "expected points over the radius, got str: pass ardor.variance_gap(net, test)"),
        (plot.radius, {"a": RECORDS}, "expected points over the radius, got History"),
        (plot.variance_gap, NO_FEATURES, "expected a variance gap at each radius, got none for net"),
        (plot.accuracies, {}, "expected accuracies by name, got none"),
        (plot.accuracies, {"clean": 0.5}, "expected accuracies by name"),
    ],
)
def test_bad_input(draw, value, words):
    with pytest.raises(ConfigError) as error:
        draw(value)
    assert words in str(error.value)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"config\.yaml"):
        plot.curves(tmp_path)
    (tmp_path / "config.yaml").write_text("method: {name: sat}\n")
    with pytest.raises(ConfigError, match="at least one epoch"):
        plot.curves(tmp_path)


def test_matplotlib_is_as_it_was(monkeypatch):
    before = matplotlib.rcParams.copy()
    figure = plot.curves(RECORDS)
    assert matplotlib.rcParams.copy() == before
    assert isinstance(figure, Figure)
    assert isinstance(figure, matplotlib.figure.Figure)
    ticks = figure.axes[0].get_yticklabels()
    with matplotlib.rc_context({"ytick.color": "red", "figure.facecolor": "black"}):
        png = figure._repr_png_()
        assert all(tick.get_color() != "red" for tick in ticks)
    assert png.startswith(b"\x89PNG")
    assert figure.get_facecolor() == (1, 1, 1, 1)  # dark text on a notebook's dark page needs it
    with matplotlib.rc_context({"axes.facecolor": "red"}):
        assert plot.curves(RECORDS).axes[0].get_facecolor() != (1, 0, 0, 1)
    code = "import sys; from ardor import plot; plot.radius; assert 'matplotlib.pyplot' not in sys.modules"
    warm.run([sys.executable, "-c", code], check=True)
