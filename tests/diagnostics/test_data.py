"""What `ardor data check` shows of a data set: everything that is wrong with it, at once."""

import json
import os
import shutil
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
from PIL import Image

from ardor.cli.main import main
from ardor.data.split import Split
from ardor.diagnostics.data import examination, examine_data, files
from ardor.errors import ConfigError, DataError
from tests.data.conftest import arrays, npz
from tests.data.photographs import draw


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "photos", 40, 4, sizes=(30, 60))
    return tmp_path / "photos"


def check(folder, size=32, progress=None):
    return examine_data(f"folder:{folder}", workers=2, size=size, progress=progress)


def found(report):
    return {finding.name: finding for finding in report.findings}


def first(folder, place="train/class_00"):
    return sorted((folder / place).iterdir())[0]


def test_a_sound_folder(folder):
    report = check(folder)
    assert report.findings == []
    assert not report.refused
    assert report.counts == {"train": [8] * 4, "test": [2] * 4}
    assert (sum(report.sizes.values()), dict(report.modes)) == (40, {"RGB": 40})
    assert (report.side, report.memory) == (32, 40 * 3 * 32 * 32)
    uneven = check(folder, size=None)
    assert (uneven.side, uneven.memory) == (256, 40 * 3 * 256 * 256)
    assert [finding.name for finding in uneven.findings] == ["uneven"]
    assert not uneven.refused
    assert "40 images of 4 classes; train 32, test 8" in report.text()
    assert "No findings" in report.text()


def test_every_unreadable_file_has_a_reason(folder):
    torn = first(folder)
    torn.write_bytes(torn.read_bytes()[:700])
    (folder / "test/class_01/text.png").write_text("no image")
    (folder / "test/class_02/gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "test/class_03/loop.jpg").symlink_to(folder / "test/class_03/loop.jpg")
    frames = [Image.new("RGB", (8, 8), (100 * n, 0, 0)) for n in range(3)]
    frames[0].save(folder / "train/class_02/moving.webp", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "train/class_02/deep.png")
    report = check(folder)
    reasons = {os.path.relpath(file, folder): reason for file, reason in report.unreadable.items()}
    assert set(reasons) == {
        os.path.relpath(torn, folder), "test/class_01/text.png", "test/class_02/gone.jpg", "test/class_03/loop.jpg",
        "train/class_02/moving.webp", "train/class_02/deep.png",
    }  # fmt: skip
    assert "truncated" in reasons[os.path.relpath(torn, folder)]
    assert "animation" in reasons["train/class_02/moving.webp"]
    assert "8 bits" in reasons["train/class_02/deep.png"]
    assert "No such file" in reasons["test/class_02/gone.jpg"]
    assert found(report)["unreadable"].evidence.startswith("6 do not read")
    assert report.refused
    assert sum(report.sizes.values()) == 39


def test_kinds_of_pixels_and_sizes_are_counted(folder):
    Image.new("L", (31, 62)).save(folder / "train/class_00/grey.png")
    Image.new("CMYK", (90, 30)).save(folder / "train/class_00/print.jpg")
    Image.new("RGBA", (10, 10)).save(folder / "train/class_00/alpha.png")
    report = check(folder)
    assert report.modes == {"RGB": 40, "L": 1, "CMYK": 1, "RGBA": 1}
    assert report.sizes[31, 62] == report.sizes[90, 30] == 1
    assert "from 10 x 10 to " in report.text()
    assert "width / height from 0.50 to 3.00" in report.text()


def test_equal_images_are_of_pixels_not_of_bytes(folder):
    one = Image.open(first(folder))
    one.save(folder / "test/class_00/again.png")  # other bytes
    one.save(folder / "train/class_01/other.bmp")
    shutil.copy(first(folder, "train/class_02"), folder / "train/class_02/copy.jpg")
    seen = found(check(folder))
    assert set(seen) == {"leak", "repeated", "labels_differ"}
    assert seen["leak"].evidence.startswith("1 of 9 test images are in train or val too")
    assert "again.png" in seen["leak"].evidence
    assert seen["repeated"].evidence.startswith("images that occur again, pixel for pixel: train 2;")
    assert seen["labels_differ"].evidence.startswith("1 images are of several classes")
    assert "(class_00) and " in seen["labels_differ"].evidence
    assert "other.bmp (class_01)" in seen["labels_differ"].evidence


def test_one_pixel_makes_another_image(folder):
    pixels = np.array(Image.open(first(folder)))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "test/class_00/almost.png")
    Image.fromarray(pixels.reshape(pixels.shape[1], pixels.shape[0], 3)).save(folder / "test/class_00/shape.png")
    assert check(folder).findings == []


def test_classes_of_one_part_and_without_images(folder):
    shutil.rmtree(folder / "test/class_01")
    (folder / "test/new").mkdir()
    report = check(folder)
    texts = [str(finding) for finding in report.findings]
    assert any("train has no folder for 1 of 5 classes: new" in text for text in texts), texts
    assert any("test has no folder for 1 of 5 classes: class_01" in text for text in texts), texts
    assert any("test has no image of 1 of 5 classes: new" in text for text in texts), texts
    assert report.refused


