"""Reports, their statistics and comparisons, and the figures."""

import html
import json
import math
import re
import shlex
from itertools import pairwise

import pytest

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion, Summary, mean_sd, wilson
from ardor.evaluation.report import Report
from ardor.evaluation.variance import GapPoint
from ardor.plot import axes
from ardor.plot.style import KNOWN, calm
from ardor.reporting import PageEntry, comparison, figures, styles
from ardor.reporting.table import tables
from tests.reporting.conftest import gaps, page_entries, report, share, write

# statistics


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        # Newcombe, Statistics in Medicine 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)
    assert Proportion(k, n).interval == wilson(k, n)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0, 1)
    assert math.isnan(Proportion(0, 0).value)


def test_mean_and_sample_sd():
    assert mean_sd([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert math.isnan(mean_sd([0.5])[1])


def test_a_summary_spans_wilson_for_one_seed_and_mean_sd_for_several():
    one, two = Summary((Proportion(5, 10),)), Summary((Proportion(5, 10), Proportion(7, 10)))
    assert one.interval == wilson(5, 10)
    assert two.interval == pytest.approx((0.6 - math.sqrt(0.02), 0.6 + math.sqrt(0.02)))
    assert (str(one), str(two)) == ("50.0", "60.0 ± 14.1")


# reports


def test_figures_follow_from_the_verdicts():
    counts = {name: (p.k, p.n) for name, p in report().figures().items()}
    assert counts == {"clean": (7, 8), "a": (5, 8), "b": (4, 8), "worst_case": (3, 8)}


def test_per_class_is_the_worst_case_of_each_class():
    assert {name: (p.k, p.n) for name, p in report().per_class().items()} == {"cat": (2, 4), "dog": (1, 4)}


def test_the_table_says_n_intervals_and_findings():
    found = report(findings=[Finding("x", "warning", "seen", "do this")], title="mine")
    text = str(found)
    assert "mine on digits (test), Linf eps 8/255, n = 8" in text
    assert "| worst_case | 37.50 | 13.68 .. 69.43 | 3 / 8 |" in text
    assert "worst class: dog (1 of 4" in text
    assert text.endswith("warning: seen; do this")


def test_a_report_survives_saving(tmp_path):
    one = report(findings=[Finding("x", "note", "seen", "next")], training={"epochs": 3})
    path = one.save(tmp_path / "deep" / "r.json")
    assert Report.load(path) == one
    assert json.loads(path.read_text())["figures"]["worst_case"]["k"] == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c | {"format": "other"},
        lambda c: {k: v for k, v in c.items() if k != "labels"},
        lambda c: c | {"surprise": 1},
        lambda c: c | {"verdicts": {"a": "rr"}},
        lambda c: c | {"verdicts": {"a": "rrrrrbb?"}},
        lambda c: c | {"verdicts": {}},
        lambda c: c | {"verdicts": {"a": "rrrrrbb-", "b": "-rrrrrrr"}},
        lambda c: c | {"findings": [{"name": "x"}]},
        lambda c: [c],
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, damage):
    path = report().save(tmp_path / "r.json")
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=r"expected .*r\.json"):
        Report.load(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"expected .*r\.json"):
        Report.load(tmp_path / "r.json")


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        Report.load(tmp_path / "absent.json")


# comparison


def test_comparison_marks_the_best_student_and_the_seeds():
    lines = comparison(page_entries()[:3]).splitlines()
    assert lines[0] == "100 images, digits (test), suite paper, Linf eps 8/255:"
    assert lines[2] == "| net | role | parameters | images | clean | a | b | worst_case |"
    assert lines[4] == "| teacher | teacher | 2,294 | 100 | 90.0 | 60.0 | 60.0 | 60.0 |"
    assert lines[5] == "| natural | student | 2,294 | 100 | 90.0 | 1.0 | 1.0 | 1.0 |"
    assert lines[6].startswith("| rslad | student | 2,294 | 100 × 2 seeds | 90.0 ± 0.0 | 45.0 ± 7.1 |")
    assert lines[-2] == "Wilson 95 % intervals of one seed are at most 19.2 points wide."
    assert "are not compared: expected as many seeds" in lines[-1]


