"""Checks before a run, and its resolved configuration."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.compiling import require_compiler
from ardor.engine.modes import device_of, train_mode
from ardor.errors import ConfigError, ModelError
from ardor.models import require_fit
from ardor.models.fit import require_gradient
from ardor.models.identity import as_built, identity
from ardor.models.known import require_known
from ardor.models.teachers import each
from ardor.noise import seeded
from ardor.storage.config import describe, few
from ardor.storage.signature import Signature
from ardor.storage.tensors import is_finite
from ardor.training.averaging import Averaging, require_reached
from ardor.training.radius import require_radius
from ardor.training.recipe import Recipe, find_device, images_of_epoch, lr_at
from ardor.training.soft_labels import SoftLabelCache, unnumbered
from ardor.training.state import make_optimiser
from ardor.training.validation import val_attack_of
from ardor.types import Method, uses_labels
from ardor.version import __version__


def check_setup(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    train: Split,
    val: Split | None,
    averaging: Averaging | None = None,
    recipe: Recipe | None = None,
) -> None:
    """Refuse recipe, nets, method and data that do not fit each other. Raises ConfigError and ModelError."""
    if averaging is not None and recipe is not None:
        require_reached(averaging, recipe.epochs)
    if isinstance(method, type) or not callable(getattr(method, "terms", None)):
        raise ConfigError(f"expected a method, an object with `terms`, got {method!r}: pass RSLAD(), not the class")
    if next(student.parameters(), None) is None:
        raise ModelError("expected a student with parameters to train, got none: pass a net that has weights")
    if not any(p.requires_grad for p in student.parameters()):
        raise ModelError(
            "expected a student with a parameter to train, got none that requires a gradient: type "
            "student.requires_grad_(True)"
        )
    require_fit(student, train.shape, train.classes, "student")
    try:
        with train_mode(student):
            pass
    except NotImplementedError as error:
        raise ModelError(
            f"expected a student that can be put into train mode, got {type(student).__name__}, an exported program: "
            "train the net that it was exported from"
        ) from error
    require_gradient(student, train.shape, "student")
    if recipe is not None:
        kinds = (recipe.augment, recipe.late or "")
        colours = any(recipe.jitter) or recipe.randaugment[0] or any(kind.startswith("idbh") for kind in kinds)
        if colours and train.shape[0] not in (1, 3):
            raise ConfigError(
                f"expected grey or RGB images for recipe.jitter, recipe.randaugment and idbh, got "
                f"{train.shape[0]} channels: leave them out"
            )
        if recipe.compile:
            require_compiler("--recipe.compile", find_device(recipe.device))
        if recipe.sync_batchnorm and distributed.world_size() > 1:
            distributed.require_gpus(find_device(recipe.device))
        _require_statistics(student, images_of_epoch(recipe, train), train.shape, recipe.batch)
        _require_images(method, images_of_epoch(recipe, train), recipe)
        _require_extra(train, recipe.batch)
        _require_no_labels(method, recipe)
        if recipe.patience and val is None:
            raise ConfigError("expected val, whose accuracy ends the run by --recipe.patience, got none: pass val")
        if recipe.eps_ramp is not None:
            require_radius(method)
        _require_float16(recipe)
        lr_at(recipe, 0.0)  # a third-party schedule
        make_optimiser(student, None, recipe)  # the method's parameters are not there yet
    state = student.state_dict()
    if bad := [key for key, v in state.items() if not isinstance(v, Tensor) or v.layout != torch.strided]:
        raise ModelError(
            f"expected a student whose state is dense tensors, which a checkpoint can hold, got other values in "
            f"{few(bad)}: make them attributes or dense buffers"
        )
    if bad := [name for name, value in state.items() if not is_finite(value)]:
        raise ModelError(f"expected finite weights of the student, got NaN or infinity in {few(bad)}: build it anew")
    if teacher is not None:
        _require_number(method, teacher)
        for name, net in each(teacher).items():
            require_fit(net, train.shape, train.classes, f"{name} teacher".strip())
            require_known(net, train.shape, train.classes)
        require_apart(student, teacher)
    elif vars(type(method)).get("needs_teacher", False):
        name = type(method).__name__
        raise ModelError(
            f"{name} expected a teacher, got none: type --teacher TEACHER (a run's folder; in Python a net)"
        )
    _require_labels(method, teacher, train)
    if val is not None and (val.shape, val.classes) != (train.shape, train.classes):
        raise ModelError(
            f"expected val like train, {train.shape} and {train.classes} classes, got {val.shape} and {val.classes}: "
            "cut val from the same data"
        )


def _require_float16(recipe: Recipe) -> None:
    device = find_device(recipe.device)
    if recipe.precision == "float16" and device.type != "cuda":
        raise ConfigError(
            f"expected a GPU for --recipe.precision float16, got {device}: type --recipe.precision bfloat16 or float32"
        )


def _require_extra(train: Split, batch: int) -> None:
    """Refuse a share of extra images that is none of a batch. Raises ConfigError."""
    if train.extra is not None and int(train.extra.share * batch) < 1:
        raise ConfigError(
            f"expected an extra image in each batch of {batch}, got a share of {train.extra.share:g}: type "
            "a larger --data.extra_share, or a larger --recipe.batch"
        )


def _require_no_labels(method: Method, recipe: Recipe) -> None:
    """Refuse mixed images for a method that uses labels. Raises ConfigError."""
    if recipe.mix != "none" and uses_labels(method):
        raise ConfigError(
            f"expected a method without labels, such as rslad, for --recipe.mix {recipe.mix}, whose images are of two "
            f"classes, got {type(method).__name__}, which uses them: type --recipe.mix none, or that method"
        )


def _require_labels(method: Method, teacher: nn.Module | None, train: Split) -> None:
    """Refuse extra images without labels for a method that uses them. Raises ConfigError."""
    if train.extra is None or train.extra.labels == "file" or not uses_labels(method):
        return
    name, one = type(method).__name__, teacher is not None and not isinstance(teacher, nn.ModuleDict)
    taught = one and uses_teacher(method)
    if train.extra.labels == "none":
        advice = "type --data.extra_labels teacher" if taught else "add the array label"
        raise ConfigError(
            f"expected labels of the extra images, which {name} uses, got none: {advice}, or a method without labels "
            "such as rslad"
        )
    if not taught:
        got = "several" if teacher is not None and uses_teacher(method) else "none"
        raise ConfigError(
            f"expected {name} with one teacher for --data.extra_labels teacher, got {got}: add the array label, or "
            "type a method without labels such as rslad"
        )


def _require_statistics(student: nn.Module, images: int, shape: Sequence[int], batch: int) -> None:
    """Refuse a step with one image in a process where a batch norm needs two: on maps of 1 x 1 pixels."""
    processes = distributed.world_size()
    if _least_share(images, batch, processes) > 1:
        return
    try:
        with torch.no_grad(), seeded(0):
            one = copy.deepcopy(student).train()
            one(torch.zeros(1, *shape, dtype=torch.float32, device=device_of(one)))
    except ValueError as error:
        sizes = (*range(batch, images + 1), *range(batch, 1, -1))
        fits = next((size for size in sizes if _least_share(images, size, processes) > 1), None)
        raise ConfigError(
            "expected at least 2 images of each step in every process, for the student's batch norm, got 1 of "
            f"{images} images in steps of {batch} over {processes} processes: "
            + (f"type --recipe.batch {fits}" if fits else "add training images, or take fewer processes")
        ) from error


def _require_images(method: Any, images: int, recipe: Recipe) -> None:
    """Refuse fewer images in a process and a part of a step than a method needs at once. Raises ConfigError."""
    needed, processes = getattr(method, "least_images", 1), distributed.world_size()

    def least(batch: int) -> int:
        own = _least_share(images, batch, processes)
        return own // min(recipe.accumulate, own)

    if (got := least(recipe.batch)) >= needed:
        return
    larger = (size for size in range(recipe.batch, images + 1) if least(size) >= needed)
    fits = next(larger, next((size for size in range(recipe.batch, 1, -1) if least(size) >= needed), None))
    raise ConfigError(
        f"expected at least {needed} images of each step in every process and part, which {type(method).__name__} "
        f"needs at once, got {got} of {images} images in steps of {recipe.batch} over {processes} processes in "
        f"{recipe.accumulate} parts: "
        + (f"type --recipe.batch {fits}" if fits else "add training images, or take fewer processes or parts")
    )


def _least_share(images: int, batch: int, processes: int) -> int:
    """The fewest images of a step that a process has; `batches` adds a last image alone to the step before."""
    last = images % batch or batch
    sizes = {min(batch, images), last if last > 1 or images <= batch else batch + 1}
    return min(max(1, size // processes) for size in sizes if size <= images)


def _require_number(method: Method, teacher: nn.Module) -> None:
    """Refuse one teacher for a method of several, and several for a method of one. Raises ModelError."""
    expected, got = sorted(getattr(type(method), "teachers", ("",))), sorted(each(teacher))
    if expected == got:
        return
    name = type(method).__name__
    if got == [""]:
        options = " ".join(f"--teacher.{who} RUN" for who in expected)
        raise ModelError(
            f"{name} expected the teachers {' and '.join(expected)}, got one: type {options} (in Python a dict of nets)"
        )
    wanted = " and ".join(expected) if expected != [""] else "one"
    advice = "--teacher RUN" if expected == [""] else " ".join(f"--teacher.{who} RUN" for who in expected)
    raise ModelError(f"{name} expected as teacher {wanted}, got {' and '.join(got)}: type {advice}")


def require_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher with layers of the student: frozen they are not trained, and their batch norms move."""
    weights = (
        {p.data_ptr() for p in [*net.parameters(), *net.buffers()] if p.layout == torch.strided and p.numel()}
        for net in (student, teacher)
    )
    shared, layers = len(set.intersection(*weights)), {*student.modules()} & {*teacher.modules()}
    if shared or layers:
        count = f"{shared} parameters and buffers" if shared else f"{len(layers)} layers"
        raise ModelError(
            f"expected a teacher of its own layers, got one that shares {count} with the student: type "
            "copy.deepcopy(teacher)"
        )


