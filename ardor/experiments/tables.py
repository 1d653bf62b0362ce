"""Which cells a table has: each is a run of `ardor train`, said in that command's own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ardor
from ardor import data as datasets
from ardor.errors import ConfigError
from ardor.experiments.label_study import KINDS
from ardor.experiments.scales import SCALES, Nets, Scale, nets_for
from ardor.storage.imports import nearest

METHODS = ("natural", "sat", "trades", "ard", "iad", "rslad", "variance_gap")
TAUGHT = ("ard", "iad", "rslad", "variance_gap")
STUDENTS = ("resnet18", "mobilenet_v2")
ALPHAS = ("0", "1/6", "1/2", "5/6", "1")
ALIGNMENTS: dict[str, tuple[str, ...]] = {
    "rslad": ("lc=0", "lg=0"),
    "covariance": ("lg=0",),
    "gram": ("lc=0",),
    "both": (),
    "both, clean only": ("sets=clean",),
    "both, adversarial only": ("sets=adversarial",),
}
EPS = {"cifar10": "8/255", "cifar100": "8/255", "digits": "0.2"}
TEACHERS = {"cifar10": "robustbench:Zhang2019Theoretically", "cifar100": "robustbench:Gowal2020Uncovering"}


@dataclass(frozen=True)
class EvaluationSpec:
    """suite: its word. checkpoint: of the run. limit: test images, 0 is all. source: the cell that transfer is from."""

    suite: str
    checkpoint: str = "best"
    limit: int = 0
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """One net: name, its folder; row, what it is in the table, with its seed; words of `ardor train`, without --run.

    needs: the cells that must be finished first. judged: how it is judged afterwards.
    """

    name: str
    row: tuple[str, ...]
    seed: int
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    judged: tuple[EvaluationSpec, ...] = ()


@dataclass(frozen=True)
class TableSpec:
    """What a bench is asked for: the words of its command, resolved. folder: where it lies, shared by its tables."""

    kind: str
    data: str
    scale: Scale
    eps: str
    folder: Path
    seeds: int = 1
    students: tuple[str, ...] = STUDENTS
    methods: tuple[str, ...] = METHODS
    data_words: tuple[str, ...] = ()
    train: int = 0
    teacher: tuple[str, ...] = ()
    transfer_from: str = ""
    released: bool = False
    shape: tuple[int, int, int] = (3, 32, 32)
    images: str = ""
    gate: bool = True
    threads: int | None = None

    @property
    def nets(self) -> Nets:
        """The small nets in the roles of the papers'."""
        return nets_for(self.scale, self.shape)

    def seen(self) -> TableSpec:
        """The same, knowing the images: their shape (C, H, W), and a hash. Raises DataError."""
        options: dict[str, Any] = dict(word.removeprefix("--data.").split("=", 1) for word in self.data_words)
        splits = datasets.load(self.data, **options)
        return replace(self, shape=splits[2].shape, images=" ".join(split.hash for split in splits))

    def called(self, parts: Sequence[str]) -> list[str]:
        """A row's parts as a table shows them: a small net in a paper's place is no ResNet-18."""
        places = self.nets.students if self.scale.widest and self.kind in ("whitebox", "blackbox") else {}
        nets = {role: name for role, (name, _) in places.items()}
        names = {role: f"narrow {role}" if name == role else f"{name}, for {role}" for role, name in nets.items()}
        return [names.get(part, part) for part in parts]

    def run(self, cell: str) -> Path:
        """The folder of a cell's run."""
        return self.folder / "cells" / cell


@dataclass(frozen=True)
class Table:
    """cells: all that must be made, teachers before those they teach. shown: those of the table's rows.

    head: the names of a row's parts.
    """

    asked: TableSpec
    cells: tuple[Cell, ...]
    head: tuple[str, ...]
    shown: tuple[Cell, ...]


