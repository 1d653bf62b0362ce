"""What a Report, a Split, a Comparison and the records of epochs are shown as at the end of a notebook's cell."""

import base64
import inspect
import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ardor
from ardor.attacks import suites
from ardor.data.notebook import strip
from ardor.evaluation.comparison import compare
from ardor.evaluation.comparison.significance import p_text
from ardor.evaluation.comparison.wording import verdict
from ardor.evaluation.findings import Finding
from ardor.training.epoch import EpochRecord, History
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


@pytest.mark.parametrize("name", ["split", "report", "comparison", "records"])
def test_the_last_line_of_a_cell_is_short_and_escaped(things, name):
    thing = getattr(things, name)
    html = thing._repr_html_()
    assert len(html.splitlines()) <= 20
    assert ("32" if name != "records" else "epoch 1/1") in repr(thing)
    assert len(repr(thing)) < 400
    assert not re.search("<(b|i|script)>", html)
    assert "&lt;" in html or name == "records"
    assert html.count("<img") == (name != "comparison")
    assert "tensor(" not in repr(thing) + html


def test_a_report_of_many_figures_keeps_its_table_short(things):
    many = replace(things.report, verdicts={f"a{i}": "r" * 32 for i in range(40)})
    assert len(many._repr_html_().splitlines()) <= 20
    assert "more" in many._repr_html_()
    found = replace(things.report, findings=[Finding("small_val", "warning", "seen", "type --recipe.val_size 300")])
    assert "pass val_size=300" in found._repr_html_()
    assert "small_val" in repr(found)


def test_the_images_are_small_pngs(things):
    for thing in (things.split, things.report, things.records):
        (data,) = re.findall('src="data:image/png;base64,([^"]*)"', thing._repr_html_())
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format == "PNG"
        assert len(data) < 100_000
        if thing is things.split:  # four grey images of 8 pixels, enlarged 6 times
            assert image.size == (4 * (48 + 2), 48)
            assert np.asarray(image)[0, 0, 0] == round(255 * float(things.split.images[0, 0, 0, 0]))


def test_a_split_whose_images_cannot_be_read_is_shown_without_them(things, monkeypatch):
    def fail(self, rows):
        raise ardor.errors.DataError("expected a file, got none")

    monkeypatch.setattr(type(things.split), "batch", fail)
    assert "<img" not in things.split._repr_html_()
    assert "32 images" in things.split._repr_html_()


def test_large_images_are_thinned_out():
    image = Image.open(io.BytesIO(strip(np.zeros((2, 3, 224, 224)))))
    assert image.height <= 2 * 48 + 16


def test_a_long_history_shows_its_last_epochs(things):
    many = History(replace(things.records[0], epoch=e, epochs=40, val_clean=0.5, val_robust=0.25) for e in range(1, 41))
    html = many._repr_html_()
    assert len(html.splitlines()) <= 20
    assert "40/40" in html
    assert "1/40" not in re.findall("<td>(.*?)</td>", html)
    assert "40 epochs, the last 13 shown" in html
    assert "25.0" in html
    assert "0 epochs" in History()._repr_html_()


def test_a_comparison_shows_what_may_be_claimed(things):
    assert things.comparison.verdict == verdict(things.comparison)
    assert things.comparison.verdict.startswith("No difference can be claimed")
    assert things.comparison.verdict in str(things.comparison)
    assert "No difference can be claimed" in things.comparison._repr_html_()
    other = ardor.compare(things.report, things.report, names=("A", "B"))
    assert other.figures == ardor.compare([things.report], [things.report]).figures


def test_a_comparison_of_seeds_shows_the_interval_over_seeds_and_images(things):
    nets = [ardor.models.build("small_cnn", classes=4, width=2, seed=seed) for seed in range(6)]
    reports = [ardor.evaluate(net, things.split, suites.quick(ardor.Linf(0.1))) for net in nets]
    several = ardor.compare(reports[:3], reports[3:])
    (low, high), p = several.figures["clean"].both, several.figures["clean"].p
    row = re.search("<tr><td>clean</td>(.*)</tr>", several._repr_html_())[1]
    assert re.findall("<td>(.*?)</td>", row)[1:4] == [f"{100 * low:.2f}", f"{100 * high:.2f}", p_text(p)]
    assert "over seeds and 32 images" in repr(several)


def test_a_report_as_a_figure_and_as_a_frame(things):
    pandas = pytest.importorskip("pandas")
    report = things.report
    left, right = report.plot().axes
    assert [text.get_text() for text in left.get_yticklabels()] == list(report.figures())
    assert [text.get_text() for text in right.get_yticklabels()] == list(report.per_class())
    frame = report.frame()
    assert list(frame.index) == ["clean", "pgd_10", "worst_case"]
    assert frame.loc["clean"].tolist() == [report.clean.k, 32, report.clean.value, *report.clean.interval]
    images = report.frame(images=True)
    assert len(images) == 32
    assert images["worst_case"].mean() == report.worst_case.value
    by_class = images.groupby("class").mean(numeric_only=True)["worst_case"]
    assert by_class.to_dict() == {name: p.value for name, p in report.per_class().items()}
    assert isinstance(frame, pandas.DataFrame)


def test_a_frame_without_pandas_says_what_to_install(things, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ardor.errors.ConfigError, match=r'pip install "ardor\[notebook\]"'):
        things.report.frame()


def test_many_classes_have_no_panel(things):
    names = [f"c{i}" for i in range(30)]
    many = replace(things.report, labels=[i % 30 for i in range(32)], data=things.report.data | {"class_names": names})
    assert len(many.plot().axes) == 1


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
