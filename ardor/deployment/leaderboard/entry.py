"""Entry: one net with its figures and the verdicts that they follow from, as one file that is checked when it is read.

A net of the package has one in its folder, `entry.json`; a leaderboard is a folder of them, NAME.json each. Nothing in
an entry names code, and no figure in it is taken as it is written: each follows from the verdicts, or from the net.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch

from ardor.deployment.variants.comparison import DeploymentReport
from ardor.errors import ArdorError, ConfigError, shown
from ardor.evaluation.claim import Claim, changed_attacks, claim_of
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.protocol import same_threat, threat_text
from ardor.evaluation.report import Report
from ardor.models import build
from ardor.models.builders import is_named
from ardor.models.hub import CONFIG, WEIGHTS
from ardor.models.timm_nets import untrained
from ardor.models.zoo import PREFIX, folder_of, require_unaltered, shipped
from ardor.storage.config import build as build_object
from ardor.storage.config import describe
from ardor.storage.files import write_text
from ardor.storage.reading import checked, read_json
from ardor.storage.runs import mapping
from ardor.storage.sums import recorded
from ardor.storage.trust import require_no_code

FORMAT = "ardor-entry-1"
ENTRY, RECIPE = "entry.json", "recipe.yaml"
SUITE = "autoattack"
LARGEST = 1 << 22
"""Bytes of a file: the verdicts of 10,000 images under AutoAttack take 200,000."""
NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
"""Of an entry: it becomes part of paths and pages."""


class _Content(TypedDict):
    """The keys of an entry's file."""

    format: str
    name: str
    net: dict[str, Any]
    weights: str
    parameters: int
    macs: int
    size: int
    licence: str
    training: dict[str, Any]
    made: list[str]
    report: dict[str, Any]
    deployed: dict[str, Any] | None


@dataclass(frozen=True)
class Entry:
    """A net of the package or of a leaderboard.

    Parameters
    ----------
    name : str
        Its name: small letters, digits, and `-`, `_` or `.` between them.
    net : dict
        The arguments of `ardor.models.build`.
    weights : str
        `hash_of` the net.
    parameters, macs : int
        Learned numbers; multiply-accumulates of one image.
    size : int
        Bytes of its file of weights.
    licence : str
        Of the weights.
    training : dict
        The config of its run, without places on a machine.
    made : tuple of str
        The commands that made the net and this entry.
    report : Report
        Its evaluation by AutoAttack on test images.
    deployed : DeploymentReport or None
        Float32, ONNX and INT8 side by side.
    """

    name: str
    net: dict[str, Any]
    weights: str
    parameters: int
    macs: int
    size: int
    licence: str
    training: dict[str, Any]
    made: tuple[str, ...]
    report: Report
    deployed: DeploymentReport | None = field(default=None)

    suite: ClassVar[str] = SUITE

    @property
    def clean(self) -> Proportion:
        """Clean accuracy."""
        return self.report.clean

    @property
    def robust(self) -> Proportion:
        """Accuracy under AutoAttack."""
        return self.report.worst_case

    @property
    def method(self) -> str:
        """The name of the method of training; "" where it is not recorded."""
        return str(mapping(self.training.get("method")).get("name") or "")

    @property
    def teacher(self) -> str:
        """The name of the teacher; "" for a method without."""
        teacher = self.training.get("teacher")
        return str(mapping(teacher).get("name") or (teacher if isinstance(teacher, str) else ""))

    @property
    def claim(self) -> Claim:
        """The report as a claim for RobustBench."""
        return claim_of(self.report)

    def as_dict(self) -> dict[str, Any]:
        """The figures for other programs, and what they are of; not the content of the file."""
        return {
            "name": self.name,
            "data": self.report.data["name"],
            "threat": threat_text(self.report.threat),
            "suite": self.report.suite,
            "n": self.report.n,
            "clean": _share(self.clean),
            SUITE: _share(self.robust),
            "parameters": self.parameters,
            "macs": self.macs,
            "bytes": self.size,
            "method": self.method,
            "teacher": self.teacher,
            "licence": self.licence,
            "weights": self.weights,
            "deployed": self._deployed_figures(),
        }

    def _deployed_figures(self) -> dict[str, Any] | None:
        if self.deployed is None:
            return None
        forms = {
            form.name: {
                "bytes": form.size,
                "latency_ms": form.latency.p50,
                "clean": _share(form.report.clean),
                "worst_case": _share(form.report.worst_case),
            }
            for form in self.deployed.forms
        }
        return {"device": self.deployed.processor, "suite": self.deployed.forms[0].report.suite, **forms}

    def json(self) -> str:
        """The content of the file."""
        content = {
            "format": FORMAT,
            **{key: getattr(self, key) for key in _Content.__annotations__ if hasattr(self, key)},
            "report": _untrained(self.report.as_dict()),
            "deployed": self.deployed and self.deployed.as_dict(),
        }
        for form in (content["deployed"] or {}).get("forms", ()):
            form["report"] = _untrained(form["report"])
        return json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the file, atomically. Raises RunError."""
        return write_text(Path(path), self.json())


def _share(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"k": share.k, "n": share.n, "accuracy": share.value, "wilson95": [low, high]}


def _untrained(report: dict[str, Any]) -> dict[str, Any]:
    """A report's content without the config of training, which the entry has once."""
    return report | {"training": {}}


