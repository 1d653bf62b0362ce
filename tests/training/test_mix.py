"""CutMix and mixup in training: partners, processes and resuming, what they go together with, and what is refused."""

import numpy as np
import pytest
import torch

import ardor
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.data.extra import with_extra
from ardor.data.mixing import mixed
from ardor.data.split import Split
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.methods import (
    ABSLD,
    ADR,
    AKD2,
    ARD,
    DGAD,
    IAD,
    IGDM,
    KD,
    LBGAT,
    MART,
    MTARD,
    RSLAD,
    SAAD,
    SAT,
    TRADES,
    AdaAD,
    AdaIAD,
    FairRSLAD,
    Natural,
    PeerAiD,
    VarianceGap,
)  # fmt: skip
from ardor.noise import Noise
from ardor.training.augmentation import augmented
from ardor.training.averaging import EMA
from ardor.training.loop import distill, epochs
from ardor.training.preflight import check_setup
from ardor.training.recipe import Recipe, batches
from ardor.training.soft_labels import SoftLabelCache, unnumbered
from tests.conftest import splits
from tests.engine.distributed.conftest import together
from tests.training.conftest import WORDS, ended, net, recipe, require_same, rslad

CPU = torch.device("cpu")
KINDS = ["cutmix", "mixup"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augment", ["none", "crop", "resized-crop", "idbh-strong"])
def test_a_batch_is_that_of_each_image_and_the_one_before_it(kind, augment):
    train, _ = splits(40)
    changes = {"padding": 4} if augment.startswith("resized") else {}
    plain, chosen = recipe(augment=augment, **changes), recipe(augment=augment, mix=kind, mix_alpha=0.6, **changes)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:13]
    x, y, index, _ = augmented(train, rows, plain, 2, CPU)
    new, labels, positions, _ = augmented(train, rows, chosen, 2, CPU)
    expected = mixed(x, x.roll(1, 0), Noise(0, index, "augment/mix", 2), kind, 0.6)
    assert torch.equal(new, expected)
    assert not torch.equal(new, x)
    assert torch.equal(labels, y)
    assert torch.equal(positions, index), "an image's own noise, in the attack too"
    parts = [augmented(train, rows[a::3], chosen, 2, CPU, partners=rows.roll(1)[a::3])[0] for a in range(3)]
    assert all(torch.equal(part, new[a::3]) for a, part in enumerate(parts))


class Met:
    """A method without labels that keeps its images."""

    uses_labels = False

    def __init__(self):
        self.seen = {}

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.seen |= {(epoch, int(i)): image.numpy().copy() for i, image in zip(noise.index, x, strict=True)}
        return {"logits": student(x).square().mean(1)}


def met(kind):
    method = Met()
    distill(net(), None, method, splits(33)[0], recipe(epochs=2, mix=kind, augment="crop"))
    return method.seen, distributed.rank()


def test_several_processes_see_the_images_of_one(tmp_path):
    (alone, _), shared = met("cutmix"), together(tmp_path, met, "cutmix", count=2)
    assert {rank for _, rank in shared} == {0, 1}
    assert all(len(seen) < len(alone) for seen, _ in shared)
    merged = shared[0][0] | shared[1][0]
    assert merged.keys() == alone.keys()
    assert all(np.array_equal(image, alone[key]) for key, image in merged.items())


def run(folder, kind, **changes):
    train, val = splits(48)
    distill(net(), net(5), rslad(), train, recipe(mix=kind, mix_alpha=0.5, milestones=(9,), **changes), val=val,
            run=folder, averaging=EMA(0.9))  # fmt: skip
    return ended(folder)


@pytest.mark.parametrize(
    ("kind", "changes"), [("mixup", {"awp": 0.01}), ("cutmix", {"accumulate": 3, "augment": "crop"})]
)
def test_resumed_equals_uninterrupted(tmp_path, kind, changes):
    whole = run(tmp_path / "whole", kind, **changes)
    train, val = splits(48)
    chosen = recipe(mix=kind, mix_alpha=0.5, milestones=(9,), **changes)
    stops = iter([False, True])
    going = epochs(net(), net(5), rslad(), train, chosen, val=val, run=tmp_path / "parts", averaging=EMA(0.9),
                   stop=lambda: next(stops, False))  # fmt: skip
    assert list(going) == []  # stopped inside the first epoch
    require_same(run(tmp_path / "parts", kind, **changes), whole)
    assert whole[0] != run(tmp_path / "other", KINDS[KINDS.index(kind) - 1], **changes)[0]


