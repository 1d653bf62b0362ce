"""The section "On the device" of the page: its tables, its picture of size against robustness, and what is left out."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ardor.deployment.variants import DeploymentReport, Latency, Variant
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion, wilson
from ardor.plot.style import calm
from ardor.reporting import PageEntry, device, figures, styles
from tests.reporting.conftest import CHROMIUM, HOSTILE, Page, gaps, report, screenshot, write

ATTACKS = ("transfer_pgd20", "pgd20", "square")


def judged(robust, n=100, clean=90, square=None):
    """A report of the suite `deployed`: `robust` of n under the attacks with gradients, `square` under Square."""

    def letters(k):
        return "r" * k + "b" * (clean - k) + "-" * (n - clean)

    verdicts = {name: letters(robust) for name in ATTACKS[:2]} | {"square": letters(square or min(robust + 10, clean))}
    return report(verdicts, labels=[0] * (n // 2) + [1] * (n - n // 2), suite="deployed")


def deployed(size=40_000, int8=20_000, robust=60, lost=12, forced=()):
    """A net and its files, of which INT8 has `lost` fewer robust images."""

    def form(name, size, k, p50, same, forced=()):
        report, shares = judged(k), (Proportion(100, 100), Proportion(same, 100))
        return Variant(
            name, f"{name}.onnx", size, "0" * 64, Latency(p50, 3 * p50, 200), report, "r.json", shares, forced
        )

    forms = (
        form("float32", size, robust, 0.2, 100),
        form("onnx", size + 100, robust, 0.1, 100),
        form("onnx-int8", int8, robust - lost, 0.05, 97, forced),
    )
    versions = {"ardor": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1"}
    return DeploymentReport("best", "feed", 8610, 78656, forms, {"name": "PGD"}, "a processor", versions)


def entries():
    return [
        PageEntry("teacher", "teacher", [judged(70)], gaps=gaps()),
        PageEntry("rslad", "student", [judged(60)], gaps=gaps(), deployed=deployed(forced=("91 of 100 equal",))),
        PageEntry(HOSTILE, "student", [judged(30)], gaps=gaps(), deployed=deployed(2_000_000, 600_000, 30, 0)),
        PageEntry("sat", "student", [judged(50)], stale="best-int8.onnx is another file than the one compared"),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page") / "page.html", entries()).read_text(encoding="utf-8")


def test_the_section_stands_between_radius_and_evidence(page):
    parsed = Page(page)
    sections = [value for tag, name, value in parsed.attributes if (tag, name) == ("section", "id")]
    assert sections == ["results", "classes", "radius", "device", "variance", "wrong"]
    assert '<a href="#device">On the device</a>' in page
    assert parsed.tags.count("svg") == 2 + 1 + 1 + 3
    assert parsed.tags.count("script") == 1
    assert "i" not in parsed.tags


def test_each_net_has_its_forms_side_by_side(page):
    rows = [row for row in Page(page).rows if len(row) == 4]
    tables = [rows[i:] for i, row in enumerate(rows) if row == ["figure", "float32", "ONNX", "INT8"]]
    assert len(tables) == 2
    said = {row[0]: row[1:] for row in tables[0][:22]}
    assert said == {
        "figure": ["float32", "ONNX", "INT8"],
        "size": ["40.0 kB", "40.1 kB", "20.0 kB"],
        "parameters": ["8,610"] * 3,
        "MACs": ["78,656"] * 3,
        "latency p50, ms": ["0.2000", "0.1000", "0.0500"],
        "latency p95, ms": ["0.6000", "0.3000", "0.1500"],
        "clean": ["90.00"] * 3,
        "transfer_pgd20": ["60.00", "60.00", "48.00"],
        "pgd20": ["60.00", "60.00", "48.00"],
        "square": ["70.00", "70.00", "58.00"],
        "all transfer attacks": ["60.00", "60.00", "48.00"],
        "all white-box attacks": ["60.00", "60.00", "48.00"],
        "all query attacks": ["70.00", "70.00", "58.00"],
        "worst case": ["60.00", "60.00", "48.00"],
        "95 % interval": ["50.2–69.1", "50.2–69.1", "38.5–57.7"],
        "equal predictions, clean, %": ["", "100.00", "100.00"],
        "equal predictions, adversarial, %": ["", "100.00", "97.00"],
        "clean, points": ["", "+0.00", "+0.00"],
        "clean, McNemar p": ["", "1.0000", "1.0000"],
        "worst case, points": ["", "+0.00", "-12.00"],
        "worst case, McNemar p": ["", "1.0000", f"{2 / 2**12:.4f}"],
    }
    assert "The export was forced: 91 of 100 equal." in page
    assert "one thread of a processor, 200 runs of each form in turn, ardor 0.1.0, torch 2.13.0" in page


def test_what_was_found_on_a_file_is_said_of_that_file(tmp_path):
    one, other = entries()[1:3]
    found = Finding("hidden_by_quantisation", "error", "its gradients are hidden", "quote the worst case")
    one.deployed.forms[2].report.findings = [found]
    attacks = {"transfer_pgd20": {"name": "Transfer", "attack": {"name": "PGD", "steps": 20}, "weights": "feed"}}
    for entry in (one, other):
        for form in entry.deployed.forms:
            form.report.attacks = attacks
    text = write(tmp_path / "p.html", [one, other]).read_text(encoding="utf-8")
    assert "error</span> (rslad in INT8): its gradients are hidden; quote the worst case" in text
    assert text.count("transfer_pgd20</th><td class") == 1
    assert "attack PGD (steps 20)" in text
    assert str(one.deployed).endswith(f"INT8: {found}")
    for form in one.deployed.forms:
        form.report.findings = [found]
    text = write(tmp_path / "p.html", [one, other]).read_text(encoding="utf-8")
    assert "(rslad, rslad in ONNX, rslad in INT8)" in text


def test_a_stale_comparison_is_said_and_not_shown(page, tmp_path):
    assert "<strong>sat</strong> is not shown: best-int8.onnx is another file than the one compared." in page
    alone = write(tmp_path / "p.html", [entries()[3]]).read_text(encoding="utf-8")
    assert 'id="device"' in alone
    assert "size of the file" not in alone
    assert 'id="device"' not in write(tmp_path / "q.html", [entries()[0]]).read_text(encoding="utf-8")


def test_the_same_arguments_give_the_same_bytes(page, tmp_path):
    assert write(tmp_path / "p.html", entries()).read_text(encoding="utf-8") == page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_terminal_gets_a_line_for_each_form():
    lines = device.markdown([*entries()[:2], replace(entries()[1], name="a|b")]).splitlines()
    assert lines[0] == "100 images, digits (test), suite deployed, Linf eps 8/255:"
    assert len(lines) == 4 + 6
    assert lines[4] == "| rslad | float32 | 40.0 kB | 0.2000 | 90.0 | 60.0 | 50.2 .. 69.1 |  |"
    assert lines[6] == "| rslad | INT8 | 20.0 kB | 0.0500 | 90.0 | 48.0 | 38.5 .. 57.7 | 0.0005 |"
    assert lines[7].startswith("| a\\|b |")
    assert device.markdown(entries()[:1]) == ""


# the picture


def drawn(forms):
    found = styles.styles_of([PageEntry(name, "student", [report()]) for name in forms])
    with calm():
        figure = figures.size(forms, found)
        figure.canvas.draw()
        return figure, figure.axes[0]


def points(size, int8, k, lost=0, n=100):
    same = [(form, size, Proportion(k, n)) for form in ("float32", "onnx")]
    return [*same, ("onnx-int8", int8, Proportion(k - lost, n))]


def test_points_stand_at_size_and_worst_case_with_whiskers():
    _, ax = drawn({"rslad": points(40_000, 20_000, 60, 12)})
    joined = ax.lines[0]
    assert list(joined.get_xdata()) == [40_000, 40_000, 20_000]
    assert list(joined.get_ydata()) == pytest.approx([60, 60, 48])
    whiskers = [line for line in ax.lines if line.get_alpha() == 0.6]
    assert [tuple(line.get_ydata()) for line in whiskers] == [
        pytest.approx([100 * end for end in wilson(k, 100)]) for k in (60, 60, 48)
    ]
    assert [text.get_text() for text in ax.texts] == ["rslad"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["float32", "ONNX", "INT8"]
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["20 kB", "30 kB", "40 kB", "50 kB"]


def test_nets_of_one_size_stand_beside_each_other_and_others_where_they_are():
    names = ["natural", "sat", "rslad"]
    # an ONNX file of the same net may be a few bytes longer: its metadata say more
    forms = {name: points(40_000 + 10 * i, 20_000, 60 + i) for i, name in enumerate(names)}
    _, ax = drawn(forms | {"big": points(4e6, 2e6, 9)})
    places = [math.log10(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 3]
    assert places[1] == pytest.approx(math.log10(40_010))
    assert places[3] == pytest.approx(math.log10(4e6))
    width = np.diff(np.log10(ax.get_xlim()))[0]
    assert [b - a for a, b in pairwise(places[:3])] == pytest.approx([0.028 * width] * 2, rel=0.02)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_labels_do_not_meet_and_nothing_leaves_the_picture(count):
    names = ["natural", "sat", "trades", "mart", "kd", "ard", "iad", "rslad", "variance_gap"][:count]
    figure, ax = drawn({name: points(40_000, 20_000, 50 + i, i) for i, name in enumerate(names)})
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(above.y0 >= below.y1 - 1 for below, above in pairwise(boxes))
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height + 1 for box in boxes)
    assert ax.get_ylim()[0] == 0
    assert len({text.get_text() for text in ax.texts}) == count


@pytest.mark.parametrize("sizes", [(450_000, 130_000), (44_700_000, 11_300_000), (1_250_000, 340_000), (5e8, 1e4)])
def test_the_axis_of_sizes_has_a_few_round_ticks(sizes):
    _, ax = drawn({"sat": points(*sizes, 50)})
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert 2 <= len(labels) <= 7
    assert all(re.fullmatch(r"[\d.]+ (kB|MB)", label) for label in labels)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_on_a_telephone_the_table_keeps_its_words_whole(page, tmp_path):
    """A row whose name is broken letter by letter makes the page much longer."""
    length = {}
    for width in (390, 330):
        seen = screenshot(page.replace("<body>", f'<body style="width: {width}px">'), tmp_path, 500, 12000)
        assert (seen[:, width + 5 :] == 255).all(), "nothing runs over the edge"
        length[width] = np.flatnonzero((seen[:, :width] < 250).any((1, 2))).max()
    assert 3000 < length[390] < length[330] < 1.06 * length[390]
