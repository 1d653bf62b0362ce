"""Run: the folder of a training run. No other module has the names of its files.

config.yaml           the resolved configuration; a folder belongs to one configuration
metrics.jsonl         one line per epoch
best.safetensors      the student at its highest validation robust accuracy
averaged.safetensors  the average of its weights at the highest of its own, or the last without validation images
last.safetensors      the student after the last finished epoch
state.safetensors     student, optimiser, method and average after the last finished epoch: what resuming reads
step.safetensors      the same inside the epoch after it
previous.safetensors  the state of the epoch before, for when the newest is damaged
log.json              how far each tracker is
report-*.json         one evaluation each, named SUITE-NORM-EPS-CHECKPOINT; journal-* is the folder of its journal
variance_gap.json     robust accuracy and variance gap over radii
passes.json           passes of the student and of the teacher in a step of training
best.onnx, best-int8.onnx, best.pte ...  exported checkpoints
deployed-best.json    the comparison of a checkpoint with its exported files
hub-best              the folder for the Hub
half-best             a run with the same configuration, and the weights of a checkpoint rounded to float16
robustbench.json      the claim for RobustBench's leaderboard
.train.lock           held by the process that trains; .deploy.lock by the one that compares exported files
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, TypeGuard

from ardor.errors import CheckpointError, ConfigError, RunError, shown
from ardor.storage.config import differences, few, to_yaml
from ardor.storage.files import refusal, remove, require_readable, shortened, write_text
from ardor.storage.locks import holder, locked
from ardor.storage.reading import checked, parse_json, read_yaml
from ardor.storage.tensors import read_metadata, read_tensors, write_tensors
from ardor.storage.trust import require_no_code

CHECKPOINTS = ("best", "last", "averaged")

# A moved teacher or data folder is the same teacher and data: the fingerprint has their hashes.
LOCATIONS = (
    "fingerprint.ardor", "processes", "threads", "lengthened", "data.root", "data.download",
    *(f"teacher.{key}" for key in ("weights", "root", "download", "natural", "robust")), "student.weights",
)  # fmt: skip

# Keys that the first version of the configuration lacked, with the behaviour of that version.
ABSENT = {
    "precision": "float32", "attack_precision": "float32", "teacher_precision": "float32", "compile": False,
    "sync_batchnorm": False,
    "area": [0.08, 1], "ratio": [0.75, "4/3"], "views": 0, "jitter": [0, 0, 0, 0], "randaugment": [0, 0],
    "warmup": 0.0, "clip": None, "accumulate": 1, "eps_ramp": None, "patience": 0, "awp": 0.0, "awp_from": 1,
    "late": None, "late_from": 1, "erase": 0.0, "cutout": 0, "mix": "none", "mix_alpha": 1.0,
}  # fmt: skip

TEACHERLESS = ("natural", "sat", "trades", "mart")
"""Methods that use no teacher, for which earlier versions recorded the one that was passed."""


log = logging.getLogger(__name__)


class _Recipe(TypedDict, total=False):
    """The keys of a config's recipe that are read without building it."""

    epochs: int
    seed: int | None
    val_size: int | None
    device: str


class _Config(TypedDict, total=False):
    """The keys of a config.yaml that are read without building what they describe."""

    data: dict[str, Any] | str | None
    student: dict[str, Any] | str | None
    teacher: dict[str, Any] | str | None
    recipe: _Recipe | None
    fingerprint: dict[str, Any] | None
    threads: int | None


class _Epoch(TypedDict, total=False):
    """A line of the metrics."""

    epoch: Required[int]
    epochs: int
    loss: float | None
    terms: dict[str, float]
    lr: float | None
    seconds: float | None
    images_per_second: float | None
    val_clean: float | None
    val_robust: float | None
    best: bool
    averaged_clean: float | None
    averaged_robust: float | None
    stopped: bool
    eps: float | None
    averaged_best: bool


