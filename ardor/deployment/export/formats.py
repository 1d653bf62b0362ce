"""export: a net to a file for a device, with the proof that the file answers as the net does.

A file that does not match is refused before anything is written. What it is, what it was measured to do and the hashes
of net, data and file stand in the file itself: see docs/export.md for its keys.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.deployment.export.executorch import Lowered, Program, runner
from ardor.deployment.export.int8 import quantised, require_training
from ardor.deployment.export.metadata import PACKAGES, facts
from ardor.deployment.export.onnx_graph import quiet, to_onnx, traced
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import Parity, measure, require_gradient
from ardor.deployment.export.seal import FORMAT, probe, seal
from ardor.errors import ConfigError, DataError, ExportError, RunError
from ardor.evaluation.checks.exported import ENOUGH, few_calibration
from ardor.evaluation.report import Report
from ardor.models import require_fit
from ardor.noise import seeded
from ardor.storage.files import write_atomic
from ardor.storage.imports import require_package
from ardor.types import Threat

To: TypeAlias = Literal["onnx", "onnx-int8", "torch-export", "executorch", "executorch-int8"]
SUFFIX: dict[str, str] = {
    "onnx": ".onnx", "onnx-int8": ".onnx", "torch-export": ".pt2", "executorch": ".pte", "executorch-int8": ".pte"
}  # fmt: skip
"""What may be exported, and how its file is called."""

ROOM = 4096
"""Characters that a .pte leaves for what is measured on it."""

LARGEST = 1e-4
"""How far a logit of a float32 file may be from the net's."""


@dataclass(frozen=True)
class Exported:
    """A file that was written. metadata: what it says of itself. forced: how it misses the net, where it was forced."""

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
    """Write `net` to `path` for a runtime without ardor, and prove that the file answers as the net does.

    to: `onnx` (float32), `onnx-int8` (ONNX Runtime's static quantisation, QDQ, per channel), `torch-export` (.pt2),
    `executorch` or `executorch-int8` (.pte, for one image at a time, computed by XNNPACK).
    calibrate: training images that scale INT8's activations; the part "train" only. check: images that net and file
    are compared on, clean and under PGD-10 against the net within `threat` (Linf 8/255 by default); needed, but for
    float32 the training images will do. limit: at most so many of either, classes in proportion. agreement: the share
    of equal predictions that INT8 must reach on both; float32 must predict all alike, with logits within 1e-4. force:
    write a file that misses this, and record how. reports: of this net; their figures go into the file. seed: of the
    attack's start.

    The net, its mode and the global random generators are as before. Raises ExportError for a net that cannot be
    exported or does not match, ConfigError for words that do not fit or a package that is missing, DataError for
    calibration on images that are not for training or that are checked too, ModelError where net and data do not fit,
    RunError where the file cannot be written.
    """
    path, threat = Path(path), Linf() if threat is None else threat
    _require_words(path, to, agreement)
    calibrated = _for_calibration(to, calibrate, check, limit)
    whole = calibrate if check is None else check
    if whole is None:
        raise ConfigError("expected images to check the file on, got none: pass check=test")
    images = whole.limit(limit, seed)
    with seeded(seed):  # whatever the net itself draws
        require_fit(net, images.shape, images.classes)
        require_gradient(net, images)
        program = traced(net, images.shape)
        said = facts(net, to, images, calibrated, threat, reports)
        made = _made(to, program, calibrated, len(json.dumps(said)) + ROOM + 32 * images.classes)
        body = made(None)
        run = _loaded(to, body)
        parity = measure(net, run, images, threat, seed)
        recorded = run(probe(images.shape))[0].tolist()
    misses = parity.misses(*((None, agreement) if to.endswith("int8") else (LARGEST, 1.0)))
    if misses and not force:
        raise ExportError(
            f"expected {to} to answer as the net does, got {'; '.join(misses)}: nothing was written; type --force "
            "(force=True) to write it all the same, with this recorded"
        )
    said |= {"parity": parity.asdict(), "forced": misses, "sha256": hashlib.sha256(body).hexdigest()}
    said["probe"] = recorded
    if isinstance(made, Lowered):
        said["xnnpack"] = {"share": round(made.share, 3), "outside": list(made.outside)}
    content = made(said)
    _loaded(to, content, whole=True)  # the bytes that are written are read back first
    write_atomic(path, lambda temporary: temporary.write_bytes(content))
    return Exported(path, to, len(content), parity, said, tuple(misses))


def _require_words(path: Path, to: str, agreement: float) -> None:
    """Raises ConfigError, before anything is computed."""
    if to not in SUFFIX:
        raise ConfigError(f'expected to as one of {", ".join(SUFFIX)}, got "{to}": type one of these')
    if path.suffix != SUFFIX[to]:
        raise ConfigError(f"expected a file called NAME{SUFFIX[to]} for {to}, got {path}: type another name")
    if not 0 < agreement <= 1:
        raise ConfigError(f"expected agreement as a share in (0, 1], got {agreement:g}: type for example 0.95")
    if path.is_file() and FORMAT.encode() not in path.read_bytes():
        raise RunError(f"expected no file of somebody else's at {path}, got one: move it away, or type another name")
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
    chosen = calibrate.limit(limit)
    both = _digests(chosen) & _digests(check)
    if len(both) > len(chosen) / 100:  # published sets have some images twice
        raise DataError(
            f"expected other images to calibrate on than to check on, got {len(both)} of {len(chosen)} in both: "
            "pass calibrate=train, check=test"
        )
    return chosen


def _digests(images: Split) -> set[bytes]:
    rows = (images.batch(slice(k, k + 1))[0] for k in range(len(images)))
    return {hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=16).digest() for row in rows}


def _made(to: str, program: Any, calibrated: Split | None, room: int) -> Callable[[dict[str, Any] | None], bytes]:
    """What writes the file, with metadata of up to `room` characters once there are some."""
    if to == "torch-export":
        return lambda said: _program_bytes(program, said)
    if to.startswith("executorch"):
        return Lowered(program, calibrated, room)
    body = to_onnx(program)
    if calibrated is not None:
        body = quantised(body, calibrated)
    return lambda said: seal(body, said) if said else body


def _program_bytes(program: Any, said: dict[str, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={"ardor.json": json.dumps(said)} if said else None)
    return buffer.getvalue()


def _loaded(to: str, content: bytes, whole: bool = False) -> Callable[[Tensor], Tensor]:
    """The file's content as a function from images to logits, computed by what will run it. whole: with metadata."""
    with quiet():  # a file gets its metadata once it is known to match; till then it would be called foreign
        if to.startswith("executorch"):
            return Program(content) if whole else runner(content)
        if to.startswith("onnx"):
            return Session(content)
        module: nn.Module = torch.export.load(io.BytesIO(content)).module()
    return torch.no_grad()(module)
