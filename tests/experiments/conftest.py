"""The bench that its tests share: made once, copied where it is changed."""

import csv
import shutil
from pathlib import Path

import pytest

from ardor.cli.main import main
from ardor.experiments import table_of
from ardor.experiments.tables import STUDENTS, spec_of

ROW = ["--students", "resnet18", "--methods", "natural", "rslad"]


def asked(kind="whitebox", scale="smoke", folder="bench", named="digits", eps=None, **others):
    named_teacher = {"teacher": {"name": "runs/teacher"}} if kind == "distillation" else {}
    others = {"students": STUDENTS, **named_teacher, **others}
    made = spec_of(f"{kind}-{named}", scale, None, eps, Path(folder), **others)
    return made.with_images() if named == "digits" else made


def bench(*words, out, scale="smoke"):
    return main(["bench", *words, "--scale", scale, "--out", str(out)])


def table_in(folder, kind="whitebox"):
    return table_of(asked(kind, folder=folder, students=("resnet18",), methods=("natural", "rslad")))


def contents(folder):
    """The bytes and the times of every file in a folder."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def lines_of(folder, kind="whitebox"):
    return list(csv.DictReader((folder / f"{kind}.csv").read_text().splitlines()))


@pytest.fixture(scope="session")
def finished(shared):
    """A whole bench: a teacher, a natural student, and RSLAD's."""

    def make(folder):
        assert bench("whitebox-digits", *ROW, out=folder) == 0

    return shared("bench", make)


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))
