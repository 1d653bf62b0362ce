"""The teacher's soft labels, kept beside the student: runs with a table are the live ones."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ardor.data.split
import ardor.models.builders
import ardor.training.soft_labels.table
from ardor import methods
from ardor.cli.main import main
from ardor.data.augment import crop_flip
from ardor.engine.modes import attack_view
from ardor.errors import CheckpointError, ConfigError, RunError
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.testing import TinyNet
from ardor.training.loop import distill
from ardor.training.soft_labels import SoftLabelCache, SoftLabels
from ardor.training.soft_labels.files import hashes_of
from tests.conftest import bits, filled, job_of, same, splits
from tests.training.conftest import CLASSES, PGD2, WORDS, _joined, net, recipe


class Counted(TinyNet):
    """A user's teacher: it has no twin, and remembers how many images each forward was given."""

    def __init__(self, seed=5):
        super().__init__(1, CLASSES, 8, seed)
        filled(self, seed).float()
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)

    def asked(self):
        """The calls since the last time, but for the images that `require_fit` and the identity of a net take."""
        calls, self.calls = [n for n in self.calls if n > 2], []
        return calls


# --- kept soft labels
RSLAD = methods.RSLAD(attack=PGD2)


def taught(soft=None, teacher=None, method=RSLAD, data=None, run=None, **changes):
    """The student's bits and the records of a run."""
    student = net(3)
    train = splits()[0] if data is None else data
    records = distill(student, teacher or Counted(), method, train, recipe(**changes), run=run, soft_labels=soft)
    return bits(student), [(r.loss, r.terms) for r in records]


def tables(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("make", "augment", "method"),
    [*product([Counted, lambda: net(5, 8)], ["none", "crop", "crop-flip"], [RSLAD]),
     (Counted, "crop-flip", methods.VarianceGap(attack=PGD2))],
)  # fmt: skip
def test_runs_with_a_table_are_equal_and_a_second_asks_nothing(tmp_path, make, augment, method):
    teacher, words = make(), {"augment": augment, "epochs": 2, "method": method}
    counts = isinstance(teacher, Counted) and method is RSLAD  # the other method asks about more than x
    cold = taught(SoftLabelCache(tmp_path / "soft"), teacher, **words)
    asked = teacher.asked() if counts else []
    assert set(asked) <= {32}
    warm = taught(SoftLabelCache(tmp_path / "soft"), teacher, **words)
    if counts:
        assert teacher.asked() == [32], "the first batch is checked, and nothing is asked"
    assert same(cold[0], warm[0])
    assert cold[1] == warm[1]
    assert len(tables(tmp_path / "soft")) == 1
    live = taught(None, teacher, **words)
    if counts:
        assert set(teacher.asked()) == {16, 8}
    assert live[1][-1][0] == pytest.approx(cold[1][-1][0], rel=1e-3), "after six steps"


def test_the_first_step_is_the_live_one(tmp_path):
    words = {"epochs": 1, "batch": 40, "augment": "crop-flip"}
    live, cold = taught(None, **words), taught(SoftLabelCache(tmp_path / "soft"), **words)
    assert live[1][0][0] == pytest.approx(cold[1][0][0], rel=1e-6)
    for key, value in live[0].items():
        torch.testing.assert_close(value, cold[0][key], rtol=1e-4, atol=1e-6)


class Mine:
    """RSLAD as a user's own method: images may then lie otherwise in memory."""

    def terms(self, *args, **kwargs):
        return RSLAD.terms(*args, **kwargs)


def test_who_filled_the_table_does_not_matter(tmp_path):
    """Another method with another seed, on colour images, whose layout differs between methods."""
    n = torch.arange(40)
    colour = ardor.data.split.Split(Noise(0, n, "c").uniform((3, 8, 8)), n % CLASSES, CLASSES, "colour", "train")
    teacher = ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=8, seed=5)

    def run(folder, method=RSLAD, **changes):
        student = ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=3)
        distill(
            student, teacher, method, colour, recipe(epochs=1, **changes), soft_labels=SoftLabelCache(tmp_path / folder)
        )
        return bits(student)

    cold = run("a")
    run("b", Mine(), seed=1)
    assert same(run("b"), cold)


