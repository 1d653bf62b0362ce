"""The figure of robust accuracy against labels and size."""

import pytest

from ardor.evaluation.proportion import Proportion, Summary
from ardor.plot.style import styles_for
from ardor.reporting.robustness import Point, labels_and_size

SIZES = {"small": 8_000, "large": 80_000, "huge": 2_750_000}


def figure(*students):
    points = [
        Point(student, method, labels, SIZES[student], Summary((Proportion(k, 200), Proportion(k + 4, 200))))
        for student in students
        for method, labels, k in (("sat", 5000, 60), ("sat", 200, 20), ("rslad", 0, 58))
    ]
    return labels_and_size(points, styles_for(["sat", "rslad"]), "autoattack")


@pytest.mark.parametrize("students", [("small",), ("small", "large"), ("small", "large", "huge")])
def test_every_method_is_in_the_legend(students):
    axes = figure(*students).axes
    assert len(axes) == 1 + (len(students) > 1)
    (legend,) = [ax.get_legend() for ax in axes if ax.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["sat", "rslad"]
    assert axes[-1].get_legend() is legend, "beside the last panel"


def test_against_size_a_method_has_its_most_labels():
    labels, sizes = figure("small", "large", "huge").axes
    (sat,) = [line for line in sizes.lines if len(line.get_xdata()) == 3 and line.get_marker() == "^"]
    assert list(sat.get_ydata()) == [31, 31, 31]
    assert [tick.get_text() for tick in sizes.get_xticklabels()] == ["8,000", "80 k", "2.8 M"]
    assert [tick.get_text() for tick in labels.get_xticklabels()] == ["none", "200", "5,000"]