def load_entry(path: str | Path) -> Entry:
    """The entry in a file, checked.

    Raises
    ------
    ConfigError
        For a link, a file that is too large, damaged or of another version, a name that is none, code, figures that do
        not follow from the verdicts (with both numbers), another net's reports, and other attacks than AutoAttack's.
    """
    path = Path(path)
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"expected the file of an entry, got {path}, which is none: name a .json of a leaderboard")
    if (size := path.stat().st_size) > LARGEST:
        raise ConfigError(f"expected an entry of at most {LARGEST:,} bytes, got {path} of {size:,}: make it again")
    content = checked(read_json(path), _Content, path)
    if content["format"] != FORMAT:
        raise ConfigError(f"expected the format {FORMAT} in {path}, got {shown(content['format'], 40)}: make it again")
    own = path.parent.name if path.name == ENTRY else path.stem
    if not NAME.fullmatch(content["name"]) or content["name"] != own:
        raise ConfigError(
            f'expected the name "{own}" of small letters, digits, "-", "_" and "." in {path}, got '
            f'"{shown(content["name"], 40)}": name both alike'
        )
    for key in ("net", "training", "report", "deployed"):
        require_no_code(content[key], path, key, advice="no entry names code")
    report = Report.from_dict(content["report"], f"{path} (report)")
    report.training = content["training"]
    compared = content["deployed"]
    deployed = None if compared is None else DeploymentReport.from_dict(compared, f"{path} (deployed)")
    kept = {
        key: content[key] for key in _Content.__annotations__ if key not in ("format", "report", "deployed", "made")
    }
    entry = Entry(**kept, made=tuple(map(str, content["made"])), report=report, deployed=deployed)
    _require_own(entry, path)
    _require_protocol(report, path)
    _require_images(report, path)
    for form in deployed.forms if deployed else ():
        _require_alike(report, form.report, path)
    return entry


def _require_own(entry: Entry, path: Path) -> None:
    """Refuse reports of another net, and sizes that are not the net's. Raises ConfigError."""
    of = {"its report": entry.report.model.get("hash")}
    if entry.deployed is not None:
        of |= {
            "its comparison": entry.deployed.weights,
            "its float32 form": entry.deployed.forms[0].report.model.get("hash"),
        }
    if other := next(
        (f"{what} of {shown(weights, 40)}" for what, weights in of.items() if weights != entry.weights), None
    ):
        raise ConfigError(
            f"expected figures of the weights {shown(entry.weights, 40)} in {path}, got {other}: make it again"
        )
    stated = [entry.parameters, *([entry.deployed.parameters] if entry.deployed else [])]
    computed = parameters_of(entry.net, path)
    if any(number != computed for number in stated):
        wrong = next(number for number in stated if number != computed)
        raise ConfigError(f"expected {computed:,} parameters, as the net in {path} has, got {wrong:,}: make it again")
    if least := next((key for key in ("macs", "size") if getattr(entry, key) < 1), None):
        raise ConfigError(f"expected {least} of 1 or more in {path}, got {getattr(entry, least):,}: make it again")
    if entry.deployed and entry.deployed.macs != entry.macs:
        raise ConfigError(f"expected {entry.macs:,} MACs in {path}, got {entry.deployed.macs:,}: make it again")


def parameters_of(net: Mapping[str, Any], path: Path) -> int:
    """The parameters of the net that a config describes, without its memory. Raises ConfigError."""
    if not is_named(str(net.get("name"))):
        raise ConfigError(f"expected a net of ardor in {path}, got {shown(net.get('name'), 40)}: only those are listed")
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build(**untrained(net)).parameters())  # no request for timm's weights
    except (ArdorError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"expected a net that can be built in {path}, got {shown(error, 200)}: make it again"
        ) from error