def whitebox(asked: TableSpec) -> Table:
    """Tables 2 and 3 of the RSLAD paper: students and methods under white-box attacks, best and last checkpoint."""
    judged = [EvaluationSpec("paper", checkpoint, asked.scale.judged) for checkpoint in ("best", "last")]
    judged += [EvaluationSpec(asked.scale.last_word, "best", asked.scale.attacked)]
    judged += [EvaluationSpec(asked.scale.last_word, "last", asked.scale.attacked)] if asked.scale.last else []
    teacher = list(_teachers(asked))
    students = [*_grid(asked, asked.methods, tuple(judged))]
    return Table(asked, (*teacher, *students), ("student", "method"), tuple(students))


def blackbox(asked: TableSpec) -> Table:
    """Table 4: transfer from an adversarially trained ResNet-50, and Square; naturally trained nets are left out."""
    surrogate = [] if asked.transfer_from else [_surrogate(asked)]
    source = asked.transfer_from or surrogate[0].name
    judged = (
        EvaluationSpec("transfer", "best", asked.scale.judged, source),
        EvaluationSpec("square", "best", asked.scale.attacked),
    )
    methods = tuple(m for m in asked.methods if m != "natural")
    students = [
        replace(cell, needs=(*cell.needs, *(s.name for s in surrogate))) for cell in _grid(asked, methods, judged)
    ]
    return Table(asked, (*_teachers(asked), *surrogate, *students), ("student", "method"), tuple(students))


def labels(asked: TableSpec) -> Table:
    """The paper's question: hard, smoothed, natural and robust soft labels, in the inner and in the outer problem."""
    natural, robust = _teacher(asked, "natural"), _teacher(asked, "sat")
    runs = (f"--teacher.natural={asked.run(natural.name)}", f"--teacher.robust={asked.run(robust.name)}")
    teach = ("--teacher=ardor.experiments.label_study:both", *runs)
    cells: list[Cell] = []
    for inner in KINDS:
        for outer in KINDS:
            words = (
                "--method=ardor.experiments.label_study:LabelKinds",
                f"--method.inner={inner}",
                f"--method.outer={outer}",
            )
            cells += _seeds(asked, f"labels-{inner}-{outer}", (inner, outer), (*words, *teach), (natural, robust))
    return Table(asked, (natural, robust, *cells), ("inner", "outer"), tuple(cells))


def alpha(asked: TableSpec) -> Table:
    """RSLAD's share of the adversarial term, from none to all."""
    robust = _teacher(asked, "sat")
    cells: list[Cell] = []
    for value in ALPHAS:
        words = ("--method=rslad", f"--method.alpha={value}", f"--teacher={asked.run(robust.name)}")
        cells += _seeds(asked, f"alpha-{value.replace('/', '_')}", (value,), words, (robust,))
    return Table(asked, (robust, *cells), ("alpha",), tuple(cells))


def alignment(asked: TableSpec) -> Table:
    """The ECCV paper's terms, alone and together, from a wide teacher to three kinds of student."""
    robust = _teacher(asked, "sat")
    nets = {"same family": "resnet18", "mobilenet_v2": "mobilenet_v2", "self": "teacher"}
    cells: list[Cell] = []
    for scenario, student in nets.items():
        for variant, options in ALIGNMENTS.items():
            words = ["--method=variance_gap", "--method.warmup=2", f"--teacher={asked.run(robust.name)}"]
            words += [f"--method.{option}" for option in options]
            name = f"alignment-{scenario}-{variant}".replace(", ", "-").replace(" ", "-")
            cells += _seeds(asked, name, (scenario, variant), tuple(words), (robust,), student, gap=True)
    return Table(asked, (robust, *cells), ("scenario", "terms"), tuple(cells))


TABLES: dict[str, Callable[[TableSpec], Table]] = {
    "whitebox": whitebox,
    "blackbox": blackbox,
    "labels": labels,
    "alpha": alpha,
    "alignment": alignment,
}
STUDIES = ("labels", "alpha", "alignment")


