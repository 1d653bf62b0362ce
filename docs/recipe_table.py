"""Write the tables of docs/methods/recipes.md, between its markers, from recipes/*.yaml and the paper's figures.

python docs/recipe_table.py
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ardor
from ardor.storage.config import read_yaml
from ardor.storage.recipes import find_recipe, read_recipe

PAGE = Path(__file__).with_name("methods") / "recipes.md"
BEGIN, END = "<!-- begin: python docs/recipe_table.py -->\n", "<!-- end -->\n"
FIGURES = Path(ardor.__file__).parent / "experiments" / "paper" / "whitebox.csv"
COLUMNS = {
    "clean": "clean", "fgsm": "FGSM", "pgd_sat": "PGD_SAT", "pgd_trades": "PGD_TRADES", "cw_inf": "CW_inf",
    "autoattack": "AutoAttack",
}  # fmt: skip
METHODS = ("natural", "sat", "trades", "ard", "iad", "rslad", "variance_gap")
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
STUDENTS = {"resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
SURROGATE = {"resnet50": "ResNet-50"}
GMAC = {
    "resnet18": 0.555, "mobilenet_v2": 0.091, "resnet50": 1.298,
    "robustbench:Zhang2019Theoretically": 6.66, "robustbench:Gowal2020Uncovering": 38.8,
}  # fmt: skip
"""10^9 multiply-accumulates of a forward pass of one 32 x 32 image."""
TRAIN, HELD_OUT, TEST = 50_000, 5_000, 10_000
"""Images; the default of data.val is a tenth."""


def tables() -> str:
    """One table for each data set and student."""
    parts = []
    for data, title in DATA.items():
        for student, name in {**STUDENTS, **SURROGATE}.items():
            rows = [row for method in METHODS for row in rows_of(method, data, student)]
            if rows:
                head = ["command", "epochs", "per image", "PMAC", *COLUMNS.values()]
                rule = ["---", "--:", "---", *["--:"] * (1 + len(COLUMNS))]
                lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
                lines.insert(1, f"|{'|'.join(rule)}|")
                parts.append(f"\n### {title}, {name}\n\n" + "\n".join(lines) + "\n")
    return "".join(parts) + "\n"


def rows_of(method: str, data: str, student: str) -> Iterator[list[str]]:
    """The cells of a method's published rows: the paper's form, and the released one where the recipe has it."""
    content = read_yaml(find_recipe(method))
    published = content["published"]
    if student not in (*STUDENTS, *published.get("surrogates", {}).get(data, ())):
        return
    for variants in ((), ("released",)):
        if set(variants) <= content["variants"].keys():
            config = read_recipe(method, data, variants)
            words = ["ardor train", method, "--data", data, "--student", student, *(f"--variant {v}" for v in variants)]
            yield [
                f"`{' '.join(words)}`",
                str(config["recipe"]["epochs"]),
                published["passes"],
                three_digits(pmac(config, student, published)),
                *figures(method, data, student),
            ]


def pmac(config: dict[str, Any], student: str, published: dict[str, str]) -> float:
    """10^15 multiply-accumulates of a run; validation counts where it takes the whole test set."""
    gmac = {"F": GMAC[student], "T": GMAC.get(config.get("teacher", ""), 0.0)}
    epochs = config["recipe"]["epochs"]
    before = config["method"]["begin"] - 1 if "before" in published else 0
    passes = before * cost(published.get("before", ""), gmac) + (epochs - before) * cost(published["passes"], gmac)
    if config["data"].get("protocol") != "paper":
        return passes * (TRAIN - HELD_OUT) / 1e6
    validation = 2 * config["recipe"]["val_attack"]["steps"] + 2  # a clean and an adversarial forward pass
    return (passes * TRAIN + epochs * TEST * validation * gmac["F"]) / 1e6


def cost(passes: str, gmac: dict[str, float]) -> float:
    """GMAC of "26F + 1T"."""
    return sum(int(count) * gmac[net] for count, net in re.findall(r"(\d+)([FT])", passes))


def three_digits(value: float) -> str:
    """115, 67.4, 7.49."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def figures(method: str, data: str, student: str) -> list[str]:
    """The paper's figures by column, best / last; a dash where it has no such row."""
    with FIGURES.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (r["method"], r["dataset"], r["student"]) == (method, data, student)]
    by = {row["checkpoint"]: row for row in rows}
    return [f"{by['best'][c]} / {by['last'][c]}" if by else "–" for c in COLUMNS]


def page() -> str:
    """docs/methods/recipes.md with its tables written anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tables() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
