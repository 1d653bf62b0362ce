"""The table of kept soft labels: exact, never wrong, whose it is and what it costs."""

import copy
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ardor.data.augment import crop_flip
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError, RunError
from ardor.noise import Noise
from ardor.training.recipe import Recipe
from ardor.training.soft_labels import saving
from ardor.training.soft_labels import table as tables
from ardor.training.soft_labels.savings import views_met
from ardor.training.soft_labels.views import numbering
from tests.training.soft_labels.conftest import CLASSES, Counted, N, everything, labels, opened, split

# --- the table


def test_what_is_put_is_got_and_nothing_else(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.tensor([3, 3, 39, 0]), torch.tensor([0, 49, 49, 7])
    assert not table.get(index, view)[1].any()
    given = labels(index, view)
    assert torch.equal(table.put(index, view, given), given)
    logits, known = table.get(index, view)
    assert known.all()
    assert logits.dtype == torch.float32
    assert torch.equal(logits, given)
    all_known = table.get(*everything())[1]
    assert all_known.sum() == 4
    assert all_known[[150, 199, 1999, 7]].all()


def test_the_layout_is_as_documented(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.tensor([3, 39]), torch.tensor([7, 49])
    table.put(index, view, labels(index, view))
    raw = np.memmap(tmp_path / "t" / "table.bin", "<f4", "r", shape=(N, 50, CLASSES))
    assert np.array_equal(raw[[3, 39], [7, 49]], labels(index, view).numpy())
    assert not raw[5].any()
    assert {p.name for p in (tmp_path / "t").iterdir()} == {
        "identity.yaml", "images.bin", "table.bin", "sums.bin", "lock",
    }  # fmt: skip


def test_the_first_answer_stays(tmp_path):
    table = opened(tmp_path / "t")
    index, view = torch.arange(4), torch.arange(4)
    first, second = labels(index, view, 1), labels(index, view, 2)
    table.put(index[:2], view[:2], first[:2])
    expected = torch.cat([first[:2], second[2:]])
    assert torch.equal(table.put(index, view, second), expected)
    assert torch.equal(table.get(index, view)[0], expected)


def test_a_table_is_opened_again_and_grows(tmp_path):
    index, view = torch.arange(10), torch.arange(10)
    small = opened(tmp_path / "t", data=split(10))
    small.put(index, view, labels(index, view))
    large = opened(tmp_path / "t")
    assert torch.equal(large.get(index, view)[0], labels(index, view))
    large.put(index + 20, view, labels(index + 20, view))
    again = opened(tmp_path / "t", data=split(10))
    assert again.get(index, view)[1].all()
    assert opened(tmp_path / "t").get(index + 20, view)[1].all(), "a smaller split cut the table short"


def test_a_subset_another_order_and_other_labels_share_the_table(tmp_path):
    index, view = torch.arange(N), torch.zeros(N, dtype=torch.int64)
    opened(tmp_path / "t").put(index, view, labels(index, view))
    data = split()
    relabelled = Split(data.images, (data.labels + 1) % CLASSES, CLASSES, "drawn", "train")
    for other in (data.take([7, 3, 30]), data.take(torch.arange(N - 1, -1, -1)), relabelled):
        table = opened(tmp_path / "t", data=other)
        logits, known = table.get(other.index, torch.zeros(len(other), dtype=torch.int64))
        assert known.all()
        assert torch.equal(logits, labels(other.index, torch.zeros(len(other), dtype=torch.int64)))


def test_float16_halves_the_table_and_rounds_once(tmp_path):
    table = opened(tmp_path / "t", dtype="float16")
    index, view = everything()
    given = labels(index, view)
    rounded = table.put(index, view, given)
    assert torch.equal(rounded, given.half().float())
    assert torch.equal(table.get(index, view)[0], rounded)
    assert (tmp_path / "t" / "table.bin").stat().st_size == N * 50 * CLASSES * 2


@pytest.mark.parametrize(("dtype", "bad"), [("float32", float("nan")), ("float32", float("inf")), ("float16", 1e5)])
def test_what_cannot_be_held_is_given_back_and_not_kept(tmp_path, dtype, bad):
    table = opened(tmp_path / "t", dtype=dtype)
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, bad, 3.0, 4.0]])
    index = torch.tensor([0, 1])
    assert torch.equal(table.put(index, index, given).nan_to_num(nan=-1), given.nan_to_num(nan=-1))
    assert table.get(index, index)[1].tolist() == [True, False]