@dataclass(frozen=True)
class Validation:
    """Validation accuracies of a checkpoint, in [0, 1]. attack: the config of the attack; robust may be missing."""

    epoch: int
    clean: float
    robust: float | None
    attack: dict[str, Any]


class Run:
    """The folder of a training run, which need not exist yet.

    Parameters
    ----------
    folder : str or Path
        The folder, as `ardor.epochs(run=...)` takes it.
    """

    _held: tuple[Path, os.stat_result] | None = None

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.metrics_file, self.log = self.folder / "metrics.jsonl", self.folder / "log.json"
        self.state, self.previous = self.folder / "state.safetensors", self.folder / "previous.safetensors"
        self.variance_gap, self.passes = self.folder / "variance_gap.json", self.folder / "passes.json"
        self.claim = self.folder / "robustbench.json"
        self.step_state = self.folder / "step.safetensors"
        self.new_state = self.folder / ".state.new.safetensors"  # until it takes the place of the state

    @staticmethod
    def within(folder: Path) -> list[Path]:
        """The folders of the runs in a folder, by name."""
        return sorted(path.parent for path in folder.glob("*/config.yaml"))

    @property
    def exists(self) -> bool:
        """Whether the folder has a configuration. Raises RunError where the folder cannot be read."""
        try:
            return os.path.isfile(self.config_file)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise RunError(
                f"expected a run's folder that can be read, got {self.folder}: {error.strerror}; check its name and "
                "permissions"
            ) from error

    def states(self) -> list[Path]:
        """The states to resume from, newest first; after a kill between two renamings only the older exists."""
        states = [path for path in (self.state, self.previous) if path.exists()]
        if not self.step_state.exists():
            return states
        inside, newest = _epoch_of(self.step_state), _epoch_of(states[0]) if states else None
        is_left_over = inside is not None and newest is not None and inside < newest  # by a kill after the epoch
        return states if is_left_over else [self.step_state, *states]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, complete also where an earlier version wrote it. Raises RunError and ConfigError.

        To compare and to display: build from `part`, which refuses code.
        """
        if not self.exists:
            got = f"{self.folder} without" if self.folder.exists() else f"{self.folder}, where there is none"
            raise RunError(f"expected a run folder with config.yaml, got {got}: name a run's folder")
        config: dict[str, Any] = checked(read_yaml(self.config_file), _Config, self.config_file)
        config.setdefault("soft_labels", "live")
        if isinstance(recipe := config.get("recipe") or {}, dict):
            config["recipe"] = ABSENT | _with_optimiser(recipe)
        if mapping(config.get("method")).get("name") in TEACHERLESS:
            config["method"] = {"smoothing": 0.0} | config["method"]
        if str(mapping(averaging := config.get("averaging")).get("name")).lower() == "ema":
            config["averaging"] = {"start": 0.0} | mapping(averaging)
        return without_unused_teacher(config)

    def part(self, key: str, *, trust_code: bool = False) -> dict[str, Any]:
        """A part of the configuration to build from, with a name. Raises ConfigError, also for code it names."""
        content = self.config.get(key)
        require_no_code(content, self.config_file, key, trust_code=trust_code)
        if not isinstance(mapping(content).get("name"), str):
            raise ConfigError(
                f"expected {key}: {{name: NAME}} in {self.config_file}, got {shown(content)}: add the name"
            )
        return mapping(content)

    @property
    def threat(self) -> dict[str, Any]:
        """The config of the threat of training, else of validation; empty for a third-party one or none."""
        return threat_in(self.config, self.config_file)

    def lock(self, purpose: str = "train") -> Path:
        """The lock file of `held`."""
        return self.folder / f".{purpose}.lock"

    @contextmanager
    def held(self, purpose: str = "train") -> Iterator[None]:
        """Hold the folder for this process. Raises RunError, with the other process, where one has it for `purpose`."""
        lock = self.lock(purpose)
        with locked(lock, wait=False, required=False) as acquired:
            if not acquired:
                raise RunError(
                    f"expected to write to {self.folder} alone, got {holder(lock)}, which {purpose}s there: let it "
                    "finish or stop it, or name another run"
                )
            self._held = lock, lock.stat()
            yield

    def require_held(self) -> None:
        """Raise RunError where the folder that this process holds was deleted, moved or replaced."""
        if self._held is None:
            return
        lock, before = self._held
        try:
            present = os.path.samestat(lock.stat(), before) and self.exists
        except FileNotFoundError:
            present = False
        if not present:
            raise RunError(
                f"expected {self.folder} as this process began it, got it deleted, moved or replaced meanwhile: put it "
                "back, or delete what is there, and type the same again"
            )

    def enter(self, config: Mapping[str, Any]) -> None:
        """Write the configuration of a new run. Raises RunError as `require` does, or where it cannot be written."""
        self.require(config)
        if not self.exists:
            write_text(self.config_file, to_yaml(config))

    def lengthen(self, config: Mapping[str, Any]) -> None:
        """Record more epochs, and the number before, in the configuration. Raises RunError."""
        present: dict[str, Any] = read_yaml(self.config_file)
        epochs = present["recipe"]["epochs"]
        if epochs != config["recipe"]["epochs"]:
            present["recipe"] |= {key: config["recipe"][key] for key in ("epochs", "milestones")}
            present["lengthened"] = [*present.get("lengthened", []), {"from": epochs, "after": len(self.metrics())}]
            write_text(self.config_file, to_yaml(present))

    def begun_epochs(self) -> int:
        """The epochs of which a step at least is done."""
        return len(self.metrics()) + self.step_state.exists()

    def require(self, config: Mapping[str, Any]) -> None:
        """Raise RunError where the folder has another configuration, or files of no run."""
        try:
            str(self.folder).encode()
        except UnicodeEncodeError as error:  # safetensors cannot open it
            shown = str(self.folder).encode(errors="backslashreplace").decode()
            raise RunError(f"expected the name of a run in UTF-8, got {shown}: type --run with another name") from error
        if self.exists:
            changed = differences(config, _completed(self.config, config, self.folder))
            changed = [text for text in changed if text.partition(":")[0] not in LOCATIONS]
            if changed:
                raise RunError(
                    f"expected the configuration that {self.folder} was trained with, got another "
                    f"({few(_causes(changed))}): {_advice(changed)}--run with a new name"
                )
        elif self.folder.is_dir() and any(p.suffix not in (".tmp", ".lock") for p in self.folder.iterdir()):
            # a kill may leave part of a configuration, and nothing else
            raise RunError(
                f"expected an empty folder or a run of ardor, got {self.folder} with other files: "
                "type --run with a new name"
            )

    def metrics(self) -> list[dict[str, Any]]:
        """The records of the epochs, in order; a line that a kill cut short, or a damaged one, is left out."""
        return [record for _, record in self._lines() if record]

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record of an epoch to the metrics. Raises RunError where it cannot be written."""
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refusal(self.metrics_file, error) from error

    def drop_after(self, epoch: int, step: int = 0) -> None:
        """Remove the metrics after `epoch`, which will be trained again, a line that a kill cut short, and the state
        inside an earlier epoch."""
        if not step:
            remove(self.step_state)
        lines = self._lines()
        past = [line for line, record in lines if record.get("epoch", epoch + 1) <= epoch]
        if len(past) != len(lines):
            text = "".join(f"{line}\n" for line in past)
            write_text(self.metrics_file, text)

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        """The lines of the metrics with their records, which are empty for a damaged line."""
        if not self.metrics_file.is_file():
            return []
        require_readable(self.metrics_file, RunError)
        text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
        result = []
        for number, line in enumerate(text.split("\n"), 1):
            where, record = f"line {number} of {self.metrics_file}", {}
            try:
                record = checked(parse_json(line, where), _Epoch, where)
            except ConfigError as error:
                if line and number <= text.count("\n"):  # the last line without its end is of a kill
                    log.warning("%s; the line is left out", error)
            if line:
                result.append((line, record))
        return result

    def checkpoint(self, name: str = "best") -> Path:
        """The weights called best, last or averaged."""
        return self.folder / f"{name}.safetensors"

    def checkpoints(self) -> list[str]:
        """The names of the checkpoints that exist."""
        return [name for name in CHECKPOINTS if self.checkpoint(name).is_file()]

    def record(self, name: str = "best") -> Validation | None:
        """The metrics of the epoch of a checkpoint; None where that epoch was not validated.

        Raises CheckpointError and ConfigError for damaged files.
        """
        epoch = read_tensors(self.checkpoint(name))[1].get("epoch")
        line = next((line for line in self.metrics() if str(line["epoch"]) == epoch), {})
        of = "averaged" if name == "averaged" else "val"
        if line.get(f"{of}_clean") is None:
            return None
        attack = mapping(mapping(self.config.get("recipe")).get("val_attack"))
        return Validation(line["epoch"], line[f"{of}_clean"], line.get(f"{of}_robust"), attack)

    def report(self, words: Iterable[str]) -> Path:
        """The report with these parts in its name: suite, norm, eps, checkpoint, and others that distinguish it."""
        return self.folder / shortened(f"report-{'-'.join(words)}.json")

    def reports(self, suite: str | None = None, checkpoint: str | None = None) -> list[Path]:
        """The reports, of this suite and checkpoint if given: those of the net before those of its exported files,
        then those of the checkpoint best, then by name."""

        def order(path: Path) -> tuple[bool, bool, str]:
            return suite_of(path) == "deployed", not path.stem.endswith("-best"), path.name

        paths = (path for path in self.folder.glob("report-*.json") if suite in (None, suite_of(path)))
        return sorted((p for p in paths if checkpoint is None or checkpoint in p.stem.split("-")[2:]), key=order)

    def exported(self, checkpoint: str = "best", suffix: str = ".onnx", int8: bool = False) -> Path:
        """The exported file of a checkpoint."""
        return self.folder / f"{checkpoint}{'-int8' if int8 else ''}{suffix}"

    def onnx_files(self) -> list[Path]:
        """The exported ONNX files, by name."""
        return sorted(self.folder.glob(self.exported("*").name))

    def exported_files(self) -> list[Path]:
        """The exported files of any format, by name."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in (".onnx", ".pte", ".pt2"))

    def comparison(self, checkpoint: str = "best", words: Iterable[str] = ()) -> Path:
        """The comparison of a checkpoint with its exported files; with words, one beside a fuller one."""
        return self.folder / f"deployed-{'-'.join((checkpoint, *words))}.json"

    def gaps_beside(self, words: Iterable[str]) -> Path:
        """The variance gap over radii of another threat or of fewer images than `variance_gap`."""
        return self.variance_gap.with_stem("-".join((self.variance_gap.stem, *words)))

    def halved(self, checkpoint: str = "best") -> Run:
        """The run in the folder half-CHECKPOINT, whose best checkpoint is this one's, its matrices rounded to float16.

        Its nets compute in float32, as others; it has no metrics, which are of the weights before. Raises RunError and
        CheckpointError.
        """
        half = Run(self.folder / f"half-{checkpoint}")
        tensors, metadata = read_tensors(self.checkpoint(checkpoint))
        rounded = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in tensors.items()}
        write_text(half.config_file, to_yaml(self.config))
        write_tensors(half.checkpoint(), rounded, {k: v for k, v in metadata.items() if k != "sum"})
        return half

    def hub_folder(self, checkpoint: str = "best") -> Path:
        """The folder for the Hub."""
        return self.folder / f"hub-{checkpoint}"


def threat_in(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config of the threat of training in a run's config, which was read from `path`: see `Run.threat`."""
    for piece, key in (("method", "attack"), ("recipe", "val_attack")):
        threat = mapping(mapping(mapping(config.get(piece)).get(key)).get("threat"))
        if "name" in threat and ":" not in str(threat["name"]):
            require_no_code(threat, path, f"{piece}.{key}.threat")
            return threat
    return {}