def uses_teacher(method: Method) -> bool:
    """Whether a method may use a teacher: unless its class has `needs_teacher = False`."""
    return bool(vars(type(method)).get("needs_teacher", True))


def resolve_config(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    train: Split,
    val: Split | None,
    recipe: Recipe,
    averaging: Averaging | None = None,
    soft_labels: SoftLabelCache | None = None,
) -> dict[str, Any]:
    """The config.yaml of a run: everything that determines its result, and the hashes of nets, code and data."""
    teacher = teacher if uses_teacher(method) else None
    one = teacher is not None and not isinstance(teacher, nn.ModuleDict)
    resolved = replace(recipe, milestones=recipe.drops, val_attack=val_attack_of(recipe, method))
    pieces = Signature()
    pieces.add("method", _before_training(method))
    code = pieces.code
    # not the whole recipe: a run's folder has its milestones, and a longer run has more epochs
    pieces.alone("recipe", (resolved.optimiser, resolved.schedule, resolved.val_attack, averaging))
    return {
        "method": describe(method),
        "student": describe(student) | (_source(student) if getattr(student, "loaded_from", None) else {}),
        "teacher": None if teacher is None else _described(teacher),
        "data": describe(train.source),
        "recipe": {k: v for k, v in describe(resolved).items() if k != "name"},
        "averaging": None if averaging is None else describe(averaging),
        "soft_labels": "live" if soft_labels is None or not one or unnumbered(recipe) else soft_labels.dtype,
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        # a name, a path or a file may stand for other bytes later
        "fingerprint": {
            "ardor": __version__,
            "method": code,
            "pieces": None if pieces.plain and pieces.code == code else pieces.digest,  # beyond what their configs have
            **_function("student", student, train.shape),
            **_teacher_function(teacher, train.shape),
            **({"start": start} if (start := getattr(student, "start", None)) else {}),
            "train": train.hash,
            "val": None if val is None else val.hash,
            "marks": list(train.marks),
        },
    }


