"""Which cells a table has: each is a training run, described by its config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ardor import data as datasets
from ardor.errors import ConfigError
from ardor.experiments.cell import Cell, Cells, EvaluationSpec, Setting
from ardor.experiments.distillation import DISTILLED, EPOCHS, IMAGES, KIND, Declared, distilled_rows
from ardor.experiments.field import AVERAGED, field_methods, recipes_of, short_options
from ardor.experiments.label_study import KINDS, LabelKinds
from ardor.experiments.scales import SCALES, Net, Scale, nets_for
from ardor.storage.config import find_class, merged, read_yaml
from ardor.storage.files import shortened
from ardor.storage.imports import nearest
from ardor.storage.recipes import find_recipe, read_recipe
from ardor.training.job import recipe_of

METHODS = ("natural", "sat", "trades", "ard", "iad", "rslad", "variance_gap")
DISTILLATION = ("ard", "iad", "rslad", "variance_gap")
"""The methods with a teacher."""
STUDENTS = ("resnet18", "mobilenet_v2")
ALPHAS = ("0", "1/6", "1/2", "5/6", "1")
ALIGNMENTS: dict[str, dict[str, Any]] = {
    "rslad": {"lc": 0, "lg": 0},
    "covariance": {"lg": 0},
    "gram": {"lc": 0},
    "gram of features": {"lc": 0, "gram": "features"},
    "both": {},
    "both, clean only": {"sets": "clean"},
    "both, adversarial only": {"sets": "adversarial"},
}
EPS = {"cifar10": "8/255", "cifar100": "8/255", "digits": "0.2"}
TAUGHT = {"natural": "natural", "robust": "sat"}
"""The methods that train the bench's teachers."""
BATCH = 64
PAPER_DATA = ("cifar10", "cifar100")
"""The data sets of the papers, for which the recipes name a teacher."""


@dataclass(frozen=True)
class TableSpec(Setting):
    """The options of a bench, resolved; tables of the same data and scale share a folder.

    Parameters
    ----------
    eps : L-inf radius, as it was written.
    data_options, teacher : parts of the cells' configs.
    methods : rows of the table; () is all that it has.
    train : number of train images at most; 0 is all.
    count, validation : number of train and of validation images, as far as they are known.
    shape : of an image, (C, H, W).
    declared : of the table of distillation.
    """

    kind: str
    data: str
    scale: Scale
    eps: str
    seeds: int = 1
    students: tuple[str, ...] = STUDENTS
    methods: tuple[str, ...] = ()
    data_options: Mapping[str, Any] = field(default_factory=dict)
    train: int = 0
    count: int = 0
    validation: int = 0
    teacher: Mapping[str, Any] = field(default_factory=dict)
    transfer_from: str = ""
    released: bool = False
    shape: tuple[int, int, int] = (3, 32, 32)
    declared: Declared = Declared()

    @property
    def nets(self) -> dict[str, Net]:
        """The small nets by role."""
        return nets_for(self.scale, self.shape)

    def with_images(self) -> TableSpec:
        """The same with the shape and the hashes of the data set's images. Raises DataError."""
        splits = datasets.load(self.data, **self.data_options)
        train, val, test = splits
        count, images = min(len(train), self.train or len(train)), " ".join(split.hash for split in splits)
        return replace(self, shape=test.shape, count=count, validation=len(val), images=images)

    def row_labels(self, parts: Sequence[str]) -> list[str]:
        """A row's parts as a table shows them: a small net in the role of a ResNet-18 is not called ResNet-18."""
        roles = {} if self.scale.full or self.kind in STUDIES else self.nets
        labels = {role: f"narrow {role}" if net == role else f"{net}, for {role}" for role, (net, _) in roles.items()}
        return [labels.get(part, part) for part in parts]


@dataclass(frozen=True)
class Table(Cells):
    """A table and the cells behind it.

    Parameters
    ----------
    head : names of the parts of a row.
    shown : the cells of the table's rows.
    """

    spec: TableSpec
    head: tuple[str, ...]
    shown: tuple[Cell, ...]


