"""export: a net to a file for a device, compared with the net before it is written.

A file that does not match is refused. Its metadata (docs/reference/export.md lists the keys) contain the measured
parity and the hashes of net, data and file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.deployment.export.executorch import Lowered, Program, runner
from ardor.deployment.export.int8 import quantised, require_training
from ardor.deployment.export.onnx_graph import IMAGES, LOGITS, quiet, to_onnx, traced, unwrapped
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import Parity, measure, require_gradient
from ardor.deployment.export.seal import FORMAT, TOLERANCE, probe, seal
from ardor.engine.modes import device_of, freeze
from ardor.errors import ConfigError, DataError, ExportError, RunError
from ardor.evaluation.checks.exported import ENOUGH, few_calibration
from ardor.evaluation.report import Report
from ardor.models import require_fit
from ardor.models.identity import identity, is_of, same_function
from ardor.noise import seeded
from ardor.storage.arguments import typed
from ardor.storage.config import describe
from ardor.storage.files import write_atomic
from ardor.storage.imports import require_package
from ardor.types import Threat
from ardor.version import __version__

To: TypeAlias = Literal["onnx", "onnx-int8", "torch-export", "executorch", "executorch-int8"]
SUFFIX: dict[str, str] = {
    "onnx": ".onnx", "onnx-int8": ".onnx", "torch-export": ".pt2", "executorch": ".pte", "executorch-int8": ".pte"
}  # fmt: skip
"""The file name suffix of each format."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": (), "executorch": ("executorch", "torchao")
}  # fmt: skip
"""What each kind of file needs beside torch."""

ROOM = 4096
"""Characters that a .pte reserves for what is measured on it."""

LARGEST = 1e-4
"""The largest difference of a float32 file's logits from the net's, relative to the largest logit where that exceeds 1:
mobilenetv3 at 96 pixels, logits to 20, differs by 1.1e-4 on two runtimes, and by 3e-5 from its own float64."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes
    ----------
    path : Path
        The file.
    to : str
        Its format, one of `SUFFIX`.
    size : int
        Bytes.
    parity : Parity
        The comparison with the net.
    metadata : dict
        Its metadata; docs/reference/export.md lists the keys.
    forced : tuple of str
        The requirements that it misses, where it was forced.
    """

    path: Path
    to: To
    size: int
    parity: Parity
    metadata: dict[str, Any]
    forced: tuple[str, ...] = ()

    def __str__(self) -> str:
        outside = ", ".join(self.metadata.get("xnnpack", {}).get("outside", ()))
        lines = [f"{self.path} ({self.to}, {self.size / 1e6:.2f} MB)", "", str(self.parity)]
        lines += [f"outside XNNPACK, on ExecuTorch's own kernels: {outside}"] if outside else []
        few = few_calibration((self.metadata.get("calibration") or {"n": ENOUGH})["n"])
        lines += [str(few)] if few else []
        return "\n".join([*lines, *(f"warning: forced, with {miss}" for miss in self.forced)])