def test_views_are_those_of_the_image_and_the_epoch(tmp_path):
    """So a table meets new ones in each epoch, and a second run the same."""
    train, met = splits()[0], []

    class Watch:
        def terms(self, student, teacher, x, y, *, epoch, noise):
            met.append((epoch, noise.index, x.clone()))
            return {"clean": kl(teacher(x), student(x))}

    teacher = Counted()
    taught(SoftLabelCache(tmp_path), teacher, Watch(), augment="crop-flip", padding=2, seed=7)
    assert teacher.asked().count(32) > 3, "each batch of each epoch has new ones"
    assert [epoch for epoch, *_ in met] == [1] * 3 + [2] * 3 + [3] * 3
    for epoch, index, x in met:
        assert torch.equal(x, crop_flip(train.images[index], Noise(7, index, "augment", epoch), 2)[0])


def test_seeds_share_a_table(tmp_path):
    teacher = Counted()
    taught(SoftLabelCache(tmp_path / "soft"), teacher, seed=0)
    teacher.asked()
    taught(SoftLabelCache(tmp_path / "soft"), teacher, seed=1)
    assert teacher.asked() == [32]
    assert len(tables(tmp_path / "soft")) == 1
    taught(SoftLabelCache(tmp_path / "soft"), teacher, data=splits()[0].take(slice(5, 30)))
    assert teacher.asked() == [32], "so does a part of the data"


def test_what_makes_other_answers_has_another_table(tmp_path):
    soft = tmp_path / "soft"
    taught(SoftLabelCache(soft), epochs=1)
    for number, changes in enumerate(
        ({"teacher": Counted(6)}, {"data": splits(name="other")[0]}, {"augment": "crop"},
         {"augment": "crop-flip"}, {"augment": "crop", "padding": 2}), 2,
    ):  # fmt: skip
        taught(SoftLabelCache(soft), **{"epochs": 1} | changes)
        assert len(tables(soft)) == number
    taught(SoftLabelCache(soft, "float16"), epochs=1)
    assert len(tables(soft)) == 7
    assert sum(name.startswith("made-") for name in tables(soft)) == 6
    taught(SoftLabelCache(soft), epochs=1, padding=3)
    assert len(tables(soft)) == 7, "a padding that nobody uses"
    for name in ("x:y", "x_y", f"{'z' * 50}1", f"y{'z' * 50}1"):
        taught(SoftLabelCache(soft), data=splits(name=name)[0], epochs=1)
    assert len(tables(soft)) == 11, "names that a file system does not tell apart"


def test_other_images_under_the_same_name_never_get_the_first_ones_answers(tmp_path):
    train, _ = splits()
    taught(SoftLabelCache(tmp_path / "soft"), epochs=1)
    before = {p: p.read_bytes() for p in (tmp_path / "soft").rglob("*") if p.is_file()}
    other = replace(train, images=1 - train.images)
    with pytest.raises(RunError, match="a table of other images .40 of 40 differ"):
        taught(SoftLabelCache(tmp_path / "soft"), data=other, epochs=1)
    assert all(p.read_bytes() == content for p, content in before.items())


