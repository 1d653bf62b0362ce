"""The page: what is ranked, and what never is."""

import re
from dataclasses import replace

from ardor.deployment.leaderboard import entries, page
from tests.conftest import ROOT
from tests.deployment.leaderboard.conftest import entry_of, tiny


def rows(text):
    """The cells of the ranked tables."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \| `", line)]


def test_the_most_robust_is_first_and_a_tie_shares_its_rank():
    text = page(
        [
            entry_of("a", tiny(1), robust=8),
            entry_of("b", tiny(2), robust=10, clean=11),
            entry_of("c", tiny(3), robust=8),
            entry_of("d", tiny(4), robust=2),
        ]
    )
    assert [(cells[0], cells[1]) for cells in rows(text)] == [("1", "`b`"), ("2", "`a`"), ("2", "`c`"), ("4", "`d`")]


def test_figures_have_n_and_an_interval_and_a_test_against_the_row_above():
    text = page([entry_of("a", tiny(1), robust=8), entry_of("b", tiny(2), robust=14)])
    first, second = rows(text)
    assert first[5:8] == ["75.00", "70.00 [48.1, 85.5]", ""]
    assert second[5:8] == ["75.00", "40.00 [21.9, 61.3]", "0.0312"]
    assert "n = 20 (all 20 images), seed 0 of the attacks." in text


def test_other_images_radii_and_data_are_never_ranked_together():
    other = entry_of("data", tiny(4), robust=14)
    other.report.data["name"] = "cifar10"
    entries = [
        entry_of("full", tiny(1), robust=8),
        entry_of("part", tiny(2), n=10, robust=8, clean=9),
        entry_of("radius", tiny(3), eps=0.1, robust=12),
        other,
    ]
    text = page(entries)
    assert {cells[0] for cells in rows(text)} == {"1"}
    assert len(rows(text)) == 4
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == [
        "## cifar10 (test), Linf eps 0.2",
        "## digits (test), Linf eps 0.1",
        "## digits (test), Linf eps 0.2",
    ]
    assert text.count("not ranked against those above") == 1
    assert text.index("`full`") < text.index("not ranked against those above") < text.index("n = 10 ")


def test_the_order_of_the_entries_does_not_matter():
    entries = [entry_of(name, tiny(k), robust=8 + k % 2) for k, name in enumerate("abcd")]
    assert page(entries) == page(entries[::-1])


def test_names_from_files_are_text():
    entry = entry_of("a")
    training = {"method": {"name": "[x](http://y) | <script>"}, "teacher": "runs/`a`"}
    text = page([replace(entry, training=training)])
    assert "<script>" not in text
    assert "[x](http" not in text
    assert len(rows(text)[0]) == 10


def test_int8_is_beside_float32_with_its_device():
    text = page([entry_of("a"), replace(entry_of("b", tiny(2)), deployed=None)])
    (line,) = [line for line in text.splitlines() if line.startswith("| `a` | 9.00 kB")]
    assert (
        line == "| `a` | 9.00 kB | 3.00 kB | 0.500 | 0.500 | 75.00 | 45.00 [25.8, 65.8] | 45.00 [25.8, 65.8] | 1.0000 |"
    )
    assert "Latency on a processor; compared on 20 images, Square with 50 queries." in text


def test_several_devices_are_told_apart():
    one, two = entry_of("a"), entry_of("b", tiny(2))
    two = replace(two, deployed=replace(two.deployed, processor="another"))
    text = page([one, two])
    assert "(1) Latency on a processor" in text
    assert "(2) Latency on another" in text
    assert "| `b` (2) |" in text


def test_a_refused_int8_file_is_no_figure():
    entry = entry_of("a")
    entry = replace(entry, deployed=replace(entry.deployed, forms=entry.deployed.forms[:2], refused="46 % agree"))
    assert "| `a` | 9.00 kB | refused | 0.500 |" in page([entry])


def test_every_entry_has_its_claim_or_why_it_is_none():
    text = page([entry_of("a")])
    assert "`a` is no claim:" in text
    assert "RobustBench has no leaderboard for them" in text


def test_the_page_of_the_docs_is_what_its_entries_give():
    """And so every entry of the package and of the docs is checked."""
    results = ROOT / "docs" / "results"
    text = (results / "leaderboard.md").read_text(encoding="utf-8")
    command = "ardor models --leaderboard docs/results/leaderboard --out docs/results/leaderboard.md"
    assert text == page(entries(results / "leaderboard")), f"type {command}"


def test_a_page_without_entries():
    assert "There is no entry." in page([])
