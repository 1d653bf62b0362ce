"""A store: the pixels of the folder it was prepared from, whatever interrupts it, and nothing else instead."""

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ardor
from ardor import data
from ardor.data.arrays import physical_memory
from ardor.data.images import pixel_hashes
from ardor.data.store import INDEX, MANIFEST, PIXELS, StoreImages
from ardor.diagnostics.data import examine_data
from ardor.errors import ConfigError, DataError, RunError
from ardor.methods import SAT
from ardor.models import build, hash_of
from tests import warm
from tests.conftest import ROOT
from tests.data.photographs import draw

N, CLASSES, SIZE = 24, 3, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("photographs")
    draw(place, N, CLASSES, sizes=(40, 70), parts={"train": 0.75, "test": 0.25})
    return place


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    return data.prepare(f"folder:{folder}", tmp_path_factory.mktemp("stores") / "store", size=SIZE)


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store, tmp_path / "copy")


def contents(store):
    return {file: (store / file).read_bytes() for file in (PIXELS, INDEX, MANIFEST)}


def kinds(folder, store, **options):
    """The same images in memory, decoded on demand, and mapped."""
    for on_demand in (False, True):
        yield data.load(f"folder:{folder}", size=SIZE, on_demand=on_demand, **options)
    yield data.load(f"store:{store}", **options)


def test_a_store_has_the_images_of_its_folder(folder, store):
    for memory, lazy, mapped in zip(*kinds(folder, store, val=4), strict=True):
        assert isinstance(mapped.images, StoreImages)
        assert (mapped.hash, mapped.class_names, len(mapped)) == (memory.hash, memory.class_names, len(memory))
        assert lazy.hash == mapped.hash
        box = torch.tensor([[1, 2, 9, 11, 1], [0, 0, 20, 20, 0]])
        for one, other in ((memory.batch([1, 0]), mapped.batch(torch.tensor([1, 0]))),
                           (memory.crops([1, 0], box, 8), mapped.crops(torch.tensor([1, 0]), box, 8))):  # fmt: skip
            assert all(map(torch.equal, one, other))


def test_a_store_that_is_taken_for_a_folder_is_named(store):
    for read in (data.load, examine_data):
        with pytest.raises(DataError, match="got the store .*store:"):
            read(f"folder:{store}")


def test_the_centre_is_shown_and_boxes_are_of_the_whole(store):
    whole, shown = data.load_test(f"store:{store}"), data.load_test(f"store:{store}", size=15)
    assert (shown.shape, shown.full, whole.full) == ((3, 15, 15), (20, 20), (20, 20))
    assert torch.equal(shown.images[:], whole.images[:][:, :, 2:17, 2:17])
    assert shown.images[:].is_contiguous()
    box = torch.tensor([[0, 5, 20, 15, 0]])
    assert torch.equal(shown.crops([0], box, 6)[0], whole.crops([0], box, 6)[0])
    assert shown.hash != whole.hash
    for size in (0, 21, True):
        with pytest.raises(ConfigError, match=rf"data\.size from 1 to 20, .* got {size}"):
            data.load_test(f"store:{store}", size=size)


def trained(splits, run):
    train, val, test = splits
    method = SAT(attack=ardor.attacks.PGD(ardor.Linf(8 / 255), steps=1))
    for epochs in (1, 2):  # broken after the first
        net = build("small_cnn", width=4, channels=3, classes=CLASSES, seed=0)
        records = ardor.epochs(net, None, method, train, ardor.Recipe(epochs=2, batch=8), val=val, run=run)
        assert len(list(itertools.islice(records, epochs))) == 1
        records.close()
    report = ardor.evaluate(net, test, ardor.attacks.quick(ardor.Linf(8 / 255)), journal=run / "journal")
    return hash_of(net), report.verdicts


def test_weights_and_verdicts_do_not_depend_on_where_the_images_are(folder, store, tmp_path):
    results = [trained(splits, tmp_path / str(k)) for k, splits in enumerate(kinds(folder, store, val=4))]
    assert results[0] == results[1] == results[2]


def test_training_from_a_store_never_decodes(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded"))
    trained(data.load(f"store:{store}", val=4), tmp_path)


# --- preparing ------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from ardor import data
from ardor.data import writing
writing.CHUNK = 5
def after(done, todo):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
data.prepare(sys.argv[1], sys.argv[2], size=20, progress=after)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(folder, store, tmp_path, monkeypatch):
    words = [sys.executable, "-c", KILLED, f"folder:{folder}", str(tmp_path / "s")]
    for n in (5, 18):
        assert warm.run([*words, str(n)], cwd=ROOT).returncode == -signal.SIGKILL
        with pytest.raises(DataError, match="expected a finished store, got .*: type the command that began it again"):
            data.load_test(f"store:{tmp_path}/s")
    with (tmp_path / "s" / PIXELS).open("r+b") as file:  # what a loss of power may leave
        file.write(bytes(3 * SIZE * SIZE))
    read, known = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file: read.append(file) or known(file))
    data.prepare(f"folder:{folder}", tmp_path / "s", size=SIZE, workers=0)
    assert len(read) == 2 + 1 + N - 18  # for the shapes of two parts, what was damaged, and what was missing
    assert contents(tmp_path / "s") == contents(store)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [INDEX, "lock", MANIFEST, PIXELS]