def test_without_flip_odd_views_take_no_room(tmp_path):
    data = split()
    table = opened(tmp_path / "t", data=data, flip=False)
    assert table.views == 25
    assert (tmp_path / "t" / "table.bin").stat().st_size == N * 25 * CLASSES * 4
    _, view = crop_flip(data.batch(slice(None))[0], Noise(0, data.index), 2, flip=False)
    table.put(data.index, view, labels(data.index, view))
    assert torch.equal(table.get(data.index, view)[0], labels(data.index, view))
    plain = opened(tmp_path / "p", padding=0, flip=False)
    assert plain.views == 1


@pytest.mark.parametrize(("view", "flip"), [(50, True), (-1, True), (50, False), (-2, False)])
def test_a_view_that_is_not_of_this_table_is_refused(tmp_path, view, flip):
    table = opened(tmp_path / "t", flip=flip)
    with pytest.raises(ConfigError, match=f"expected views below 50, got {view}"):
        table.get(torch.tensor([1]), torch.tensor([view]))
    with pytest.raises(ConfigError, match="padding and flip"):
        table.put(torch.tensor([1]), torch.tensor([view]), torch.zeros(1, CLASSES))


# --- whose it is


def changed(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.linear.bias[0] += 1e-7
    return other


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"teacher": changed(Counted())}, "teacher: "),
        ({"dtype": "float16"}, "dtype: float16 here, float32 there"),
        ({"padding": 3}, "padding: 3 here, 2 there"),
        ({"flip": False}, "flip: False here, True there"),
        ({"classes": 5}, "classes: 5 here, 4 there"),
        ({"data": split(size=10)}, "shape: "),
        ({"data": split(seed=1)}, "40 of 40 differ, the first is image 0"),
        ({"data": split(dtype=torch.float32)}, "other images"),
    ],
)
def test_a_table_of_another_is_refused_and_untouched(tmp_path, kwargs, said):
    opened(tmp_path / "t").put(torch.arange(N), torch.arange(N), labels(torch.arange(N), torch.arange(N)))
    before = {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()}
    with pytest.raises(RunError, match=said) as caught:
        opened(tmp_path / "t", **kwargs)
    assert str(caught.value).startswith("expected the soft labels of ")
    assert {p.name: p.read_bytes() for p in (tmp_path / "t").iterdir()} == before


def test_one_changed_image_is_enough(tmp_path):
    opened(tmp_path / "t")
    data = split()
    data.images[17, 0, 3, 3] ^= 1
    with pytest.raises(RunError, match=r"1 of 40 differ, the first is image 17"):
        opened(tmp_path / "t", data=data)