@pytest.mark.parametrize(
    ("robust", "sentence"),
    [
        ((60, 30, 20), "Worst case: net0 (60.0) stands above net1 (30.0, p < 0.0001)"),
        ((60, 58, 20), "Worst case: no difference shown between net0 (60.0) and net1 (58.0"),
        ((60, 60), "Worst case: no difference shown between net0 (60.0) and net1 (60.0, p 1.0000)"),
        ((60,), ""),
    ],
)
def test_a_star_needs_a_difference_that_the_paired_comparison_shows(robust, sentence):
    (table,) = tables([PageEntry(f"net{i}", "student", [share(k)]) for i, k in enumerate(robust)])
    assert table.verdict.startswith(sentence)
    assert bool(sentence) == bool(table.verdict)
    stars = [name for name, row in zip(table.entries, table.rows, strict=True) if row[-1][1]]
    assert bool(stars) == sentence.startswith("Worst case: net0 (60.0) stands")


def test_p_of_a_star_is_corrected_for_the_number_of_students():
    """Six images that only net0 has right: p 0.031 alone, 0.062 beside another student."""
    entries = [PageEntry(f"net{i}", "student", [share(k)]) for i, k in enumerate((60, 54, 54))]
    assert tables(entries[:2])[0].rows[0][-1][1]
    entries[2].reports[0].model["hash"] = "other"
    assert not tables(entries)[0].rows[0][-1][1]


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_two_seeds_have_no_star(seeds):
    entries = [PageEntry(n, "student", [share(k + s, seed=s) for s in range(seeds)]) for n, k in (("a", 60), ("b", 30))]
    assert tables(entries)[0].rows[0][-1][1] == (seeds != 2)


def test_an_error_in_a_report_has_no_star():
    entries = [PageEntry(name, "student", [share(k)]) for name, k in (("a", 60), ("b", 30))]
    entries[0].reports[0].findings = [Finding("zero_gradients", "error", "seen", "next")]
    (table,) = tables(entries)
    assert not table.rows[0][-1][1]
    assert "no difference can be claimed" in table.verdict


@pytest.mark.parametrize(
    "other",
    [
        {"suite": "quick"},
        {"threat": {"name": "Linf", "eps": 0.2}},
        {"threat": {"name": "L2", "eps": "8/255"}},
        {"data": report().data | {"name": "cifar10", "hash": "beef"}},
        {"index": list(range(1, 9))},
        {"seed": 1},
        {"attacks": {"a": {"name": "PGD", "steps": 7}}},
    ],
)
def test_each_protocol_has_a_table_of_its_own(other):
    entries = [PageEntry("x", "student", [report()]), PageEntry("a|b", "student", [report(**other)])]
    text = comparison(entries)
    assert [table.entries for table in tables(entries)] == [[entries[0]], [entries[1]]]
    assert len({table.title for table in tables(entries)}) == text.count("| net |") == 2
    assert "**" not in text
    assert "| a\\|b | student" in text


def test_an_entry_of_two_protocols_and_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="judged on the same images by the same attacks"):
        comparison([PageEntry("x", "student", [report(), report(suite="quick")])])
    with pytest.raises(ConfigError, match="another name for each net, got x twice"):
        comparison([PageEntry("x", "student", [report()])] * 2)


# figures


def test_ten_nets_have_ten_looks_and_a_method_keeps_its_own():
    names = ["natural", "sat", "trades", "mart", "kd", "ard", "iad", "rslad", "mine"]
    entries = [PageEntry("wide", "teacher", [report()])] + [PageEntry(n, "student", [report()]) for n in names]
    found = styles.styles_of(entries)
    assert len({look.colour for look in found.values()}) == 10
    assert len({look.marker for look in found.values()}) == 10
    assert styles.styles_of([PageEntry("RSLAD", "student", [report()])])["RSLAD"] == found["rslad"]
    many = [PageEntry(f"net{i}", "student", [report()]) for i in range(20)]
    assert len(styles.styles_of(many)) == 20


def test_whiskers_span_the_intervals():
    entries = page_entries()[:3]
    rows = [entry.accuracies["worst_case"] for entry in entries]
    with calm():
        (ax,) = figures.accuracy(entries, rows, styles.styles_of(entries), "worst case").axes
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    low, high = wilson(60, 100)
    assert spans[0] == pytest.approx((100 * low, 100 * high))
    assert spans[2] == pytest.approx((45 - math.sqrt(50), 45 + math.sqrt(50)))
    assert [text.get_text() for text in ax.texts] == ["60.0", "1.0", "45.0"]