def test_a_finished_store_is_left_as_it_is(folder, copy):
    before = {p.name: p.stat().st_mtime_ns for p in copy.iterdir()}
    assert data.prepare(f"folder:{folder}", copy, size=SIZE) == copy
    assert {p.name: p.stat().st_mtime_ns for p in copy.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 16}, r"a store of this rule, got .*size: 16 here, 20 there.*: name another, or remove it"),
        ({"resize": "squash"}, r"resize: squash here, crop there"),
        ({"grey": True}, r"grey: True here, False there"),
    ],
)
def test_a_store_of_another_rule_is_refused(folder, copy, options, words, finished):
    if not finished:
        (copy / MANIFEST).rename(copy / "unfinished.yaml")
    before = (copy / PIXELS).read_bytes()
    with pytest.raises(DataError, match=words):
        data.prepare(f"folder:{folder}", copy, **{"size": SIZE} | options)
    assert (copy / PIXELS).read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("how", ["added", "removed", "changed"])
def test_a_folder_that_changed_since_is_refused(folder, copy, tmp_path, how, finished):
    changed = shutil.copytree(folder, tmp_path / folder.name)
    if not finished:
        (copy / MANIFEST).rename(copy / "unfinished.yaml")
    first, second = sorted((changed / "train" / "class_00").iterdir())[:2]
    if how == "added":
        shutil.copy(first, first.with_name("new.jpg"))
    elif how == "removed":
        first.unlink()
    else:
        shutil.copy(second, first)
    with pytest.raises(DataError, match="got a folder that has changed since.*: name another store, or remove this"):
        data.prepare(f"folder:{changed}", copy, size=SIZE)


def test_what_is_no_store_is_never_overwritten(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / PIXELS).write_text("dear diary")
    for out in (tmp_path / "mine", tmp_path / "mine" / PIXELS):
        with pytest.raises(RunError, match="new or empty folder for the store"):
            data.prepare(f"folder:{folder}", out, size=SIZE)
    assert (tmp_path / "mine" / PIXELS).read_text() == "dear diary"
    with pytest.raises(ConfigError, match="outside the folder of its images"):
        data.prepare(f"folder:{folder}", folder / "store", size=SIZE)
    with pytest.raises(ConfigError, match=f'got "{folder}": type folder:{folder}'):
        data.prepare(str(folder), tmp_path / "s")
    with pytest.raises(DataError, match=r"one size in .*: pass size=\d+ to resize"):
        data.prepare(f"folder:{folder}", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_too_little_space_and_a_second_process_are_refused(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(RunError, match=f"expected {N * 3 * SIZE * SIZE:,} bytes of free space"):
            data.prepare(f"folder:{folder}", tmp_path / "s", size=SIZE)

    def second(done, todo):
        with pytest.raises(RunError, match=f"which process {os.getpid()} .*does: wait for it"):
            data.prepare(f"folder:{folder}", tmp_path / "s", size=SIZE)
        seen.append(done)

    seen = []
    data.prepare(f"folder:{folder}", tmp_path / "s", size=SIZE, progress=second)
    assert seen[-1] == N


def test_a_damaged_file_ends_a_preparation_by_its_name(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "f")
    file = sorted((damaged / "test" / "class_01").iterdir())[1]
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match=f"{file.name}, which does not read"):
        data.prepare(f"folder:{damaged}", tmp_path / "s", size=SIZE)


# --- opening --------------------------------------------------------------------------------------------------------


def flip(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_byte_is_refused_when_its_image_is_read(copy):
    flip(copy / PIXELS, 19 * 3 * SIZE * SIZE + 7)  # image 1 of the test part
    train, _, test = data.load(f"store:{copy}", val=1)
    train.batch(slice(None))
    test.batch(torch.tensor([0, 2]))
    for read in (lambda: test.batch(torch.tensor([1])), lambda: test.crops([1], torch.tensor([[9, 9, 2, 2, 0]]), 2)):
        with pytest.raises(DataError, match=r"expected image 19 of .*pixels.bin as it was written, got other pixels"):
            read()


def test_a_check_reads_every_image(copy, monkeypatch):
    monkeypatch.setattr("ardor.data.split.SAMPLE", 1)  # of which statistics are taken
    done = []
    report = examine_data(f"store:{copy}", progress=lambda *numbers: done.append(numbers))
    assert (report.refused, done[-1]) == (False, (N, N))
    flip(copy / PIXELS, (N - 1) * 3 * SIZE * SIZE)
    with pytest.raises(DataError, match=f"expected image {N - 1} of"):
        examine_data(f"store:{copy}")


def edited(manifest, **changes):
    manifest.write_text(yaml.safe_dump(yaml.safe_load(manifest.read_text()) | changes))


def other_shape(store):
    edited(store / MANIFEST, shape=[N, 10, 40, 3])  # as many bytes


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda s: os.truncate(s / PIXELS, 5000), r"pixels.bin of 28,800 bytes, got 5,000: it is truncated"),
        (lambda s: os.truncate(s / PIXELS, 0), "got 0: it is truncated"),
        (lambda s: os.truncate(s / PIXELS, 1 << 20), "got 1,048,576"),
        (lambda s: (s / PIXELS).unlink(), "pixels.bin, got No such file"),
        (lambda s: flip(s / INDEX, 300), "index.npz as it was written, got other bytes"),
        (lambda s: (s / INDEX).unlink(), "index.npz, got No such file"),
        (lambda s: (s / MANIFEST).unlink(), "expected a store in .*, got other files: type ardor data prepare"),
        (lambda s: shutil.rmtree(s), "expected a store in .*, got no such folder: type ardor data prepare"),
        (lambda s: (s / MANIFEST).write_text("a: ["), "expected YAML in .*manifest.yaml"),
        (lambda s: edited(s / MANIFEST, more=1), "expected known keys in .*manifest.yaml, got the key more"),
        (lambda s: edited(s / MANIFEST, parts={"train": 18, "test": 5}), "expected the sizes of a store"),
        (lambda s: edited(s / MANIFEST, parts={"train": 25, "test": -1}), "expected the sizes of a store"),
        (other_shape, "expected image 18 of .* as it was written, got other pixels"),
    ],
)
def test_a_damaged_store_is_refused(copy, harm, words):
    harm(copy)
    with pytest.raises(DataError, match=words):
        data.load_test(f"store:{copy}").batch(slice(None))


