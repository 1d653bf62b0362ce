import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ardor.checks import Finding
from ardor.data.split import Split
from ardor.errors import ConfigError, RunError
from ardor.report import (
    Entry,
    Example,
    Proportion,
    Report,
    Summary,
    comparison,
    examples,
    figures,
    looks,
    mean_sd,
    wilson,
    write_page,
)
from ardor.report.svg import calm, svg
from ardor.variance import GapPoint

SECTIONS = ["results", "training", "radius", "examples", "variance", "wrong"]
HOSTILE = '</script><script>alert("1")</script><i>'


def report(verdicts=None, seed=0, labels=None, **more):
    """Eight images: seven right when clean, five survive a, four survive b, three survive both."""
    verdicts = verdicts or {"a": "rrrrrbb-", "b": "brbrrrb-"}
    n = len(next(iter(verdicts.values())))
    given = {
        "model": {"name": "small_cnn", "hash": "0123abcd", "parameters": 2294},
        "data": {
            "name": "digits",
            "part": "test",
            "classes": 2,
            "class_names": ["cat", "dog"],
            "hash": "feed",
            "marks": [],
        },
        "suite": "paper",
        "threat": {"name": "Linf", "eps": "8/255"},
        "attacks": {"a": {"name": "PGD", "threat": {"name": "Linf", "eps": "8/255"}, "steps": 20, "step": "2/255"}},
        "index": list(range(n)),
        "labels": labels or [0, 0, 0, 0, 1, 1, 1, 1][:n],
        "verdicts": verdicts,
        "seed": seed,
        "batch": 4,
        "versions": {"ardor": "0.1.0", "torch": "2.13.0"},
    }
    return Report(**(given | more))