def whitebox(spec: TableSpec) -> Table:
    """Tables 2 and 3 of the RSLAD paper: students and methods under white-box attacks, best and last checkpoint."""
    scale = spec.scale
    strong = ("best", "last") if scale.full else ("best",)
    evaluations = [EvaluationSpec("paper", checkpoint, scale.limit) for checkpoint in ("best", "last")]
    evaluations += [EvaluationSpec(scale.attack, checkpoint, scale.attack_limit) for checkpoint in strong]
    return _table(spec, ("student", "method"), _grid(spec, spec.methods or METHODS), evaluations, _teachers(spec))


def blackbox(spec: TableSpec) -> Table:
    """Table 4: transfer from an adversarially trained ResNet-50, and Square; naturally trained nets are left out."""
    # The paper names no method for it.
    surrogates = [] if spec.transfer_from else [_auxiliary(spec, "sat", "resnet50")]
    evaluations = [
        EvaluationSpec("transfer", "best", spec.scale.limit, spec.transfer_from or surrogates[0].name),
        EvaluationSpec("square", "best", spec.scale.attack_limit),
    ]
    rows = _grid(spec, [method for method in spec.methods or METHODS if method != "natural"])
    return _table(spec, ("student", "method"), rows, evaluations, [*_teachers(spec), *surrogates])


def labels(spec: TableSpec) -> Table:
    """The paper's question: hard, smoothed, natural and robust soft labels, in the inner and in the outer problem."""
    method = {"name": LabelKinds.config_name}
    rows = [RowSpec((i, o), method | {"inner": i, "outer": o}) for i, o in product(KINDS, repeat=2)]
    teachers = [_auxiliary(spec, method, "teacher") for method in ("natural", "sat")]
    return _table(spec, ("inner", "outer"), rows, _best(spec), teachers)


def alpha(spec: TableSpec) -> Table:
    """RSLAD's share of the adversarial term, from none to all."""
    rows = [RowSpec((value,), {"name": "rslad", "alpha": value}) for value in ALPHAS]
    return _table(spec, ("alpha",), rows, _best(spec), _teachers(spec))


def alignment(spec: TableSpec) -> Table:
    """The ECCV paper's terms, alone and together, from a wide teacher to three kinds of student."""
    rows = [
        RowSpec((scenario, terms), {**_method(spec, "variance_gap"), **options}, role)
        for scenario, role in {"same family": "resnet18", "mobilenet_v2": "mobilenet_v2", "self": "teacher"}.items()
        for terms, options in ALIGNMENTS.items()
    ]
    gap = EvaluationSpec("gap", "best", spec.scale.limit)
    return _table(spec, ("scenario", "terms"), rows, [*_best(spec), gap], _teachers(spec))


def methods(spec: TableSpec) -> Table:
    """Every method under one recipe, with an average of the weights for all."""
    steps = spec.scale.epochs * math.ceil(spec.count / BATCH)
    known = field_methods(spec.scale.epochs, steps)
    rows = [RowSpec((name,), known[name], changes=AVERAGED) for name in spec.methods or known]
    taught = {name for row in rows for name in _roles(row.method)}
    kinds = [kind for role, kind in TAUGHT.items() if role in taught]
    return _table(spec, ("method",), rows, _field(spec), [_auxiliary(spec, kind, "teacher") for kind in kinds])


def ingredients(spec: TableSpec) -> Table:
    """RSLAD with what helps any loss, each alone and together."""
    rows = [
        RowSpec((name,), {"name": "rslad"}, changes=merged(AVERAGED, {"recipe": recipe}))
        for name, recipe in recipes_of(spec.scale.epochs, spec.shape[0]).items()
    ]
    return _table(spec, ("ingredients",), rows, _field(spec), _teachers(spec))


