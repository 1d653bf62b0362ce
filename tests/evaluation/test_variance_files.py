"""Radii of a run, kept in its folder."""

import json
from types import SimpleNamespace

import pytest

import ardor
from ardor.evaluation import variance
from ardor.evaluation.variance import gaps_of, read_gaps
from ardor.models import build
from tests.conftest import splits


@pytest.fixture
def gaps(tmp_path, monkeypatch):
    """The radii of a run under a threat on `limit` images, each counted once it is measured."""
    net, (train, _) = build("small_cnn", channels=1, width=2, classes=10), splits()
    monkeypatch.setattr(variance, "models", SimpleNamespace(load=lambda *a, **k: net, hash_of=lambda net: "net"))
    monkeypatch.setattr(variance, "split_of", lambda run, trust_code=False: train)
    measured = []
    point = variance.GapPoint(0.0, 0.5, 1, 0, 0, 0)
    monkeypatch.setattr(
        variance, "radius_curve", lambda net, split, threats, **words: measured.append(len(split)) or [point]
    )
    return lambda limit, eps=0.1: (gaps_of(tmp_path, ardor.Linf(eps), limit), len(measured))[1], tmp_path


def test_fewer_images_and_other_radii_are_kept_beside_the_fuller_ones(gaps):
    of, run = gaps
    assert [of(20), of(20), of(8), of(8), of(20)] == [1, 1, 2, 2, 2]
    assert read_gaps(run / "variance_gap.json")[1]["n"] == 20
    assert read_gaps(run / "variance_gap-linf-0.1-8.json")[1]["n"] == 8
    assert [of(20, 0.2), of(20, 0.2), of(20)] == [3, 3, 3]
    assert of(30) == 4
    assert read_gaps(run / "variance_gap.json")[1]["n"] == 30, "more images replace fewer"


def test_a_file_of_an_earlier_version_is_read(gaps):
    of, run = gaps
    of(20)
    content = json.loads((run / "variance_gap.json").read_text())
    del content["key"]["n"]
    (run / "variance_gap.json").write_text(json.dumps(content))
    assert of(20) == 1


def test_a_run_that_may_not_be_written_is_measured_each_time(gaps, monkeypatch, caplog):
    of, _ = gaps
    monkeypatch.setattr(
        "ardor.storage.files.os.replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    assert [of(20), of(20)] == [1, 2]
    assert "the radii are measured again next time: expected to write" in caplog.text
