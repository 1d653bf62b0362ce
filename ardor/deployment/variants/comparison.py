"""DeploymentReport: the variants of one net side by side, saved, loaded with checks, and shown as a table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Required, TypedDict

from ardor.deployment.variants.latency import Latency
from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.comparison.significance import p_text
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.protocol import queries_of, title_of
from ardor.evaluation.report import Report
from ardor.storage.files import write_text
from ardor.storage.markdown import inline
from ardor.storage.reading import checked, read_json

FORMAT = "ardor-deployed-1"
VARIANTS = {"float32": "float32", "onnx": "ONNX", "onnx-int8": "INT8"}
"""The variants, the net itself (in PyTorch) first, with their titles."""

ANSWERS = {"transfer": "all transfer attacks", "white-box": "all white-box attacks", "query": "all query attacks"}


@dataclass(frozen=True)
class Variant:
    """One variant of a net: a file for a device, its latency, and its robustness.

    Attributes
    ----------
    name : str
        One of `VARIANTS`.
    file, size, sha256 : str, int, str
        The name of the file, its bytes and their hash.
    latency : Latency
        Of one image.
    report : Report
        Its evaluation.
    kept : str
        The name of the report's file.
    same : tuple of Proportion
        Images with the net's prediction: clean ones, and adversarial ones made against the net.
    forced : tuple of str
        The requirements that the file misses, where its export was forced.
    """

    name: str
    file: str
    size: int
    sha256: str
    latency: Latency
    report: Report
    kept: str
    same: tuple[Proportion, Proportion]
    forced: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeploymentReport:
    """The variants of one net, the net itself first, evaluated on the same images under the same attacks.

    Attributes
    ----------
    checkpoint : str
        Of the net's run.
    weights : str
        The hash of the net's weights.
    parameters : int
        Learned numbers.
    macs : int
        Multiply-accumulates of one image.
    forms : tuple of Variant
        The variants.
    attack : dict
        The config of the attack whose adversarial images predictions are compared on.
    processor, versions : str, dict
        Of the latency, which is of one thread and one image at a time.
    refused : str
        Why the last variant is missing; "" where none is.
    """

    checkpoint: str
    weights: str
    parameters: int
    macs: int
    forms: tuple[Variant, ...]
    attack: dict[str, Any]
    processor: str
    versions: dict[str, str]
    refused: str = ""

    def replaces(self, other: DeploymentReport) -> bool:
        """Whether data and threat are those of `other`, and images, queries and variants no fewer."""
        ours, theirs = (
            (of.data["name"], of.data["part"], of.threat) for of in (self.forms[0].report, other.forms[0].report)
        )
        return ours == theirs and all(a >= b for a, b in zip(self._fullness, other._fullness, strict=True))

    @property
    def _fullness(self) -> tuple[int, int, int]:
        report = self.forms[0].report
        return report.n, sum(queries_of(report)), len(self.forms)

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """By variant and figure, its accuracy less that of the net, with McNemar's test.

        Raises ConfigError where they were not evaluated on the same images by the same attacks.
        """
        net = self.forms[0].report
        return {form.name: compare([form.report], [net], (form.name, "float32")).figures for form in self.forms[1:]}

    def rows(self) -> Iterator[tuple[str, str, list[str]]]:
        """The table: group, quantity, and a cell for each variant."""
        forms, net = self.forms, self.forms[0].report
        yield "cost", "size", [size_text(form.size) for form in forms]
        yield "cost", "parameters", [f"{self.parameters:,}"] * len(forms)
        yield "cost", "MACs", [f"{self.macs:,}"] * len(forms)
        latencies = alike([form.latency.p50 for form in forms] + [form.latency.p95 for form in forms])
        yield "cost", "latency p50, ms", latencies[: len(forms)]
        yield "cost", "latency p95, ms", latencies[len(forms) :]
        figures, access = [form.report.figures() for form in forms], [form.report.by_access() for form in forms]
        queries = {name: attack["queries"] for name, attack in net.attacks.items() if attack.get("queries") is not None}
        for name in (name for name in figures[0] if name != "worst_case"):
            label = f"{name}, {queries[name]:,} queries" if name in queries else name
            yield "correct, %", label, [_percent(of[name]) for of in figures]
        for name in access[0]:
            yield "correct, %", ANSWERS.get(name, name), [_percent(of[name]) for of in access]
        yield "correct, %", "worst case", [_percent(of["worst_case"]) for of in figures]
        intervals = (of["worst_case"].interval for of in figures)
        yield "correct, %", "95 % interval", [f"{100 * low:.1f}–{100 * high:.1f}" for low, high in intervals]
        for k, images in enumerate(("clean", "adversarial")):
            yield "against float32", f"equal predictions, {images}, %", ["", *(_percent(f.same[k]) for f in forms[1:])]
        for figure in ("clean", "worst_case"):
            label, differences = figure.replace("_", " "), [of[figure] for of in self.differences.values()]
            yield "against float32", f"{label}, points", ["", *(f"{100 * d.value:+.2f}" for d in differences)]
            yield "against float32", f"{label}, McNemar p", ["", *(p_text(d.p) for d in differences)]

    def __str__(self) -> str:
        report = self.forms[0].report
        lines = [
            f"{inline(title_of(report))}; latency of {self.forms[0].latency.runs} runs each, one thread, one image, on "
            f"{inline(self.processor)}",
            "",
            "| | " + " | ".join(VARIANTS.get(form.name, form.name) for form in self.forms) + " |",
            "|:--|" + "--:|" * len(self.forms),
        ]
        for group, rows in groupby(self.rows(), key=lambda row: row[0]):
            lines.append(f"| **{group}** |" + " |" * len(self.forms))
            lines += [f"| {inline(quantity)} | {' | '.join(cells)} |" for _, quantity, cells in rows]
        for form in self.forms:
            lines += [f"warning: {form.file} was forced, with {miss}" for miss in form.forced]
            lines += [f"{VARIANTS[form.name]}: {finding}" for finding in form.report.findings]
        lines += [f"warning: INT8 is missing: {self.refused}"] if self.refused else []
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, completely or not at all, beside the variants' reports, with their names and hashes.

        Raises RunError, and ConfigError where a report is missing.
        """
        path = Path(path)
        content = {"format": FORMAT, **{k: v for k, v in vars(self).items() if k not in ("forms", "differences")}}
        content["forms"] = [self._json(form, path.parent) for form in self.forms]
        text = json.dumps(content, indent=1)
        return write_text(path, text)

    def _json(self, form: Variant, folder: Path) -> dict[str, Any]:
        """A variant as JSON; its figures follow from the report, and are for other readers."""
        differences = self.differences.get(form.name, {})
        return {
            **{k: getattr(form, k) for k in PLAIN},
            "kept_sha256": digest(folder / form.kept),
            "latency_ms": asdict(form.latency),
            "same": [[p.k, p.n] for p in form.same],
            "forced": list(form.forced),
            "figures": {
                k: {"k": p.k, "n": p.n} for k, p in {**form.report.figures(), **form.report.by_access()}.items()
            },
            "beside_float32": {
                name: {"difference": d.value, "interval95": list(d.images), "mcnemar_p": d.p}
                for name, d in differences.items()
                if name in ("clean", "worst_case")
            },
        }

    def as_dict(self) -> dict[str, Any]:
        """The content of `save` with the reports in it, for one file."""
        content = {k: v for k, v in vars(self).items() if k not in ("forms", "differences")}
        return content | {"forms": [self._alone(form) for form in self.forms]}

    @staticmethod
    def _alone(form: Variant) -> dict[str, Any]:
        return {
            **{k: getattr(form, k) for k in PLAIN},
            "latency_ms": asdict(form.latency),
            "same": [[p.k, p.n] for p in form.same],
            "forced": list(form.forced),
            "report": form.report.as_dict(),
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any], path: str | Path) -> DeploymentReport:
        """The comparison whose `as_dict` was read from `path`. Raises ConfigError."""
        whole: dict[str, Any] = checked(dict(content), _Whole, path)
        forms = tuple(
            _variant_of(form, Report.from_dict(form["report"], f"{path} ({form['name']})"))
            for form in whole.pop("forms")
        )
        if [form.name for form in forms] != list(VARIANTS)[: len(forms)] or not forms:
            raise ConfigError(f"expected the forms {', '.join(VARIANTS)} in {path}, got others: make it again")
        report = DeploymentReport(**whole, forms=forms)
        report.differences  # noqa: B018  # raises unless all were evaluated alike
        return report

    @staticmethod
    def load(path: str | Path) -> DeploymentReport:
        """Read a file of `save`, with the unchanged reports beside it. Raises ConfigError."""
        path = Path(path)
        try:
            content = checked(read_json(path), _Saved, path)
            if content.pop("format") != FORMAT:
                raise KeyError("format")
            forms = tuple(_variant(form, path.parent) for form in content.pop("forms"))
            if [form.name for form in forms] != list(VARIANTS)[: len(forms)] or not forms:
                raise ValueError("forms")
            report = DeploymentReport(**content, forms=forms)
            report.differences  # noqa: B018  # raises unless all were evaluated alike
        except ConfigError as error:
            raise ConfigError(f"{error}: type ardor deploy RUN again") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"expected {path} as `ardor deploy` wrote it, got {type(error).__name__} ({error}): type ardor deploy "
                "RUN again"
            ) from error
        return report


