"""The differences between a file's weights and a net: missing, left over or of another shape; and what to type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ardor.errors import shown


def explain(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The differences between a net's state and a file's in one clause, or "" where the file fits exactly."""
    missing = [name for name in expected if name not in state]
    left_over = [name for name in state if name not in expected]
    differ = [name for name in expected if name in state and not _alike(expected[name], state[name])]
    parts = []
    if missing:
        parts.append(f"{len(missing)} names missing ({some(missing)})")
    if left_over:
        parts.append(f"{len(left_over)} left over ({some(left_over)})")
    if differ:
        sizes = [f"{name}: {_shape(state[name])} in the file, {_shape(expected[name])} in the net" for name in differ]
        parts.append(f"{len(differ)} of another shape or kind ({some(sizes)})")
    if not parts:
        return ""
    shapes = [(tuple(state[name].shape), tuple(expected[name].shape)) for name in differ]
    return ", ".join(parts) + ": " + _advice(missing, left_over, shapes)


def classes_of(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The classes of a file and of a net, where nothing differs but the number of outputs of one layer; else None.

    A layer that another one reads cannot differ alone: it is the last.
    """
    differ = [name for name in expected if name in state and not _alike(expected[name], state[name])]
    shapes = [(tuple(state[name].shape), tuple(expected[name].shape)) for name in differ]
    one_layer = len({name.rpartition(".")[0] for name in differ}) == 1 and any(len(ours) > 1 for _, ours in shapes)
    if expected.keys() != state.keys() or not one_layer or any(theirs[1:] != ours[1:] for theirs, ours in shapes):
        return None
    sizes = {(theirs[0], ours[0]) for theirs, ours in shapes if theirs and ours and theirs[0] != ours[0]}
    return sizes.pop() if len(sizes) == 1 else None


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of the names, and an ellipsis where there are more."""
    return ", ".join(shown(name, 200) for name in names[:most]) + (", ..." if len(names) > most else "")


def _alike(a: Tensor, b: Tensor) -> bool:
    # Half precision may fill float32 weights; integers may not, they are a quantised net.
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _shape(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" {value.dtype}".replace("torch.", "")
    return f"{tuple(value.shape)}{kind}"


def _advice(
    missing: Sequence[str], left_over: Sequence[str], shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> str:
    """shapes: in the file and in the net, where they differ."""
    if any(name.startswith("sub_block1.") for name in left_over):
        return "the published TRADES form: type --model.sub_block1 true"
    if any(name.startswith("sub_block1.") for name in missing):
        return "type --model.sub_block1 false"
    if missing or left_over:
        return "name the net that the file was made for, with its depth"
    matrices = [(a, b) for a, b in shapes if len(a) == len(b) == 2]
    if len(shapes) <= 2 and matrices and matrices[0][0][1] == matrices[0][1][1]:
        n, ours = matrices[0][0][0], matrices[0][1][0]
        return (
            f"the file is for {n} classes and the net for {ours}: type --model.classes {n} where the data have these; "
            "a student to train takes all but the last layer of such a file"
        )
    if len(shapes) == 1 and len(shapes[0][0]) == len(shapes[0][1]) == 4 and shapes[0][0][0] == shapes[0][1][0]:
        n = shapes[0][0][1]
        return f"the file is for {n} image channels: type --model.channels {n}"
    return "type --model.width with the width that the file was trained with"