def share(robust, n=100, clean=90, seed=0):
    """A report with `clean` of n right and `robust` of n robust under each of two attacks."""
    letters = "r" * robust + "b" * (clean - robust) + "-" * (n - clean)
    return report({"a": letters, "b": letters}, seed, labels=[0] * (n // 2) + [1] * (n - n // 2))


def gaps(end=0.1, turn=False):
    radii = [r / 255 for r in range(0, 18, 4)]
    signed = [0, -0.1, -0.2, -0.3, -0.15 if turn else -0.4]
    accuracy = [0.9, 0.7, 0.5, 0.3, end]
    return [GapPoint(e, a, 2 + s, s, s / 2, abs(s)) for e, a, s in zip(radii, accuracy, signed, strict=True)]


def curve():
    def record(epoch):
        value = {"val_clean": 0.2 * epoch, "val_robust": 0.1 * epoch} if epoch % 2 == 0 else {}
        terms = {"robust": 1 / epoch, "clean": 0.5 / epoch}
        return {"epoch": epoch, "loss": 1.5 / epoch, "terms": terms, "lr": 0.1, "best": bool(value), **value}

    return [record(epoch) for epoch in range(1, 5)]


def example(channels=1, size=8):
    clean = torch.linspace(0.2, 0.6, channels * size * size).reshape(channels, size, size)
    step = torch.zeros_like(clean)
    step[:, 0, 0], step[:, 0, 1] = 0.1, -0.1
    said = {"natural": ("cat", "dog"), "rslad": ("cat", "cat")}
    return Example("cat", clean, {"natural": clean + step, "rslad": clean}, said)


def page_entries():
    return [
        Entry("teacher", "teacher", [share(60)], gaps=gaps()),
        Entry("natural", "student", [share(1)], curve(), gaps(0.0)),
        Entry("rslad", "student", [share(50), share(40, seed=1)], curve(), gaps(turn=True)),
        Entry(HOSTILE, "student", [share(30)], curve(), gaps()),
    ]


def write(path, entries=None, shown=None, **words):
    said = {"title": "T", "intro": "I", "notes": ["see `ardor demo`"]} | words
    return write_page(path, page_entries() if entries is None else entries, shown or [], **said)


class Page(HTMLParser):
    """What a browser would see: nesting, texts by tag, attributes, table rows."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows, self.attributes = [], [], {}, [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data.strip()}" if self.rows[-1][-1] else data.strip()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("page") / "page.html", shown=[example()])
    return path.read_text(encoding="utf-8")


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
    assert "worst class: dog, 1 of 4" in text
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
    with pytest.raises(ConfigError, match="expected a report that"):
        Report.load(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ConfigError, match="name such a file"):
        Report.load(tmp_path / "r.json")


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        Report.load(tmp_path / "absent.json")


# comparison


def test_comparison_marks_the_best_student_and_says_seeds():
    lines = comparison(page_entries()[:3]).splitlines()
    assert lines[0] == "| net | role | parameters | images | clean | a | b | worst_case |"
    assert lines[2] == "| teacher | teacher | 2,294 | 100 | 90.0 | 60.0 | 60.0 | 60.0 |"
    assert lines[3] == "| natural | student | 2,294 | 100 | **90.0** | 1.0 | 1.0 | 1.0 |"
    assert lines[4].startswith("| rslad | student | 2,294 | 100 × 2 seeds | **90.0 ± 0.0** | **45.0 ± 7.1** |")
    assert lines[-1] == "Wilson 95 % intervals of one seed are at most 19.2 points wide."


def test_comparison_keeps_nets_of_different_suites_apart():
    other = Entry("a|b", "student", [report({"c": "rrrrrbb-"})])
    lines = comparison([Entry("x", "student", [report()]), other]).splitlines()
    assert lines[0].endswith("| clean | a | b | c | worst_case |")
    assert lines[3] == "| a\\|b | student | 2,294 | 8 | **87.5** | – | – | 62.5 | **62.5** |"


# figures


def test_ten_nets_have_ten_looks_and_a_method_keeps_its_own():
    names = ["natural", "sat", "trades", "mart", "kd", "ard", "iad", "rslad", "mine"]
    entries = [Entry("wide", "teacher", [report()])] + [Entry(n, "student", [report()]) for n in names]
    found = looks.looks(entries)
    assert len({look.colour for look in found.values()}) == 10
    assert len({look.marker for look in found.values()}) == 10
    assert looks.looks([Entry("RSLAD", "student", [report()])])["RSLAD"] == found["rslad"]
    many = [Entry(f"net{i}", "student", [report()]) for i in range(20)]
    assert len(looks.looks(many)) == 20


def test_whiskers_span_the_intervals():
    entries = page_entries()[:3]
    rows = [entry.accuracies["worst_case"] for entry in entries]
    with calm():
        (ax,) = figures.accuracy(entries, rows, looks.looks(entries), "worst case").axes
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    low, high = wilson(60, 100)
    assert spans[0] == pytest.approx((100 * low, 100 * high))
    assert spans[2] == pytest.approx((45 - math.sqrt(50), 45 + math.sqrt(50)))
    assert [text.get_text() for text in ax.texts] == ["60.0", "1.0", "45.0"]


def test_curves_skip_epochs_that_were_not_validated():
    entry = page_entries()[2]
    with calm():
        above, below = figures.training(entry, looks.KNOWN["rslad"], []).axes
    assert [list(line.get_xdata()) for line in above.lines[:2]] == [[2, 4], [2, 4]]
    assert list(above.lines[1].get_ydata()) == pytest.approx([20, 40])
    assert [line.get_label() for line in below.lines] == ["loss", "robust", "clean"]
    assert list(below.lines[0].get_ydata()) == pytest.approx([1.5, 0.75, 0.5, 0.375])


def test_curves_without_validation_show_the_loss_alone():
    entry = Entry("sat", "student", [report()], [{"epoch": 1, "loss": 2.0, "terms": {"ce": 2.0}}])
    with calm():
        (ax,) = figures.training(entry, looks.KNOWN["sat"], []).axes
    assert [line.get_label() for line in ax.lines] == ["loss"]


def test_radii_are_drawn_in_their_unit_with_the_eps_of_the_results():
    entries = page_entries()
    with calm():
        (ax,) = figures.radius(entries, looks.looks(entries), [8 / 255]).axes
    assert list(ax.lines[2].get_xdata()) == pytest.approx([0, 4, 8, 12, 16])
    assert list(ax.lines[2].get_ydata()) == pytest.approx([90, 70, 50, 30, 10])
    assert list(ax.lines[4].get_xdata()) == pytest.approx([8, 8])
    assert [text.get_text() for text in ax.texts][:2] == ["eps 8/255", "natural"]
    heights = [text.get_position()[1] for text in ax.texts[1:]]
    assert all(b - a > 5.9 for a, b in pairwise(heights))


def test_the_trend_shows_gap_accuracy_and_sign():
    with calm():
        above, below = figures.trend(page_entries()[2], looks.KNOWN["rslad"], [8 / 255]).axes
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
    places = figures.spread([0, 0, 1, 50, 99, 100], 6, 0, 100)
    assert places == sorted(places)
    assert all(b - a >= 6 - 1e-9 for a, b in pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 100
    assert places[3] == 50
    assert figures.spread([22, 23, 31], 6, 0, 100) == pytest.approx([20, 26, 32], abs=1)


def test_radii_read_well():
    assert figures.radius_unit([0, 4 / 255, 8 / 255 * 1.5])[0] == 255
    assert figures.radius_unit([0, 0.025, 0.05])[0] == 1
    assert figures.radius_unit([0, 0.2, 0.4])[0] == 1
    assert [figures.radius_text(r, 255) for r in (0, 8 / 255, 8 / 255 * 3 / 4)] == ["0", "8/255", "6/255"]


def test_correlation_has_a_true_minus_and_may_be_undefined():
    assert figures.correlation(gaps()) == "−1.00"
    assert figures.correlation([GapPoint(e, 0.5, 1, 0, 0, 0) for e in (0.0, 0.1)]) == "undefined"


# the page


def test_the_page_is_well_formed_and_holds_every_section(page):
    parsed = Page(page)
    sections = [value for tag, name, value in parsed.attributes if (tag, name) == ("section", "id")]
    assert sections == SECTIONS
    assert parsed.tags.count("svg") == 2 + 3 + 1 + 4
    assert parsed.tags.count("caption") == parsed.tags.count("table") == 5


def test_the_page_loads_nothing(page):
    loads = [(tag, name, value) for tag, name, value in Page(page).attributes if name in ("src", "href", "xlink:href")]
    assert loads
    assert all(value.startswith(("#", "data:image/png;base64,")) for _, _, value in loads)
    assert not re.search(r"@import|url\((?!#)|https?://", page)
    assert "script" not in Page(page).tags


def test_every_id_is_unique_and_every_reference_is_met(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {(i, "") for i in ids} | {("", i) for i in ids}


def test_pictures_are_described(page):
    parsed = Page(page)
    described = [tag for tag, name, value in parsed.attributes if name in ("alt", "aria-label") and value]
    assert described.count("img") == parsed.tags.count("img") == 5
    assert described.count("svg") == parsed.tags.count("svg")


def test_hostile_names_are_text(page):
    parsed = Page(page)
    assert not {"script", "i"} & set(parsed.tags)
    assert HOSTILE in parsed.texts["th"]
    assert HOSTILE[:16] + "…" in parsed.texts["text"]


def test_a_name_is_no_formula():
    entries = [Entry("$x_1$ & <b>", "student", [report()])]
    with calm():
        figure = figures.accuracy(entries, [entries[0].accuracies["clean"]], looks.looks(entries), "$y$")
        drawn = Page(svg(figure, "key", "<i>"))
    assert {"$x_1$ & <b>", "$y$"} <= set(drawn.texts["text"])


def test_title_intro_and_notes_are_escaped(tmp_path):
    text = write(tmp_path / "p.html", [], title="<i>", intro="$x$ <i>", notes=["`<i>` <i>"]).read_text()
    parsed = Page(text)
    assert "i" not in parsed.tags
    assert parsed.texts["h1"] == parsed.texts["title"] == parsed.texts["code"] == ["<i>"]


def test_the_table_holds_the_reports_figures(page):
    rows = {row[0]: row for row in Page(page).rows if len(row) == 8}
    assert rows["net"][4:] == ["clean", "a", "b", "worst case"]
    assert rows["teacher"] == ["teacher", "teacher", "2,294", "100", *["90.0 82.6 – 94.5"], *["60.0 50.2 – 69.1"] * 3]
    assert rows["rslad"] == ["rslad", "student", "2,294", "100 × 2 seeds", "90.0 ± 0.0", *["45.0 ± 7.1"] * 3]


def test_the_best_student_is_marked_not_the_teacher(page):
    found = re.findall(r'<tr class="(\w+)"><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL)
    marked = {name: cells.count('class="best"') for _, name, cells in found}
    assert marked["teacher"] == 0
    assert marked["rslad"] == 4
    assert marked["natural"] == 1  # equal on clean images


def test_the_headline_names_the_fallen_and_the_standing(page, tmp_path):
    assert Page(page).texts["b"] == ["90.0 → 1.0 %", "90.0 → 45.0 %"]
    without = [entry for entry in page_entries() if entry.name != "natural"]
    assert 'class="headline"' not in write(tmp_path / "a.html", without).read_text()
    worse = [Entry("natural", "student", [share(9)]), Entry("sat", "student", [share(8)])]
    assert 'class="headline"' not in write(tmp_path / "b.html", worse).read_text()
    three = [Entry("natural", "student", [share(1)]), Entry("sat", "student", [share(8)])]
    three.append(Entry("rslad", "student", [share(6)]))
    named = write_page(tmp_path / "c.html", three, [], title="t", intro="", notes=[], distilled="rslad").read_text()
    assert "<strong>rslad</strong>, distilled from the teacher, stands" in named
    assert "<strong>sat</strong>, the most robust" not in named


def test_missing_pieces_leave_their_section_out(tmp_path):
    bare = Page(write(tmp_path / "p.html", [Entry("sat", "student", [report()])]).read_text())
    assert [value for tag, name, value in bare.attributes if (tag, name) == ("section", "id")] == ["results", "wrong"]
    nothing = Page(write(tmp_path / "q.html", []).read_text())
    assert [value for tag, name, value in nothing.attributes if (tag, name) == ("section", "id")] == ["wrong"]


def test_what_could_be_wrong_is_said(tmp_path):
    data = report().data | {"marks": ["chosen on the test set"]}
    found = [Finding("x", "warning", "seen", "do this")]
    training = {"recipe": {"epochs": 7}}
    odd = Entry("odd", "student", [report(data=data, findings=found, training=training)])
    text = write(tmp_path / "p.html", [odd, Entry("sat", "student", [report(findings=found)])]).read_text()
    assert '<span class="severity">mark</span> (odd): chosen on the test set' in text
    assert '<span class="severity">warning</span> (all nets): seen; do this' in text
    assert "threat Linf (eps 8/255), steps 20, step 2/255" in text
    for word in (
        "0123abcd",
        "feed",
        "ardor 0.1.0, torch 2.13.0",
        "dog: 1 of 4",
        "epochs: 7",
        "see <code>ardor demo</code>",
    ):
        assert word in text


def test_a_net_without_a_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="got none for empty"):
        write(tmp_path / "p.html", [Entry("empty", "student", [])])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="expected to write"):
        write(tmp_path / "file" / "p.html", [])


def test_the_radius_is_marked_only_in_its_own_norm():
    l2 = Entry("x", "student", [report(threat={"name": "L2", "eps": 0.5})])
    assert l2.linf is None
    assert page_entries()[0].linf == 8 / 255


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_examples_show_the_pixels_and_the_perturbation(tmp_path, channels, size):
    one = example(channels, size)
    parsed = Page(write(tmp_path / "p.html", [], [one]).read_text())
    sources = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "src")]
    clean, attacked, moved, _, still = map(decoded, sources)
    shape = (size, size) if channels == 1 else (size, size, 3)
    assert clean.shape == shape
    expected = (one.clean * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
    assert (clean == expected).all()
    assert (np.flatnonzero(attacked != clean) < 2 * channels).all()
    assert np.abs(moved[0, 0].astype(int) - 255).max() <= 1  # + 0.1 at times 5
    assert np.abs(moved[0, 1].astype(int)).max() <= 1
    assert (still == 128).all()
    alts = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "alt")]
    assert alts[2] == "Its perturbation times 5"
    assert parsed.texts["span"][-4:] == ["cat ✓ right", "dog ✗ wrong", "cat ✓ right", "cat ✓ right"]


SAME = """
import sys
import matplotlib
from pathlib import Path
sys.path.insert(0, "tests")
from test_report import example, write
matplotlib.rcParams.update({"font.size": 30, "text.usetex": True, "lines.linewidth": 9})
before = matplotlib.rcParams.copy()
write(Path(sys.argv[1]), shown=[example()])
assert dict(matplotlib.rcParams.copy()) == dict(before)
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_same_input_gives_the_same_bytes_and_leaves_matplotlib_alone(page, tmp_path, request):
    done = subprocess.run(
        [sys.executable, "-c", SAME, str(tmp_path / "p.html")],
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page(page, tmp_path, width):
    (tmp_path / "p.html").write_text(page, encoding="utf-8")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-sync", "--hide-scrollbars", *quiet.split()),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={tmp_path / 'p.png'}",
            f"--window-size={width},4000",
            (tmp_path / "p.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    seen = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    assert seen.shape[:2] == (4000, width)
    for look in ("natural", "rslad"):
        colour = np.array([int(looks.KNOWN[look].colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(seen.astype(int) - colour).max(-1) < 8).sum() > 50
    assert (seen[:, -8:] == 255).all()  # nothing runs over the right edge


# examples


class Reader(nn.Module):
    """Reads the class off the first pixel; where the second pixel is set, `slack` decides how far an attack may go."""

    def __init__(self, slack):
        super().__init__()
        self.slack, self.modes = slack, set()

    def forward(self, x):
        self.modes.add(self.training)
        word = (10 * x[:, 0, 0, 0] + self.slack * x[:, 0, 0, 1].round()).floor().long()
        return nn.functional.one_hot(word.clamp(0, 3), 4).float()


class Push:
    def __init__(self):
        self.met = []

    def __call__(self, net, x, y, noise):
        self.met.append((noise.seed, noise.index.tolist(), noise.purpose))
        return x + 0.05


def story():
    """Forty images of four classes; on every other one the weak net falls; the last is labelled wrong."""
    labels = torch.arange(40) % 4
    images = torch.zeros(40, 1, 2, 2)
    images[:, 0, 0, 0] = (labels + 0.2) / 10
    images[:, 0, 0, 1] = (torch.arange(40) // 4 % 2).float() * 0.9
    images[:, 0, 1, 1] = torch.arange(40) / 100  # so that each can be told from the others
    labels[-1] = 0
    words = ("ant", "bee", "cat", "dog")
    return Split(images, labels, 4, "toy", "test", class_names=words, index=torch.arange(40) + 100)


def test_examples_tell_the_story():
    push, nets = Push(), {"weak": Reader(0.6).train(), "strong": Reader(0)}
    found = examples(nets, story(), push, count=6, seed=3)
    assert len(found) == 6
    for one in found:
        assert one.says["strong"] == (one.label, one.label)
        assert one.says["weak"][0] == one.label
        assert torch.equal(one.adversarial["weak"], one.clean + 0.05)
    fallen = [one for one in found if one.says["weak"][1] != one.label]
    assert len(fallen) == 6
    assert {one.label for one in found[:3]} == {"ant", "bee", "cat"}  # a dog is the highest class: nowhere to fall
    assert [met[0] for met in push.met] == [3, 3]
    assert push.met[0] == push.met[1]
    assert push.met[0][1] == list(range(100, 139))
    assert push.met[0][2] == "examples"
    assert nets["weak"].training
    assert nets["weak"].modes == {False}


def test_examples_are_deterministic_and_move_with_the_seed():
    def chosen(seed):
        return [one.clean for one in examples({"weak": Reader(0.6), "strong": Reader(0)}, story(), Push(), seed=seed)]

    def same(one, other):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(chosen(0), chosen(0))
    assert not same(chosen(0), chosen(1))


def test_examples_without_a_story_are_other_images_and_none_without_nets():
    found = examples({"strong": Reader(0)}, story(), Push(), count=4)
    assert sorted(one.label for one in found) == ["ant", "bee", "cat", "dog"]
    assert examples({}, story(), Push()) == []
    blind = Reader(40)
    assert examples({"blind": blind}, story().take(torch.arange(4, 7)), Push()) == []
