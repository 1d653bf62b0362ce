"""Every method, and every ingredient of a recipe, with what changes during a run fitted to the run's length."""

from __future__ import annotations

from typing import Any

FIELD = ("methods", "ingredients")
"""The tables of this file's rows."""

AVERAGED: dict[str, Any] = {"averaging": {"name": "ema", "decay": 0.995}}
"""Of every row. It does not change the student's weights: its checkpoint `averaged` is the ingredient EMA."""


def short_options(method: str, epochs: int) -> dict[str, Any]:
    """Options of a method that count epochs, where they are made for runs of 200 or 300."""
    begin, drops = max(1, round(0.3 * epochs)), [round(epochs * m / 300) for m in (215, 260, 285)]
    options: dict[str, dict[str, Any]] = {
        "iad": {"begin": begin},
        "adaiad": {"begin": begin},
        "variance_gap": {"warmup": min(2, epochs)},
        "igdm": {"ramp": epochs},
        "saad": {"ramp": epochs},
        "mtard": {"drops": drops},
        "absld": {"drops": drops},
    }
    return options.get(method, {})


def field_methods(epochs: int, steps: int) -> dict[str, dict[str, Any]]:
    """The configs of all methods by the names of their rows, for a run of so many epochs and steps."""
    plain = (
        "natural", "sat", "trades", "mart", "kd", "ard", "iad", "rslad", "variance_gap", "adaad", "adaiad", "saad",
        "fair_rslad", "absld", "mtard", "dgad", "peeraid", "akd2", "lbgat",
    )  # fmt: skip
    methods = {name: {"name": name} | short_options(name, epochs) for name in plain}
    igdm = {"name": "igdm"} | short_options("igdm", epochs)
    others: dict[str, dict[str, Any]] = {
        "igdm-rslad": igdm | {"base": {"name": "rslad"}},
        "igdm-adaad": igdm | {"base": {"name": "adaad"}},
        "adr": {"name": "adr", "steps": max(1, steps)},
        "b-mtard": methods["mtard"] | {"balance_temperatures": True},
    }
    return methods | others


def recipes_of(epochs: int, channels: int) -> dict[str, dict[str, Any]]:
    """Changes of the bench's recipe by the names of the ingredients.

    Plain is the RSLAD paper's recipe at the run's length. Grey images are digits and letters as a rule: they are not
    mirrored, and have no colours for IDBH.
    """
    plain = {
        "schedule": "milestones", "lr": 0.1, "optimiser": {"weight_decay": 2e-4},
        "augment": "none" if channels == 1 else "crop-flip",
    }  # fmt: skip
    cycle = {"schedule": "one-cycle", "lr": 0.2, "optimiser": {"weight_decay": 5e-4}}
    shift: dict[str, Any] = {"augment": "cropshift" if channels == 1 else "cropshift-flip"}
    late = {} if channels == 1 else {"late": "idbh-weak", "late_from": epochs // 2 + 1}
    awp = {"awp": 0.005}
    modern = cycle | shift | late
    changes = {
        "plain": {}, "one-cycle, decay 5e-4": cycle, "cropshift": shift, "cropshift, then idbh-weak": shift | late,
        "awp": awp, "erase": {"erase": 0.5}, "cutmix": {"mix": "cutmix"}, "modern": modern, "modern, awp": modern | awp,
    }  # fmt: skip
    if channels == 1:
        del changes["cropshift, then idbh-weak"]
    return {name: plain | change for name, change in changes.items()}