_STUDENT = "fingerprint.student"


def _causes(changed: list[str]) -> list[str]:
    """The differences without what a net computes, where its weights differ."""
    others = {f"fingerprint.{who}_function" for who in ("student", "teacher") if _has(changed, f"fingerprint.{who}")}
    return [text for text in changed if not text.startswith(tuple(others))]


def _has(changed: list[str], key: str) -> bool:
    return any(text.startswith(f"{key}:") for text in changed)


def _advice(changed: list[str]) -> str:
    """What to type for the same run: the value of one or two options, a student that was not trained yet."""
    causes = _causes(changed)
    options = [re.fullmatch(r"((?:recipe|method)\.[\w.]+): \S+ here, ([\w./-]+) there", text) for text in causes]
    same = [f"--{option[1]} {option[2]}" for option in options if _is_value(option)]
    is_other = any(text.startswith(("student.", "recipe.seed:")) for text in causes)
    trained = "build the student anew, for training changes it" if _has(changed, _STUDENT) and not is_other else ""
    if len(causes) > len(same) + bool(trained) or len(same) > 2:
        return "type "
    wanted = [trained] * bool(trained) + [f"type {' and '.join(same)} as there"] * bool(same)
    return f"{', '.join(wanted)}, or {'' if same else 'type '}"


