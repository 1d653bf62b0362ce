"""The bench: cells are what their words say, every number of a table is a report's, and a refusal loses nothing."""

import csv
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ardor
from ardor import data
from ardor.bench import TABLES, plan, table_of, work
from ardor.bench.cell import Claims, left, made_by, note_of, report_path, state_of, weights_of
from ardor.bench.drawn import drawn
from ardor.bench.labels import LabelKinds
from ardor.bench.published import published
from ardor.bench.rows import Row, Value, gap_of, rows_of
from ardor.bench.says import doubts, notes, pairs
from ardor.bench.scales import MOST_MACS, SCALES, nets_for
from ardor.bench.sheet import as_csv, as_html, as_markdown
from ardor.bench.tables import ALPHAS, METHODS, STUDENTS, asked_for, recipe_file
from ardor.bench.work import Trouble
from ardor.cli import main
from ardor.commands.train import job_of
from ardor.errors import ConfigError, ModelError
from ardor.models import build
from ardor.models.cost import macs
from ardor.report import Proportion, Report
from ardor.threat import Linf
from ardor.variance import GapPoint

PAPER = Path(ardor.__file__).parent / "bench" / "paper"
SPEC = Path(__file__).parents[2] / "shared" / "spec"
ROW = ["--students", "resnet18", "--methods", "natural", "rslad"]
CLASSES = {
    "natural": "Natural", "sat": "SAT", "trades": "TRADES", "ard": "ARD", "iad": "IAD", "rslad": "RSLAD",
    "variance_gap": "VarianceGap",
}  # fmt: skip


def asked(kind="whitebox", scale="smoke", folder="bench", named="digits", eps=None, **others):
    others = {"students": STUDENTS, "methods": METHODS, **others}
    made = asked_for(f"{kind}-{named}", scale, None, eps, Path(folder), **others)
    return made.seen() if named == "digits" else made


def bench(*words, out, scale="smoke"):
    return main(["bench", *words, "--scale", scale, "--out", str(out)])


def table_in(folder, kind="whitebox"):
    return table_of(asked(kind, folder=folder, students=("resnet18",), methods=("natural", "rslad")))


def contents(folder):
    """The bytes and the times of every file in a folder."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != "claims.lock")
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def lines_of(folder, kind="whitebox"):
    return list(csv.DictReader((folder / f"{kind}.csv").read_text().splitlines()))


def cell_of(table, name):
    return next(cell for cell in table.cells if cell.name == name)


def named(words):
    return dict(word.removeprefix("--").partition("=")[::2] for word in words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole bench: a teacher, a natural student, and RSLAD's."""
    folder = tmp_path_factory.mktemp("finished") / "bench"
    assert bench("whitebox-digits", *ROW, out=folder) == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


# 1. Cells


@pytest.mark.parametrize("scale", ["smoke", "small"])
@pytest.mark.parametrize("kind", TABLES)
def test_names_are_unique_and_needs_come_first(kind, scale):
    table = table_of(asked(kind, scale, seeds=3))
    names = [cell.name for cell in table.cells]
    assert len(set(names)) == len(names)
    for place, cell in enumerate(table.cells):
        assert set(cell.needs) <= set(names[:place]), cell.name
        assert cell.name == f"{cell.name.partition('/')[0]}/s{cell.seed}"
        assert cell.judged
    assert set(table.shown) <= set(table.cells)
    assert len({(cell.row, cell.seed) for cell in table.shown}) == len(table.shown)
    assert {cell.seed for cell in table.shown} == {0, 1, 2}
    assert {len(cell.row) for cell in table.shown} == {len(table.head)}


def test_how_many_rows_each_table_has():
    rows = {kind: len({cell.row for cell in table_of(asked(kind)).shown}) for kind in TABLES}
    assert rows == {"whitebox": 14, "blackbox": 12, "labels": 16, "alpha": 5, "alignment": 18}


def test_a_whole_table_comes_before_the_second_seed():
    assert [c.seed for c in table_of(asked(seeds=2)).shown] == [0] * 14 + [1] * 14


def widths(job):
    return job.student.built_as["name"], job.student.built_as.get("width")