class _Form(TypedDict, total=False):
    """The keys of a saved variant that are read."""

    name: Required[str]
    file: Required[str]
    size: Required[int]
    sha256: Required[str]
    kept: Required[str]
    kept_sha256: Required[str]
    latency_ms: Required[Latency]
    same: Required[tuple[tuple[int, int], tuple[int, int]]]
    forced: Required[list[str]]


class _Saved(TypedDict, total=False):
    """A file of `save`."""

    format: Required[str]
    checkpoint: str
    weights: str
    parameters: int
    macs: int
    forms: Required[list[_Form]]
    attack: dict[str, Any]
    processor: str
    versions: dict[str, str]
    refused: str


class _FormWithReport(TypedDict):
    """A variant in `as_dict`."""

    name: str
    file: str
    size: int
    sha256: str
    kept: str
    latency_ms: Latency
    same: tuple[tuple[int, int], tuple[int, int]]
    forced: list[str]
    report: dict[str, Any]


class _Whole(TypedDict):
    """The content of `as_dict`."""

    checkpoint: str
    weights: str
    parameters: int
    macs: int
    forms: list[_FormWithReport]
    attack: dict[str, Any]
    processor: str
    versions: dict[str, str]
    refused: str


PLAIN = ("name", "file", "size", "sha256", "kept")
"""The attributes of a variant that JSON has unchanged."""