def test_curves_skip_epochs_that_were_not_validated():
    entry = page_entries()[2]
    with calm():
        above, below = figures.training(entry, KNOWN["rslad"], []).axes
    assert [list(line.get_xdata()) for line in above.lines[:2]] == [[2, 4], [2, 4]]
    assert list(above.lines[1].get_ydata()) == pytest.approx([20, 40])
    assert [line.get_label() for line in below.lines] == ["loss", "robust", "clean"]
    assert list(below.lines[0].get_ydata()) == pytest.approx([1.5, 0.75, 0.5, 0.375])


def test_curves_without_validation_show_the_loss_alone():
    entry = PageEntry("sat", "student", [report()], [{"epoch": 1, "loss": 2.0, "terms": {"ce": 2.0}}])
    with calm():
        (ax,) = figures.training(entry, KNOWN["sat"], []).axes
    assert [line.get_label() for line in ax.lines] == ["loss"]


def test_radii_are_drawn_in_their_unit_with_the_eps_of_the_results():
    entries = page_entries()
    with calm():
        (ax,) = figures.radius(entries, styles.styles_of(entries), [8 / 255]).axes
    assert list(ax.lines[2].get_xdata()) == pytest.approx([0, 4, 8, 12, 16])
    assert list(ax.lines[2].get_ydata()) == pytest.approx([90, 70, 50, 30, 10])
    assert list(ax.lines[4].get_xdata()) == pytest.approx([8, 8])
    assert [text.get_text() for text in ax.texts][:2] == ["eps 8/255", "natural"]
    heights = [text.get_position()[1] for text in ax.texts[1:]]
    assert all(b - a > 5.9 for a, b in pairwise(heights))


def test_the_trend_shows_gap_accuracy_and_sign():
    with calm():
        above, below = figures.trend(page_entries()[2], KNOWN["rslad"], [8 / 255]).axes
    assert list(above.lines[0].get_xdata()) == pytest.approx([0, 5, 10, 15, 7.5])
    assert list(above.lines[0].get_ydata()) == pytest.approx([90, 70, 50, 30, 10])
    assert list(below.lines[1].get_ydata()) == pytest.approx([0, -5, -10, -15, -7.5])
    assert below.get_title("left") == "turns back at 12/255"


def test_bend_finds_the_turn_and_ignores_noise():
    def points(*signed):
        return [GapPoint(i / 255, 0.5, 1, s, s, 0) for i, s in enumerate(signed)]

    assert figures.bend(points(0, 1, 3, 2, 1)).eps == 2 / 255
    assert figures.bend(points(0, -1, -3, 2)).eps == 2 / 255
    assert figures.bend(points(0, 1, 0.99, 2)) is None
    assert figures.bend(points(0, -0.01, 1, 2)) is None
    assert figures.bend(points(0, 0, 0)) is None


def test_labels_are_spread_without_crossing():
    places = axes.spread([0, 0, 1, 50, 99, 100], 6, 0, 100)
    assert places == sorted(places)
    assert all(b - a >= 6 - 1e-9 for a, b in pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 100
    assert places[3] == 50
    assert axes.spread([22, 23, 31], 6, 0, 100) == pytest.approx([20, 26, 32], abs=1)


def test_radii_read_well():
    assert axes.radius_unit([0, 4 / 255, 8 / 255 * 1.5])[0] == 255
    assert axes.radius_unit([0, 0.025, 0.05])[0] == 1
    assert axes.radius_unit([0, 0.2, 0.4])[0] == 1
    assert [axes.radius_text(r, 255) for r in (0, 8 / 255, 8 / 255 * 3 / 4)] == ["0", "8/255", "6/255"]


def test_correlation_has_a_true_minus_and_may_be_undefined():
    assert figures.correlation(gaps()) == "−1.00"
    assert figures.correlation([GapPoint(e, 0.5, 1, 0, 0, 0) for e in (0.0, 0.1)]) == "undefined"


def test_names_are_no_markup_in_a_table():
    evil = "x\n# y <img src=z> | [a](javascript:b)"
    data = report().data | {"name": evil, "class_names": [evil, "dog"]}
    one = report(data=data, title=evil)
    for text in (comparison([PageEntry(evil, "student", [one])]), one.table()):
        assert not re.search(r"(?m)^# y|<img|\]\(javascript|[^\\]\| \[", text)


def test_the_command_of_a_page_can_be_pasted(tmp_path):
    command = shlex.join(["ardor", "report", "runs/a b", "x'; touch y #`z`"])
    page = write(tmp_path / "p.html", [], command=command).read_text()
    assert html.unescape(re.search(r"<pre>(ardor .*?)</pre>", page)[1]) == command