def distillation(spec: TableSpec) -> Table:
    """What a strong teacher gives small students, beside adversarial training with all and with fewer labels."""
    scale, declared = spec.scale, spec.declared
    known = distilled_rows(declared, spec.methods, spec.count, scale.epochs, spec.shape[0])
    rows = [
        RowSpec((name, row.name, row.labels), row.method, changes=row.changes, student=student, limit=row.limit)
        for name, student in declared.nets(spec.shape).items()
        for row in known
    ]
    evaluations = [EvaluationSpec("passes", declared.judged[0])]
    for checkpoint in declared.evaluated():
        evaluations.append(EvaluationSpec("paper", checkpoint, scale.limit))
        if checkpoint in declared.judged:
            evaluations.append(EvaluationSpec(scale.attack, checkpoint, scale.attack_limit))
    gap = EvaluationSpec("gap", "best", scale.limit)
    return _table(spec, ("student", "method", "labels"), rows, [*evaluations, gap], [])


STUDIES = {
    "labels": labels, "alpha": alpha, "alignment": alignment, "methods": methods, "ingredients": ingredients,
    KIND: distillation,
}  # fmt: skip
TABLES: dict[str, Callable[[TableSpec], Table]] = {"whitebox": whitebox, "blackbox": blackbox, **STUDIES}


def table_of(spec: TableSpec) -> Table:
    """The table of a spec.

    Raises
    ------
    ConfigError
        For options that the table does not use, or without one that it needs.
    """
    study, full = spec.kind in STUDIES, spec.scale.full
    if study and full:
        raise ConfigError(f"expected --scale smoke or small for the study {spec.kind}, got full: type --scale small")
    # An unused option would stand in the command of the table as if it had been used.
    unused = {
        "--teacher": study and spec.kind != KIND and spec.teacher,
        "--students": study and spec.students != STUDENTS,
        "--methods": study and spec.kind not in ("methods", KIND) and spec.methods,
        "--transfer_from": spec.kind != "blackbox" and spec.transfer_from,
        "--released": not full and spec.released,
    }
    if given := [option for option, is_given in unused.items() if is_given]:
        raise ConfigError(
            f"expected only options that {spec.kind} at scale {spec.scale.name} uses, got {given[0]}: leave it out"
        )
    if spec.kind == KIND and not spec.teacher:
        raise ConfigError(
            "expected --teacher with a strong teacher, got none: type --teacher with a run's folder or a net's name"
        )
    if full and set(spec.methods or METHODS) & set(DISTILLATION) and spec.data not in PAPER_DATA and not spec.teacher:
        raise ConfigError(
            f"expected --teacher for {spec.data} at scale full, got none: the papers' teachers are for CIFAR; type "
            "--teacher with a run's folder or a net's name"
        )
    return TABLES[spec.kind](spec)


def methods_of(name: str) -> tuple[str, ...]:
    """The methods that the table of this name may have."""
    several = {"methods": tuple(field_methods(1, 1)), KIND: tuple(DISTILLED)}
    return several.get(name.partition("-")[0], METHODS)


class RowSpec(NamedTuple):
    """One row: what identifies it, its method's config, the role of its net, and changes of the table's recipe.

    student: its net's config in place of the role's. limit: of its train images in place of the table's.
    """

    parts: tuple[str, ...]
    method: Mapping[str, Any]
    role: str = "resnet18"
    changes: Mapping[str, Any] = {}
    student: Mapping[str, Any] = {}
    limit: int = 0


def _grid(spec: TableSpec, methods: Sequence[str]) -> list[RowSpec]:
    """Every student with every method."""
    return [RowSpec((net, method), _method(spec, method), net) for net in spec.students for method in methods]