def _require_protocol(report: Report, path: Path) -> None:
    """Refuse what is not AutoAttack on test images, and evaluations that are unsound. Raises ConfigError."""
    if report.suite != SUITE or report.data["part"] != "test":
        got = f"the suite {shown(report.suite, 40)} on {shown(report.data['part'], 40)}"
        raise ConfigError(f"expected the suite {SUITE} on test images in {path}, got {got}: type ardor push RUN again")
    try:
        sound = same_threat(report.threat, describe(build_object(report.threat, "threat")))
    except ArdorError:
        sound = False
    if not sound:
        raise ConfigError(
            f"expected Linf or L2 with a radius on the [0, 1] scale in {path}, got "
            f"{shown(threat_text(report.threat), 40)}: make it again"
        )
    if changed := changed_attacks(report):
        raise ConfigError(
            f"expected the attacks of AutoAttack in {path}, got others ({changed}): evaluate with its own"
        )
    if finding := next((finding for finding in report.findings if finding.severity == "error"), None):
        raise ConfigError(
            f"expected a sound evaluation in {path}, got {shown(finding.name, 40)}: {shown(finding.next)}"
        )


def _require_images(report: Report, path: Path) -> None:
    """Refuse images that are counted twice, and those of an unnamed part of unknown ones. Raises ConfigError."""
    data, rows = report.data, report.index
    problem = ""
    if "hash" not in data or "of" not in data:
        problem = "no hash of the images, or no number of all of them"
    elif len(set(rows)) < len(rows) or min(rows) < 0:
        problem = "an image twice, or one before the first"
    elif len(rows) > data["of"]:
        problem = f"{len(rows):,} of {data['of']:,}"
    if problem:
        raise ConfigError(f"expected each test image once in {path}, got {problem}: make it again")


def _require_alike(report: Report, compared: Report, path: Path) -> None:
    """Refuse a comparison under another threat, or of other data, than the report beside it. Raises ConfigError."""
    wanted, got = (
        f"{of.data['name']} ({of.data['part']}), {threat_text(of.threat)}, suite {suite}"
        for of, suite in ((report, "deployed"), (compared, compared.suite))
    )
    if wanted != got:
        raise ConfigError(
            f"expected a comparison on {shown(wanted)} in {path}, got one on {shown(got)}: type ardor deploy RUN again"
        )


def unevaluated() -> list[str]:
    """The names of the package's nets whose evaluation is not finished: without an entry. Raises CheckpointError."""
    return [name for name in shipped() if not _is_evaluated(folder_of(name))]


def _is_evaluated(folder: Path) -> bool:
    require_unaltered(folder, ())  # there is a record of the files
    return (folder / ENTRY).exists() or ENTRY in recorded(folder)


def shipped_entry(name: str) -> Entry:
    """The entry of a net of the package, of its present files.

    Raises
    ------
    ConfigError
        As `load_entry`; for a name that does not exist, with the nearest right one; for a net that is not evaluated.
    CheckpointError
        For a file that was altered.
    """
    folder = folder_of(name)
    if not _is_evaluated(folder):
        raise ConfigError(
            f"expected a net with an entry, got {name}, whose evaluation is not finished: its card is "
            f'{folder / "README.md"}, and ardor.models.load("{PREFIX}{folder.name}") loads it'
        )
    require_unaltered(folder, (CONFIG, ENTRY, WEIGHTS))
    entry = load_entry(folder / ENTRY)
    weights = read_json(folder / CONFIG).get("weights")
    if weights != entry.weights:
        raise ConfigError(
            f"expected the entry of the weights {shown(weights, 40)} in {folder}, got one of {entry.weights}: "
            "make it again"
        )
    return entry


def entries(folder: Path | None = None) -> list[Entry]:
    """The entries of the package's nets that have one, and those of a leaderboard's folder, by name.

    Raises ConfigError, and CheckpointError for a file of the package that was altered.
    """
    own = [shipped_entry(name) for name in shipped() if _is_evaluated(folder_of(name))]
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"expected the folder of a leaderboard, got {folder}, which is none: check the path")
    others = [] if folder is None else [load_entry(path) for path in sorted(folder.glob("*.json"))]
    names = {entry.name: entry.weights for entry in own}
    if twice := next((e.name for e in others if names.get(e.name, e.weights) != e.weights), None):
        raise ConfigError(f"expected one net called {twice}, got another of the package: name yours otherwise")
    return own + [entry for entry in others if entry.name not in names]
