"""The table of what distillation gives: a strong teacher, small students, and adversarial training with fewer labels.

Each row has one recipe, an average of the weights beside the student, and no trial: everything is declared before. The
rows of adversarial training with a share of the labels have a stratified part of the images, the same for every seed,
and as many steps as the others: fewer images, more epochs. The students of a method whose loss needs no label see all
images, and no label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ardor.errors import ConfigError
from ardor.experiments.field import AVERAGED, recipes_of, short_options
from ardor.storage.config import describe, merged, number, plain
from ardor.storage.imports import nearest
from ardor.training.job import method_of, recipe_of
from ardor.types import uses_labels

KIND = "distillation"

NO_LABELS = "none"

DISTILLED: dict[str, dict[str, Any]] = {
    "natural": {"name": "natural"},
    "sat": {"name": "sat"},
    "trades": {"name": "trades"},
    "ard": {"name": "ard"},
    "rslad": {"name": "rslad"},
    "variance_gap": {"name": "variance_gap"},
    "igdm-rslad": {"name": "igdm", "base": {"name": "rslad"}},
    "adaad": {"name": "adaad"},
    "modern": {"name": "rslad"},
}
"""The methods by the names of their rows; `modern` is RSLAD with another augmentation."""

CHECKPOINTS = ("averaged", "best", "last")

EPOCHS, IMAGES = 20, 1000
"""Of the rows with all images; test images of an evaluation. Both may be typed, and a smoke test has its scale's."""

OWN_OPTIONS = ("student", "labels", "autoattack", "limit_test", "limit_attack")
"""Options of `ardor bench` for this table alone, beside the dotted ones of student, recipe and method.attack."""


@dataclass(frozen=True)
class Declared:
    """What is declared before the first cell of the table.

    Parameters
    ----------
    students : config of each net; () is one by the images.
    shares : of the labels, for the rows of adversarial training; the first is all.
    recipe : changes of the recipe of every row.
    attack : options of the attack that every row is trained with, such as steps.
    judged : the checkpoints under the strong attack; rows are compared at the first.
    """

    students: tuple[Mapping[str, Any], ...] = ()
    shares: tuple[float, ...] = (1.0, 0.2, 0.04)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    attack: Mapping[str, Any] = field(default_factory=dict)
    judged: tuple[str, ...] = CHECKPOINTS[:1]

    def nets(self, shape: tuple[int, int, int]) -> dict[str, Mapping[str, Any]]:
        """The students by their names in the table."""
        default = {"name": "wide_resnet", "depth": 10, "width": 1}
        small = {"name": "small_cnn", "width": 8}
        students = self.students or (default if shape[0] == 3 and min(shape[1:]) >= 32 else small,)
        return {"-".join(str(value) for value in student.values()): student for student in students}

    def evaluated(self) -> tuple[str, ...]:
        """Every checkpoint, first those under the strong attack."""
        return (*self.judged, *(name for name in CHECKPOINTS if name not in self.judged))