def _described(teacher: nn.Module) -> dict[str, Any]:
    """The config of a teacher, or of each by name."""
    configs = {name: describe(net) | _source(net) for name, net in each(teacher).items()}
    return configs if isinstance(teacher, nn.ModuleDict) else configs[""]


def _teacher_function(teacher: nn.Module | None, shape: Sequence[int]) -> dict[str, Any]:
    """As `_function`; of several teachers the hashes joined, and the function of each."""
    if teacher is None:
        return {"teacher": None}
    of = {name: _function("teacher", net, shape) for name, net in each(teacher).items()}
    hashes = " ".join(one["teacher"] for one in of.values())
    if isinstance(teacher, nn.ModuleDict):
        return {"teacher": hashes, "teacher_function": {name: one["teacher_function"] for name, one in of.items()}}
    return of[""]


def _source(net: nn.Module) -> dict[str, Any]:
    """The file of a net's weights, and which of several in it."""
    state = getattr(net, "loaded_state", None)
    return {"weights": getattr(net, "loaded_from", None), **({} if state is None else {"state": state})}


def _function(who: str, net: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """The hash of a net's weights, and its function. as_built: what the config of an earlier version determines."""
    one = identity(net, shape)
    return {who: one["hash"], f"{who}_function": {"as_built": as_built(net), **one["function"]}}


def _before_training(method: Method) -> Method:
    """The method without its learned state, whose names end in "_"."""
    bare = copy.copy(method)
    for name in [name for name in vars(method) if name.endswith("_")]:
        del vars(bare)[name]
    base: Any = getattr(method, "base", None)
    if hasattr(base, "terms"):
        vars(bare)["base"] = _before_training(base)
    return bare
