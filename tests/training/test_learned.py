"""Methods with learned state: it advances once a step, is checkpointed, and a resumed run ends as one that was not."""

import pytest
import torch

from ardor.attacks import FGSM
from ardor.attacks.threat import L2, Linf
from ardor.cli.main import main
from ardor.engine import distributed
from ardor.errors import ConfigError, ModelError
from ardor.methods import ABSLD, ADR, AKD2, IGDM, LBGAT, MTARD, RSLAD, SAAD, AdaAD, FairRSLAD, PeerAiD, VarianceGap
from ardor.noise import Noise
from ardor.training.averaging import EMA
from ardor.training.job import method_of
from ardor.training.loop import distill, epochs
from ardor.training.preflight import check_setup
from ardor.training.state import learned_state, make_optimiser
from tests.conftest import Fixed, filled, splits
from tests.training.conftest import PGD2, WORDS, ended, net, recipe, require_same

METHODS = {
    "adr": lambda: ADR(steps=9, attack=PGD2),
    "fair": lambda: FairRSLAD(attack=PGD2),
    "absld": lambda: ABSLD(attack=PGD2, drops=(2,)),
    "peer": lambda: PeerAiD(attack=PGD2),
    "lbgat": lambda: LBGAT(attack=PGD2),
    "igdm": lambda: IGDM(VarianceGap(attack=PGD2, lc=1e-9, lg=0.1)),
    "mtard": lambda: MTARD(attack=PGD2, balance_temperatures=True),
    "akd2": lambda: AKD2(attack=PGD2),
    "igdm-adaad": lambda: IGDM(AdaAD(attack=PGD2)),
}


def arguments(name, averaging=None):
    train, val = splits(48)
    teacher = net(seed=5, width=4)
    if name in ("mtard", "akd2"):
        teacher = {"robust": teacher, "natural": net(seed=6, width=5)}
    return (net(), teacher, METHODS[name](), train, recipe(lr=0.005)), {"val": val, "averaging": averaging}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_on_after_an_epoch_as_if_it_had_not_ended(tmp_path, name):
    averaging = EMA(0.9) if name == "adr" else None
    given, options = arguments(name, averaging)
    distill(*given, run=tmp_path / "whole", **options)
    for _ in range(2):
        again, options = arguments(name, averaging)
        going = epochs(*again, run=tmp_path / "parts", **options)
        next(going)
        going.close()
    again, options = arguments(name, averaging)
    distill(*again, run=tmp_path / "parts", **options)
    require_same(ended(tmp_path / "parts"), ended(tmp_path / "whole"))
    learned = learned_state(again[2])
    assert learned.keys() == learned_state(given[2]).keys()
    for key, value in learned_state(given[2]).items():
        assert torch.equal(value, learned[key]), key
    assert name in ("igdm-adaad", "akd2") or learned


def test_state_advances_once_a_step_and_rolls_over_once_an_epoch():
    seen = []

    class Counting(ADR):
        def advance(self, student, *, epoch, last, average):
            seen.append((epoch, last, average is not None))
            super().advance(student, epoch=epoch, last=last, average=average)

    Counting.config_name = "counting"
    train, val = splits(48)
    method = Counting(attack=PGD2)
    distill(net(), None, method, train, recipe(epochs=2), val=val, averaging=EMA())
    assert seen == [(e, n == 3, True) for e in (1, 2) for n in (1, 2, 3)]
    assert int(method.step_) == 6
    seen.clear()
    distill(net(), None, Counting(attack=PGD2), train, recipe(epochs=1, accumulate=2), val=val)
    assert seen == [(1, n == 3, False) for n in (1, 2, 3)]


def test_a_methods_own_weight_decay_is_of_its_parameters_alone():
    method, student = PeerAiD(weight_decay=0.25), net()
    method.prepare(student, None, splits(8)[0].images)
    groups = make_optimiser(student, method, recipe()).param_groups
    peer = {id(p) for p in method.parameters()}
    assert [group["weight_decay"] for group in groups if {id(p) for p in group["params"]} & peer] == [0.25]
    assert {id(p) for group in groups for p in group["params"]} == peer | {id(p) for p in student.parameters()}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "rslad", "attack": {"name": "fgsm"}}, FGSM(L2(0.1))),
        ({"name": "rslad", "attack": "fgsm"}, FGSM(L2(0.1))),
        ({"name": "rslad", "attack": {"name": "fgsm", "threat": {"name": "linf", "eps": 0.2}}}, FGSM(Linf(0.2))),
    ],
)
def test_an_attack_of_another_name_is_under_the_typed_threat(method, expected):
    assert method_of({"method": method, "threat": {"name": "l2", "eps": "0.1"}}).attack == expected


