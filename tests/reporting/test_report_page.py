"""The page: well formed, loads nothing, and shows the reports' figures, with examples."""

import base64
import csv
import hashlib
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ardor.data.split import Split
from ardor.errors import ConfigError, RunError
from ardor.evaluation.findings import Finding
from ardor.evaluation.variance import GapPoint
from ardor.plot.style import KNOWN, calm
from ardor.reporting import PageEntry, classes, downloads, evidence, examples, figures, styles
from ardor.reporting.page import radius_groups
from ardor.reporting.page import write as write_page
from ardor.reporting.svg import svg
from ardor.reporting.table import tables
from tests import warm
from tests.browser import PRESENT, browser, violations
from tests.reporting.conftest import (
    CHROMIUM,
    HOSTILE,
    Page,
    example,
    gaps,
    page_entries,
    report,
    screenshot,
    share,
    write,
)

SECTIONS = ["results", "classes", "training", "radius", "examples", "variance", "wrong"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("page") / "page.html", shown=[example()])
    return path.read_text(encoding="utf-8")


# the page


def test_the_page_is_well_formed_and_holds_every_section(page):
    parsed = Page(page)
    sections = [value for tag, name, value in parsed.attributes if (tag, name) == ("section", "id")]
    assert sections == SECTIONS
    assert parsed.tags.count("svg") == 2 + 3 + 1 + 4
    assert parsed.tags.count("caption") == parsed.tags.count("table") == 5 + 1 + 2 * 4


def test_the_page_loads_nothing(page):
    loads = [(tag, name, value) for tag, name, value in Page(page).attributes if name in ("src", "href", "xlink:href")]
    assert loads
    assert all(value.startswith(("#", "data:image/png;base64,")) for tag, _, value in loads if tag != "a")
    links = [value for tag, _, value in loads if tag == "a"]
    assert all(value.startswith(("#", "data:text/csv;base64,", "data:application/json;base64,")) for value in links)
    assert not re.search(r"@import|url\((?!#)|https?://", page)
    assert Page(page).tags.count("script") == 1


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
    assert parsed.tags.count("script") == 1, "the page's own"
    assert "i" not in parsed.tags
    assert HOSTILE in parsed.texts["th"]
    assert HOSTILE[:16] + "…" in parsed.texts["text"]


def test_a_name_is_no_formula():
    entries = [PageEntry("$x_1$ & <b>", "student", [report()])]
    with calm():
        figure = figures.accuracy(entries, [entries[0].accuracies["clean"]], styles.styles_of(entries), "$y$")
        drawn = Page(svg(figure, "key", "<i>"))
    assert {"$x_1$ & <b>", "$y$"} <= set(drawn.texts["text"])


def test_title_intro_and_notes_are_escaped(tmp_path):
    text = write(tmp_path / "p.html", [], title="<i>", intro="$x$ <i>", notes=["`<i>` <i>"]).read_text()
    parsed = Page(text)
    assert "i" not in parsed.tags
    assert parsed.texts["h1"] == parsed.texts["title"] == parsed.texts["code"] == ["<i>"]


def test_the_table_holds_the_reports_figures(page):
    rows = {row[0]: row for row in Page(page).rows if len(row) == 8}
    assert rows["net"] == ["net", "worst case", "clean", "a", "b", "role", "parameters", "images"]
    robust, about = ["60.0 50.2 – 69.1"], ["teacher", "2,294", "100"]
    assert rows["teacher"] == ["teacher", *robust, "90.0 82.6 – 94.5", *robust * 2, *about]
    assert rows["rslad"][1:] == ["45.0 ± 7.1", "90.0 ± 0.0", *["45.0 ± 7.1"] * 2, "student", "2,294", "100 × 2 seeds"]


