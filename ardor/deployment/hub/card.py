"""card: the model card, README.md: what the net is, what it was measured to withstand, and what nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from ardor.deployment.export.parity import Match, Parity
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.release import Evidence, OnnxFile, Release
from ardor.evaluation.report import Report
from ardor.models.hub import WEIGHTS
from ardor.storage.config import plain as in_words
from ardor.storage.config import to_yaml
from ardor.storage.imports import require_package

CARD = "README.md"


@dataclass(frozen=True)
class Words:
    """What only a person can say: OWNER/NAME on the Hub, the license, and Markdown of their own."""

    repository: str | None = None
    license: str | None = None
    about: str = ""


ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Our name of a data set -> the Hub's."""


def card(release: Release, evidence: Evidence, place: str, sizes: Mapping[str, int], words: Words) -> str:
    """The text of README.md: metadata that the Hub reads, then Markdown. Raises ConfigError without huggingface_hub.

    place: the folder's name. sizes: bytes by file.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    template = environment.from_string(files("ardor.deployment.hub").joinpath("card.md").read_text(encoding="utf-8"))
    config = trained(release.training)
    repository = words.repository
    name = repository.partition("/")[2] if repository else release.name
    made = release.net.built_as
    judged = [(WEIGHTS, report) for report in evidence.reports]
    judged += [(file.path.name, report) for file in evidence.files for report in file.reports]
    return template.render(
        metadata=_metadata(release, evidence, name, words.license).to_yaml().strip(),
        name=name,
        repository=repository,
        place=place,
        about=words.about.strip(),
        kind=str(made["name"]) if isinstance(made, dict) else type(release.net).__name__,
        parameters=sum(p.numel() for p in release.net.parameters()),
        shape=release.shape,
        names=[str(word) for word in release.class_names],
        config=config,
        config_yaml=to_yaml(config).strip(),
        method=in_words(config["method"]) if config.get("method") else "",
        method_name=_mapping(config.get("method")).get("name", ""),
        teacher=_teacher(config),
        data=_mapping(config.get("data")).get("name"),
        chosen=release.chosen,
        reports=[_shown(WEIGHTS, report) for report in evidence.reports],
        judged=judged,
        threats=list(dict.fromkeys(f"{r.threat['name']} eps {r.threat['eps']}" for r in evidence.reports)),
        attacks=list(_attacks(judged)),
        suites=sorted({report.suite for report in evidence.reports}),
        worst=[_worst(report) for report in evidence.reports],
        doubts=list(_doubts(judged)),
        unsound=sorted({where for where, report in judged if _unsound(report)}),
        files=[_file(file) for file in evidence.files],
        deployed=redact(release.deployed),
        sizes={name: f"{size / 1e6:.2f}" for name, size in sizes.items()},
        weights=evidence.weights,
        versions=_versions(evidence),
    )


def _metadata(release: Release, evidence: Evidence, name: str, license: str | None) -> Any:
    hub = require_package("huggingface_hub", "hub", "a model card")
    method = _mapping(_mapping(release.training).get("method")).get("name")
    ours = [str(method)] if method and ":" not in str(method) else []
    data = ON_THE_HUB.get(str(_mapping(release.training.get("data")).get("name")))
    results: list[Any] = []
    for report in _largest(evidence.reports):
        # two suites on the same images have the same clean accuracy
        results += [] if _unsound(report) else [one for one in _results(hub, report) if one not in results]
    return hub.ModelCardData(
        model_name=name,
        license=license,
        library_name="ardor",
        pipeline_tag="image-classification",
        tags=["ardor", "adversarial-robustness", *ours, *(["onnx"] if evidence.files else [])],
        datasets=[data] if data else None,
        metrics=["accuracy"] if results else None,
        eval_results=results or None,
    )


def _largest(reports: tuple[Report, ...]) -> list[Report]:
    """Of each suite and threat the report of the most images: a look at a few is no second figure."""
    found: dict[tuple[str, str], Report] = {}
    for report in sorted(reports, key=lambda one: one.n):
        found[report.suite, str(report.threat)] = report
    return [report for report in reports if report in found.values()]


def _results(hub: Any, report: Report) -> Iterator[Any]:
    """Each accuracy as the Hub's metadata say it: a share, with n and its interval beside it."""
    data = str(redact(report.data["name"]))
    under = f"{report.threat['name']} eps {report.threat['eps']}"
    for attack, share in report.figures().items():
        clean = attack == "clean"
        yield hub.EvalResult(
            task_type="image-classification",
            dataset_type=ON_THE_HUB.get(data, data),
            dataset_name=data,
            dataset_split=report.data["part"],
            metric_type="accuracy",
            metric_name="clean accuracy" if clean else f"robust accuracy ({attack}, suite {report.suite}, {under})",
            metric_value=round(share.value, 4),
            metric_args={"n": share.n, "correct": share.k, "wilson95": [round(end, 4) for end in share.interval]},
        )


