"""A folder that is decoded on demand: the same images as in memory, whoever decodes, and no other later."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ardor import data
from ardor.data.decode import Rule, read_image
from ardor.data.folder import FolderImages
from ardor.errors import ConfigError, DataError
from tests.data.photographs import draw

N, CLASSES = 24, 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    draw(folder, N, CLASSES, sizes=(40, 70), parts={"train": 0.75, "test": 0.25})
    return folder


def load(folder, **options):
    return data.load(f"folder:{folder}", size=32, **options)


def boxes(n):
    rng = np.random.default_rng(1)
    sides = rng.integers(5, 20, (2, n))
    return torch.from_numpy(np.stack([*rng.integers(0, 12, (2, n)), *sides, rng.integers(0, 2, n)], 1))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"resize": "squash"}, {"grey": True}])
def test_images_on_demand_are_those_in_memory(drawn, workers, options):
    memory = load(drawn, val=4, on_demand=False, **options)
    lazy = load(drawn, val=4, on_demand=True, workers=workers, **options)
    for mine, other in zip(memory, lazy, strict=True):
        assert isinstance(mine.images, torch.Tensor)
        assert isinstance(other.images, FolderImages)
        assert mine.hash == other.hash
        assert mine.take([3, 1, 2]).take([2, 0]).hash == other.take([3, 1, 2]).take([2, 0]).hash
        rows = torch.tensor([3, 0, 3])
        for a, b in zip(mine.batch(rows), other.batch(rows), strict=True):
            assert torch.equal(a, b)
        for size in (16, (8, 20)):
            assert torch.equal(mine.crops(rows, boxes(3), size)[0], other.crops(rows, boxes(3), size)[0])
    assert memory[0].hash != load(drawn, on_demand=True)[0].take(slice(0, 14)).hash


@pytest.mark.parametrize(("batch", "workers"), [(5, 0), (5, 2), (7, 2), (18, 2)])
def test_boxes_and_pixels_depend_on_neither_batch_nor_workers(drawn, batch, workers):
    train = data.load(f"folder:{drawn}", val=1, size=32, on_demand=True, workers=workers)[0]
    box = boxes(len(train))
    whole = load(drawn, val=1, on_demand=False)[0].crops(slice(None), box, 12)[0]
    parts = [train.crops(rows, box[rows], 12)[0] for rows in torch.arange(len(train)).split(batch)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_folder_beyond_a_quarter_of_the_memory_is_decoded_on_demand(drawn, monkeypatch):
    for times, kind in ((4, torch.Tensor), (3.99, FolderImages)):
        monkeypatch.setattr("ardor.data.folder.physical_memory", lambda times=times: int(times * N * 3 * 32 * 32))
        assert isinstance(load(drawn)[0].images, kind)


def test_the_centre_square_is_resized_or_the_whole(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the centre
    Image.fromarray(image).save(tmp_path / "wide.png")
    assert (Rule(10).read(tmp_path / "wide.png") == 200).all()
    squashed = Rule(10, "squash").read(tmp_path / "wide.png")
    assert [int(column.float().mean()) for column in torch.from_numpy(squashed).unbind(1)[::4]] == [0, 200, 0]


def test_an_image_is_turned_as_its_orientation_says(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(image, -1))


def test_files_of_many_sizes_need_a_rule(drawn, tmp_path):
    shutil.copytree(drawn / "test", tmp_path / "test")
    with pytest.raises(
        DataError, match=r"images of one size.*pass size=\d+ to resize all, and resize=.squash. to keep"
    ):
        data.load_test(f"folder:{tmp_path}", on_demand=True).batch(slice(None))
    with pytest.raises(DataError, match=r"resize \(a folder's size=224\)"):
        data.load(f"folder:{drawn}", on_demand=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_changes_is_refused_by_the_file(drawn, tmp_path, workers):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    train = load(tmp_path, val=1, on_demand=True, workers=workers)[0]
    file = sorted((tmp_path / "train" / "class_01").iterdir())[2]
    known = train.hash
    file.write_bytes(sorted((tmp_path / "train" / "class_02").iterdir())[0].read_bytes())
    with pytest.raises(DataError, match=f"expected the image that .*{file.name} had before, got another"):
        train.batch(slice(None))
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name}, which was there before, got no such file: restore it"):
        train.crops(slice(None), boxes(len(train)), 16)
    shutil.copy(drawn / "train" / "class_01" / file.name, file)
    train.batch(slice(None))
    assert train.hash == known


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resize": "squish"}, 'data.resize crop or squash, got "squish".*squash'),
        ({"workers": -1}, "data.workers from 0 to 256, the number of threads, got -1"),
        ({"size": 0}, r"data\.size as a whole number of pixels, got 0"),
    ],
)
def test_options_that_do_not_exist_are_refused(drawn, options, words):
    with pytest.raises(ConfigError, match=words):
        data.load(f"folder:{drawn}", **options)
