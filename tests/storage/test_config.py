"""`build` is the inverse of `describe`, through the text of a config.yaml too."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from ardor import data, models
from ardor.attacks import PGD
from ardor.attacks.threat import L2, Linf
from ardor.errors import ArdorError, ConfigError
from ardor.methods import IGDM, KD, Natural
from ardor.models.builders import BUILDERS
from ardor.storage.config import HOMES, as_text, build, classes, describe, number, parameters, to_yaml
from ardor.training.optimisers import Optimiser
from ardor.types import Attack, Maximiser, Method, Threat

PUBLIC = [(kind, cls) for kind in HOMES for cls in classes(kind).values()]
FRACTIONS = st.one_of(
    st.integers(1, 254).map(lambda n: n / 255),
    st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000).map(float),
    st.floats(1e-6, 1, exclude_max=True),
    st.sampled_from(["8/255", "1e-3", "5/6"]).map(number),
)
ABOVE_1 = {"eta"}  # a step of FAB beyond the boundary


def values(hint, name):
    """Values of a parameter, by its type."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of(*(values(option, name) for option in options))
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(options)
    if typing.get_origin(hint) is tuple and options[1:] != (...,):
        return st.tuples(*(values(option, name) for option in options))
    if typing.get_origin(hint) is tuple:
        return st.lists(values(options[0], name), max_size=3).map(tuple)
    if hint in (Attack, Maximiser):
        attacks = [cls for cls in classes("attack").values() if hint is Attack or hasattr(cls, "maximise")]
        return st.one_of(*map(instances, attacks))
    if hint == Callable[..., float]:
        return st.nothing()
    if hint is Method:
        return st.one_of(*(instances(cls) for cls in classes("method").values() if cls not in (IGDM, KD, Natural)))
    if hint == Optimiser:
        return st.one_of(*map(instances, classes("optimiser").values()))
    if hint in (Linf, L2, Threat):
        return st.one_of(*(instances(cls) for cls in (Linf, L2) if hint in (Threat, cls)))
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(1, 9),
        float: FRACTIONS.map(lambda v: v + 1) if name in ABOVE_1 else FRACTIONS,
        str: st.sampled_from(["auto", "cpu", "cuda:1"]),
    }[hint]


@st.composite
def instances(draw, cls):
    fields = {name: values(hint, name) for name, (hint, _) in parameters(cls).items()}
    given = draw(st.fixed_dictionaries({}, optional=fields))
    try:
        return cls(**given)
    except ArdorError:  # numbers that do not go together
        return reject()


def few_examples(n):
    return settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))


def through_yaml(described):
    return yaml.safe_load(to_yaml(described))


@pytest.mark.parametrize(("kind", "cls"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_build_is_the_inverse_of_describe(kind, cls):
    @few_examples(40)
    @given(instances(cls))
    def inverse(instance):
        described = describe(instance)
        for config in (described, through_yaml(described)):
            result = build(config, kind)
            assert type(result) is cls
            assert result == instance
            assert describe(result) == described

    inverse()


@few_examples(300)
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), FRACTIONS))
def test_a_number_survives_its_text(value):
    assert number(as_text(value)) == value


# Third-party classes


@dataclasses.dataclass(frozen=True)
class Patch:
    """An attack without a threat."""

    size: int = 3

    def __call__(self, net, x, y, noise):
        return x


@dataclasses.dataclass
class Mixed:
    """A method with one parameter of each kind that a type can have."""

    attacks: tuple[Attack, ...] = ()
    pair: tuple[str, float] = ("a", 0.5)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: Sequence[float] = ()
    label: str | float = "none"
    smoothing: float | tuple[float, float] | None = 0.5
    attack: Any = Patch()


class Untyped:
    """A method without any annotation."""

    def __init__(self, alpha=0.5, steps=(0.5,), mean=None, **options):
        self.alpha, self.steps, self.mean = alpha, steps, mean
        vars(self).update(options)

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None


ATTACKS = st.one_of(*(instances(cls) for cls in classes("attack").values()), st.builds(Patch, st.integers(1, 9)))
THIRD_PARTY = {
    Mixed: st.builds(
        Mixed,
        attacks=st.lists(ATTACKS, max_size=3).map(tuple),
        pair=st.tuples(st.sampled_from(["8/255", "a", ""]), FRACTIONS),
        weights=st.dictionaries(st.sampled_from(["clean", "robust"]), FRACTIONS),
        steps=st.lists(FRACTIONS, max_size=3).map(tuple),
        label=st.one_of(st.sampled_from(["none", "mean"]), FRACTIONS.map(float)),
        smoothing=st.one_of(st.none(), FRACTIONS, st.tuples(FRACTIONS, FRACTIONS)),
        attack=ATTACKS,
    ),
    Untyped: st.builds(
        Untyped,
        alpha=st.one_of(st.none(), FRACTIONS, FRACTIONS.map(lambda v: -v)),
        steps=st.lists(FRACTIONS, max_size=3).map(tuple),
        mean=st.one_of(st.none(), st.lists(FRACTIONS, max_size=3)),
        extra=st.one_of(FRACTIONS, st.sampled_from(["runs/1/2", "a"]), st.dictionaries(st.just("key"), FRACTIONS)),
    ),
}


@pytest.mark.parametrize("cls", THIRD_PARTY)
def test_build_is_the_inverse_for_third_party_classes(cls):
    @few_examples(60)
    @given(THIRD_PARTY[cls])
    def inverse(instance):
        assert build(through_yaml(describe(instance)), "method") == instance

    inverse()


