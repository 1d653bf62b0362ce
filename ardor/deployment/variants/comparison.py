"""Deployed: the forms of one net side by side, as a value that is saved, loaded with checks, and shown as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from ardor.deployment.variants.latency import Latency
from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.storage.files import write_atomic

FORMAT = "ardor-deployed-1"
VARIANTS = {"float32": "float32", "onnx": "ONNX", "onnx-int8": "INT8"}
"""What is compared, the net itself (in PyTorch) first, and how it is called."""

ANSWERS = {"transfer": "all transfer attacks", "white-box": "all white-box attacks", "query": "all query attacks"}


@dataclass(frozen=True)
class Variant:
    """One form of a net.

    name: one of `FORMS`. file, size, sha256: what a device would be given, its bytes and their hash. report: what the
    form withstands; kept: the name of its file. same: images on which it predicts as the net does, clean ones and
    adversarial ones made against the net. forced: how the file misses the net, where its export was forced.
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
    """The forms of one net, the net itself first, judged on the same images under the same attacks.

    checkpoint: of its run. weights: their hash. parameters: learned numbers. macs: multiply-accumulates of one image.
    attack: what made the adversarial images that predictions are compared on. processor, versions: of the latency,
    which was taken with one thread and one image at a time.
    """

    checkpoint: str
    weights: str
    parameters: int
    macs: int
    forms: tuple[Variant, ...]
    attack: dict[str, Any]
    processor: str
    versions: dict[str, str]

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """Of each file, by figure: its accuracy less that of the net, with McNemar's test.

        Raises ConfigError where they were not judged on the same images by the same attacks.
        """
        net = self.forms[0].report
        return {form.name: compare([form.report], [net], (form.name, "float32")).figures for form in self.forms[1:]}

    def rows(self) -> Iterator[tuple[str, str, list[str]]]:
        """The table: group, quantity, and a cell for each form."""
        forms = self.forms
        yield "cost", "size", [size_text(form.size) for form in forms]
        yield "cost", "parameters", [f"{self.parameters:,}"] * len(forms)
        yield "cost", "MACs", [f"{self.macs:,}"] * len(forms)
        yield "cost", "latency p50, ms", [f"{form.latency.p50:.3g}" for form in forms]
        yield "cost", "latency p95, ms", [f"{form.latency.p95:.3g}" for form in forms]
        figures = [form.report.figures() for form in forms]
        kinds = [form.report.by_access() for form in forms]
        for name in [name for name in figures[0] if name != "worst_case"]:
            queries = forms[0].report.attacks[name].get("queries") if name in forms[0].report.attacks else None
            said = name if queries is None else f"{name}, {queries:,} queries"
            yield "correct, %", said, [_percent(of[name]) for of in figures]
        for name in kinds[0]:
            yield "correct, %", ANSWERS.get(name, name), [_percent(of[name]) for of in kinds]
        yield "correct, %", "worst case", [_percent(of["worst_case"]) for of in figures]
        yield "correct, %", "95 % interval", [_span(of["worst_case"].interval) for of in figures]
        for word, k in (("clean", 0), ("adversarial", 1)):
            yield "against float32", f"equal predictions, {word}, %", ["", *(_percent(f.same[k]) for f in forms[1:])]
        for word in ("clean", "worst_case"):
            found = [self.differences[form.name][word] for form in forms[1:]]
            called = word.replace("_", " ")
            yield "against float32", f"{called}, points", ["", *(f"{100 * d.value:+.2f}" for d in found)]
            yield "against float32", f"{called}, McNemar p", ["", *(p_text(d.p) for d in found)]

    def __str__(self) -> str:
        report = self.forms[0].report
        lines = [
            f"{report.n} images of {report.data['name']} ({report.data['part']}), {report.threat['name']} eps "
            f"{report.threat.get('eps')}; latency of {self.forms[0].latency.runs} runs each, one thread, one image, on "
            f"{self.processor}",
            "",
            "| | " + " | ".join(VARIANTS.get(form.name, form.name) for form in self.forms) + " |",
            "|:--|" + "--:|" * len(self.forms),
        ]
        for group, rows in groupby(self.rows(), key=lambda row: row[0]):
            lines.append(f"| **{group}** |" + " |" * len(self.forms))
            lines += [f"| {quantity} | {' | '.join(cells)} |" for _, quantity, cells in rows]
        for form in self.forms:
            lines += [f"warning: {form.file} was forced, with {miss}" for miss in form.forced]
            lines += [f"{VARIANTS[form.name]}: {finding}" for finding in form.report.findings]
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all, beside the forms' reports, of which it holds names and hashes.

        Raises RunError, and ConfigError where a report is not there.
        """
        path = Path(path)
        said = {"format": FORMAT, **{k: v for k, v in vars(self).items() if k not in ("forms", "differences")}}
        text = json.dumps(said | {"forms": [_said(self, form, path.parent) for form in self.forms]}, indent=1)
        return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @staticmethod
    def load(path: str | Path) -> DeploymentReport:
        """Read what `save` wrote, with the reports beside it as they were then. Raises ConfigError."""
        path = Path(path)
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said.pop("format") != FORMAT:
                raise KeyError("format")
            forms = tuple(_form(form, path.parent) for form in said.pop("forms"))
            if [form.name for form in forms] != list(VARIANTS)[: len(forms)] or not forms:
                raise ValueError("forms")
            made = DeploymentReport(**said, forms=forms)
            made.differences  # noqa: B018  # judged alike, or refused
        except OSError as error:
            raise ConfigError(f"expected a comparison of forms, got {path}: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"expected {path} as `ardor deploy` wrote it, got {type(error).__name__} ({error}): type ardor deploy "
                "RUN again"
            ) from error
        return made


def _said(whole: DeploymentReport, form: Variant, folder: Path) -> dict[str, Any]:
    """A form as JSON can say it; its figures are said too, for readers, and follow from the report."""
    figures = {k: {"k": p.k, "n": p.n} for k, p in {**form.report.figures(), **form.report.by_access()}.items()}
    beside = {
        name: {"difference": d.value, "interval95": list(d.images), "mcnemar_p": d.p}
        for name, d in whole.differences.get(form.name, {}).items()
        if name in ("clean", "worst_case")
    }
    return {
        **{k: getattr(form, k) for k in ("name", "file", "size", "sha256", "kept")},
        "kept_sha256": _digest(folder / form.kept),
        "latency_ms": asdict(form.latency),
        "same": [[p.k, p.n] for p in form.same],
        "forced": list(form.forced),
        "figures": figures,
        "beside_float32": beside,
    }


def _form(said: dict[str, Any], folder: Path) -> Variant:
    """A form with its report, both as they were. Raises ValueError and what a wrong shape raises."""
    if Path(said["kept"]).name != said["kept"] or _digest(folder / said["kept"]) != said["kept_sha256"]:
        raise ValueError(f"another report {said['kept']}")
    clean, adversarial = (Proportion(k, n) for k, n in said["same"])
    return Variant(
        **{k: said[k] for k in ("name", "file", "size", "sha256", "kept")},
        latency=Latency(**said["latency_ms"]),
        report=Report.load(folder / said["kept"]),
        same=(clean, adversarial),
        forced=tuple(said["forced"]),
    )


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise ConfigError(
            f"expected the report {path} of a comparison, got {error.strerror}: type ardor deploy RUN again"
        ) from error


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def size_text(size: float) -> str:
    """Bytes as a person says them, in powers of ten: 21.3 kB, 9.09 MB."""
    return f"{size / 1e6:.3g} MB" if size >= 999_500 else f"{size / 1e3:.3g} kB"


def p_text(p: float) -> str:
    """A p with two digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _percent(share: Proportion) -> str:
    return f"{100 * share.value:.2f}"


def _span(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"