def table_of(asked: TableSpec) -> Table:
    """The table that is asked for. Raises ConfigError."""
    if asked.kind in STUDIES and not asked.scale.widest:
        raise ConfigError(f"expected --scale smoke or small for the study {asked.kind}, got full: type --scale small")
    _refuse_unused(asked)
    return TABLES[asked.kind](asked)


def _refuse_unused(asked: TableSpec) -> None:
    """An option that a table does not use would stand in its command as if it had been."""
    given = {
        "--teacher": asked.kind in STUDIES and bool(asked.teacher),
        "--students": asked.kind in STUDIES and asked.students != STUDENTS,
        "--methods": asked.kind in STUDIES and asked.methods != METHODS,
        "--transfer_from": asked.kind != "blackbox" and bool(asked.transfer_from),
        "--released": bool(asked.scale.widest) and asked.released,
    }
    if unused := [option for option, is_given in given.items() if is_given]:
        raise ConfigError(
            f"expected only options that {asked.kind} at scale {asked.scale.name} uses, got {unused[0]}: leave it out"
        )
    taught = asked.kind in STUDIES or set(asked.methods) & set(TAUGHT)
    if taught and not asked.scale.widest and asked.data not in TEACHERS and not asked.teacher:
        raise ConfigError(
            f"expected --teacher for {asked.data} at scale full, got none: the papers' teachers are for CIFAR; type "
            "--teacher with a run's folder or a net's name"
        )


def _grid(asked: TableSpec, methods: Sequence[str], judged: tuple[EvaluationSpec, ...]) -> Iterator[Cell]:
    """Every student with every method, seed after seed, so that a whole table comes early."""
    for seed in range(asked.seeds):
        for student in asked.students:
            for method in methods:
                taught = method in TAUGHT
                needs = tuple(cell.name for cell in _teachers(asked)) if taught else ()
                words = _words(asked, method, student, seed) + (_taught(asked) if taught else ())
                words += ("--gate=false",) if taught and not asked.gate else ()
                yield Cell(f"{method}-{student}/s{seed}", (student, method), seed, words, needs, judged)


def _seeds(
    asked: TableSpec,
    name: str,
    row: tuple[str, ...],
    words: tuple[str, ...],
    needs: tuple[Cell, ...],
    student: str = "resnet18",
    gap: bool = False,
) -> Iterator[Cell]:
    """A study's cell for every seed."""
    judged = [_quickly(asked), EvaluationSpec(asked.scale.last_word, "best", asked.scale.attacked)]
    judged += [EvaluationSpec("gap", "best", asked.scale.judged)] if gap else []
    for seed in range(asked.seeds):
        said = (*_small(asked, student, seed), *words)
        yield Cell(f"{name}/s{seed}", row, seed, said, tuple(cell.name for cell in needs), tuple(judged))


def _teachers(asked: TableSpec) -> Iterator[Cell]:
    """The teacher that the bench trains itself, where none is named."""
    if asked.scale.widest and not asked.teacher:
        yield _teacher(asked, "sat")


def _teacher(asked: TableSpec, method: str) -> Cell:
    words = (*_small(asked, "teacher", 0, method == "natural"), f"--method={method}")
    return Cell(f"teacher-{method}/s0", ("teacher", method), 0, words, (), (_quickly(asked),))


def _quickly(asked: TableSpec) -> EvaluationSpec:
    """How a net is judged at least."""
    return EvaluationSpec("paper", "best", asked.scale.judged)


def _surrogate(asked: TableSpec) -> Cell:
    """The net that transfer attacks are made against: SAT, as the paper does not say how it was trained."""
    words = _words(asked, "sat", "resnet50", 0)
    return Cell("sat-resnet50/s0", ("resnet50", "sat"), 0, words, (), (_quickly(asked),))


def _taught(asked: TableSpec) -> tuple[str, ...]:
    if asked.teacher:
        return asked.teacher
    return () if not asked.scale.widest else (f"--teacher={asked.run(_teacher(asked, 'sat').name)}",)