def _shown(file: str, report: Report) -> str:
    """A report's own table; its findings stand together below."""
    data = report.data | {"name": redact(report.data["name"])}
    title = f"**{file}**, suite `{report.suite}`,"
    text = replace(report, title=title, data=data, findings=[]).table()
    text = text.replace("\nEach attack saw", ". Each attack saw").replace("\nworst class: ", "\n\nWorst class: ")
    return str(redact(text.replace("\n\n\n", "\n\n")))


def _file(file: OnnxFile) -> dict[str, Any]:
    said = file.metadata
    held = said["parity"]
    parity = Parity(Match(**held["clean"]), Match(**held["adversarial"]), held["attack"])
    return {
        "name": file.path.name,
        "to": said["to"],
        "parity": str(parity),
        "attack": in_words(parity.attack),
        "check": redact(f"{said['check']['name']} ({said['check']['part']})"),
        "forced": said["forced"],
        "reports": [_shown(file.path.name, report) for report in file.reports],
        "input": said["input"]["name"],
        "output": said["output"]["name"],
        "runtime": said["versions"].get("onnxruntime", "?"),
    }


def _attacks(judged: list[tuple[str, Report]]) -> Iterator[str]:
    """Every attack once, with its hyperparameters as they were used."""
    said = {f"`{name}`: {in_words(how)}": True for _, report in judged for name, how in report.attacks.items()}
    yield from map(str, map(redact, said))


def _doubts(judged: list[tuple[str, Report]]) -> Iterator[str]:
    """Every mark and finding once, the worst first, with the file it was seen on."""
    seen: dict[str, dict[str, bool]] = {}
    for severity in ("error", "warning", "note"):
        for file, report in judged:
            said = [str(found) for found in report.findings if found.severity == severity]
            marks = [f"warning: {mark}" for mark in report.data.get("marks", [])] if severity == "warning" else []
            for text in marks + said:
                seen.setdefault(str(redact(text)), {})[file] = True
    for text, where in seen.items():
        yield f"{text} ({', '.join(where)})"


def _unsound(report: Report) -> bool:
    return any(found.severity == "error" for found in report.findings)


def _worst(report: Report) -> str:
    name, share = min(report.per_class().items(), key=lambda row: row[1].value)
    return f"{name}, {share.k} of {share.n} (suite {report.suite})"


def _teacher(config: Mapping[str, Any]) -> str:
    """The teacher in words, with the hash of its weights; "" where there was none."""
    if not config.get("teacher"):
        return ""
    digest = _mapping(config.get("fingerprint")).get("teacher")
    return f"{in_words(config['teacher'])}, weights `{digest}`"


def _versions(evidence: Evidence) -> str:
    reports = [*evidence.reports, *(report for file in evidence.files for report in file.reports)]
    said = {f"{k} {v}": True for report in reports for k, v in report.versions.items()}
    said |= {f"{k} {v}": True for file in evidence.files for k, v in file.metadata["versions"].items()}
    return ", ".join(said)


def _mapping(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, Mapping) else {}