def test_the_statistics_of_an_average_are_of_mixed_images(monkeypatch):
    train, found = splits()[0], []
    monkeypatch.setattr("ardor.training.validation.restatistic", lambda net, batches: found.extend(batches))
    chosen = recipe(epochs=1, mix="mixup")
    distill(net(), net(5), rslad(), train, chosen, averaging=EMA())
    for x, rows in zip(found, batches(chosen, "restatistic", 1, train), strict=True):
        assert torch.equal(x, augmented(train, rows, chosen, 1, CPU, "restatistic/augment")[0])


def test_an_extra_image_may_be_in_a_batch_twice(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", image=pixels)
    images = torch.arange(12).reshape(12, 1, 1, 1).expand(12, 1, 8, 8).to(torch.uint8) * 20
    train = with_extra(Split(images, torch.arange(12) % 4, 4, "made", "train"), f"npz:{tmp_path / 'extra.npz'}", 0.7)
    chosen = recipe(epochs=2, mix="cutmix")
    (rows,) = batches(chosen, "order", 1, train)[:1]
    assert len(rows.unique()) < len(rows)
    assert len(distill(net(), net(5), rslad(), train, chosen)) == 2


WITHOUT = [RSLAD(), VarianceGap(), AdaAD(), IGDM(), IGDM(AdaAD()), SAAD(inner="clean"), KD(alpha=1.0)]
WITH = [
    Natural(), SAT(), TRADES(), MART(), KD(), ARD(), IAD(), AdaIAD(), IGDM(ARD()), SAAD(), ADR(), FairRSLAD(), ABSLD(),
    DGAD(), PeerAiD(), AKD2(), MTARD(), LBGAT(),
]  # fmt: skip


@pytest.mark.parametrize("method", WITHOUT + WITH, ids=lambda m: f"{type(m).__name__}-{m}"[:40])
def test_methods_that_use_labels_are_refused(method):
    train, val = splits(16)
    teacher = net(5) if vars(type(method)).get("needs_teacher") else None
    if hasattr(method, "teachers"):
        teacher = torch.nn.ModuleDict({"robust": net(5), "natural": net(6)})
    words = net(), teacher, method, train, val, None
    check_setup(*words, recipe())
    if method in WITHOUT:
        check_setup(*words, recipe(mix="mixup"))
        return
    name = type(method).__name__
    with pytest.raises(ConfigError, match=f"without labels, such as rslad, for mix=.mixup., .*got {name}, which"):
        check_setup(*words, recipe(mix="mixup"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mix": "cutup"}, "mix of Recipe as one of none, cutmix, mixup, got 'cutup'"),
        ({"mix": "mixup", "mix_alpha": 0}, "recipe.mix_alpha as a number above 0"),
        ({"mix": "mixup", "mix_alpha": float("inf")}, "mix_alpha of Recipe as a finite number"),
        ({"mix_alpha": 0.2}, "recipe.mix_alpha as 1, its default: recipe.mix none has no strength"),
    ],
)
def test_values_out_of_range_are_refused(options, expected):
    with pytest.raises(ConfigError, match=expected):
        Recipe(**options)


def test_the_teacher_answers_the_mixed_image_live(tmp_path, caplog):
    train, asked, drawn = splits(32)[0], [], []
    teacher, chosen = net(5), recipe(epochs=1, mix="cutmix")
    teacher.register_forward_pre_hook(lambda m, args: asked.append(args[0].clone()))
    method = RSLAD(attack=ardor.attacks.PGD(Linf(0.1), steps=1))
    distill(net(), teacher, method, train, chosen, soft_labels=SoftLabelCache(tmp_path / "soft"))
    assert "soft labels are not cached: recipe.mix cutmix" in caplog.text
    assert not (tmp_path / "soft").exists()
    drawn = [augmented(train, rows, chosen, 1, CPU)[0] for rows in batches(chosen, "order", 1, train)]
    assert all(any(torch.equal(x, a) for a in asked) for x in drawn)
    assert unnumbered(recipe()) == ""


def test_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "--recipe.mix", "mixup", "--recipe.mix_alpha", "1/5", "--gate=false"]
    assert main(["train", "--method", "sat", *WORDS, "--run", "t"]) == 0
    sat, taught = ["--method", "sat"], ["--method", "rslad", "--method.attack.steps", "1", "--teacher", "t"]
    assert main(["train", *words, *sat, "--run", "b"]) == 2
    assert "type --recipe.mix none, or that method" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b").exists()
    assert main(["plan", *words[:-1], *taught, "--steps", "2"]) == 0
    assert "no soft labels are cached, 1.0 T is computed in every run: recipe.mix mixup" in capsys.readouterr().out
    assert main(["train", *words, *taught, "--run", "a"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("recipe.mix mixup draws another part of another image in every epoch") == 1
    config = ardor.storage.runs.Run("a").config
    assert (config["recipe"]["mix"], config["recipe"]["mix_alpha"], config["soft_labels"]) == ("mixup", "1/5", "live")