def _table(
    spec: TableSpec, head: tuple[str, ...], rows: Sequence[RowSpec], evaluations: Sequence[EvaluationSpec],
    needs: Sequence[Cell],
) -> Table:  # fmt: skip
    """A cell of every row for every seed; the seed is the outer loop, so that a whole table is finished early."""
    runs = {cell.row[1]: str(spec.run(cell.name)) for cell in needs if cell.row[0] == "teacher"}
    cells = []
    for seed in range(spec.seeds):
        for row in rows:
            parts, method = row.parts, row.method
            teacher = _teacher(spec, method, runs)
            names = tuple(
                cell.name for cell in needs if cell.row[0] != "teacher" or str(spec.run(cell.name)) in teacher.values()
            )
            name = "-".join((spec.kind, *parts) if spec.kind in STUDIES else reversed(parts))
            name = name.replace("/", "_").replace(", ", "-").replace(" %", "").replace(" ", "-")
            config = dict(merged(_config(spec, method, row.role, seed, teacher), row.changes))
            config["student"] = row.student or config["student"]
            if row.limit and row.limit < spec.count:
                config["data"] = config["data"] | {"limit": row.limit}
            cells.append(Cell(f"{name}/s{seed}", parts, seed, config, names, tuple(evaluations)))
    return Table(spec, (*needs, *cells), head, tuple(cells))


def _roles(method: Mapping[str, Any]) -> tuple[str, ...]:
    """The teachers that a method has, as the bench calls them."""
    kind = find_class(method["name"], "method", "method")
    if kind is LabelKinds:
        return tuple(TAUGHT)
    return getattr(kind, "teachers", ("robust",) if vars(kind).get("needs_teacher", True) else ())


def _teacher(spec: TableSpec, method: Mapping[str, Any], runs: Mapping[str, str]) -> Mapping[str, Any]:
    """The teacher's part of a config: the bench's own runs, by the method that trained them, or the user's."""
    roles = _roles(method)
    if not roles or not runs:
        return spec.teacher if roles else {}
    if len(roles) == 1:
        return {"name": runs[TAUGHT["robust"]]}
    named = {"name": "ardor.experiments.label_study:both"} if method["name"] == LabelKinds.config_name else {}
    return named | {role: runs[TAUGHT[role]] for role in roles}


def _field(spec: TableSpec) -> list[EvaluationSpec]:
    """The evaluations of the tables of methods and ingredients: all of each checkpoint."""
    scale, evaluations = spec.scale, [EvaluationSpec("passes", "averaged")]
    for checkpoint in ("averaged", "best", "last"):
        evaluations.append(EvaluationSpec("paper", checkpoint, scale.limit))
        if scale.name != "smoke":
            evaluations.append(EvaluationSpec(scale.attack, checkpoint, scale.attack_limit))
    return [*evaluations, EvaluationSpec("gap", "best", scale.limit if scale.name != "smoke" else scale.attack_limit)]


def _best(spec: TableSpec) -> list[EvaluationSpec]:
    """The evaluations of a study, of the best checkpoint."""
    scale = spec.scale
    return [EvaluationSpec("paper", "best", scale.limit), EvaluationSpec(scale.attack, "best", scale.attack_limit)]


def _teachers(spec: TableSpec) -> list[Cell]:
    """The teacher that the bench trains itself, where none is named."""
    return [] if spec.scale.full or spec.teacher else [_auxiliary(spec, "sat", "teacher")]


def _auxiliary(spec: TableSpec, method: str, role: str) -> Cell:
    """A net without a teacher, of seed 0, that other cells need."""
    name = f"teacher-{method}/s0" if role == "teacher" else f"{method}-{role}/s0"
    config = _config(spec, {"name": method}, role, 0)
    return Cell(name, (role, method), 0, config, (), tuple(_best(spec)[:1]))


def _method(spec: TableSpec, name: str) -> dict[str, Any]:
    """A method's config; at a small scale, what changes during a run does so within the few epochs."""
    return {"name": name} | ({} if spec.scale.full else short_options(name, spec.scale.epochs))


