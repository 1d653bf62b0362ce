"""write_folder: a release to a folder like a repository of the Hub, loaded back before it is put in place."""

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
from torch import Tensor, nn

from ardor.deployment.export.formats import figures, interface_of
from ardor.deployment.export.seal import probe
from ardor.deployment.hub.card import CARD, card
from ardor.deployment.hub.folder import put
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.release import Evidence, Release, evidence_of
from ardor.deployment.hub.upload import require_repository
from ardor.errors import ArdorError, ConfigError, ExportError
from ardor.models import hash_of, require_fit
from ardor.models.builders import is_named
from ardor.models.hub import CONFIG, WEIGHTS, from_folder
from ardor.storage.imports import require_package
from ardor.storage.tensors import as_bytes
from ardor.version import __version__


@dataclass(frozen=True)
class Written:
    """A folder that was written.

    Attributes
    ----------
    folder : Path
        The folder.
    sizes : dict
        Bytes by file.
    left_out : tuple of str
        The reports and files that are not in it, with the reason.
    notes : tuple of str
        What its files publish beside the card.
    """

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
    out: str | Path,
    *,
    repository: str | None = None,
    license: str | None = None,
    about: str = "",
    force: bool = False,
    load_as: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> Written:
    """Write model.safetensors, config.json, the ONNX files, a model card and SHA256SUMS into a folder.

    The weights are those of the net bit by bit: the net is loaded back from the folder and compared before the folder
    is put in place, completely or not at all. Only a folder that this function wrote, unchanged, is replaced.

    Parameters
    ----------
    release : Release
        The net, its reports and its files; those of other weights are left out.
    out : str or Path
        The folder.
    repository : str or None
        OWNER/NAME, for the card.
    license : str or None
        The Hub's name of it, for the card; no default.
    about : str
        Markdown for the card.
    force : bool
        Write a card with "not evaluated" where there is no report of these weights.
    load_as : str or None
        The name that loads the net, for the card, where it is neither `hf:OWNER/NAME` nor `hf:./FOLDER`.
    texts : mapping or None
        Further files by name, with their content.

    Raises
    ------
    ConfigError: arguments that do not fit, a net that is not of `ardor.models`, no report or no huggingface_hub.
    ModelError: net and images do not fit. RunError: a folder with other content, or one that cannot be written.
    ExportError: the folder would give another net.
    """
    folder = Path(out)
    require_package("huggingface_hub", "hub", "a model card")
    if repository is not None:
        require_repository(repository)
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ConfigError(f'expected a license as the Hub names it, got "{license}": type mit or apache-2.0, say')
    arguments = _arguments(release.net)
    require_fit(release.net, release.shape, len(release.class_names), "net")
    evidence = evidence_of(release)
    if not evidence.reports and not force:
        others = f", only {len(release.reports)} of others" if release.reports else ""
        raise ConfigError(
            f"expected a report of the weights {evidence.weights} of {release.name}, got none{others}: type ardor "
            'evaluate RUN first, or --force for a card with "not evaluated"'
        )

    def fill(place: Path) -> None:
        (place / WEIGHTS).write_bytes(weights_of(release.net))
        for file in evidence.files:
            shutil.copyfile(file.path, place / file.path.name)
        config = json.dumps(_config(release, evidence, arguments, place), indent=2, allow_nan=False)
        for name, content in (texts or {}).items():
            (place / name).write_text(content, encoding="utf-8")
        place_name = folder.resolve().name
        text = card(release, evidence, place_name, _sizes(place), repository, license, about, load_as=load_as)
        (place / CONFIG).write_text(config + "\n", encoding="utf-8")
        (place / CARD).write_text(text, encoding="utf-8")
        _require_same(release, place)

    put(folder, fill)
    names = [(file.path.name, str(file.metadata["check"]["name"])) for file in evidence.files]
    # metadata are sealed and published unchanged
    notes = (f"{name} has {data} in its metadata, for everybody" for name, data in names if redact(data) != data)
    return Written(folder, _sizes(folder), evidence.left_out, tuple(notes))


def weights_of(net: nn.Module) -> bytes:
    """The content of model.safetensors: matrices whose values are all of float16 take half the bytes. ConfigError."""
    # copies, because the format refuses tensors that share memory
    state = {k: _narrowed(v.detach().cpu().contiguous().clone()) for k, v in net.state_dict().items()}
    return as_bytes(state, {"format": "pt", "net": json.dumps(_arguments(net))})


def _narrowed(value: Tensor) -> Tensor:
    half = value.half() if value.dtype == torch.float32 and value.ndim > 1 else value
    return half if torch.equal(half.to(value.dtype), value) else value


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _arguments(net: nn.Module) -> dict[str, Any]:
    """The arguments of `build`, without the seed of the initial weights. Raises ConfigError."""
    arguments = {key: value for key, value in getattr(net, "built_as", {}).items() if key != "seed"}
    if not is_named(str(arguments.get("name"))):
        raise ConfigError(
            f"expected a net of ardor.models, got {arguments.get('name', type(net).__name__)}: only those are loaded "
            "from the Hub without running a stranger's code; upload others with your own code beside them"
        )
    return arguments


def _config(release: Release, evidence: Evidence, arguments: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The content of config.json: `ardor`, which loading reads, and the rest for other readers."""
    names = list(map(str, release.class_names))
    threats = [report.threat for report in evidence.reports]
    config: dict[str, Any] = {
        "ardor": arguments,
        "architectures": [arguments["name"]],
        "weights": evidence.weights,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place.iterdir())},
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        **interface_of(release.shape),
        "threats": [threat for k, threat in enumerate(threats) if threat not in threats[:k]],
        "evaluations": [figures(report) for report in evidence.reports],
        "training": trained(release.training),
        "versions": {"ardor": __version__, "torch": str(torch.__version__)},
    }
    return dict(redact(config))


@torch.no_grad()
def _require_same(release: Release, place: Path) -> None:
    """Load the net back from the folder: the same weights, and the same logits bit by bit. Raises ExportError."""
    net, x = copy.deepcopy(release.net).cpu().eval(), probe(release.shape)
    try:
        back, _ = from_folder(place)
        same = hash_of(back) == hash_of(net) and torch.equal(back.eval()(x), net(x))
    except ArdorError:  # it cannot be built from its options, or their mean and std are not the net's
        same = False
    if not same:
        raise ExportError(
            f"expected the folder to give the net {hash_of(net)} back with the same logits, got another: nothing was "
            "written; build the net with ardor.models.build and its options, and change no layer of it"
        )