def _variant(content: dict[str, Any], folder: Path) -> Variant:
    """A variant with its report, both as they were saved. Raises ValueError, and others for another structure."""
    report = folder / content["kept"]
    if Path(content["kept"]).name != content["kept"] or digest(report) != content["kept_sha256"]:
        raise ValueError(f"another report {content['kept']}")
    return _variant_of(content, Report.load(report))


def _variant_of(content: Mapping[str, Any], report: Report) -> Variant:
    clean, adversarial = (Proportion(k, n) for k, n in content["same"])
    return Variant(
        **{k: content[k] for k in PLAIN},
        latency=content["latency_ms"],
        report=report,
        same=(clean, adversarial),
        forced=tuple(content["forced"]),
    )


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises ConfigError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"expected {path} of a comparison, got {error.strerror}: type ardor deploy RUN again"
        ) from error


def alike(values: Sequence[float]) -> list[str]:
    """Positive numbers with the same decimals, so many that the smallest has three digits: 0.2000 and 0.0437."""
    least = min((value for value in values if value > 0), default=1.0)
    decimals = max(0, 2 - math.floor(math.log10(least)))
    return [f"{value:.{decimals}f}" for value in values]


def size_text(size: float) -> str:
    """Bytes with three digits, in powers of ten: 21.3 kB, 9.09 MB."""
    value, unit = (size / 1e6, "MB") if size >= 999_500 else (size / 1e3, "kB")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def _percent(share: Proportion) -> str:
    return f"{100 * share.value:.2f}"