# --- size -----------------------------------------------------------------------------------------------------------


def sparse(place, n, size=256, classes=2):
    """A store of n black images that takes no space on disk."""
    place.mkdir()
    shape = (n, size, size, 3)
    with (place / PIXELS).open("wb") as file:
        file.truncate(n * size * size * 3)
    black = pixel_hashes(np.zeros((1, *shape[1:]), np.uint8))
    arrays = {"labels": np.arange(n) % classes, "class_names": np.array([f"c{i}" for i in range(classes)])}
    np.savez(place / INDEX, **arrays, hashes=black.repeat(n, 0), files=black.repeat(n, 0))
    digest = hashlib.sha256((place / INDEX).read_bytes()).hexdigest()
    rule = {"size": size, "resize": "crop", "grey": False, "decoder": "none"}
    parts = {"train": n - n // 10, "test": n // 10}
    manifest = {"source": "", "listing": "", **rule, "shape": [*shape], "parts": parts, "marks": [], "digest": digest}
    (place / MANIFEST).write_text(yaml.safe_dump(manifest))
    return f"store:{place}"


LARGE = """
import sys
import ardor
train, val, test = ardor.data.load(sys.argv[1], limit=1000)
train.hash, val.hash
assert not any(split.images._verified.any() for split in (train, val, test))
net = ardor.models.build("small_cnn", width=4, channels=3, classes=2, seed=0)
threat = ardor.Linf(4 / 255)
suite = ardor.attacks.Suite("one", threat, {"pgd": ardor.attacks.PGD(threat, steps=1)})
report = ardor.evaluate(net, test.limit(64), suite, batch=16)
status = open("/proc/self/status").read()  # ru_maxrss would be that of the process that started this one, too
print(report.n, status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files")
def test_a_store_may_be_larger_than_the_memory(tmp_path):
    images = 2 * physical_memory() // (3 * 2048**2)
    test = data.load_test(sparse(tmp_path / "huge", images, size=2048))
    assert not test.batch(torch.tensor([0, -1]))[0].any()


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and memory in kB")
def test_a_store_of_4_gb_is_opened_without_reading_and_evaluated_in_little_memory(tmp_path):
    name = sparse(tmp_path / "large", 21000)
    assert (tmp_path / "large" / PIXELS).stat().st_size > 4e9
    result = subprocess.run([sys.executable, "-c", LARGE, name], cwd=ROOT, check=True, capture_output=True, text=True)
    n, peak = map(int, result.stdout.split())
    assert (n, peak < 1e6) == (64, True), peak