class AsksAboutEverything:
    """A user's method: the teacher about x, a copy of x and x', through its layers, and inside an attack on it."""

    def __init__(self, teacher):
        self.teacher, self.wrong = teacher, []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        with attack_view(student) as view:
            x_adv = PGD2.maximise(lambda z: kl(teacher(z), view(z)), x, noise)
        with attack_view(teacher) as view:
            against = PGD2.maximise(lambda z: ce(view(z), y), x, noise.fork("teacher"))
        for z in (x_adv, x.clone(), against):
            if not torch.equal(teacher(z), self.teacher(z)):
                self.wrong.append("an answer that is not about x is not live")
        if not torch.equal(teacher.features(x), self.teacher.features(x)):
            self.wrong.append("features are not live")
        if (teacher(x) - self.teacher(x)).abs().max() > 1e-5:
            self.wrong.append("x")
        return {"a": kl(teacher(x).detach(), student(x)), "b": kl(teacher(x_adv).detach(), student(x_adv))}


def test_what_is_not_about_x_is_live(tmp_path):
    teacher = Counted()
    method = AsksAboutEverything(teacher)
    for _ in range(2):
        taught(SoftLabelCache(tmp_path / "soft"), teacher, method, augment="crop-flip")
    assert method.wrong == []


def test_iad_asks_about_the_attacked_images(tmp_path):
    teacher, method = Counted(), methods.IAD(begin=1, attack=PGD2)
    cold = taught(SoftLabelCache(tmp_path / "soft"), teacher, method)
    teacher.asked()
    assert same(cold[0], taught(SoftLabelCache(tmp_path / "soft"), teacher, method)[0])
    assert sorted(teacher.asked()) == sorted([32, *[16, 16, 8] * 3])


def test_a_damaged_table_is_mended(tmp_path):
    teacher, soft = Counted(), tmp_path / "soft"
    cold = taught(SoftLabelCache(soft), teacher)
    path = soft / tables(soft)[0] / "table.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 64
    path.write_bytes(content)
    teacher.asked()
    assert same(cold[0], taught(SoftLabelCache(soft), teacher)[0])
    assert sorted(teacher.asked()) == [32, 32], "a spot check, and the entry that was lost"
    assert path.read_bytes()[3] == content[3] ^ 64


def test_answers_that_are_not_the_teachers_end_the_run_before_they_are_learned_from(tmp_path):
    teacher, (train, _) = Counted(), splits()
    soft = SoftLabelCache(tmp_path / "soft")
    table = soft.table(teacher, train, recipe())
    assert isinstance(table, SoftLabels)
    table.put(train.index, torch.zeros(40, dtype=torch.int64), torch.ones(40, CLASSES))
    student = net(3)
    before = bits(student)
    with pytest.raises(CheckpointError, match="16 of 16 images"):
        distill(student, teacher, RSLAD, train, recipe(), run=tmp_path / "run", soft_labels=soft)
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_the_run_says_what_it_kept(tmp_path):
    train, _ = splits()
    words = (net(3), Counted(), RSLAD, train, recipe(epochs=1))
    for name, soft in (
        ("float16", SoftLabelCache(tmp_path, "float16")),
        ("float32", SoftLabelCache(tmp_path)),
        ("live", None),
    ):
        distill(*words, run=tmp_path / name, soft_labels=soft)
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text())["soft_labels"] == name
    distill(
        net(),
        None,
        methods.Natural(),
        train,
        recipe(epochs=1),
        run=tmp_path / "n",
        soft_labels=SoftLabelCache(tmp_path),
    )
    assert yaml.safe_load((tmp_path / "n" / "config.yaml").read_text())["soft_labels"] == "live", "nobody is asked"
    with pytest.raises(RunError, match="soft_labels: float32 here, float16 there"):
        distill(net(3), *words[1:], run=tmp_path / "float16", soft_labels=SoftLabelCache(tmp_path))
    with pytest.raises(ConfigError, match="one of float32, float16"):
        distill(net(3), *words[1:], soft_labels=SoftLabelCache(tmp_path, "bfloat16"))


def test_float16_answers_are_rounded_once_and_the_same_again(tmp_path):
    cold, warm = (taught(SoftLabelCache(tmp_path / "soft", "float16"), epochs=1) for _ in range(2))
    exact = taught(SoftLabelCache(tmp_path / "soft"), epochs=1)
    assert same(cold[0], warm[0])
    assert not same(cold[0], exact[0])
    assert cold[1][0][0] == pytest.approx(exact[1][0][0], rel=2e-3)


