"""Entries of made verdicts: nothing is trained and nothing attacked."""

from dataclasses import replace

import torch

from ardor import models
from ardor.attacks import suites
from ardor.attacks.rounds import fitted
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.deployment.leaderboard import Entry
from ardor.deployment.variants.comparison import DeploymentReport, Variant
from ardor.deployment.variants.latency import Latency
from ardor.evaluation.identity import empty_report, resolved
from ardor.evaluation.proportion import Proportion
from ardor.noise import Noise

TRAINING = {"method": {"name": "SAT"}, "teacher": None, "data": {"name": "digits"}, "student": {"name": "small_cnn"}}


def tiny(seed=0):
    return models.build("small_cnn", channels=1, width=4, seed=seed).eval()


def images(n=20):
    """A split of noise in the place of the digits' test images."""
    index = torch.arange(n)
    return Split(Noise(0, index, "entry").uniform((1, 8, 8)), index % 10, 10, "digits", "test")


def verdicts(names, n, robust, clean, sequential):
    """Letters of each attack: the first breaks all that are broken."""
    first = "r" * robust + "b" * (clean - robust) + "-" * (n - clean)
    later = "r" * robust + "-" * (n - robust) if sequential else "r" * clean + "-" * (n - clean)
    return {name: later if k else first for k, name in enumerate(names)}


def report_of(net, n=20, robust=8, clean=15, eps=0.2, suite="autoattack"):
    attacks = suites.deployed(Linf(eps), net, 50) if suite == "deployed" else suites.SUITES[suite](Linf(eps))
    report = empty_report(net, images(n), attacks, dict(attacks.attacks), 0, 256)
    report.attacks = {key: resolved(fitted(attack, 10)) for key, attack in attacks.attacks.items()}
    report.verdicts = verdicts(report.attacks, n, robust, clean, attacks.sequential)
    report.training = TRAINING
    return report


def form_of(name, file, report, size):
    same = Proportion(19, 20), Proportion(18, 20)
    return Variant(name, file, size, "0" * 64, Latency(0.5, 0.7, 20), report, f"report-{file}.json", same)


def deployed_of(net, report):
    forms = {"float32": "best.safetensors", "onnx": "best.onnx", "onnx-int8": "best-int8.onnx"}
    made = tuple(form_of(name, file, report, 9000 if name != "onnx-int8" else 3000) for name, file in forms.items())
    return DeploymentReport(
        "best", report.model["hash"], 2366, 100, made, {"name": "PGD"}, "a processor", {"ardor": "0"}
    )


def entry_of(name="tiny-sat", net=None, **changes):
    """An entry as `make_entry` makes one; `changes` are those of `report_of`."""
    net = net or tiny()
    report = report_of(net, **changes)
    compared = report_of(net, n=report.n, robust=9, clean=15, eps=changes.get("eps", 0.2), suite="deployed")
    compared.training = {}  # which the entry has once
    built = {key: value for key, value in net.built_as.items() if key != "seed"}
    count = sum(p.numel() for p in net.parameters())
    deployed = replace(deployed_of(net, compared), parameters=count)
    made = ("ardor train recipe.yaml --run runs/tiny-sat",)
    return Entry(name, built, models.hash_of(net), count, 100, 9000, "mit", TRAINING, made, report, deployed)