def _is_value(option: re.Match[str] | None) -> TypeGuard[re.Match[str]]:
    """Whether a difference is of a value that can be typed: not of one that is missing, or of a name."""
    return option is not None and option[2] != "nothing" and not option[1].endswith(".name")


def _epoch_of(state: Path) -> int | None:
    """Finished epochs of a state; None for a damaged one."""
    try:
        return int(read_metadata(state)["epoch"])
    except (CheckpointError, KeyError, ValueError):
        return None


def without_unused_teacher(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without a teacher that its method does not use."""
    changed = dict(config)
    if changed.get("teacher") and mapping(changed.get("method")).get("name") in TEACHERLESS:
        changed |= {"teacher": None, "soft_labels": "live"}
        changed["fingerprint"] = mapping(changed.get("fingerprint")) | {"teacher": None}
    return changed


def _with_optimiser(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with its optimiser, whose options 0.1.0 has beside it: always SGD with decay of all parameters."""
    if "optimiser" in recipe or "momentum" not in recipe:
        return recipe
    old = ("momentum", "nesterov", "weight_decay")
    sgd = {"name": "sgd", **{key: recipe[key] for key in old if key in recipe}, "decay_all": True}
    return {key: value for key, value in recipe.items() if key not in old} | {"optimiser": sgd}


def _completed(present: dict[str, Any], config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The config of a run; of 0.1.0, which has hashes of weights alone, with the functions of nets as they are built.

    Raises RunError for other nets, whose functions cannot be compared.
    """
    prints, wanted = mapping(present.get("fingerprint")), mapping(config.get("fingerprint"))
    for who in ("student", "teacher"):
        key = f"{who}_function"
        if key in prints or key not in wanted or who not in prints:
            continue
        if not mapping(wanted[key]).get("as_built"):
            raise RunError(
                f"expected a run that records what its {who} computes, got {folder} of an earlier version, with the "
                "hash of the weights alone: type --run with a new name"
            )
        prints[key] = wanted[key]
    return present


def journal_of(report: Path) -> Path:
    """The folder of the journal beside a report."""
    return report.with_name(shortened(report.stem.replace("report-", "journal-", 1)))


def suite_of(report: Path) -> str:
    """The name of the suite in the name of a run's report."""
    return report.stem.split("-")[1]


def mapping(value: Any) -> dict[str, Any]:
    """A part of a config; empty where it is no mapping."""
    return value if isinstance(value, dict) else {}