@typed
def export(
    net: nn.Module,
    path: str | Path,
    *,
    to: To = "onnx",
    calibrate: Split | None = None,
    check: Split | None = None,
    threat: Threat | None = None,
    force: bool = False,
    agreement: float = 0.95,
    limit: int = 512,
    reports: Sequence[Report] = (),
    seed: int = 0,
) -> Exported:
    """Write a net to a file for a runtime without ardor, after comparing the file's logits with the net's.

    The net, its mode and the global random generators are as before.

    Parameters
    ----------
    net : nn.Module
        Images (B, C, H, W) in [0, 1] to logits (B, classes). torch's wrappers are taken off: see `unwrapped`.
    path : str or Path
        The file, with the suffix of its format.
    to : str
        `onnx` (float32), `onnx-int8` (ONNX Runtime's static quantisation, QDQ, per channel), `torch-export` (.pt2),
        `executorch` or `executorch-int8` (.pte, for one image at a time, computed by XNNPACK).
    calibrate : Split or None
        Training images that scale INT8's activations; only the part "train" is accepted.
    check : Split or None
        Images on which net and file are compared, clean and under PGD-10 against the net; required for INT8, else
        `calibrate` by default.
    threat : Threat or None
        Of PGD-10; Linf 8/255 by default.
    force : bool
        Write a file that misses the requirements, and record the misses in it.
    agreement : float
        The share of equal predictions, in (0, 1], that INT8 must reach on clean and adversarial images. A float32 file
        must predict all alike, with logits within 1e-4, or 1e-4 of the largest logit where that exceeds 1.
    limit : int
        The largest number of images of either split, classes in proportion.
    reports : sequence of Report
        Their figures go into the metadata if they are of this net.
    seed : int
        Of the images' choice and the attack's random start.

    Raises
    ------
    ExportError: the net cannot be exported, or the file does not match. ConfigError: arguments that do not fit, or a
    package that is missing. DataError: calibration on images that are not for training or that are compared too.
    ModelError: net and data do not fit. RunError: the file cannot be written.
    """
    net, path, threat = unwrapped(net), Path(path), Linf() if threat is None else threat
    _require_arguments(path, to, agreement)
    calibrated = _for_calibration(to, calibrate, check, limit)
    images = calibrate if check is None else check
    if images is None:
        raise ConfigError("expected images to check the file on, got none: pass check=test")
    images = images.limit(limit, seed)
    with seeded(seed):  # for a net that draws random numbers
        require_fit(net, images.shape, images.classes)
        require_gradient(net, images)
        program = traced(net, images.shape)
        metadata = metadata_of(net, to, images, calibrated, threat, reports)
        writer = _writer(to, program, calibrated, len(json.dumps(metadata)) + ROOM + 32 * images.classes)
        body = writer(None)
        run = _loaded(to, body)
        parity = measure(net, run, images, threat, seed)
        recorded = run(probe(images.shape))[0].tolist()
    misses = parity.misses(*((None, agreement) if to.endswith("int8") else (LARGEST, 1.0)))
    if misses and not force:
        raise ExportError(
            f"expected {to} to match the net, got {'; '.join(misses)}: nothing was written; type --force "
            "to write it all the same, with this recorded"
        )
    metadata |= {"parity": asdict(parity), "forced": misses, "sha256": hashlib.sha256(body).hexdigest()}
    metadata["probe"] = recorded
    if isinstance(writer, Lowered):
        metadata["xnnpack"] = {"share": round(writer.share, 3), "outside": list(writer.outside)}
    content = writer(metadata)
    _loaded(to, content, complete=True)  # the bytes that are written are read back first
    write_atomic(path, lambda temporary: temporary.write_bytes(content))
    return Exported(path, to, len(content), parity, metadata, tuple(misses))


def _require_arguments(path: Path, to: str, agreement: float) -> None:
    """Raises ConfigError and RunError, before anything is computed."""
    if to not in SUFFIX:
        raise ConfigError(f'expected to as one of {", ".join(SUFFIX)}, got "{to}": type one of these')
    if path.suffix != SUFFIX[to]:
        raise ConfigError(f"expected a file called NAME{SUFFIX[to]} for {to}, got {path}: type another name")
    if not 0 < agreement <= 1:
        raise ConfigError(f"expected agreement as a share in (0, 1], got {agreement:g}: type for example 0.95")
    if path.is_file() and FORMAT.encode() not in path.read_bytes():
        raise RunError(
            f"expected a file that ardor exported, or none, got a third-party file at {path}: move it away, or type "
            "another name"
        )
    for package in PACKAGES[to.removesuffix("-int8")]:
        with quiet():
            require_package(package, to.split("-")[0], f"--to {to}")


def _for_calibration(to: str, calibrate: Split | None, check: Split | None, limit: int) -> Split | None:
    """The images that INT8 is calibrated on; None for float32. Raises ConfigError and DataError."""
    if not to.endswith("int8"):
        return None
    if calibrate is None or check is None:
        raise ConfigError(
            "expected training images to calibrate INT8 on and others to check it on, got "
            f"{'no calibrate' if calibrate is None else 'no check'}: pass calibrate=train, check=test"
        )
    require_training(calibrate)
    if calibrate.shape != check.shape:
        raise DataError(f"expected images of one shape, got {calibrate.shape} and {check.shape}: pass one data set")
    images = calibrate.limit(limit)
    both = _digests(images) & _digests(check)
    if len(both) > len(images) / 100:  # published sets have some images twice
        raise DataError(
            f"expected other images to calibrate on than to check on, got {len(both)} of {len(images)} in both: "
            "pass calibrate=train, check=test"
        )
    return images