def test_what_is_left_out_is_counted(folder):
    (folder / ".cache").mkdir()
    (folder / "train/.hidden.jpg").touch()
    (folder / "train/class_00/notes.txt").touch()
    shutil.copy(first(folder), folder / "train/stray.jpg")
    (folder / "train/class_00/more").mkdir()
    shutil.copy(first(folder), folder / "train/class_00/more/deep.jpg")
    (folder / "train/class_00/more/loop").symlink_to(folder, target_is_directory=True)
    (folder / "valid").mkdir()
    report = check(folder)
    assert report.skipped == {
        "hidden": 2, "files .txt": 1, "images in no class": 1, "images in folders inside a class": 1,
        "folders beside the parts": 1,
    }  # fmt: skip
    assert set(found(report)) == {"left_out"}
    assert not report.refused


def test_parts_alone_and_a_large_class(folder):
    shutil.rmtree(folder / "test")
    for n in range(80):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"train/class_03/{n}.png")
    seen = found(check(folder))
    assert set(seen) == {"missing_part", "imbalance"}
    assert "add test" in seen["missing_part"].next
    assert "8 images of class_00 and 88 of class_03" in seen["imbalance"].evidence


def test_a_flat_folder_is_divided_as_training_divides_it(tmp_path):
    draw(tmp_path / "flat", 40, 4, sizes=(30, 60), parts={})
    assert check(tmp_path / "flat").counts == {"train": [8] * 4, "test": [2] * 4}
    for file in sorted((tmp_path / "flat/class_03").iterdir())[1:]:
        file.unlink()
    assert found(check(tmp_path / "flat"))["empty_class"].evidence == "test has no image of 1 of 4 classes: class_03"


def test_a_store_is_advised_where_memory_is_short(folder, monkeypatch):
    monkeypatch.setattr(examination, "physical_memory", lambda: 1000)
    report = check(folder, size=16)
    assert f"ardor data prepare folder:{folder} --size 16 --out" in found(report)["memory"].next
    assert not report.refused


def test_ten_thousand_classes_are_a_few_lines(tmp_path):
    for n in range(10_000):
        (tmp_path / "train" / f"c{n}").mkdir(parents=True)
    for n in range(3):
        (tmp_path / "test" / f"c{n}").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "test" / f"c{n}" / "a.png")
    text = check(tmp_path).text()
    assert "test has no folder for 9,997 of 10,000 classes" in text
    assert len(text) < 2500


def test_arrays(tmp_path):
    made = arrays()
    made["x_test"][3] = made["x_train"][4]
    report = examine_data(npz(tmp_path, made))
    assert report.modes == {"uint8 of 3 channels": 30}
    assert (report.sizes, report.memory) == ({(7, 6): 30}, 30 * 6 * 7 * 3)
    assert set(found(report)) == {"leak", "labels_differ"}
    assert "test 3 = train 4" in found(report)["leak"].evidence
    with pytest.raises(DataError, match=r"labels in 0 \.\. 2"):
        examine_data(npz(tmp_path, made), classes=3)


def test_val_is_a_part(tmp_path):
    made = arrays()
    made |= {"x_val": made["x_test"][:2].copy(), "y_val": made["y_test"][:2].copy()}
    assert "test 0 = val 0" in found(examine_data(npz(tmp_path, made)))["leak"].evidence


@pytest.mark.parametrize("what", ["nothing", "empty", "no classes", "file"])
def test_no_data_set_is_a_sentence(tmp_path, what, capsys):
    place = tmp_path / "x"
    if what in ("empty", "no classes"):
        place.mkdir()
    if what == "no classes":
        Image.new("RGB", (4, 4)).save(place / "a.png")
    if what == "file":
        place.write_text("hello")
    with pytest.raises(DataError, match="expected"):
        check(place)
    with pytest.raises(ConfigError):
        examine_data(str(place))
    assert main(["data", "check", f"folder:{place}"]) == 2
    assert main(["data", "check", str(place)]) == 2
    assert "ardor: expected" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    closed, real = folder / "train/class_00", Path.iterdir

    def iterdir(path):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = check(folder)
    assert report.unreadable == {str(closed): "Permission denied"}
    assert {"unreadable", "empty_class"} == set(found(report))


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["data", "check", str(folder), "--json", str(out), "--data.size", "32"]) == 0
    assert "No findings" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["counts"] == {"train": [8] * 4, "test": [2] * 4}
    assert content["side"] == 32
    first(folder).write_bytes(b"")
    assert main(["data", "check", str(folder), "--data.workers", "1"]) == 1
    assert "ardor" not in capsys.readouterr().err
    assert main(["data", "check"]) == 2
    assert "ardor data check PATH" in capsys.readouterr().err
    assert main(["data", "check", "digits"]) == 0


def test_ctrl_c_stops_within_a_chunk(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(files, "CHUNK", 1)
    monkeypatch.setattr(files, "_seen", lambda *one: decoded.append(one) or sleep(0.05) or "no image")

    def stop(done, todo):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(folder, progress=stop)
    assert len(decoded) < 40


def test_images_on_demand_are_hashed_by_themselves():
    class Lazy:
        shape, dtype, full = torch.Size((4, 3, 8, 8)), torch.uint8, (8, 8)

        def __len__(self):
            return 4

        def __getitem__(self, rows):
            return torch.arange(4 * 192).reshape(4, 3, 8, 8).to(torch.uint8)[rows]

        def take(self, rows):
            return self

        def crops(self, rows, boxes, size):
            return self[rows]

        def hashes(self):
            return np.zeros((4, 16), np.uint8)

    split = Split(Lazy(), torch.tensor([0, 1, 0, 1]), 2, "mine", "test")
    report = examination._of_parts("mine", {"test": split})
    assert set(found(report)) >= {"repeated", "labels_differ"}