def _words(asked: TableSpec, method: str, student: str, seed: int) -> tuple[str, ...]:
    """What trains `student` by `method`: at full scale the paper's own recipe."""
    if not asked.scale.widest:
        return _full(asked, method, student, seed)
    words = (*_small(asked, student, seed, method == "natural"), f"--method={method}")
    if method == "iad":  # 60 of 200 epochs in the paper
        words += (f"--method.begin={max(1, round(0.3 * asked.scale.epochs))}",)
    return words + (("--method.warmup=2",) if method == "variance_gap" else ())


def _small(asked: TableSpec, role: str, seed: int, natural: bool = False) -> tuple[str, ...]:
    """A short recipe, the same for every method; the net that plays `role`.

    natural: looked at once, at the end, for robust accuracies near 0 would choose the best checkpoint by chance.
    """
    nets = asked.nets
    roles = nets.students | {"teacher": nets.teacher, "resnet50": nets.surrogate}
    name, options = roles[role]
    every = asked.scale.epochs if natural else min(2, asked.scale.epochs)
    numbers: dict[str, Any] = {
        "epochs": asked.scale.epochs, "batch": 64, "lr": "0.2", "schedule": "one-cycle", "weight_decay": "5e-4",
        "augment": "none", "val_every": every, "val_size": 500, "seed": seed, "device": "cpu",
    }  # fmt: skip
    return (
        f"--data={asked.data}",
        *asked.data_words,
        *((f"--data.limit={asked.train}",) if asked.train else ()),
        f"--student={name}",
        *(f"--student.{key}={value:g}" for key, value in options.items()),
        f"--threat.eps={asked.eps}",
        *(f"--recipe.{key}={value}" for key, value in numbers.items()),
    )


def _full(asked: TableSpec, method: str, student: str, seed: int) -> tuple[str, ...]:
    """The recipe file of the paper's row; other data than CIFAR take CIFAR-10's."""
    data = asked.data if asked.data in TEACHERS else "cifar10"
    file = recipe_file(f"{method}_{data}_{student}", asked.released)
    words: tuple[str, ...] = (str(file), *asked.data_words, f"--recipe.seed={seed}", f"--threat.eps={asked.eps}")
    words += (f"--data={asked.data}",) if asked.data != data else ()
    return words + ((f"--data.limit={asked.train}",) if asked.train else ())


def recipe_file(name: str, released: bool = False) -> Path:
    """The recipe called `name`, its released form where there is one and it is asked for. Raises ConfigError."""
    package = Path(ardor.__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):  # inside a wheel, and beside the package
        forms = [folder / f"{name}_released.yaml"] if released else []
        for path in (*forms, folder / f"{name}.yaml"):
            if path.is_file():
                return path
    raise ConfigError(f"expected the recipe {name}.yaml, got none in {package.parent / 'recipes'}: see docs/recipes.md")


def asked_for(
    word: str, scale: str, data: str | None, eps: str | None, folder: Path | None, **others: Any
) -> TableSpec:
    """`whitebox-cifar10`, or `whitebox` with data of one's own, to what a bench is asked for. Raises ConfigError."""
    kind, _, named = word.partition("-")
    if kind not in TABLES:
        listed = ", ".join([*(f"{k}-cifar10" for k in TABLES), "or one of these words with --data"])
        raise ConfigError(f'expected a table, got "{word}"{nearest(kind, TABLES)}: type one of {listed}')
    if bool(named) == bool(data):
        got = "none" if not named else f"{named} and {data}"
        raise ConfigError(f"expected one data set, got {got}: type {kind}-cifar10, or {kind} --data npz:FILE")
    name = named or str(data)
    if eps is None and name not in EPS:
        raise ConfigError(f"expected a radius for {name}, got none: type --eps 8/255, say")
    plain = "".join(c if c.isalnum() else "_" for c in Path(name).name)
    resolved = SCALES[scale]
    train = others.pop("train", None)
    return TableSpec(
        kind,
        name,
        resolved,
        eps or EPS[name],
        (folder or Path("runs") / "bench" / f"{plain}-{scale}").resolve(),
        train=resolved.train if train is None else train,
        **others,
    )