# Nets and data

NETS = {
    "small_cnn": {"width": st.integers(1, 5)},
    "mobilenet_v2": {"width": st.sampled_from([0.25, 1 / 3, number("1/8")])},
    "wide_resnet": {"depth": st.just(10), "width": st.just(1), "sub_block1": st.booleans()},
    "wide_resnet_silu": {"depth": st.just(10), "width": st.just(1)},
    "resnet18": {},
    "resnet50": {},
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_net_is_built_again_with_its_weights(name):
    @few_examples(2 if name.startswith("resnet") else 8)
    @given(st.data())
    def inverse(given):
        options = given.draw(st.fixed_dictionaries({"seed": st.integers(0, 2**31), "classes": st.integers(2, 9)}))
        options |= given.draw(st.fixed_dictionaries({}, optional=NETS[name]))
        options |= {"depth": 10, "width": 1} if name.startswith("wide") else {}
        options["channels"] = given.draw(st.sampled_from([1, 3]))
        if given.draw(st.booleans()):
            per_channel = st.lists(FRACTIONS, min_size=options["channels"], max_size=options["channels"])
            options |= {"mean": given.draw(per_channel), "std": given.draw(per_channel)}
        net = models.build(name, **options)
        result = build(through_yaml(describe(net)), "net")
        assert models.hash_of(result) == models.hash_of(net)
        assert describe(result) == describe(net)

    inverse()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Name of a data source -> its options."""
    folder = tmp_path_factory.mktemp("sources")
    x, y = np.random.default_rng(0).integers(0, 256, (40, 6, 7, 3), np.uint8), np.arange(40) % 4
    np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    (folder / "own.py").write_text(
        "import numpy as np\n"
        "def data(n=8, level=0.5, levels=(0.5,)):\n"
        "    x = np.full((n, 1, 4, 4), 0.0 + level * levels[0])\n"
        "    return x, np.arange(n) % 2, x, np.arange(n) % 2\n"
    )
    return {
        "digits": {},
        f"npz:{folder}/a.npz": {"layout": st.sampled_from([None, "nhwc"]), "classes": st.sampled_from([None, 4, 7])},
        f"{folder}/own.py:data": {
            "n": st.integers(8, 20), "level": FRACTIONS, "levels": st.lists(FRACTIONS, min_size=1, max_size=2),
        },
    }  # fmt: skip


@few_examples(25)
@given(given=st.data())
def test_data_are_loaded_again(sources, given):
    name = given.draw(st.sampled_from(list(sources)))
    common = {
        "val": st.sampled_from([0.25, 1 / 3, number("51/255"), 4]), "seed": st.integers(0, 99),
        "limit": st.integers(0, 5), "protocol": st.sampled_from(["holdout", "paper"]),
    }  # fmt: skip
    splits = data.load(name, **given.draw(st.fixed_dictionaries({}, optional=common | sources[name])))
    result = build(through_yaml(describe(splits[0].source)), "data")
    assert [split.hash for split in result] == [split.hash for split in splits]
    assert [describe(split.source) for split in result] == [describe(split.source) for split in splits]


# Conversion and refusal


def test_normalisation_as_fractions_of_255(tmp_path):
    """In a run's config.yaml as in a command, for our nets and for a third-party class without types."""
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n"
        "    def __init__(self, classes, mean=None):\n        super().__init__(1, classes)\n"
        "        self.register_buffer('mean', torch.tensor(mean))\n"
    )
    for name in ("small_cnn", f"{tmp_path}/net.py:Net"):
        config = {"name": name, "mean": ["128/255"]} | ({"std": ["64/255"]} if name == "small_cnn" else {})
        net = build(config, "net")
        layer = net.normalise if name == "small_cnn" else net
        assert layer.mean.flatten().tolist() == [torch.tensor(128 / 255).item()]
        assert describe(net)["mean"] == ["128/255"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"name": "PGD", "steps": 2.5}, "expected attack.steps as a whole number, got 2.5: pass steps= with"),
        ({"name": "PGD", "steps": True}, "expected attack.steps as a whole number"),
        ({"name": "PGD", "step": "fast"}, "expected attack.step as a number such as 0.1 or 8/255, got 'fast'"),
        ({"name": "PGD", "loss": "mse"}, "expected attack.loss as one of ce, margin, dlr, got 'mse'"),
        ({"name": "PGD", "stepz": 1}, "expected an option of attack, got stepz= (did you mean step=?)"),
        (
            {"name": "PGD", "threat": {"name": "L3"}},
            'expected attack.threat as one of l2, linf, or file.py:Name, got "L3"',
        ),
        ({"name": "PDG"}, 'or file.py:Name, got "PDG" (did you mean "pgd"?)'),
        (3, "expected attack: NAME or attack: {name: NAME}, got 3"),
    ],
)
def test_build_refuses(content, expected):
    with pytest.raises(ConfigError) as refused:
        build(content, "attack")
    assert expected in str(refused.value)


def test_values_that_are_not_given_come_from_the_default():
    default = PGD(Linf(0.1), steps=3)
    assert build({"steps": "4", "threat": {"eps": "1/5"}}, "attack", default=default) == PGD(Linf(0.2), steps=4)
    assert build({"name": "FGSM"}, "attack", default=default).threat == Linf()
    assert build(None, "attack", default=default) is default
