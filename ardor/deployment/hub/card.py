"""card: the model card, README.md: the net, the evidence of its robustness, and the limits of that evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from ardor.deployment.export.parity import Match, Parity
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.release import Evidence, OnnxFile, Release
from ardor.errors import printable
from ardor.evaluation.report import Report
from ardor.models.hub import WEIGHTS
from ardor.storage.config import plain, to_yaml
from ardor.storage.imports import require_package
from ardor.storage.markdown import block, code, inline
from ardor.storage.runs import mapping

CARD = "README.md"
TITLE = "title of the report"


ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""The name of a data set in ardor -> on the Hub."""


def card(
    release: Release, evidence: Evidence, place: str, sizes: Mapping[str, int],
    repository: str | None, license: str | None, about: str, *, load_as: str | None = None,
) -> str:  # fmt: skip
    """The text of README.md: the Hub's metadata, then Markdown.

    Parameters
    ----------
    release, evidence : Release, Evidence
        The net, and what is of its weights.
    place : str
        The folder's name.
    sizes : mapping
        Bytes by file.
    repository, license, about : str or None, str or None, str
        As in `write_folder`.
    load_as : str or None
        As in `write_folder`.

    Raises
    ------
    ConfigError: no huggingface_hub.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"plain": plain, "redact": redact, "inline": inline, "code": code, "block": block}
    template = environment.from_string(files("ardor.deployment.hub").joinpath("card.md").read_text(encoding="utf-8"))
    config = trained(release.training)
    name = " ".join(printable(repository.partition("/")[2] if repository else release.name).split())
    judged = [(file.path.name if file else WEIGHTS, report) for file, report in evidence.judged]
    versions = [report.versions for _, report in judged] + [file.metadata["versions"] for file in evidence.files]
    return template.render(
        metadata=_metadata(config, evidence, name, license).to_yaml().strip(),
        release=release,
        evidence=evidence,
        repository=repository,
        about=about.strip(),
        name=name,
        place=place,
        load_as=load_as or f"hf:{repository or f'./{place}'}",
        kind=mapping(release.net.built_as).get("name") or type(release.net).__name__,
        parameters=sum(p.numel() for p in release.net.parameters()),
        config=config,
        config_yaml=to_yaml(config).strip(),
        tables=[_table(file, report) for file, report in judged],
        threats=list(dict.fromkeys(_threat(report) for report in evidence.reports)),
        attacks=list(_attacks(judged)),
        suites=sorted({report.suite for report in evidence.reports}),
        worst=[_worst(report) for report in evidence.reports],
        doubts=list(_doubts(judged)),
        unsound=sorted({file for file, report in judged if _unsound(report)}),
        files=[_file(file) for file in evidence.files],
        sizes=sizes,
        versions=", ".join(dict.fromkeys(f"{k} {v}" for each in versions for k, v in each.items())),
    )


def _metadata(config: Mapping[str, Any], evidence: Evidence, name: str, license: str | None) -> Any:
    hub = require_package("huggingface_hub", "hub", "a model card")
    method = mapping(config.get("method")).get("name")
    data = ON_THE_HUB.get(str(mapping(config.get("data")).get("name")))
    # of each suite and threat the report of the most images: one of a few images is no second figure
    largest = {(r.suite, str(r.threat)): r for r in sorted(evidence.reports, key=lambda report: report.n)}.values()
    results: list[Any] = []
    for report in evidence.reports:
        if report in largest and not _unsound(report):
            # two suites on the same images have the same clean accuracy
            results += [result for result in _results(hub, report) if result not in results]
    ours = [method] if method and ":" not in method else []
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


def _results(hub: Any, report: Report) -> Iterator[Any]:
    """Each accuracy in the Hub's metadata: a share in [0, 1], with n and its interval."""
    data = str(redact(report.data["name"]))
    for attack, share in report.figures().items():
        robust = f"robust accuracy ({attack}, suite {report.suite}, {_threat(report)})"
        yield hub.EvalResult(
            task_type="image-classification",
            dataset_type=ON_THE_HUB.get(data, data),
            dataset_name=data,
            dataset_split=report.data["part"],
            metric_type="accuracy",
            metric_name="clean accuracy" if attack == "clean" else robust,
            metric_value=round(share.value, 4),
            metric_args={"n": share.n, "correct": share.k, "wilson95": [round(end, 4) for end in share.interval]},
        )


def _threat(report: Report) -> str:
    return f"{report.threat['name']} eps {report.threat['eps']}"


def _table(file: str, report: Report) -> str:
    """A report's table; the findings of all have a section of the card."""
    data = report.data | {"name": redact(report.data["name"])}
    title = f"**{inline(file)}**, suite {code(report.suite)},"
    text = replace(report, title=TITLE, data=data, findings=[]).table().replace(TITLE, title, 1)
    text = text.replace("\nEach attack saw", ". Each attack saw").replace("\nworst class: ", "\n\nWorst class: ")
    return str(redact(text.replace("\n\n\n", "\n\n")))


def _file(file: OnnxFile) -> dict[str, Any]:
    parity = file.metadata["parity"]
    table = Parity(Match(**parity["clean"]), Match(**parity["adversarial"]), parity["attack"])
    return {"name": file.path.name, **file.metadata, "parity": str(table), "attack": parity["attack"]}


def _attacks(judged: list[tuple[str, Report]]) -> Iterator[str]:
    """Every attack once with its hyperparameters, and with its suites where another one has its name."""
    suites: dict[tuple[str, str], dict[str, None]] = {}
    for _, report in judged:
        for name, attack in report.attacks.items():
            suites.setdefault((name, plain(attack)), {})[report.suite] = None
    names = [name for name, _ in suites]
    for (name, settings), of in suites.items():
        suite = f", suite {' and '.join(map(code, of))}" if names.count(name) > 1 else ""
        yield f"{code(name)}{suite}: {inline(settings)}"


def _doubts(judged: list[tuple[str, Report]]) -> Iterator[str]:
    """Every mark and finding once, errors first, with the files that it is of."""
    doubts: dict[str, dict[str, bool]] = {}
    for severity in ("error", "warning", "note"):
        for file, report in judged:
            marks = [f"warning: {mark}" for mark in report.data.get("marks", [])] if severity == "warning" else []
            for text in [*marks, *(str(f) for f in report.findings if f.severity == severity)]:
                doubts.setdefault(str(redact(text)), {})[file] = True
    for text, of in doubts.items():
        yield inline(f"{text} ({', '.join(of)})")


def _unsound(report: Report) -> bool:
    return any(finding.severity == "error" for finding in report.findings)


def _worst(report: Report) -> str:
    name, share = min(report.per_class().items(), key=lambda row: row[1].value)
    return inline(f"{name} ({share.k} of {share.n}, suite {report.suite})")