def test_where_the_system_cannot_write_in_place_nothing_is_cached(tmp_path, monkeypatch, caplog):
    monkeypatch.delattr("os.pwrite")
    result = taught(SoftLabelCache(tmp_path / "soft"))
    assert "soft labels are not kept: this system cannot write at a position" in caplog.text
    assert not (tmp_path / "soft").exists()
    assert same(result[0], taught()[0])


def test_a_table_is_of_the_images_position_in_its_data_set(tmp_path):
    train, _ = splits()
    taught(SoftLabelCache(tmp_path), data=train.take(slice(10, 26)), epochs=1)
    held = np.fromfile(next(tmp_path.glob("*/images.bin")), "<u8")
    assert held.nonzero()[0].tolist() == list(range(10, 26))
    assert held[10:].tolist() == hashes_of(train.take(slice(10, 26))).tolist()


def test_the_teacher_is_where_it_answers_when_its_table_is_found(tmp_path, monkeypatch):
    """A table is one device's: it must not be named before the teacher is there."""
    told = []

    class Moved(Counted):
        def to(self, *args, **kwargs):
            told.append("moved")
            return super().to(*args, **kwargs)

    real = ardor.training.soft_labels.table.identity_of
    monkeypatch.setattr(
        "ardor.training.soft_labels.settings.identity_of", lambda *a, **k: told.append("named") or real(*a, **k)
    )
    taught(SoftLabelCache(tmp_path), Moved(), epochs=1)
    assert told[0] == "moved"


TAUGHT = [*WORDS, "--method", "rslad", "--method.attack.steps", "1", "--gate=false"]


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["train", *WORDS, "--method", "natural", "--run", str(folder)]) == 0
    return str(folder)


def test_the_shell_keeps_them_beside_the_runs(tmp_path, monkeypatch, teacher_run, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", *TAUGHT, "--teacher", teacher_run]
    assert main([*words, "--run", "here/run"]) == 0
    assert [name[:7] for name in tables(tmp_path / "here" / ".soft-labels")] == ["digits-"]
    assert main([*words, "--run", "live/run", "--soft_labels", "live"]) == 0
    assert not (tmp_path / "live" / ".soft-labels").exists()
    assert main([*words, "--run", "half/run", "--soft_labels", "float16", "--soft_labels_in", "mine"]) == 0
    assert len(tables(tmp_path / "mine")) == 1
    assert not (tmp_path / "half" / ".soft-labels").exists()
    config = yaml.safe_load((tmp_path / "half" / "run" / "config.yaml").read_text())
    assert config["soft_labels"] == "float16"
    assert "soft_labels_in" not in config, "where they lie decides nothing"
    assert main(["train", "half/run", "--soft_labels_in", "moved"]) == 0
    assert main([*words, "--run", "x", "--soft_labels", "float64"]) != 0


def test_the_folder_by_default(tmp_path, teacher_run):
    words = [*_joined(TAUGHT[:-1]), f"--teacher={teacher_run}"]
    assert str(job_of(words).soft_labels.folder) == "runs/.soft-labels"
    assert job_of([*words, f"--run={tmp_path}/a/b"]).soft_labels == SoftLabelCache(tmp_path / "a" / ".soft-labels")
    assert job_of([*words, "--soft_labels=live"]).soft_labels is None
    assert job_of([*words, "--soft_labels=float16"]).soft_labels.dtype == "float16"
    path = tmp_path / "recipe.yaml"
    path.write_text("soft_labels: float16\nsoft_labels_in: mine\n")
    assert job_of([str(path), *words]).soft_labels == SoftLabelCache(Path("mine"), "float16")
    assert job_of([str(path), *words, "--soft_labels=live"]).soft_labels is None
