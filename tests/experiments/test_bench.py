"""The cells of the bench are what their words say, at small and at full scale."""

from pathlib import Path

import pytest
import torch
import yaml

from ardor.attacks.threat import Linf
from ardor.cli.commands.train import job_of
from ardor.engine.flops import macs
from ardor.errors import ModelError
from ardor.experiments import TABLES, table_of
from ardor.experiments.label_study import LabelKinds
from ardor.experiments.published import published_rows
from ardor.experiments.scales import MOST_MACS, SCALES, nets_for
from ardor.experiments.tables import ALPHAS, METHODS, STUDENTS
from ardor.models import build
from tests.experiments.conftest import asked

CLASSES = {
    "natural": "Natural", "sat": "SAT", "trades": "TRADES", "ard": "ARD", "iad": "IAD", "rslad": "RSLAD",
    "variance_gap": "VarianceGap",
}  # fmt: skip


def named(words):
    return dict(word.removeprefix("--").partition("=")[::2] for word in words)


# Cells


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
        assert words["teacher"] == "ardor.experiments.label_study:both"
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
        assert {key[:2] for key in published_rows(kind, name)} == {row for row in rows if row[1] != "variance_gap"}
        assert len({key[:2] for key in published_rows(kind, name)}) == of


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