def test_the_base_of_a_method_is_under_the_typed_threat():
    threat = {"name": "l2", "eps": "0.1"}
    for base, kind in (("adaad", AdaAD), ({"alpha": "1/2"}, None), (None, None)):
        method = method_of({"method": {"name": "igdm", **({} if base is None else {"base": base})}, "threat": threat})
        assert method.base.attack.threat == L2(0.1)
        assert kind is None or type(method.base) is kind
    assert method_of({"method": {"name": "igdm", "base": {"alpha": "1/2"}}}).base.alpha == 0.5


# Two teachers


@pytest.mark.parametrize(
    ("method", "teacher", "words"),
    [
        (MTARD(), lambda: net(1), r"MTARD expected the teachers natural and robust, got one: .*a dict of nets"),
        (MTARD(), lambda: {"robust": net(1)}, r"MTARD expected as teacher natural and robust, got robust"),
        (
            RSLAD(),
            lambda: {"robust": net(1), "natural": net(2)},
            r"RSLAD expected as teacher one, got natural and robust",
        ),
        (MTARD(), lambda: {"robust": net(1), "natural": net(2, classes=3)}, "natural teacher"),
    ],
)
def test_a_method_has_as_many_teachers_as_it_names(method, teacher, words):
    train, val = splits(16)
    with pytest.raises(ModelError, match=words):
        distill(net(), teacher(), method, train, recipe(), val=val)


def test_two_teachers_at_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, method in (("rob", "sat"), ("nat", "natural")):
        assert main(["train", "--method", method, *WORDS, "--run", name]) == 0
    both = ["--teacher.robust", "rob", "--teacher.natural", "nat"]
    assert main(["train", "--method", "mtard", *WORDS, *both, "--run", "m"]) == 0
    out = capsys.readouterr().out
    natural, robust = (out.split(f"teacher {name}\n")[1].split("\n\n")[0] for name in ("natural nat", "robust rob"))
    assert "PGD-20 at eps 0.1: not measured" not in robust
    assert "PGD-20 at eps 0.1: not measured" in natural  # by its own standard
    before = ended(tmp_path / "m")
    assert main(["train", "m"]) == 0
    require_same(ended(tmp_path / "m"), before)
    assert main(["plan", "--method", "mtard", *WORDS, *both]) == 0
    assert "1.0 T" in capsys.readouterr().out
    for words, expected in (
        (["mtard", "--teacher", "rob"], "expected the teachers robust and natural for MTARD, got --teacher rob: type"),
        (["mtard", *both[:2]], "got no natural: type --teacher.robust RUN --teacher.natural RUN"),
        (["rslad", *both[:2]], "expected one teacher for RSLAD, got --teacher.robust: type --teacher RUN"),
    ):
        assert main(["train", "--method", *words, *WORDS, "--run", "x"]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "processes", "got", "advice"),
    [
        ({"batch": 1}, 1, "1 of 48 images in steps of 1 over 1 processes in 1 parts", "batch=2"),
        ({"batch": 46}, 2, "1 of 48 images in steps of 46 over 2 processes in 1 parts", "batch=47"),
        ({"accumulate": 9}, 1, "1 of 48 images in steps of 16 over 1 processes in 9 parts", "batch=24"),
        ({"accumulate": 99, "batch": 99}, 1, "1 of 48 images", "add training images, or take fewer processes or parts"),
    ],
)
def test_weights_by_entropy_need_two_images_at_once(monkeypatch, changes, processes, got, advice):
    train, _ = splits(48)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    for method in (SAAD(attack=PGD2), IGDM(SAAD(attack=PGD2))):
        with pytest.raises(ConfigError, match=rf"at least 2 images .* got {got}.*: .*{advice}"):
            check_setup(net(), net(5), method, train, None, None, recipe(**changes))
    check_setup(net(), net(5), SAAD(attack=PGD2, weights="none"), train, None, None, recipe(**changes))


@pytest.mark.parametrize("make", [FairRSLAD, ABSLD])
def test_the_counts_of_a_batch_in_parts_are_those_of_the_batch(make):
    train, _ = splits(48)
    results = []
    for parts in (1, 2, 3):
        method = make(attack=Fixed(train.images[:16]))
        student = filled(net()).float()
        student.eval()
        method.prepare(student, net(5), train.images[:2])
        for part in range(parts):
            rows = slice(16 * part // parts, 16 * (part + 1) // parts)
            method.attack.point = train.images[rows] * 0.9
            noise = Noise(0, train.index[rows], "m", 1)
            method.terms(student, net(5), train.images[rows], train.labels[rows], epoch=1, noise=noise)
        results.append(method.batch_)
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)
