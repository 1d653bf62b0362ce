"""Teachers that the tests of the gate share."""

import pytest

import ardor
from ardor.attacks.threat import Linf
from ardor.diagnostics.record import Record
from ardor.diagnostics.teacher import examine_teacher
from tests.fixtures.make import trained

EPS = 0.1
THREAT = Linf(EPS)
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture(scope="session")
def parts():
    return ardor.data.load("digits")


@pytest.fixture(scope="session")
def val(parts):
    """More images than val has, so that intervals are narrow."""
    return parts[2]


@pytest.fixture(scope="session")
def sound():
    return trained("sound")


@pytest.fixture(scope="session")
def normalised():
    """One that normalises inside."""
    return trained("normalised")


@pytest.fixture(scope="session")
def natural():
    return trained("natural")


@pytest.fixture(scope="session")
def record(sound, val):
    seen = examine_teacher(sound, val, THREAT)
    return Record(seen.clean.value, seen.robust.value, EPS, "sound", data="digits", shape=(1, 8, 8))


def names(seen):
    return [finding.name for finding in seen.findings]


def shuffled(z):
    return z[:, ORDER]