def _digests(images: Split) -> set[bytes]:
    rows = (images.batch(slice(k, k + 1))[0] for k in range(len(images)))
    return {hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=16).digest() for row in rows}


def _writer(to: str, program: Any, calibrated: Split | None, room: int) -> Callable[[dict[str, Any] | None], bytes]:
    """The function from metadata of up to `room` characters, or None, to the content of the file."""
    if to == "torch-export":
        return lambda metadata: _program_bytes(program, metadata)
    if to.startswith("executorch"):
        return Lowered(program, calibrated, room)
    body = to_onnx(program)
    if calibrated is not None:
        body = quantised(body, calibrated)
    return lambda metadata: seal(body, metadata) if metadata else body


def _program_bytes(program: Any, metadata: dict[str, Any] | None) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={"ardor.json": json.dumps(metadata)} if metadata else None)
    return buffer.getvalue()


def _loaded(to: str, content: bytes, complete: bool = False) -> Callable[[Tensor], Tensor]:
    """The file's content as a function from images to logits, on its own runtime. complete: with metadata."""
    with quiet():  # before its metadata are added, a file would be called third-party
        if to.startswith("executorch"):
            return Program(content) if complete else runner(content)
        if to.startswith("onnx"):
            return Session(content)
        module: nn.Module = torch.export.load(io.BytesIO(content)).module()
    return torch.no_grad()(module)


def metadata_of(
    net: nn.Module, to: str, images: Split, calibrated: Split | None, threat: Threat, reports: Sequence[Report]
) -> dict[str, Any]:
    """All but what is measured on the file itself. reports: those of other weights are left out."""
    one, interface = identity(net, images.shape), interface_of(images.shape)
    if to.startswith("executorch"):
        interface["input"]["batch"] = 1
    return {
        "format": FORMAT,
        "ardor": __version__,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", *PACKAGES[to.removesuffix("-int8")])},
        "to": to,
        "net": describe(net),
        "weights": one["hash"],
        "function": one["function"],
        **interface,
        "classes": list(images.class_names),
        "threat": describe(threat) | {"eps": float(threat.eps)},
        "check": _of(images),
        "calibration": None if calibrated is None else _of(calibrated),
        "reports": [figures(report) for report in reports if same_function(report.model, one)],
    }


def exported_from(metadata: Mapping[str, Any], net: nn.Module) -> bool:
    """Whether a file's metadata are of a net: of its weights and its function.

    Of the function a file of 0.1.0 has the logits that it gave for the probe; those of INT8 tell two nets apart too
    coarsely, so there the weights decide.
    """
    recorded = {"hash": metadata.get("weights"), "function": metadata.get("function")}
    if recorded["function"] or "probe" not in metadata or not is_of(recorded, net):
        return is_of(recorded, net)
    to, expected = metadata["to"], torch.tensor(metadata["probe"])
    with torch.no_grad(), freeze(net):
        logits = net(probe(metadata["input"]["shape"]).to(device_of(net)))[0].cpu()
    far = float((logits - expected).norm()) if logits.shape == expected.shape else math.inf
    coarse = to.endswith("int8") or metadata.get("forced")
    return far < math.inf if coarse else far <= TOLERANCE[to] * float(expected.norm()) + 1e-6


def interface_of(shape: Sequence[int]) -> dict[str, Any]:
    """The keys `input` and `output` of an exported file's metadata and of a Hub folder, for images (C, H, W)."""
    image = {"name": IMAGES, "layout": "NCHW", "shape": list(shape), "dtype": "float32", "range": [0, 1]}
    return {"input": image | {"normalisation": "inside"}, "output": {"name": LOGITS, "dtype": "float32"}}


def _of(images: Split) -> dict[str, Any]:
    return {"name": images.name, "part": images.part, "n": len(images), "hash": images.hash}


def figures(report: Report) -> dict[str, Any]:
    """Clean and robust accuracy in [0, 1] of a report, with its suite, threat, data and n."""
    return {
        "suite": report.suite,
        "threat": report.threat,
        "data": {key: report.data[key] for key in ("name", "part", "hash")},
        "n": report.n,
        "accuracy": {name: share.value for name, share in report.figures().items()},
    }