def test_one_index_for_two_images_is_refused(tmp_path):
    data = split()
    with pytest.raises(RunError, match="other images"):
        opened(tmp_path / "t", data=Split(data.images, data.labels, CLASSES, "d", "train", index=data.index // 2))
    with pytest.raises(DataError, match="got -1"):
        opened(tmp_path / "u", data=Split(data.images, data.labels, CLASSES, "d", "train", index=data.index - 1))
    with pytest.raises(ConfigError, match="float32 or float16"):
        opened(tmp_path / "u", dtype="bfloat16")
    assert not (tmp_path / "u").exists()


def test_files_from_another_table_say_nothing(tmp_path):
    """A teacher's numbers copied under another's name have the checksums of another table."""
    index, view = everything()
    opened(tmp_path / "a").put(index, view, labels(index, view))
    opened(tmp_path / "b", teacher=changed(Counted()))
    for name in ("table.bin", "sums.bin"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    assert not opened(tmp_path / "b", teacher=changed(Counted())).get(index, view)[1].any()


def test_an_entry_counts_only_in_its_place(tmp_path):
    table = opened(tmp_path / "t")
    index, view = everything()
    table.put(index, view, labels(index, view))
    for name, size in (("table.bin", 4 * CLASSES), ("sums.bin", 4)):
        path = tmp_path / "t" / name
        path.write_bytes(path.read_bytes()[size:] + bytes(size))  # all answers one view too early
    assert not opened(tmp_path / "t").get(index, view)[1].any()


@pytest.mark.parametrize("name", ["table.bin", "sums.bin"])
def test_a_damaged_entry_is_unknown_and_mended(tmp_path, name):
    table = opened(tmp_path / "t")
    index, view = everything()
    table.put(index, view, labels(index, view))
    size = 4 * CLASSES if name == "table.bin" else 4
    with (tmp_path / "t" / name).open("r+b") as file:
        file.seek(1234 * size)
        byte = file.read(1)
        file.seek(1234 * size)
        file.write(bytes([byte[0] ^ 1]))
    known = table.get(index, view)[1]
    assert (~known).nonzero().flatten().tolist() == [1234]
    table.put(index, view, labels(index, view))
    assert torch.equal(table.get(index, view)[0], labels(index, view))
    assert table.get(index, view)[1].all()


@pytest.mark.parametrize("name", ["table.bin", "sums.bin"])
def test_a_file_that_was_cut_short_or_lost_leaves_unknown_entries(tmp_path, name):
    index, view = everything()
    opened(tmp_path / "t").put(index, view, labels(index, view))
    path = tmp_path / "t" / name
    os.truncate(path, path.stat().st_size // 2)
    known = opened(tmp_path / "t").get(index, view)[1]
    assert known[:1000].all()
    assert not known[1000:].any()
    path.unlink()
    assert not opened(tmp_path / "t").get(index, view)[1].any()


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="got the file"):
        opened(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="with other files"):
        opened(tmp_path / "full")
    assert {p.name for p in (tmp_path / "full").iterdir()} <= {"thesis.tex", "lock"}
    with pytest.raises(RunError, match="expected to write"):
        opened(tmp_path / "file" / "below")
    opened(tmp_path / "t")
    os.truncate(tmp_path / "t" / "images.bin", 1 << 40)  # sparse, and never read whole
    opened(tmp_path / "t")
    (tmp_path / "t" / "sums.bin").unlink()
    os.mkfifo(tmp_path / "t" / "sums.bin")
    with pytest.raises(RunError, match=r"sums\.bin, no file"):
        opened(tmp_path / "t")
    (tmp_path / "t" / "identity.yaml").write_text(": : :")
    with pytest.raises(RunError, match="identity"):
        opened(tmp_path / "t")


# --- what it costs


def test_views_met_are_those_measured():
    met = [views_met(epochs, 162) for epochs in (30, 100, 200, 300)]
    assert [round(m) for m in met] == [27, 75, 115, 137]
    drawn = [len(set(Noise(0, torch.tensor([i]), "v").integers(162, (100,))[0].tolist())) for i in range(200)]
    assert abs(sum(drawn) / 200 - met[1]) < 1.5


def test_what_a_table_saves():
    found = saving(Recipe(epochs=300), [(50_000, 50_000)], 10)
    assert (found.views, round(found.cold, 3)) == (162, 0.544)
    assert found.size == 50_000 * (162 * (40 + 4) + 8)
    assert (
        saving(Recipe(epochs=300), [(50_000, 50_000)], 10, "float16").size == 162_000_000 + 162 * 50_000 * 4 + 400_000
    )
    assert str(saving(Recipe(epochs=1), [(40, 40)], 10).cold) == "0.0"  # a plan displayed -0 %
    assert saving(Recipe(epochs=10, augment="none"), [(100, 100)], 10).cold == pytest.approx(0.9)
    assert saving(Recipe(epochs=10, augment="crop", padding=1), [(100, 100)], 10).views == 9
    assert saving(Recipe(epochs=1), [(100, 100)], 10).cold == pytest.approx(0)


def test_the_size_said_is_the_size_on_disk(tmp_path):
    recipe = Recipe(padding=2)
    opened(tmp_path / "t", dtype="float16")
    sizes = [(tmp_path / "t" / f"{name}.bin").stat().st_size for name in ("table", "sums", "images")]
    assert sum(sizes) == saving(recipe, [(N, N)], CLASSES, "float16").size


def test_what_can_be_kept():
    with pytest.raises(KeyError, match="cutmix"):  # views of no number: never those of a crop
        numbering(SimpleNamespace(**vars(Recipe()) | {"augment": "cutmix"}, resized=False))
    assert numbering(Recipe()) == {"padding": 4, "flip": True}
    assert numbering(Recipe(augment="crop", padding=2)) == {"padding": 2, "flip": False}
    assert numbering(Recipe(augment="none")) == {"padding": 0, "flip": False}


def test_the_chunk_belongs_to_the_identity(tmp_path, monkeypatch):
    opened(tmp_path / "t")
    monkeypatch.setattr(tables, "CHUNK", 16)
    with pytest.raises(RunError, match="chunk: 16 here, 32 there"):
        opened(tmp_path / "t")


def test_a_net_without_parameters_may_teach(tmp_path):
    assert opened(tmp_path / "t", nn.Flatten()).identity["device"] == "cpu"
