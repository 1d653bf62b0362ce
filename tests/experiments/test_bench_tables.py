"""Tables of the bench, end to end: every number is a report's, and the papers' figures stand beside ours."""

import csv
import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import ardor
import ardor.models.loading
from ardor.cli.main import main
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.evaluation.variance import GapPoint
from ardor.experiments import table_of
from ardor.experiments.cells import made_by, note_of, state_of, weights_of
from ardor.experiments.coordinator import Problem
from ardor.experiments.figures import gap_figures
from ardor.experiments.notes import doubts, notes, pairs
from ardor.experiments.published import published_rows
from ardor.experiments.rows import Row, Value, gap_of, rows_of
from ardor.experiments.sheet import as_csv, as_html, as_markdown, train_command
from tests.browser import PRESENT, objections
from tests.conftest import SHARED
from tests.experiments.conftest import ROW, asked, bench, contents, lines_of, table_in

PAPER = Path(ardor.__file__).parent / "experiments" / "paper"
SPEC = SHARED / "spec"


def cell_of(table, name):
    return next(cell for cell in table.cells if cell.name == name)


# End to end


def report_at(folder, student, method, seed, checkpoint, suite="paper", limit=64):
    run = folder / "cells" / f"{method}-{student}" / f"s{seed}"
    return Report.load(run / f"report-{suite}-linf-0.2-{checkpoint}-limit{limit}.json")


def test_every_number_is_a_reports(finished):
    seen = set()
    for line in lines_of(finished):
        name, checkpoint = line["figure"], line["checkpoint"]
        where = ("apgd", 16) if name == "apgd" else ("paper", 64)
        report = report_at(finished, line["student"], line["method"], 0, checkpoint, *where)
        figure = report.figures()["worst_case" if name == "apgd" else name]
        low, high = figure.interval
        assert int(line["n"]) == report.n == where[1]
        numbers = [line[k] for k in ("mean", "values", "low95", "high95")]
        assert numbers == [f"{x:.5f}" for x in (figure.value, figure.value, low, high)]
        assert [line[k] for k in ("seeds", "sd", "paper", "difference")] == ["1", "", "", ""]
        seen.add((line["method"], checkpoint, name))
    names = {"clean", "fgsm", "pgd_sat", "pgd_trades", "cw_inf"}
    best, last = (("best", n) for n in (*names, "apgd")), (("last", n) for n in names)
    assert seen == {(method, *rest) for rest in (*best, *last) for method in ("natural", "rslad")}


def test_reports_are_of_the_runs_own_best_and_last_weights(finished):
    run = finished / "cells" / "rslad-resnet18" / "s0"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["number"] if "number" in line else line["epoch"] for line in lines] == [1, 2, 3]
    for checkpoint in ("best", "last"):
        weights = report_at(finished, "resnet18", "rslad", 0, checkpoint).model["hash"]
        assert weights == ardor.models.hash_of(ardor.models.load(run, checkpoint=checkpoint))
    assert yaml.safe_load((run / "config.yaml").read_text())["fingerprint"]["teacher"] == ardor.models.hash_of(
        ardor.models.load(finished / "cells" / "teacher-sat" / "s0")
    )


def test_the_same_command_again_changes_nothing(finished, capsys):
    before = contents(finished / "cells"), {p.name: p.read_bytes() for p in finished.glob("whitebox.*")}
    assert bench("whitebox-digits", *ROW, out=finished) == 0
    assert (contents(finished / "cells"), {p.name: p.read_bytes() for p in finished.glob("whitebox.*")}) == before
    assert set(before[1]) == {"whitebox.csv", "whitebox.md", "whitebox.html"}
    assert "finished\n" not in capsys.readouterr().out.replace("nets finished\n", "")


def test_markdown_and_html_hold_every_figure(finished):
    markdown, page = ((finished / f"whitebox.{end}").read_text() for end in ("md", "html"))
    rows = [text for text in markdown.splitlines() if text.startswith("| small_cnn, for resnet18 |")]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    for line in lines_of(finished):
        mean, low, high = (f"{100 * float(line[k]):.1f}" for k in ("mean", "low95", "high95"))
        said = re.compile(rf"{mean}\D+{low}\s*–\s*{high}\D*")
        assert any(said.search(text) for text in rows if f"| {line['method']} |" in text), line
        assert any(said.fullmatch(cell) for cell in cells), line
    head = [text for text in markdown.splitlines() if text.startswith("| student |")]
    assert all(f"{name} (n = {n})" in head[0] for name, n in (("clean", 64), ("pgd_trades", 64), ("apgd", 16)))
    assert "apgd" not in head[1]  # of the last checkpoint
    for word in ("natural", "rslad"):
        line = f"| small_cnn, for resnet18 | {word} |"
        assert page.count(f'<th scope="row" class="text">{word}</th>') == markdown.count(line) == 2
    assert "Scale smoke only shows that everything runs" in markdown
    assert "A = small_cnn, for resnet18 natural; B = small_cnn, for resnet18 rslad; under apgd" in markdown
    command = train_command(cell_of(table_in(finished), "natural-resnet18/s0"))
    assert "--student=small_cnn" in command
    assert f"<pre>{command}</pre>" in page