def nets(scale):
    """What plays each role for 8x8 grey digits: a quarter of the teacher's width."""
    wide = {"smoke": 8, "small": 32}[scale]
    cnn = [("small_cnn", w) for w in (max(4, wide // 4), (wide + max(4, wide // 4)) // 2, wide)]
    return dict(zip(("resnet18", "resnet50", "teacher"), cnn, strict=True)) | {"mobilenet_v2": ("mobilenet_v2", 0.25)}


def job_in(cell, scale="smoke"):
    """What a cell's words mean, after what all cells share was looked at."""
    job = job_of(cell.words, taught=False)
    assert (job.recipe.seed, job.recipe.epochs) == (cell.seed, SCALES[scale].epochs)
    assert (job.recipe.schedule, job.recipe.lr, job.recipe.augment) == ("one-cycle", 0.2, "none")
    assert (job.recipe.batch, job.recipe.weight_decay) == (64, 5e-4)
    looks = SCALES[scale].epochs if type(job.method).__name__ == "Natural" else 2
    assert job.recipe.val_every == looks
    assert len(job.train) == (512 if scale == "smoke" else 1213)
    assert job.recipe.val_attack.threat == Linf(0.2)
    assert getattr(job.method, "attack", None) is None or job.method.attack.threat == Linf(0.2)
    return job


@pytest.mark.parametrize("kind", ["whitebox", "blackbox"])
def test_words_of_the_papers_tables(kind):
    for cell in table_of(asked(kind, seeds=2)).cells:
        job, (role, method) = job_in(cell), cell.row
        assert type(job.method).__name__ == CLASSES[method], cell.name
        assert widths(job) == nets("smoke")[role], cell.name
        teacher = named(cell.words).get("teacher")
        ours = str(Path("bench/cells/teacher-sat/s0").resolve())
        assert teacher == (ours if method in METHODS[3:] else None), cell.name
        assert ("teacher-sat/s0" in cell.needs) == (teacher is not None)
        assert ("sat-resnet50/s0" in cell.needs) == (kind == "blackbox" and role in STUDENTS)


def test_methods_that_change_on_the_way_do_so_within_the_few_epochs():
    for scale, begin in (("smoke", 1), ("small", 2)):
        cells = table_of(asked(scale=scale, methods=("iad", "variance_gap"))).shown
        assert {job_of(c.words, taught=False).method.begin for c in cells if c.row[1] == "iad"} == {begin}
        assert {job_of(c.words, taught=False).method.warmup for c in cells if c.row[1] != "iad"} == {2}


def test_words_of_the_labels():
    for cell in table_of(asked("labels", seeds=2)).shown:
        job, words = job_in(cell), named(cell.words)
        assert isinstance(job.method, LabelKinds)
        assert (job.method.inner, job.method.outer) == cell.row
        assert (job.method.alpha, job.method.s) == (5 / 6, 0.1)
        assert cell.needs == ("teacher-natural/s0", "teacher-sat/s0")
        assert words["teacher"] == "ardor.bench.labels:both"
        cells = Path("bench/cells").resolve()
        assert [words[f"teacher.{k}"] for k in ("natural", "robust")] == [str(cells / n) for n in cell.needs]
        assert widths(job) == nets("smoke")["resnet18"]


def test_words_of_the_alpha_sweep():
    cells = table_of(asked("alpha")).shown
    assert [job_in(cell).method.alpha for cell in cells] == [0, 1 / 6, 1 / 2, 5 / 6, 1]
    assert [cell.row for cell in cells] == [(word,) for word in ALPHAS]
    assert {(cell.needs, named(cell.words)["teacher"]) for cell in cells} == {
        (("teacher-sat/s0",), str(Path("bench/cells/teacher-sat/s0").resolve()))
    }


def test_words_of_the_alignment():
    terms = {
        "rslad": (0, 0, "both"), "covariance": (0.001, 0, "both"), "gram": (0, 10, "both"),
        "both": (0.001, 10, "both"), "both, clean only": (0.001, 10, "clean"),
        "both, adversarial only": (0.001, 10, "adversarial"),
    }  # fmt: skip
    roles = {"same family": "resnet18", "mobilenet_v2": "mobilenet_v2", "self": "teacher"}
    seen = set()
    for cell in table_of(asked("alignment")).shown:
        job, (scenario, said) = job_in(cell), cell.row
        assert (job.method.lc, job.method.lg, job.method.sets) == terms[said], cell.name
        assert widths(job) == nets("smoke")[roles[scenario]], cell.name
        assert "gap" in {judgement.suite for judgement in cell.judged}
        seen.add(cell.row)
    assert seen == {(scenario, said) for scenario in roles for said in terms}


def test_teachers_are_what_their_names_say():
    natural, robust = table_of(asked("labels", "small", seeds=2)).cells[:2]
    for cell, kind in ((natural, "Natural"), (robust, "SAT")):
        job = job_in(cell, "small")
        assert type(job.method).__name__ == kind
        assert widths(job) == ("small_cnn", 32)
        assert (job.recipe.seed, cell.needs) == (0, ())


@pytest.mark.parametrize(("kind", "others"), [("whitebox", "alpha"), ("whitebox", "blackbox"), ("labels", "alpha")])
def test_tables_in_one_folder_share_cells_that_are_the_same(kind, others):
    one, two = ({c.name: c.words for c in table_of(asked(k, seeds=2)).cells} for k in (kind, others))
    both = set(one) & set(two)
    assert both
    assert all(one[name] == two[name] for name in both)


def test_a_students_seed_changes_its_weights_and_not_its_words_otherwise():
    zero, one = table_of(asked(students=("resnet18",), methods=("sat",), seeds=2)).shown
    assert {k for k in named(zero.words) if named(zero.words)[k] != named(one.words)[k]} == {"recipe.seed"}
    nets = [job_of(cell.words).student for cell in (zero, one)]
    assert not torch.equal(*(next(net.parameters()) for net in nets))


def test_nets_cost_at_most_what_the_scale_allows():
    for scale in ("smoke", "small"):
        for shape in ((1, 8, 8), (3, 32, 32)):
            found = nets_for(SCALES[scale], shape)
            for name, options in (found.teacher, found.surrogate, *found.students.values()):
                net = build(name, channels=shape[0], **options)
                assert macs(net, shape) <= MOST_MACS, (scale, shape, name)
    with pytest.raises(ModelError, match="expected images small enough for nets of at most 2 MMAC"):
        nets_for(SCALES["small"], (3, 224, 224))


# At full scale


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(("kind", "name"), [("whitebox", "cifar10"), ("whitebox", "cifar100"), ("blackbox", "cifar10")])
def test_full_scale_names_the_recipe_of_each_row(kind, name, released):
    table = table_of(asked(kind, "full", named=name, seeds=2, released=released))
    for cell in table.cells:
        path, (student, method) = Path(cell.words[0]), cell.row
        plain, own = f"{method}_{name}_{student}.yaml", f"{method}_{name}_{student}_released.yaml"
        assert path.name == (own if released and path.with_name(own).is_file() else plain)
        recipe = yaml.safe_load(path.read_text())
        assert f"--recipe.seed={cell.seed}" in cell.words
        assert "--threat.eps=8/255" in cell.words
        for key, value in (("method", method), ("student", student), ("data", name)):
            said = recipe[key]["name"] if isinstance(recipe[key], dict) else recipe[key]
            assert said == value, path.name
        assert not any(need.startswith("teacher") for need in cell.needs)  # the papers' own
    assert {c.words[0].endswith("_released.yaml") for c in table.cells} == ({False, True} if released else {False})


def test_the_papers_figures_are_beside_every_row_of_its_tables():
    for kind, name, of in (("whitebox", "cifar10", 12), ("whitebox", "cifar100", 12), ("blackbox", "cifar10", 10)):
        rows = {cell.row for cell in table_of(asked(kind, "full", named=name)).shown}
        assert {key[:2] for key in published(kind, name)} == {row for row in rows if row[1] != "variance_gap"}
        assert len({key[:2] for key in published(kind, name)}) == of


def test_full_scale_judges_everything_and_the_last_checkpoint_too():
    (cell,) = table_of(asked("whitebox", "full", named="cifar10", students=("resnet18",), methods=("sat",))).shown
    assert sorted((j.suite, j.checkpoint, j.limit) for j in cell.judged) == [
        ("autoattack", "best", 0), ("autoattack", "last", 0), ("paper", "best", 0), ("paper", "last", 0)
    ]  # fmt: skip
    (cell,) = table_of(asked("whitebox", "small", students=("resnet18",), methods=("sat",))).shown
    assert sorted((j.suite, j.checkpoint, j.limit) for j in cell.judged) == [
        ("autoattack", "best", 200), ("paper", "best", 2000), ("paper", "last", 2000)
    ]  # fmt: skip


def test_other_data_take_the_recipe_of_cifar10_at_full_scale():
    (cell,) = table_of(asked("whitebox", "full", students=("resnet18",), methods=("sat",), train=9)).shown
    assert Path(cell.words[0]).name == "sat_cifar10_resnet18.yaml"
    assert {"--data=digits", "--data.limit=9", "--threat.eps=0.2"} <= set(cell.words)


# 2. End to end


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
        assert page.count(f'<td class="text">{word}</td>') == markdown.count(line) == 2
    assert "Scale smoke only shows that everything runs" in markdown
    assert "A = small_cnn, for resnet18 natural; B = small_cnn, for resnet18 rslad; under apgd" in markdown
    words = " ".join(cell_of(table_in(finished), "natural-resnet18/s0").words)
    assert f"<pre>ardor train {words}</pre>" in page


def test_the_page_asks_nothing_of_a_network(finished):
    page = (finished / "whitebox.html").read_text()
    assert not re.search(r"https?:|src=|<script|<link|@import|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_names_are_escaped(finished):
    table = table_in(finished)
    strange = dataclasses.replace(
        table, asked=dataclasses.replace(table.asked, data="npz:<script>alert(1)</script>.npz")
    )
    trouble = [Trouble(table.cells[0], "<b>why</b>")]
    page = as_html(strange, rows_of(table), "ardor bench '<img src=x>'", trouble)
    assert "<script" not in page
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


# 3. The papers' figures, and ours beside them


@pytest.mark.parametrize(("kind", "spec"), [("whitebox", "rslad_whitebox.csv"), ("blackbox", "rslad_blackbox.csv")])
def test_published_is_what_the_files_say(kind, spec):
    for path in (PAPER / f"{kind}.csv", SPEC / spec):
        if not path.is_file():
            continue
        lines = list(csv.DictReader(path.read_text().splitlines()))
        found = {name: published(kind, name) for name in ("cifar10", "cifar100")}
        for line in lines:
            student, method = (line[key].lower() for key in ("student", "method"))
            row = found[line["dataset"]][student, method, line.get("checkpoint", "best")]
            for name, value in row.items():
                assert value == float(line[name]), (path.name, line)
        assert len(lines) == sum(map(len, found.values()))


def test_no_figures_are_published_for_other_data_or_studies():
    assert published("whitebox", "digits") == published("labels", "cifar10") == published("alpha", "cifar10") == {}


def by_hand(p, n, z=1.959963984540054):
    """Wilson's interval."""
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_one_seed_has_wilsons_interval():
    value = Value((Proportion(80, 100),), paper=0.5)
    assert value.interval == pytest.approx(by_hand(0.8, 100))
    assert (value.mean, math.isnan(value.sd)) == (0.8, True)
    low, high = by_hand(0.8, 100)
    error = 1.959963984540054 * math.sqrt(0.25 / 10_000)
    wanted = (0.3, 0.3 - math.hypot(0.8 - low, error), 0.3 + math.hypot(high - 0.8, error))
    assert value.difference == pytest.approx(wanted)


def test_three_seeds_add_the_spread_of_training():
    value = Value(tuple(Proportion(k, 100) for k in (50, 56, 62)), paper=0.6)
    low, high = by_hand(0.56, 100)
    half = math.hypot(4.302652729696 * 0.06 / math.sqrt(3), (high - low) / 2)
    assert (value.mean, value.sd) == pytest.approx((0.56, 0.06))
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
    said = published("whitebox", "cifar10")["resnet18", "rslad", "best"]
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
        made = {"made": made_by(table.asked, cell), "trained": True}
        note_of(table.asked, cell).write_text(yaml.safe_dump(made))
        for path in (cells / f"s{cell.seed}").glob("report-paper-*best*.json"):
            content = json.loads(path.read_text())
            content["verdicts"]["fgsm"] = content["verdicts"]["fgsm"].replace("r", "b", cell.seed)
            path.write_text(json.dumps(content))
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
    assert not any("trained here" in said for said in notes(asked(scale="small", teacher=("--teacher=mine",)), []))


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
    assert list(drawn([Row(("self", "both"), "best", (), 2)], "0.2")) == []


# 6. Foreign and failed cells


def edited(folder, name, change):
    path = folder / "cells" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def to_be_made(folder):
    """Let something be missing after the foreign cell, so that it can be seen that the others are made."""
    path = folder / "cells" / "rslad-resnet18" / "s0" / "report-paper-linf-0.2-last-limit64.json"
    path.unlink()
    return path


def only_sentence(capsys):
    said = capsys.readouterr().err.strip()
    assert said.startswith("ardor: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["made"]["words"].update({"recipe.lr": "0.3"}), "lr"),
        (lambda c: c["made"].update({"ardor": "0.0.1"}), "0.0.1"),
        (lambda c: c["made"].update({"recipe": "sat_cifar10_resnet18.yaml 0123456789abcdef"}), "recipe"),
        (lambda c: c["made"]["words"].pop("data.limit"), "limit"),
        (lambda c: c.clear(), "ardor"),
    ],
)
def test_a_foreign_cell_is_named_and_left_alone_while_the_others_are_made(copy, capsys, change, named):
    edited(copy, "natural-resnet18/s0", change)
    made, before = to_be_made(copy), contents(copy / "cells" / "natural-resnet18")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "1 that could not be made, first natural-resnet18/s0" in said
    assert named in said
    assert "type --out with a new folder" in said
    assert contents(copy / "cells" / "natural-resnet18") == before
    assert made.is_file()
    for ending in ("md", "html"):
        text = (copy / f"whitebox-part.{ending}").read_text()
        assert "natural-resnet18/s0" in text
        assert "left as it is" in text
    assert {line["method"] for line in lines_of(copy)} == {"natural", "rslad"}, "the fuller table is not overwritten"


def test_the_figures_of_a_foreign_cell_are_not_shown(copy):
    edited(copy, "natural-resnet18/s0", lambda c: c["made"]["words"].update({"recipe.lr": "0.3"}))
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert {line["method"] for line in lines_of(copy, "whitebox-part")} == {"rslad"}


def test_a_run_without_its_note_is_foreign(copy, capsys):
    (copy / "cells" / "natural-resnet18" / "s0.yaml").unlink()
    before = contents(copy / "cells" / "natural-resnet18")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert "a run without s0.yaml beside it" in only_sentence(capsys)
    assert contents(copy / "cells" / "natural-resnet18") == before


def test_students_of_a_foreign_teacher_are_not_made(copy, capsys):
    edited(copy, "teacher-sat/s0", lambda c: c["made"].update({"ardor": "9"}))
    to_be_made(copy)
    before = contents(copy / "cells")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert "2 that could not be made, first teacher-sat/s0" in only_sentence(capsys)
    assert contents(copy / "cells") == before
    assert "it needs teacher-sat/s0" in (copy / "whitebox-part.md").read_text()


def test_an_edited_recipe_file_is_another_recipe(tmp_path, monkeypatch):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    path = recipes / "sat_cifar10_resnet18.yaml"
    path.write_bytes(recipe_file("sat_cifar10_resnet18").read_bytes())
    monkeypatch.setattr("ardor.bench.tables.recipe_file", lambda name, released=False: path)
    table = table_of(asked(scale="full", folder=tmp_path, students=("resnet18",), methods=("sat",)))
    (cell,) = table.cells
    table.asked.run(cell.name).mkdir(parents=True)
    note_of(table.asked, cell).write_text(yaml.safe_dump({"made": made_by(table.asked, cell)}))
    assert state_of(table.asked, cell) == ("open", "")
    assert made_by(table.asked, cell)["ardor"] == ardor.__version__
    path.write_text(path.read_text() + "\n# edited\n")
    state, why = state_of(table.asked, cell)
    assert state == "foreign"
    assert "sat_cifar10_resnet18.yaml" in why


def test_where_things_lie_makes_no_cell_foreign(copy, tmp_path):
    moved = copy.rename(tmp_path / "elsewhere")
    words = ("--data.root=there",)
    table = table_of(
        asked(folder=moved, students=("resnet18",), methods=("natural", "rslad"), data_words=words)
    )
    assert {state_of(table.asked, cell) for cell in table.cells} == {("done", "")}


def diverging(monkeypatch):
    """The natural student's rate is beyond all reason."""
    from ardor.bench import tables

    plain = tables._words

    def words(asked, method, student, seed):
        said = plain(asked, method, student, seed)
        return tuple(w.replace("recipe.lr=0.2", "recipe.lr=1e30") if method == "natural" else w for w in said)

    monkeypatch.setattr(tables, "_words", words)


def test_a_diverged_cell_is_named_and_kept_and_the_others_are_made(copy, capsys, monkeypatch):
    diverging(monkeypatch)
    shutil.rmtree(copy / "cells" / "natural-resnet18")
    made = to_be_made(copy)
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "first natural-resnet18/s0" in said
    assert "s0.yaml and the run beside it away" in said
    assert made.is_file()
    note = yaml.safe_load((copy / "cells" / "natural-resnet18" / "s0.yaml").read_text())
    assert "failed" in note
    before = contents(copy / "cells")
    assert bench("whitebox-digits", *ROW, out=copy) == 2  # nothing is tried again
    assert contents(copy / "cells") == before
    assert note["failed"].split(":")[0] in (copy / "whitebox-part.md").read_text()
    assert {line["method"] for line in lines_of(copy, "whitebox-part")} == {"rslad"}


# 7. Bad words and bad teachers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["greybox-digits"], 'expected a table, got "greybox-digits"'),
        (["whitebx-digits"], "whitebox"),
        (["whitebox"], "expected one data set, got none"),
        (["whitebox-digits", "--data", "npz:x.npz"], "expected one data set, got digits and npz:x.npz"),
        (["whitebox", "--data", "npz:x.npz"], "expected a radius for npz:x.npz, got none: type --eps 8/255"),
        (["whitebox", "--data", "npz:absent.npz", "--eps", "0.1"], "absent.npz"),
        (["whitebox-digits", "--methods", "rslda"], 'got "rslda"'),
        (["whitebox-digits", "--students", "resnet81"], 'got "resnet81"'),
        (["whitebox-digits", "--scale", "large"], "large"),
        (["whitebox-digits", "--seeds", "0"], "expected at least one seed, got 0"),
        (["whitebox-digits", "--seeds", "-1"], "expected at least one seed, got -1"),
        (["whitebox-digits", "--eps", "0", "--plan"], "expected a positive eps"),
        (["labels-digits", "--scale", "full"], "expected --scale smoke or small for the study labels, got full"),
        (["blackbox-cifar100", "--scale", "full"], "expected the recipe sat_cifar100_resnet50.yaml, got none"),
        (["whitebox-cifar10", "--root", "nowhere"], "nowhere"),
        (["whitebox-digits", "--nonsense", "1"], "--nonsense"),
    ],
)
def test_bad_words_are_one_sentence_and_write_nothing(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words, "--out", "out"]) == 2
    assert said in only_sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_recipe_is_named():
    with pytest.raises(ConfigError, match=r"expected the recipe nothing\.yaml, got none"):
        recipe_file("nothing")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of other data: five classes, and images of 12x12."""
    folder = tmp_path_factory.mktemp("others")
    train, _, test = data.load("digits")
    few = [split.take(split.labels < 5) for split in (train, test)]
    large = [
        dataclasses.replace(s, images=torch.nn.functional.interpolate(s.images, size=12)) for s in (train, test)
    ]
    for name, (one, two) in (("few", few), ("large", large)):
        arrays = {"x_train": one.images, "y_train": one.labels, "x_test": two.images, "y_test": two.labels}
        np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in arrays.items()})
        words = ["--student", "small_cnn", "--student.width", "4", "--method", "natural", "--recipe.device", "cpu"]
        words += ["--recipe.epochs", "1", "--recipe.augment", "none", "--data.limit", "200"]
        words += ["--run", str(folder / name)]
        assert main(["train", "--data", f"npz:{folder / name}.npz", *words]) == 0
    return folder


@pytest.mark.parametrize(("name", "why"), [("few", "10 classes, got 5"), ("large", "a teacher that is what it claims")])
def test_a_teacher_of_other_data_is_refused_and_nothing_is_trained_by_it(copy, others, capsys, name, why):
    shutil.rmtree(copy / "cells" / "rslad-resnet18")
    capsys.readouterr()
    before = contents(copy)
    assert bench("whitebox-digits", *ROW, "--teacher", str(others / name), out=copy) == 2
    assert why in only_sentence(capsys)
    assert contents(copy) == before
    assert bench("whitebox-digits", *ROW, out=copy) == 0  # a refused teacher bars no other
    assert {line["method"] for line in lines_of(copy)} == {"natural", "rslad"}


def test_a_teacher_whose_weights_are_not_what_its_record_says_is_refused(copy, capsys):
    shutil.rmtree(copy / "cells" / "rslad-resnet18")
    (copy / "cells" / "rslad-resnet18" / "s0.yaml").unlink(missing_ok=True)
    weights = copy / "cells" / "teacher-sat" / "s0" / "best.safetensors"
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(weights, "pt") as file:
        meta, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["linear.weight"] = tensors["linear.weight"].roll(3, 0).contiguous()  # the classes in another order
    tensors["linear.bias"] = tensors["linear.bias"].roll(3, 0).contiguous()
    save_file(tensors, weights, meta)
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "rslad-resnet18/s0 (expected a teacher that is what it claims" in said
    assert not (copy / "cells" / "rslad-resnet18" / "s0").exists()


def test_a_transfer_source_of_other_classes_is_refused(copy, others, capsys):
    assert bench("blackbox-digits", *ROW, "--transfer_from", str(others / "few"), out=copy) == 2
    said = only_sentence(capsys)
    assert "expected this to work" not in said
    assert "the data's 10 classes, got 5" in said


# 8. The plan


def test_a_plan_writes_nothing_and_needs_no_teacher(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench("whitebox-digits", *ROW, "--plan", out="new") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == [
        "teacher-sat/s0", "natural-resnet18/s0", "rslad-resnet18/s0"
    ]  # fmt: skip
    assert "3 of 3 nets to make" in out
    assert "The same command without --plan starts it." in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_what_is_left(copy):
    table = table_in(copy)
    assert plan(table) == []
    made, before = to_be_made(copy), contents(copy)
    (cost,) = plan(table)
    assert (cost.cell.name, cost.train) == ("rslad-resnet18/s0", 0)
    assert cost.judge > 0
    shutil.rmtree(copy / "cells" / "natural-resnet18")
    both = plan(table)
    assert [c.cell.name for c in both] == ["natural-resnet18/s0", "rslad-resnet18/s0"]
    assert both[0].train > 0
    assert not made.exists()
    assert {k: v for k, v in before.items() if "natural" not in k} == contents(copy)


def test_a_plan_leaves_foreign_cells_out(copy):
    edited(copy, "natural-resnet18/s0", lambda c: c["made"].update({"ardor": "9"}))
    assert plan(table_in(copy)) == []


def test_a_study_can_be_planned():
    for kind, row in (("labels", ("natural", "robust")), ("alignment", ("self", "both")), ("blackbox", ("rslad",))):
        some = {"students": ("resnet18",), "methods": ("rslad",)} if kind == "blackbox" else {}
        table = table_of(asked(kind, **some))
        some = tuple(c for c in table.cells if c.row[-len(row) :] == row or c.needs == ())
        table = dataclasses.replace(table, cells=some)
        costs = plan(table)
        assert [cost.cell.name for cost in costs] == [cell.name for cell in table.cells]
        assert all(cost.train > 0 and cost.judge > 0 for cost in costs)


def test_full_scale_can_be_planned_on_data_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.arange(60 * 3 * 32 * 32, dtype=np.uint8).reshape(60, 3, 32, 32)
    y = np.arange(60) % 10
    np.savez("tiny.npz", x_train=images, y_train=y, x_test=images[:20], y_test=y[:20])
    words = ["--data", "npz:tiny.npz", "--eps", "8/255", "--students", "mobilenet_v2", "--methods", "natural"]
    assert bench("whitebox", *words, "--plan", out="out", scale="full") == 0
    assert "1 of 1 nets to make" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.npz"]


# 5. Claims, seen from inside


def test_a_claim_is_one_cells_and_is_let_go(tmp_path):
    claims = Claims(tmp_path / "new")
    with claims.take("a/s0") as mine, claims.take("b/s0") as other:
        assert (mine, other) == (True, True)
    claims.close()


def test_work_hands_back_trouble_and_says_what_is_finished(copy):
    to_be_made(copy)
    edited(copy, "natural-resnet18/s0", lambda c: c["made"].update({"ardor": "9"}))
    after, table = [], table_in(copy)
    (trouble,) = work(table, lambda cell, what: None, after.append)
    assert (trouble.cell.name, [cell.name for cell in after]) == ("natural-resnet18/s0", ["rslad-resnet18/s0"])
    assert left(table.asked, after[0]) == []
    assert report_path(table.asked, after[0], after[0].judged[0]).is_file()
