"""Data sets of torch and Hugging Face, and arrays, as splits: every kind of item, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import ardor
from ardor import data
from ardor.cli.main import main
from ardor.data import datasets
from ardor.data.on_demand import OnDemand
from ardor.errors import ConfigError, DataError
from ardor.methods import Natural
from ardor.noise import seeded

X = np.random.default_rng(3).integers(0, 256, (30, 6, 7, 3), np.uint8)
Y = np.arange(30) % 3
CHW = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())


class Items(Dataset):
    """Rows made by a function."""

    def __init__(self, make, n=30, label=int):
        self.make, self.n, self.label, self.asked = make, n, label, []

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        self.asked.append(row)
        return self.make(row), self.label(Y[row])


FORMS = {
    "PIL": Items(lambda row: Image.fromarray(X[row])),
    "uint8 CHW": Items(lambda row: CHW[row]),
    "uint8 HWC": Items(lambda row: X[row]),
    "float CHW": Items(lambda row: CHW[row] / 255),
    "float HWC": Items(lambda row: X[row].astype(np.float64) / 255),
    "labels as tensors": Items(lambda row: CHW[row], label=lambda y: torch.tensor([y])),
    "labels of numpy": Items(lambda row: CHW[row], label=np.uint8),
    "TensorDataset": TensorDataset(CHW, torch.from_numpy(Y)),
    "Subset": Subset(TensorDataset(CHW, torch.from_numpy(Y)), range(30)),
    "list of pairs": [(X[row], int(Y[row])) for row in range(30)],
    "arrays": (X, Y),
    "tensors": (CHW, torch.from_numpy(Y)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form):
    train, val, test = data.from_dataset(FORMS[form], FORMS[form], 6, name="mine")
    expected = CHW / 255 if "float" in form else CHW
    for split in (train, val, test):
        assert split.images.dtype == expected.dtype
        assert torch.equal(split.images, expected[split.index])
        assert torch.equal(split.labels, split.index % 3)
        assert (split.classes, split.source, split.name) == (3, {"name": "dataset:mine"}, "mine")
    assert [(len(s), s.part) for s in (train, val, test)] == [(24, "train"), (6, "val"), (30, "test")]
    assert sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(30))


def test_parts_of_its_own_and_parts_that_are_cut():
    train, val, test = data.from_dataset(FORMS["arrays"], name="mine")
    assert (len(train), len(val), len(test)) == (22, 2, 6)
    assert torch.bincount(test.labels).tolist() == [2, 2, 2]
    assert test.marks == train.marks == ("test is 20 % of one data set, cut by class",)
    assert torch.equal(data.from_dataset(FORMS["PIL"], name="mine", seed=3)[2].index, test.index)
    held = (X[:5] ^ 1, Y[:5])
    train, val, test = data.from_dataset((X, Y), (X, Y), held, name="mine", class_names=("a", "b", "c"))
    assert torch.equal(val.images, CHW[:5] ^ 1)
    assert (len(train), test.marks, val.class_names) == (30, (), ("a", "b", "c"))
    assert data.from_dataset((X, Y), name="mine", classes=7)[0].classes == 7


@pytest.mark.parametrize("form", ["PIL", "uint8 CHW", "uint8 HWC", "TensorDataset"])
def test_on_demand_gives_what_memory_gives(form):
    memory = data.from_dataset(FORMS[form], FORMS[form], 6, name="mine")
    lazy = data.from_dataset(FORMS[form], FORMS[form], 6, name="mine", on_demand=True)
    boxes = torch.tensor([[0, 1, 4, 5, 1], [1, 0, 5, 5, 0]])
    for a, b in zip(memory, lazy, strict=True):
        assert isinstance(b.images, OnDemand)
        assert a.hash == b.hash
        rows = torch.tensor([3, 0])
        assert all(torch.equal(one, two) for one, two in zip(a.batch(rows), b.batch(rows), strict=True))
        assert torch.equal(a.crops(rows, boxes, 4)[0], b.crops(rows, boxes, 4)[0])
        assert torch.equal(a.take([5, 2]).images, b.take([5, 2]).images[:])


def test_memory_decides_and_floats_stay_in_it(monkeypatch):
    pixels = 30 * 6 * 7 * 3
    for memory, kind in ((4 * pixels, torch.Tensor), (4 * pixels - 1, OnDemand)):
        monkeypatch.setattr(datasets, "physical_memory", lambda memory=memory: memory)
        assert isinstance(data.from_dataset(FORMS["PIL"], name="mine")[0].images, kind)
    monkeypatch.setattr(datasets, "physical_memory", lambda: 4 * pixels)
    assert isinstance(data.from_dataset(FORMS["float CHW"], name="mine")[0].images, torch.Tensor)
    monkeypatch.setattr(datasets, "physical_memory", lambda: 4 * pixels - 1)
    with pytest.raises(DataError, match="PILToTensor in place of ToTensor"):
        data.from_dataset(FORMS["float CHW"], name="mine")
    with pytest.raises(DataError, match="fit into this machine"):
        data.from_dataset(Items(lambda row: Image.new("RGB", (60, 60))), name="mine", on_demand=False)


def test_training_on_demand_gives_the_same_weights():
    nets = []
    for on_demand in (False, True):
        train, val, _ = data.from_dataset(FORMS["PIL"], name="mine", on_demand=on_demand)
        net = ardor.testing.TinyNet(3, 3)
        recipe = ardor.Recipe(epochs=2, batch=8, val_every=2, device="cpu", augment="none")
        for _ in ardor.epochs(net, None, Natural(), train, recipe, val=val):
            pass
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])


def test_sizes_and_modes_of_pil_images():
    uneven = Items(lambda row: Image.new("L", (20 + row, 24), row))
    with pytest.raises(DataError, match=r"row 1 and \(24, 20, 3\) of uint8 in row 0: pass size=224"):
        data.from_dataset(uneven, name="mine")
    train = data.from_dataset(uneven, name="mine", size=8)[0]
    assert train.shape == (3, 8, 8)
    assert torch.equal(train.images[:, 0, 0, 0].long(), train.index)
    assert data.from_dataset(uneven, name="mine", size=8, grey=True)[0].shape == (1, 8, 8)
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, :2] = 255
    for resize, brightest in (("crop", 0), ("squash", 219)):
        split = data.from_dataset(Items(lambda row: stripes), name="mine", size=4, resize=resize)[0]
        assert int(split.images.max()) == brightest
    with pytest.raises(DataError, match="more than 8 bits"):
        data.from_dataset(Items(lambda row: Image.fromarray(np.zeros((8, 8), np.uint16))), name="mine")


def flipped(row):
    return X[row, :, :: 1 if torch.rand(()) < 0.5 else -1]


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0], 0


REFUSED = {
    "random": (Items(flipped), "leave out random transforms"),
    "normalised": (Items(lambda row: CHW[row] / 128 - 1), r"row 0 of mine \(train\).*normalised"),
    "0-255": (Items(lambda row: CHW[row].float()), "divide by 255"),
    "of two types": (Items(lambda row: CHW[row] if row else CHW[row] / 255), "of uint8 in row 1 and"),
    "of integers": (Items(lambda row: CHW[row].long()), "int64"),
    "a path": (Items(lambda row: "a.png"), "got str"),
    "a label less": ([X[0], X[1]], r"as a pair \(image, label\), got ndarray"),
    "float labels": (Items(lambda row: X[row], label=float), "whole number as the label of row 0"),
    "one-hot": (Items(lambda row: X[row], label=lambda y: np.eye(3, dtype=int)[y]), "argmax"),
    "True": (Items(lambda row: X[row], label=bool), "whole number"),
    "from -1": (Items(lambda row: X[row], label=lambda y: int(y) - 1), "label from 0 in row 0"),
    "identifiers": (Items(lambda row: X[row], label=lambda y: 10**12), "number the classes"),
    "no rows": (Items(lambda row: X[row], n=0), "at least one image"),
    "no arrays": ((X[:0], Y[:0]), "at least one image"),
    "lengths": ((X, Y[:-1]), "30 images, 29 labels"),
    "a stream": (Stream(), "map-style"),
    "a generator": ((pair for pair in [(X[0], 0)]), "got generator"),
    "all parts": ({"train": FORMS["PIL"], "test": FORMS["PIL"]}, r'data\["train"\]'),
    "nothing": (None, "map-style"),
}


@pytest.mark.parametrize("on_demand", [None, True])
@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_what_to_do(what, on_demand):
    given, words = REFUSED[what]
    with seeded(0), pytest.raises(DataError, match=words):
        data.from_dataset(given, name="mine", on_demand=on_demand)


def test_labels_above_the_classes_and_unlike_parts():
    with pytest.raises(DataError, match=r"labels in 0 \.\. 1"):
        data.from_dataset((X, Y), name="mine", classes=2)
    with pytest.raises(DataError, match="one shape"):
        data.from_dataset((X, Y), (X[:, :5], Y), name="mine")
    with pytest.raises(ConfigError, match="crop, squash"):
        data.from_dataset((X, Y), name="mine", resize="stretch")


def test_a_row_that_changes_later_is_refused():
    stored = X.copy()
    train, *_ = data.from_dataset(Items(lambda row: stored[row]), name="mine", on_demand=True)
    stored[train.index[0]] ^= 1
    train.images[1:]
    with pytest.raises(DataError, match=r"row \d+ of mine \(train\) had before"):
        train.images[:1]


def test_an_error_of_the_data_set_names_the_row():
    with pytest.raises(IndexError) as raised:
        data.from_dataset(Items(lambda row: X[row - 40 if row == 4 else row]), name="mine")
    assert raised.value.__notes__ == ["ardor read row 4 of mine (train)"]


def test_ambiguous_layouts():
    with pytest.raises(DataError, match="layout"):
        data.from_dataset(Items(lambda row: np.zeros((3, 8, 3), np.uint8)), name="mine")
    assert data.from_dataset(Items(lambda row: np.zeros((3, 8, 3), np.uint8)), name="m", layout="nhwc")[0].shape == (
        3,
        3,
        8,
    )
    assert data.from_dataset(Items(lambda row: torch.zeros(3, 8, 3)), name="mine")[0].shape == (3, 8, 3)


def test_no_command_loads_them_again(tmp_path, capsys):
    train, val, _ = data.from_dataset((np.zeros((30, 8, 8, 3), np.uint8), Y), name="mine")
    with pytest.raises(ConfigError, match="in that program"):
        data.load(**train.source)
    run = tmp_path / "run"
    recipe = ardor.Recipe(epochs=1, batch=8, device="cpu", augment="none")
    net = ardor.models.build("small_cnn", channels=3, classes=3, width=2)
    list(ardor.epochs(net, None, Natural(), train, recipe, val=val, run=run))
    for words in (["train", str(run)], ["evaluate", str(run)]):
        assert main(words) == 2
        assert 'got "mine", which a program passed to from_dataset' in " ".join(capsys.readouterr().err.split())


# -- Hugging Face: its interface, and the package where it is installed.


class Feature:
    def __init__(self, **content):
        vars(self).update(content)


Picture = type("Image", (Feature,), {})
ClassLabel = type("ClassLabel", (Feature,), {})


class Rows:
    """`datasets.Dataset`, as far as it is used."""

    def __init__(self, features, rows):
        self.features, self.column_names, self.rows = features, list(features), rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def rows(image="image", label="label", **more):
    features = {image: Picture(), label: ClassLabel(names=["a", "b", "c"]), **more}
    return Rows(features, [{image: Image.fromarray(X[row]), label: int(Y[row])} for row in range(30)])


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("photo", "kind")])
def test_columns_are_taken_by_their_types(image, label):
    train, _, test = data.from_dataset(rows(image, label), rows(image, label), name="mine")
    assert torch.equal(test.images, CHW)
    assert train.class_names == ("a", "b", "c")


def test_columns_by_name_where_types_do_not_tell():
    two = rows("img", "fine_label", coarse_label=ClassLabel(names=["x"]))
    assert data.from_dataset(two, name="mine")[0].classes == 3
    odd = rows("img", "kind", other=ClassLabel(names=["x"]))
    with pytest.raises(DataError, match=r'got img, kind, other: pass for example columns=\("image", "label"\)'):
        data.from_dataset(odd, name="mine")
    assert data.from_dataset(odd, name="mine", columns=("img", "kind"))[0].class_names == ("a", "b", "c")
    with pytest.raises(DataError, match="got img, kind, other"):
        data.from_dataset(odd, name="mine", columns=("img", "none"))
    undecoded = Rows({"image": Picture(), "label": ClassLabel(names=["a"])}, [{"image": {"bytes": b""}, "label": 0}])
    with pytest.raises(DataError, match="got dict"):
        data.from_dataset(undecoded, name="mine")
    unlabelled = rows()
    unlabelled.rows = [row | {"label": -1} for row in unlabelled.rows]
    with pytest.raises(DataError, match="leave out rows without a class"):
        data.from_dataset(rows(), unlabelled, name="mine")


@pytest.mark.parametrize("kind", [None, "torch", "numpy"])
def test_the_package_itself(kind):
    package = pytest.importorskip("datasets")
    features = package.Features({"image": package.Image(), "label": package.ClassLabel(names=["a", "b", "c"])})
    content = {"image": [Image.fromarray(image) for image in X], "label": Y.tolist()}
    made = package.Dataset.from_dict(content, features=features).with_format(kind)
    train, _, test = data.from_dataset(made, made, name="mine", on_demand=True)
    assert torch.equal(test.images[:], CHW)
    assert (train.class_names, test.labels.tolist()) == (("a", "b", "c"), Y.tolist())
    with pytest.raises(DataError, match="map-style"):
        data.from_dataset(made.to_iterable_dataset(), name="mine")
    with pytest.raises(DataError, match=r'data\["train"\]'):
        data.from_dataset(package.DatasetDict({"train": made}), name="mine")
