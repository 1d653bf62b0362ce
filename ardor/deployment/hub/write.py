"""write: a release to a folder like a repository of the Hub, read back before it is put in place."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ardor.deployment.export.metadata import figures
from ardor.deployment.export.onnx_graph import IMAGES, LOGITS
from ardor.deployment.export.seal import probe
from ardor.deployment.hub.card import CARD, Words, card
from ardor.deployment.hub.folder import put
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.release import Evidence, Release, evidence_of
from ardor.deployment.hub.upload import require_repository
from ardor.errors import ArdorError, ConfigError, ExportError
from ardor.models import hash_of, require_fit
from ardor.models.builders import known
from ardor.models.hub import CONFIG, WEIGHTS, from_folder
from ardor.storage.imports import require_package
from ardor.version import __version__


@dataclass(frozen=True)
class Written:
    """A folder that was written. sizes: bytes by file. left_out: what was not, and why. notes: what to know of it."""

    folder: Path
    sizes: dict[str, int]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.folder}", "", "| file | kB |", "|:--|--:|"]
        lines += [f"| {name} | {size / 1e3:.1f} |" for name, size in self.sizes.items()]
        lines += [f"left out: {what}" for what in self.left_out]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def write_folder(
    release: Release,
    folder: str | Path,
    *,
    repository: str | None = None,
    license: str | None = None,
    about: str = "",
    force: bool = False,
) -> Written:
    """Write model.safetensors, config.json, the ONNX files, a model card and SHA256SUMS into `folder`.

    The weights are those of `release.net` bit by bit: the net is loaded back from the folder and compared before it is
    put in place, whole or not at all. Only a folder that this wrote, unchanged, is replaced. Reports and files of
    other weights are left out, and `Written` says so. repository: OWNER/NAME, for the card. license: as the Hub names
    it, in the card only where it is given. about: Markdown of your own for the card. force: write a card that says
    "not evaluated" where there is no report of these weights.

    Raises ConfigError for words that do not fit, a net that is not one of `ardor.models`, no report or no
    huggingface_hub, ModelError where net and images do not fit, RunError for a folder that holds something else or
    cannot be written, ExportError where the folder would not give the same net.
    """
    folder = Path(folder)
    require_package("huggingface_hub", "hub", "a model card")
    _require_words(repository, license)
    arguments = _arguments(release.net)
    require_fit(release.net, release.shape, len(release.class_names), "net")
    evidence = evidence_of(release)
    if not evidence.reports and not force:
        others = f", only {len(release.reports)} of others" if release.reports else ""
        raise ConfigError(
            f"expected a report of the weights {evidence.weights} of {release.name}, got none{others}: type ardor "
            'evaluate RUN first, or --force (force=True) for a card that says "not evaluated"'
        )

    def fill(place: Path) -> None:
        _save(release.net, arguments, place / WEIGHTS)
        for file in evidence.files:
            shutil.copyfile(file.path, place / file.path.name)
        said = json.dumps(_config(release, evidence, arguments, place), indent=2, allow_nan=False)
        text = card(release, evidence, folder.resolve().name, _sizes(place), Words(repository, license, about))
        (place / CONFIG).write_text(said + "\n", encoding="utf-8")
        (place / CARD).write_text(text, encoding="utf-8")
        _require_same(release, place)

    put(folder, fill)
    return Written(folder, _sizes(folder), evidence.left_out, _notes(evidence))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _require_words(repository: str | None, license: str | None) -> None:
    if repository is not None:
        require_repository(repository)
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ConfigError(f'expected a license as the Hub names it, got "{license}": type mit or apache-2.0, say')


def _arguments(net: nn.Module) -> dict[str, Any]:
    """The arguments of `build`, without the seed that the weights once began with."""
    made = {key: value for key, value in getattr(net, "built_as", {}).items() if key != "seed"}
    if not known(str(made.get("name"))):
        raise ConfigError(
            f"expected a net of ardor.models, got {made.get('name', type(net).__name__)}: only those are loaded from "
            "the Hub without running a stranger's code; upload others with your own code beside them"
        )
    return made


def _save(net: nn.Module, arguments: Mapping[str, Any], path: Path) -> None:
    # copies, because tensors that share memory are refused by the format
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in net.state_dict().items()
    }
    try:
        save_file(state, path, {"format": "pt", "net": json.dumps(arguments)})
    except SafetensorError as error:  # it wraps the system's refusal: a full disk, say
        raise OSError(str(error)) from error


def _config(release: Release, evidence: Evidence, arguments: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """What config.json says: `ardor`, which loading reads, and the rest for other readers."""
    names = list(map(str, release.class_names))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place.iterdir())}
    threats = [report.threat for report in evidence.reports]
    said: dict[str, Any] = {
        "ardor": arguments,
        "architectures": [arguments["name"]],
        "weights": evidence.weights,
        "sha256": hashes,
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        "input": {
            "name": IMAGES,
            "layout": "NCHW",
            "shape": list(release.shape),
            "dtype": "float32",
            "range": [0, 1],
            "normalisation": "inside",
        },
        "output": {"name": LOGITS, "dtype": "float32"},
        "threats": [threat for k, threat in enumerate(threats) if threat not in threats[:k]],
        "evaluations": [figures(report) for report in evidence.reports],
        "training": trained(release.training),
        "versions": {"ardor": __version__, "torch": str(torch.__version__)},
    }
    return dict(redact(said))


@torch.no_grad()
def _require_same(release: Release, place: Path) -> None:
    """Load the net back from the folder: the same weights, and the same logits bit by bit. Raises ExportError."""
    net, x = copy.deepcopy(release.net).cpu().eval(), probe(release.shape)
    try:
        back, _ = from_folder(place)
        same = hash_of(back) == hash_of(net) and torch.equal(back.eval()(x), net(x))
    except ArdorError:  # it cannot be built as it says, or holds other numbers than its options give
        same = False
    if not same:
        raise ExportError(
            f"expected the folder to give the net {hash_of(net)} back with the same logits, got another: nothing was "
            "written; build the net with ardor.models.build and its options, and change no layer of it"
        )


def _notes(evidence: Evidence) -> tuple[str, ...]:
    """What an exported file tells the world that the card does not: its metadata is sealed and goes as it is."""
    said = [(file.path.name, str(file.metadata["check"]["name"])) for file in evidence.files]
    return tuple(
        f"{name} says {where} in its metadata, for everybody" for name, where in said if redact(where) != where
    )