def test_the_best_student_is_marked_not_the_teacher(tmp_path):
    nets = {"teacher": 80, "natural": 1, "rslad": 50}
    entries = [PageEntry(n, "teacher" if n == "teacher" else "student", [share(k)]) for n, k in nets.items()]
    text = write(tmp_path / "p.html", entries).read_text()
    found = re.findall(r'<tr class="(\w+)"><th scope="row">(.*?)</th>(.*?)</tr>', text, re.DOTALL)
    assert {name: cells.count('class="best"') for _, name, cells in found} == {"teacher": 0, "natural": 0, "rslad": 3}
    assert "Worst case: rslad (50.0) stands above natural (1.0, p &lt; 0.0001)" in text


def test_two_data_sets_and_norms_share_no_table_and_no_figure(tmp_path):
    data = report().data | {"name": "shapes", "hash": "beef"}
    other = PageEntry("b", "student", [report(data=data, threat={"name": "L2", "eps": 0.5})], gaps=gaps())
    text = write(tmp_path / "p.html", [PageEntry("a", "student", [report()], gaps=gaps()), other]).read_text()
    captions = "".join(Page(text).texts["strong"])
    assert "8 images, digits (test), suite paper, Linf eps 8/255." in captions
    assert "8 images, shapes (test), suite paper, L2 eps 0.5." in captions
    assert text.count('aria-label="Robust accuracy of each net over a growing L') == 2
    assert "are not ranked against each other" in text


def test_the_headline_names_the_fallen_and_the_standing(page, tmp_path):
    assert 'class="headline"' not in page, "one seed is not compared with two"
    pair = [PageEntry("natural", "student", [share(1)]), PageEntry("rslad", "student", [share(45)])]
    found = Page(write(tmp_path / "d.html", pair).read_text())
    assert found.texts["b"] == ["90.0 → 1.0 %", "90.0 → 45.0 %"]
    near = [PageEntry("natural", "student", [share(44)]), PageEntry("rslad", "student", [share(45)])]
    assert 'class="headline"' not in write(tmp_path / "e.html", near).read_text()
    without = [entry for entry in page_entries() if entry.name != "natural"]
    assert 'class="headline"' not in write(tmp_path / "a.html", without).read_text()
    worse = [PageEntry("natural", "student", [share(9)]), PageEntry("sat", "student", [share(8)])]
    assert 'class="headline"' not in write(tmp_path / "b.html", worse).read_text()
    three = [PageEntry("natural", "student", [share(1)]), PageEntry("sat", "student", [share(9)])]
    three.append(PageEntry("rslad", "student", [share(8)]))
    named = write_page(tmp_path / "c.html", three, [], title="t", intro="", notes=[], distilled="rslad").read_text()
    assert "<strong>rslad</strong>, distilled from the teacher, stands" in named
    assert "<strong>sat</strong>, the most robust" not in named
    assert "Worst case: no difference shown between sat (9.0) and rslad (8.0" in named


def test_a_caller_may_give_the_headline_and_sections_before_the_results(tmp_path):
    from ardor.reporting.entry import Headline, Section
    from ardor.reporting.figures import accuracy
    from ardor.reporting.styles import styles_of

    pair = [PageEntry("natural", "student", [share(1)]), PageEntry("rslad", "student", [share(45)])]

    def draw():
        return accuracy(pair, [entry.accuracies["clean"] for entry in pair], styles_of(pair), "drawn")

    section = Section("labels", "By <labels>", "A paragraph.", draw, "What the figure shows", "Its caption.")
    words = {"headline": Headline({"rslad": "of <no> label"}, "The claim."), "sections": [section]}
    text = write(tmp_path / "p.html", pair, **words).read_text()
    found = Page(text)
    assert found.texts["b"] == ["90.0 → 45.0 %"]
    assert ", of <no> label." in found.texts["span"]
    assert "The claim." in found.texts["p"]
    assert text.index('id="labels"') < text.index('id="results"')
    assert ("a", "href", "#labels") in found.attributes
    assert ("svg", "aria-label", "What the figure shows") in found.attributes
    assert {"By <labels>", "A paragraph.", "Its caption."} <= {t for texts in found.texts.values() for t in texts}
    assert 'class="headline"' not in write(tmp_path / "t.html", pair, trial="part", **words).read_text()
    assert 'id="labels"' not in write(tmp_path / "n.html", pair).read_text()


