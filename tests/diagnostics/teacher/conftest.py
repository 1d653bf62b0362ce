"""Teachers that the tests of the gate share: each is trained once."""

import pytest

import ardor
import ardor.models.builders
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.diagnostics.record import Record
from ardor.diagnostics.teacher import examine_teacher

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


def taught(method, train, epochs, seed=0, width=8, **options):
    net = ardor.models.build("small_cnn", classes=10, channels=train.shape[0], width=width, seed=seed, **options)
    recipe = ardor.Recipe(
        epochs=epochs, batch=64, lr=0.2, augment="none", schedule="one-cycle", device="cpu", seed=seed
    )
    ardor.distill(net, None, method, train, recipe)
    return net.eval()


def sat(eps=EPS):
    return ardor.methods.SAT(PGD(Linf(eps), steps=3))


@pytest.fixture(scope="session")
def sound(parts):
    return taught(sat(), parts[0], 4)


@pytest.fixture(scope="session")
def normalised(parts):
    """The same, normalising inside."""
    return taught(sat(), parts[0], 4, mean=[0.31], std=[0.37])


@pytest.fixture(scope="session")
def natural(parts):
    return taught(ardor.methods.Natural(), parts[0], 3)


@pytest.fixture(scope="session")
def record(sound, val):
    seen = examine_teacher(sound, val, THREAT)
    return Record(seen.clean.value, seen.robust.value, EPS, "sound", data="digits", shape=(1, 8, 8))


def names(seen):
    return [finding.name for finding in seen.findings]


def shuffled(z):
    return z[:, ORDER]