def test_the_page_asks_nothing_of_a_network(finished):
    page = (finished / "whitebox.html").read_text()
    assert not re.search(r"https?:|src=|<script [a-z]|<link|@import|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


@pytest.mark.skipif(not PRESENT, reason="no chromium with chromedriver")
def test_axe_has_no_objection_to_the_page(finished, axe, tmp_path):
    assert objections(finished / "whitebox.html", axe, tmp_path) == []


def test_names_are_escaped(finished):
    table = table_in(finished)
    strange = dataclasses.replace(table, spec=dataclasses.replace(table.spec, data="npz:<script>alert(1)</script>.npz"))
    problems = [Problem(table.cells[0], "<b>why</b>")]
    page = as_html(strange, rows_of(table), "ardor bench '<img src=x>'", problems)
    assert page.count("<script") == 1, "the page's own"
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;why" in page


def test_a_bar_in_a_name_breaks_no_table(finished):
    table = table_in(finished)
    rows = [dataclasses.replace(row, parts=("a|b", row.parts[1])) for row in rows_of(table)]
    lines = [line for line in as_markdown(table, rows, "").splitlines() if line.startswith("| a/b |")]
    assert len(lines) == 4
    assert "a|b" not in as_markdown(table, rows, "").split("## Paired")[0]


def test_unfinished_rows_are_shown_empty(finished):
    table = table_of(asked(folder=finished, students=("resnet18",), methods=("natural", "trades", "rslad")))
    rows = {(row.parts[1], row.checkpoint): row for row in rows_of(table)}
    assert rows["trades", "best"].values == {}
    assert (rows["trades", "best"].seeds, rows["natural", "best"].seeds) == ((), (0,))
    assert "| small_cnn, for resnet18 | trades | 0 of 1 | – |" in as_markdown(table, list(rows.values()), "")
    assert ",trades," not in as_csv(table, list(rows.values()))
    assert "2 of 3 nets finished" in as_markdown(table, list(rows.values()), "")


def test_a_report_that_was_lost_is_made_again_without_training(copy):
    run = copy / "cells" / "rslad-resnet18" / "s0"
    lost = run / "report-paper-linf-0.2-last-limit64.json"
    sheet, verdicts = (copy / "whitebox.csv").read_bytes(), Report.load(lost).verdicts
    metrics = contents(run)["metrics.jsonl"]
    lost.unlink()
    assert state_of(asked(folder=copy), cell_of(table_in(copy), "rslad-resnet18/s0")) == ("trained", "")
    assert bench("whitebox-digits", *ROW, out=copy) == 0
    assert (Report.load(lost).verdicts, (copy / "whitebox.csv").read_bytes()) == (verdicts, sheet)
    assert contents(run)["metrics.jsonl"] == metrics


def test_the_black_box_table_uses_the_runs_that_are_there(copy):
    runs = ("rslad-resnet18", "teacher-sat")
    before = [contents(copy / "cells" / name / "s0")["metrics.jsonl"] for name in runs]
    assert bench("blackbox-digits", *ROW, out=copy) == 0
    assert [contents(copy / "cells" / name / "s0")["metrics.jsonl"] for name in runs] == before
    lines = {line["figure"]: line for line in lines_of(copy, "blackbox")}
    assert set(lines) == {"clean", "transfer_pgd20", "transfer_cw_inf", "square"}
    assert {line["method"] for line in lines.values()} == {"rslad"}
    run = copy / "cells" / "rslad-resnet18" / "s0"
    said = weights_of(str(copy / "cells" / "sat-resnet50" / "s0"))
    report = Report.load(run / f"report-transfer-linf-0.2-best-limit64-from{said}.json")
    source = ardor.models.hash_of(ardor.models.load(copy / "cells" / "sat-resnet50" / "s0"))
    assert {attack["weights"] for attack in report.attacks.values()} == {source}
    assert lines["transfer_cw_inf"]["mean"] == f"{report.figures()['transfer_cw_inf'].value:.5f}"


def test_transfer_from_a_run_of_ones_own(copy, capsys):
    source = copy / "cells" / "natural-resnet18" / "s0"
    assert bench("blackbox-digits", *ROW, "--transfer_from", str(source), out=copy) == 0
    assert not (copy / "cells" / "sat-resnet50").exists()
    (path,) = (copy / "cells" / "rslad-resnet18" / "s0").glob("report-transfer-*.json")
    weights = {attack["weights"] for attack in Report.load(path).attacks.values()}
    assert weights == {ardor.models.hash_of(ardor.models.load(source))}


# The papers' figures, and ours beside them


@pytest.mark.parametrize(("kind", "spec"), [("whitebox", "rslad_whitebox.csv"), ("blackbox", "rslad_blackbox.csv")])
def test_published_is_what_the_files_say(kind, spec):
    for path in (PAPER / f"{kind}.csv", SPEC / spec):
        if not path.is_file():
            continue
        lines = list(csv.DictReader(path.read_text().splitlines()))
        found = {name: published_rows(kind, name) for name in ("cifar10", "cifar100")}
        for line in lines:
            student, method = (line[key].lower() for key in ("student", "method"))
            row = found[line["dataset"]][student, method, line.get("checkpoint", "best")]
            for name, value in row.items():
                assert value == float(line[name]), (path.name, line)
        assert len(lines) == sum(map(len, found.values()))


def test_no_figures_are_published_for_other_data_or_studies():
    assert (
        published_rows("whitebox", "digits")
        == published_rows("labels", "cifar10")
        == published_rows("alpha", "cifar10")
        == {}
    )


def by_hand(p, n, z=1.959963984540054):
    """Wilson's interval."""
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_one_seed_has_wilsons_interval():
    value = Value((Proportion(80, 100),), paper=0.5)
    assert value.interval == pytest.approx(by_hand(0.8, 100))
    assert (value.value, math.isnan(value.sd)) == (0.8, True)
    low, high = by_hand(0.8, 100)
    error = 1.959963984540054 * math.sqrt(0.25 / 10_000)
    wanted = (0.3, 0.3 - math.hypot(0.8 - low, error), 0.3 + math.hypot(high - 0.8, error))
    assert value.difference == pytest.approx(wanted)


def test_three_seeds_add_the_spread_of_training():
    value = Value(tuple(Proportion(k, 100) for k in (50, 56, 62)), paper=0.6)
    low, high = by_hand(0.56, 100)
    half = math.hypot(4.302652729696 * 0.06 / math.sqrt(3), (high - low) / 2)
    assert (value.value, value.sd) == pytest.approx((0.56, 0.06))
    assert value.interval == pytest.approx((0.56 - half, 0.56 + half), abs=1e-6)
    wide = math.hypot(half, 1.959963984540054 * math.sqrt(0.24 / 10_000))
    assert value.difference == pytest.approx((-0.04, -0.04 - wide, -0.04 + wide), abs=1e-6)


def test_intervals_stay_within_what_is_possible():
    value = Value((Proportion(98, 100), Proportion(100, 100)))
    assert value.interval[1] == 1.0
    assert Value((Proportion(0, 100), Proportion(3, 100))).interval[0] == 0.0
    assert value.difference is None


def test_the_papers_figures_stand_beside_ours(finished):
    """The digits' runs, shown as if they were CIFAR-10's."""
    table = table_in(finished)
    said = published_rows("whitebox", "cifar10")["resnet18", "rslad", "best"]
    (row,) = (row for row in rows_of(table) if (row.parts[1], row.checkpoint) == ("rslad", "best"))
    shares = {name: said[name] / 100 if name in said else None for name in row.values}
    row.values = {name: dataclasses.replace(value, paper=shares[name]) for name, value in row.values.items()}
    (*_, line) = [x for x in csv.DictReader(as_csv(table, [row]).splitlines()) if x["figure"] == "clean"]
    ours = report_at(finished, "resnet18", "rslad", 0, "best").figures()["clean"].value
    assert float(line["paper"]) == pytest.approx(said["clean"] / 100, abs=1e-4)
    assert float(line["difference"]) == pytest.approx(ours - said["clean"] / 100, abs=1e-4)
    assert float(line["difference_low95"]) < float(line["difference"]) < float(line["difference_high95"])
    text = as_markdown(table, [row], "")
    low, high = (f"{100 * float(line[k]):+.1f}" for k in ("difference_low95", "difference_high95"))
    shown = re.escape(f"{said['clean']:.2f}; {100 * ours - said['clean']:+.1f}")
    shown += r"\D+" + re.escape(f"{low} to {high}")
    assert re.search(shown.replace(r"\D+", r"[^\d+-]+"), text)
    assert "ours minus the paper's" in text


def test_seeds_of_a_row_are_its_own_and_in_order(copy):
    """Seeds 1 and 2 of the natural student have the verdicts of others."""
    cells = copy / "cells" / "natural-resnet18"
    table = table_of(asked(folder=copy, students=("resnet18",), methods=("natural",), seeds=3))
    for cell in table.shown[1:]:
        shutil.copytree(cells / "s0", cells / f"s{cell.seed}")
        made = {"made": made_by(table.spec, cell), "trained": True}
        note_of(table.spec, cell).write_text(yaml.safe_dump(made))
        for path in (cells / f"s{cell.seed}").glob("report-paper-*best*.json"):
            report = Report.load(path)
            report.verdicts["fgsm"] = report.verdicts["fgsm"].replace("r", "b", cell.seed)
            report.save(path)
    rows = {row.checkpoint: row for row in rows_of(table)}
    first = rows["best"].values["fgsm"].seeds[0].k
    assert [p.k for p in rows["best"].values["fgsm"].seeds] == [first, first - 1, first - 2]
    assert rows["best"].seeds == (0, 1, 2)
    assert rows["last"].values["fgsm"].sd == 0
    (line,) = [
        x
        for x in csv.DictReader(as_csv(table, list(rows.values())).splitlines())
        if (x["checkpoint"], x["figure"]) == ("best", "fgsm")
    ]
    assert line["values"] == " ".join(f"{(first - s) / 64:.5f}" for s in range(3))
    assert (line["seeds"], line["mean"], line["sd"]) == ("3", f"{(first - 1) / 64:.5f}", f"{1 / 64:.5f}")


def test_doubts_name_an_impossible_order():
    def row(method, **values):
        return Row(("resnet18", method), "best", (0,), 1, values={k: Value((p,)) for k, p in values.items()})

    good = {k: Proportion(n, 1000) for k, n in (("clean", 900), ("fgsm", 600), ("pgd_trades", 500), ("cw_inf", 480))}
    assert list(doubts([row("sat", **good)])) == []
    (said,) = doubts([row("sat", **good | {"pgd_trades": Proportion(700, 1000)})])
    assert "pgd_trades 70.0 is above fgsm 60.0" in said
    assert list(doubts([row("sat", **good | {"cw_inf": Proportion(504, 1000)})])) == []  # by chance
    assert list(doubts([row("natural", **good | {"pgd_trades": Proportion(700, 1000)})])) == []


def test_notes_own_up():
    assert any("one seed" in said for said in notes(asked(scale="full"), []))
    assert not any("Other nets" in said for said in notes(asked(scale="full"), []))
    assert any("The teacher was trained here" in said for said in notes(asked(scale="small"), []))
    assert not any("trained here" in said for said in notes(asked(scale="small", teacher={"name": "mine"}), []))


def test_rows_are_compared_with_rslads(finished):
    table = table_in(finished)
    (said,) = pairs(table, rows_of(table))
    assert said.startswith("A = small_cnn, for resnet18 natural; B = small_cnn, for resnet18 rslad; under apgd: ")


def test_a_rows_gap_is_read_at_the_threats_radius():
    def points(r):
        return [GapPoint(e, 0.5 - e, 2.0 - e * r, -e * r, -e * r / 2, 0.0) for e in (0.0, 0.1, 0.2, 0.3)]

    row = Row(("self", "both"), "best", (0, 1), 2, gaps=[points(1.0), points(3.0)])
    found = gap_of(row, "0.2")
    assert found["gap"] == pytest.approx((0.4, math.sqrt(2) * 0.2))
    assert found["signed, relative"][0] == pytest.approx(-0.2)
    assert found["variance"] == (2.0, 0.0)
    assert found["r"][0] == pytest.approx(-1)
    assert gap_of(Row(("self", "both"), "best", (), 2), "0.2") == {}
    assert list(gap_figures([Row(("self", "both"), "best", (), 2)], "0.2")) == []


def test_the_command_of_a_table_has_the_options_that_change_it(tmp_path, monkeypatch):
    monkeypatch.setattr("ardor.experiments.work", lambda *_: [])  # no cell is made, and the sheets are written
    typed = ["--methods", "sat", "--no_gate", "--threat.eps", "0.1"]
    assert bench("whitebox-digits", *typed, out=tmp_path) == 0
    words = shlex.split(re.search(r"Made by `(.*?)`", (tmp_path / "whitebox.md").read_text())[1])
    assert words[:3] == ["ardor", "bench", "whitebox-digits"]
    assert set(typed) <= set(words)
    assert main([*words[1:], "--out", str(tmp_path)]) == 0  # the same table again, by that command