def recipe_of_rows(declared: Declared, epochs: int, channels: int) -> dict[str, Any]:
    """The recipe that all rows share, in which a number of epochs is that of the rows with all images."""
    recipe = recipes_of(epochs, channels)["one-cycle, decay 5e-4"]
    sizes = {"epochs": epochs, "batch": 128 if channels == 3 else 64, "val_every": max(1, epochs // 10)}
    return dict(merged(recipe | sizes | {"val_size": 500, "device": "auto"}, declared.recipe))


@dataclass(frozen=True)
class Distilled:
    """A row: its method's name, the share of the labels as a text, and its parts of a configuration.

    limit: of its train images.
    """

    name: str
    labels: str
    method: Mapping[str, Any]
    limit: int
    changes: Mapping[str, Any]


def distilled_rows(declared: Declared, names: Sequence[str], count: int, epochs: int, channels: int) -> list[Distilled]:
    """The rows of one student, of `count` images in so many epochs.

    Parameters
    ----------
    names : of the methods; () is all.
    count : of the train images.
    """
    rows = []
    for name in names or DISTILLED:
        for share in declared.shares if name == "sat" else (1.0,):
            rows.append(_row(declared, name, share, count, epochs, channels))
    return rows


def _row(declared: Declared, name: str, share: float, count: int, epochs: int, channels: int) -> Distilled:
    recipe = recipe_of_rows(declared, epochs, channels)
    built = recipe_of({"recipe": recipe})  # numbers from the texts of a command line
    images = max(1, round(share * count))
    repeated = epochs_for(images, count, epochs, built.batch)
    every = max(1, round(built.val_every * repeated / epochs))
    # Robust accuracies of a natural net are near 0 and would select a checkpoint by chance.
    recipe |= {"epochs": repeated, "val_every": repeated if name == "natural" else every}
    if name == "modern":
        ingredients = recipes_of(epochs, channels)["modern"]
        recipe |= {key: ingredients[key] for key in ("augment", "late", "late_from") if key in ingredients}
    if name.startswith("igdm"):  # the difference of two nearly equal logits, which bfloat16 would round away
        recipe |= {"precision": "float32", "teacher_precision": "float32"}
    method = _method(declared, name, epochs)
    labels = share_text(share) if uses_labels(method_of({"method": method})) else NO_LABELS
    return Distilled(name, labels, method, images, AVERAGED | {"recipe": recipe})


def _method(declared: Declared, name: str, epochs: int) -> dict[str, Any]:
    """A method's config with the declared attack, which is the base's where a method has one."""
    method = DISTILLED[name] | short_options(DISTILLED[name]["name"], epochs)
    if name == "natural" or not declared.attack:
        return method
    attack = {"attack": dict(declared.attack)}
    return method | ({"base": method["base"] | attack} if "base" in method else attack)


def epochs_for(images: int, count: int, epochs: int, batch: int) -> int:
    """Epochs of `images` with as many steps as `epochs` of `count` have, to half an epoch."""
    steps = math.ceil(count / batch) * epochs
    return max(1, round(steps / math.ceil(images / batch)))


def share_text(share: float) -> str:
    """A share of the labels as the table shows it: 100 %, 20 %, 4 %."""
    return f"{100 * share:g} %"


def share_of(text: str) -> float:
    """The share that `share_text` shows."""
    return float(text.removesuffix(" %")) / 100


def declared_facts(
    declared: Declared, rows: Sequence[tuple[str, Mapping[str, Any], int]], count: int, validation: int
) -> Iterator[str]:
    """What all rows share, and how they differ beside the method.

    Parameters
    ----------
    rows : of the first student and seed, each its name, its config and its train images.
    count, validation : of the train and of the validation images.
    """
    built = [(name, recipe_of(config), images) for name, config, images in rows]
    _, first, _ = max(built, key=lambda row: row[2])
    yield (
        f"{count:,} train images, batch {first.batch}, lr {first.lr:g}, {first.schedule}, augmentation "
        f"{first.augment}, an EMA of the weights beside every student; precision {first.precision}, of the attack "
        f"{first.attack_precision}, of the teacher {first.teacher_precision}"
    )
    attack = ", ".join(f"{key} {value}" for key, value in declared.attack.items()) or "as each method has it"
    seen = min(first.val_size or validation, validation)
    yield (
        f"training attack: {attack}; a checkpoint is selected on {seen} validation images under "
        f"{plain(describe(first.val_attack))}"
    )
    for name, recipe, images in built:
        steps = recipe.epochs * math.ceil(images / recipe.batch)
        late = f", then {recipe.late}" if recipe.late else ""
        other = [] if recipe.augment == first.augment else [f"augmentation {recipe.augment}{late}"]
        other += [] if recipe.precision == first.precision else [f"precision {recipe.precision}"]
        yield f"{name}: {images:,} images, {recipe.epochs} epochs, {steps:,} steps" + "".join(f", {o}" for o in other)
    if len({images for _, _, images in built}) > 1:
        yield (
            "The images of fewer labels are a part with the classes in proportion, drawn by seed 0: the same for every "
            "seed."
        )
    yield "No row had a trial: recipe, weights and temperatures were declared before."


def declared_of(
    name: str,
    options: Mapping[str, Any],
    labels: Sequence[str] | None,
    recipe: Mapping[str, Any],
    attack: Mapping[str, Any],
    judged: Sequence[str] | None,
) -> Declared:
    """What was typed, checked.

    Parameters
    ----------
    name, options : of the student; an option may have several values.
    labels : shares.

    Raises
    ------
    ConfigError
        For a share or a checkpoint that does not exist, and the seed, which is of a row's nets.
    """
    if "seed" in recipe:
        raise ConfigError("expected the number of seeds as --seeds, got --recipe.seed: type --seeds 3")
    for word in judged or ():
        if word not in CHECKPOINTS:
            near = nearest(word, CHECKPOINTS)
            raise ConfigError(f'expected --autoattack of {", ".join(CHECKPOINTS)}, got "{word}"{near}: correct it')
    shares = parse_shares(labels) if labels else Declared.shares
    return Declared(_students(name, options), shares, recipe, attack, tuple(judged or Declared.judged))


def parse_shares(words: Sequence[str]) -> tuple[float, ...]:
    """Shares of the labels from texts such as 1,0.2,0.04; all of them come first. Raises ConfigError."""
    texts = [text for word in words for text in word.split(",")]
    shares = [float(number(text)) for text in texts]
    for share, text in zip(shares, texts, strict=True):
        if not 0 < share <= 1:
            raise ConfigError(f"expected shares of the labels above 0, at most 1, got {text}: type --labels 1,0.2,0.04")
    if len(set(shares)) < len(shares):
        raise ConfigError(f"expected each share once, got {', '.join(texts)}: type --labels 1,0.2,0.04")
    return tuple(sorted({1.0, *shares}, reverse=True))


def _students(name: str, options: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A student for every combination of the options' values: --student wide_resnet --student.width 1 2 4."""
    if not name:
        if options:
            raise ConfigError(f"expected --student with a name, got --student.{next(iter(options))} alone: type both")
        return ()
    students: list[dict[str, Any]] = [{"name": name}]
    for key, value in options.items():
        values = [text for word in (value if isinstance(value, list) else [value]) for text in str(word).split(",")]
        students = [student | {key: text} for student in students for text in values]
    return tuple(students)