def test_missing_pieces_leave_their_section_out(tmp_path):
    bare = Page(write(tmp_path / "p.html", [PageEntry("sat", "student", [report()])]).read_text())
    sections = [value for tag, name, value in bare.attributes if (tag, name) == ("section", "id")]
    assert sections == ["results", "classes", "wrong"]
    nothing = Page(write(tmp_path / "q.html", []).read_text())
    assert [value for tag, name, value in nothing.attributes if (tag, name) == ("section", "id")] == ["wrong"]


def test_what_could_be_wrong_is_said(tmp_path):
    data = report().data | {"marks": ["chosen on the test set"]}
    found = [Finding("x", "warning", "seen", "do this")]
    training = {"recipe": {"epochs": 7}}
    odd = PageEntry("odd", "student", [report(data=data, findings=found, training=training)])
    text = write(tmp_path / "p.html", [odd, PageEntry("sat", "student", [report(findings=found)])]).read_text()
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
        write(tmp_path / "p.html", [PageEntry("empty", "student", [])])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="expected to write"):
        write(tmp_path / "file" / "p.html", [])


def test_the_radius_is_marked_only_in_its_own_norm():
    l2 = PageEntry("x", "student", [report(threat={"name": "L2", "eps": 0.5})])
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
from tests.reporting.conftest import example, write
matplotlib.rcParams.update({"font.size": 30, "text.usetex": True, "lines.linewidth": 9})
before = matplotlib.rcParams.copy()
write(Path(sys.argv[1]), shown=[example()])
assert dict(matplotlib.rcParams.copy()) == dict(before)
assert "matplotlib.pyplot" not in sys.modules
"""


def test_the_same_input_gives_the_same_bytes_and_leaves_matplotlib_alone(page, tmp_path, request):
    done = warm.run(
        [sys.executable, "-c", SAME, str(tmp_path / "p.html")],
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.html").read_text(encoding="utf-8") == page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_the_page(page, tmp_path, width):
    seen = screenshot(page, tmp_path, width, 4000)
    assert seen.shape[:2] == (4000, width)
    for look in ("natural", "rslad"):
        colour = np.array([int(KNOWN[look].colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(seen.astype(int) - colour).max(-1) < 8).sum() > 50
    assert (seen[:, -8:] == 255).all()  # nothing runs over the right edge


def test_the_figures_can_be_downloaded(page):
    uris = [value for tag, name, value in Page(page).attributes if (tag, name) == ("a", "href") and "base64" in value]
    as_csv, by_class, over_radii, as_json = (base64.b64decode(uri.partition(",")[2]).decode() for uri in uris)
    rows = list(csv.DictReader(as_csv.splitlines()))
    assert len(rows) == 4 * (3 + 2)  # clean, a, b and the worst case of four nets, one of them with two seeds
    row = next(row for row in rows if (row["net"], row["seed"], row["figure"]) == ("rslad", "1", "worst_case"))
    assert (row["correct"], row["n"], row["accuracy"], row["best"]) == ("40", "100", "0.4", "False")
    (line,) = [
        row
        for row in csv.DictReader(by_class.splitlines())
        if (row["net"], row["class"], row["figure"]) == ("rslad", "dog", "clean")
    ]
    assert (line["correct"], line["n"]) == ("80", "100"), "both seeds"
    assert len(over_radii.splitlines()) == 1 + 4 * 5
    (table,) = json.loads(as_json)
    assert table["table"] == row["table"] == "100 images, digits (test), suite paper, Linf eps 8/255"
    assert [str(figure["correct"]) for figure in table["figures"]] == [row["correct"] for row in rows]


def test_the_policy_allows_the_one_script_and_no_request(page):
    (policy,) = [value for tag, name, value in Page(page).attributes if (tag, name) == ("meta", "content")][1:2]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'sha256-")
    assert "connect-src" not in policy
    assert "unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert not re.search(r" on[a-z]+=", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))


def test_a_file_for_a_spreadsheet_has_no_formula():
    entries = [PageEntry('=HYPERLINK("x")', "student", [report()])]
    text = base64.b64decode(downloads.links(tables(entries), entries)["figures.csv"].partition(",")[2]).decode()
    assert {row["net"] for row in csv.DictReader(text.splitlines())} == {'\'=HYPERLINK("x")'}


def test_each_class_has_its_accuracies_and_each_net_its_confusions(page):
    rows = Page(page).rows
    start = rows.index(["class", "teacher", "natural", "rslad", HOSTILE])
    assert rows[start + 1] == ["cat", "100.0 100.0", "2.0 100.0", "90.0 100.0", "60.0 100.0"]
    assert rows[start + 2] == ["dog", "20.0 80.0", "0.0 80.0", "0.0 80.0", "0.0 80.0"]
    assert "dog: worst case 20.0 %, 10 of 50 images, 95 % interval 11.2 to 33.0; clean 80.0 %" in page
    clean, attacked = [i for i, row in enumerate(rows) if row == ["true", "cat", "dog"]][:2]
    assert rows[clean + 1 : clean + 3] == [["cat", "50", ""], ["dog", "10", "40"]]
    assert rows[attacked + 1 : attacked + 3] == [["cat", "50", ""], ["dog", "50", ""]], "half are right at 8/255"
    assert 'style="--share: 20%" data-tip="dog as cat: 10 images, 20 % of dog"' in page


def test_many_classes_show_the_lowest_and_the_most_frequent_mistakes():
    names = [f"class{i}" for i in range(30)]
    data = report().data | {"classes": 30, "class_names": names}
    verdicts = {"a": "".join("b" if i in (3, 7) else "r" for i in range(30))}
    points = [
        GapPoint(eps, 0.9, confusion=[[i, i, 9] for i in range(30)] + [[3, 5, 2], [7, 1, 4]]) for eps in (0, 8 / 255)
    ]
    entry = PageEntry("x", "student", [report(verdicts, labels=list(range(30)), data=data)], gaps=points)
    table = classes.by_class(tables([entry])[0])
    assert (len(table.rows), table.left_out) == (20, 10)
    assert [name for name, _ in table.rows[:2]] == ["class3", "class7"]
    assert len(classes.by_class(tables([entry])[0], None).rows) == 30
    clean, attacked = classes.confusions(entry)
    assert clean.matrix == []
    assert attacked.pairs == [("class7", "class1", 4, 13), ("class3", "class5", 2, 11)]


def test_a_file_of_an_earlier_version_has_no_confusions():
    points = [GapPoint(eps, 0.9) for eps in (0, 8 / 255)]
    assert classes.confusions(PageEntry("x", "student", [report()], gaps=points)) == []


def test_a_net_has_a_curve_in_each_norm(tmp_path):
    points = [GapPoint(eps, 0.9 - eps) for eps in (0, 0.25, 0.5)]
    l2 = PageEntry("trained in L2", "student", [report(threat={"name": "L2", "eps": 0.25})], gaps=points)
    linf = PageEntry("trained in Linf", "student", [report()], gaps=gaps(), others={"L2": points})
    groups = radius_groups([linf, l2])
    assert [(norm, [entry.name for entry in group]) for norm, group in groups] == [
        ("Linf", ["trained in Linf"]), ("L2", ["trained in Linf", "trained in L2"])
    ]  # fmt: skip
    text = write(tmp_path / "p.html", [linf, l2]).read_text()
    assert ["trained in Linf", "90.0", "65.0", "40.0"] in Page(text).rows
    assert text.count("over a growing L2 radius") == 1


@pytest.fixture(scope="module")
def window(page, tmp_path_factory):
    """The page in a browser of 1280 pixels."""
    if not PRESENT:
        pytest.skip("no chromium with chromedriver")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(page, encoding="utf-8")
    with browser(folder) as window:
        window.size(1280, 900)
        window.path = folder / "page.html"
        yield window


@pytest.fixture
def live(window):
    window.complaints()
    window.go(window.path)
    return window


NETS = "return [...document.querySelectorAll('.results tbody tr:not(.seed) th')].map((th) => th.textContent)"
TIP = "return document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"


def test_a_table_is_sorted_by_pointer_and_by_keys(live):
    head = ".results th:nth-child(2)"
    live.click(f"{head} button")
    assert live.run(NETS) == ["teacher", "rslad", HOSTILE, "natural"]
    assert live.run("return document.querySelector(arguments[0]).ariaSort", head) == "descending"
    live.press(f"{head} button", "\ue007")  # Enter
    assert live.run(NETS) == ["natural", HOSTILE, "rslad", "teacher"]
    live.click(".results th:nth-child(1) button")
    assert live.run(NETS) == [HOSTILE, "natural", "rslad", "teacher"], "names from a to z"
    assert live.run("return document.querySelectorAll('.results [aria-sort]').length") == 1
    assert (
        live.run("return document.querySelector('.results tr.seed').parentElement.rows[0].cells[0].textContent")
        == "rslad"
    )
    assert live.complaints() == []


def test_a_tooltip_has_n_and_interval_for_pointer_keys_and_touch(live):
    live.run("document.querySelector('.results td').focus()")
    assert live.run(TIP) == "teacher, worst case: 60.0 %, 60 of 100 images, 95 % interval 50.2 to 69.1"
    assert live.run("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    live.press(".results td:nth-child(2)", "\ue014")  # right
    assert live.run(TIP).startswith("teacher, clean: 90.0 %")
    live.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))")
    assert live.run(TIP) == ""
    assert live.run("return document.querySelectorAll('.results td[tabindex=\"0\"]').length") == 1, "one stop of Tab"
    live.drag(".results tbody:nth-of-type(2) td", [[(0.5, 0.5)]], "touch")
    assert live.run(TIP).startswith("natural, worst case: 1.0 %")
    assert live.run("return document.querySelectorAll('svg [data-tip]').length") == 2 * 2 * 4


def test_seeds_are_shown_and_hidden_without_a_script(live):
    visible = "return [...document.querySelectorAll('tr.seed')].filter((row) => row.offsetParent).length"
    assert live.run(visible) == 0
    live.click("#seeds1")
    assert live.run(visible) == 2
    live.click("#seeds1")
    assert live.run(visible) == 0


def test_examples_are_enlarged_in_a_dialog(live):
    live.click(".example button")
    state = "const d = document.querySelector('dialog'); return [d.open, d.querySelectorAll('img').length]"
    assert live.run(state) == [True, 5]
    live.press("dialog button", "\ue00c")  # Escape
    assert live.run(state)[0] is False


def test_the_theme_is_the_systems_until_it_is_chosen(live):
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert live.run(ground) == "rgb(255, 255, 255)"
    live.click("#theme")
    assert live.run(ground) == "rgb(20, 24, 28)"
    assert live.text("#theme") == "Light mode"
    live.go(live.path)
    assert live.run(ground) == "rgb(20, 24, 28)", "kept"
    live.click("#theme")
    live.run("localStorage.clear()")


def test_on_a_telephone_the_column_that_counts_is_visible(live):
    live.size(400, 900)
    box = live.run("return document.querySelector('.results td').getBoundingClientRect().toJSON()")
    assert 0 < box["left"] < box["right"] < 400
    assert live.run("return document.documentElement.scrollWidth") == 400
    live.size(1280, 900)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_has_no_objection(live, axe, theme, width):
    live.size(width, 900)
    live.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert violations(live, axe, theme) == []
    if width == 1280:
        live.click(".example button")
        assert violations(live, axe, theme) == [], "with the dialog"
    live.size(1280, 900)


def test_the_page_has_a_reasonable_size(page):
    """Four nets, one example: figures are most of it."""
    assert len(page.encode()) < 300_000


def test_a_trial_is_marked_in_title_and_in_the_place_of_the_headline(tmp_path):
    pair = [PageEntry("natural", "student", [share(1)]), PageEntry("rslad", "student", [share(45)])]
    for entry in pair:
        entry.reports[0].data["of"] = 449
    text = write(tmp_path / "p.html", pair, title="Robustness").read_text()
    assert "<h1>Trial: Robustness</h1>" in text
    assert "trial on 100 of 449 images: these figures are no result" in text
    assert 'class="headline"' not in text


def test_nets_without_features_and_under_l2_have_a_radius_curve(tmp_path):
    points = [GapPoint(eps, accuracy) for eps, accuracy in ((0, 0.9), (0.25, 0.5), (0.5, 0.1))]
    l2 = PageEntry("l2", "student", [report(threat={"name": "L2", "eps": 0.5})], gaps=points)
    text = write(tmp_path / "p.html", [l2, PageEntry("linf", "student", [report()], gaps=gaps())]).read_text()
    assert text.count('aria-label="Robust accuracy of each net over a growing L') == 2
    assert "by radius eps (L2, PGD on cross-entropy" in text
    assert ["l2", "90.0", "50.0", "10.0"] in Page(text).rows
    assert "Left out, for it has no <code>features</code>: l2." in text
    alone = write(tmp_path / "q.html", [l2]).read_text()
    assert "The variance gap is left out: l2 has no <code>features</code>." in alone
    assert 'id="variance"' not in alone


def test_a_file_beside_the_page_is_linked_where_it_is_named(tmp_path):
    text = write(tmp_path / "p.html", [], links={"Draw <a> digit": "draw.html"}).read_text()
    assert '<a href="draw.html">Draw &lt;a&gt; digit</a>' in text


def test_every_dark_colour_of_a_figure_is_lighter_in_dark_mode(page):
    """Colours of lightness below that of mid grey would be lost on a dark page."""
    dark = dict(re.findall(r"--c([0-9a-f]{6}): light-dark\(#\1, #([0-9a-f]{6})\)", page))
    used = set(re.findall(r"var\(--c([0-9a-f]{6}), #\1\)", page)) | {look.colour[1:] for look in KNOWN.values()}

    def light(colour):
        return sum(w * int(colour[i : i + 2], 16) for w, i in ((0.21, 0), (0.72, 2), (0.07, 4)))

    assert all(light(dark.get(colour, colour)) > 110 or light(colour) > 190 for colour in used - {"d5dbe1"})
    assert "color-scheme: light dark" in page
    assert not re.search(r"<svg(?:(?!</svg>).)*: #[0-9a-f]{6}", page, re.DOTALL)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_draws_the_page_in_dark_mode(page, tmp_path):
    seen = screenshot(page, tmp_path, 1280, 1500, "--blink-settings=preferredColorScheme=0").astype(int)
    assert (seen[:, -8:].max(-1) < 40).all()
    assert (seen.min(-1) > 200).sum() > 1000, "light text"


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
    assert [met[0] for met in push.met] == [3, 3, 3, 3], "39 images, 32 at a time"
    assert push.met[:2] == push.met[2:]
    assert push.met[0][1] == list(range(100, 132))
    assert push.met[1][1][:7] == list(range(132, 139))
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


def test_attacks_of_one_name_are_told_apart_by_their_suites():
    square = {"name": "Square", "queries": 5000}
    of_net = report(suite="autoattack", attacks={"square": square})
    of_file = report(suite="deployed", attacks={"square": square | {"queries": 200}})
    names = [name for name, _, _ in evidence.attacks([PageEntry("net", "student", [of_net, of_file])])]
    assert names == ["square, suite autoattack", "square, suite deployed"]
    assert evidence.attacks([PageEntry("net", "student", [of_net])]) == [("square", "Square", "queries 5000")]