def _config(
    spec: TableSpec, method: Mapping[str, Any], role: str, seed: int, teacher: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config of a run: at full scale the paper's recipe, else a short one, the same for every method."""
    if spec.scale.full:
        config: dict[str, Any] = _paper_recipe(spec, method["name"])
        student: dict[str, Any] = {"name": role}
    else:
        epochs, (net, options) = spec.scale.epochs, spec.nets[role]
        student = {"name": net, **options}
        # Robust accuracies of a natural net are near 0 and would select a checkpoint by chance.
        every = epochs if method["name"] == "natural" else min(2, epochs)
        recipe = {
            "epochs": epochs, "batch": BATCH, "lr": 0.2, "schedule": "one-cycle", "optimiser": {"weight_decay": 5e-4},
            "augment": "none", "val_every": every, "val_size": 500, "device": "cpu",
        }  # fmt: skip
        config = {"data": {}, "student": {}, "method": {}, "threat": {}, "recipe": recipe}
    limit = {"limit": spec.train} if spec.train else {}
    data = {**config["data"], "name": spec.data, **spec.data_options, **limit}
    changes = {
        "data": data,
        "student": student,
        "method": method,
        "threat": {"eps": spec.eps},
        "recipe": {"seed": seed},
    }
    return dict(merged(config, changes | ({"teacher": teacher} if teacher else {})))


def _paper_recipe(spec: TableSpec, method: str) -> dict[str, Any]:
    """The shipped recipe of a method, every part a mapping; data sets other than the papers' take CIFAR-10's."""
    variants = read_yaml(find_recipe(method)).get("variants", {})
    released = ["released"] if spec.released and "released" in variants else []
    content = read_recipe(method, spec.data if spec.data in PAPER_DATA else "cifar10", released)
    return {key: {"name": part} if isinstance(part, str) else part for key, part in content.items()}


def spec_of(
    name: str, scale: str, data: str | None = None, eps: str | None = None, folder: Path | None = None, **options: Any
) -> TableSpec:
    """The spec of a table by its name.

    Parameters
    ----------
    name : `whitebox-cifar10`, or `whitebox` with `data`.
    scale : smoke, small or full.
    folder : default runs/bench/DATA-SCALE.
    options : other fields of `TableSpec`; `train` defaults to the scale's.

    Raises
    ------
    ConfigError
        For a table that does not exist, without a data set or with two, and without a radius for data of the user's.
    """
    kind, _, named = name.partition("-")
    if kind not in TABLES:
        listed = ", ".join([*(f"{k}-cifar10" for k in TABLES), "or one of these words with --data"])
        raise ConfigError(f'expected a table, got "{name}"{nearest(kind, TABLES)}: type one of {listed}')
    if bool(named) == bool(data):
        got = "none" if not named else f"{named} and {data}"
        raise ConfigError(f"expected one data set, got {got}: type {kind}-cifar10, or {kind} --data npz:FILE")
    data = named or str(data)
    if eps is None and data not in EPS:
        raise ConfigError(f"expected a radius for {data}{nearest(data, EPS)}, got none: type --threat.eps 8/255, say")
    if options.get("train") is None:
        options["train"] = SCALES[scale].train
    plain = "".join(c if c.isalnum() else "_" for c in Path(data).name)
    folder = (folder or Path("runs") / "bench" / shortened(f"{plain}-{scale}")).resolve()
    sizes = {key: options.pop(key, None) for key in ("limit_test", "limit_attack")}
    size = SCALES[scale]
    if kind == KIND:
        size = _declared_scale(size, options.get("declared", Declared()), **sizes)
    return TableSpec(kind, data, size, eps or EPS[data], folder=folder, **options)


def _declared_scale(scale: Scale, declared: Declared, limit_test: int | None, limit_attack: int | None) -> Scale:
    """The sizes of the table of distillation: as typed, else as its own defaults, or a smoke test's."""
    small = scale.name == "smoke"
    epochs = recipe_of({"recipe": {"epochs": scale.epochs if small else EPOCHS} | dict(declared.recipe)}).epochs
    return replace(
        scale,
        epochs=epochs,
        limit=limit_test or (scale.limit if small else IMAGES),
        attack_limit=limit_attack or (scale.attack_limit if small else IMAGES),
    )
