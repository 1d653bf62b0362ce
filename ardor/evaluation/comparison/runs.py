"""The runs and reports that a comparison pairs: by seed, and by the name of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding
from ardor.evaluation.report import Report
from ardor.storage.config import few
from ardor.storage.runs import Run, suite_of


@dataclass(frozen=True)
class Side:
    """A or B. runs: seed -> the run's folder or the report file; folder: whether it holds runs of several seeds."""

    path: Path
    runs: dict[int | None, Path]
    folder: bool = False


def side_of(path: Path) -> Side:
    """What the user named. Raises ConfigError."""
    if path.is_file():
        return Side(path, {seed_in(Report.load(path).training, path): path})
    if Run(path).exists:
        return Side(path, {seed_in(Run(path).config, path): path})
    children = Run.within(path)
    if not children:
        raise ConfigError(
            f"expected a judged run, a report file or a folder of runs, got {path}: type ardor evaluate RUN first"
        )
    runs: dict[int | None, Path] = {}
    for child in children:
        seed = seed_in(Run(child).config, child)
        if seed is None or seed in runs:
            got = f"{child} without recipe.seed" if seed is None else f"seed {seed} twice, in {runs[seed]} and {child}"
            raise ConfigError(f"expected runs of different seeds in {path}, got {got}: keep one method in a folder")
        runs[seed] = child
    return Side(path, runs, folder=True)


def seed_in(trained: dict[str, object], path: Path) -> int | None:
    """The seed that a configuration trains with; None where it has none. Raises ConfigError."""
    recipe = trained.get("recipe")
    seed = recipe.get("seed") if isinstance(recipe, dict) else None
    if not isinstance(seed, int | None):
        raise ConfigError(f"expected recipe.seed as a whole number, got {seed!r} in {path}: name a run of ardor")
    return seed


def partners(a: Side, b: Side) -> tuple[list[tuple[int | None, int | None]], list[Finding]]:
    """The seeds to pair, and a warning that names the runs without partner. Two single nets are a pair as they are."""
    if not (a.folder or b.folder):
        return [(*a.runs, *b.runs)], []  # type: ignore[list-item]  # one each
    common = [seed for seed in a.runs if seed in b.runs]
    if not common:
        raise ConfigError(
            f"expected runs of the same seeds, got {_seeds(a)} in {a.path} and {_seeds(b)} in {b.path}: train B with "
            "the seeds of A"
        )
    alone = [str(side.runs[seed]) for side in (a, b) for seed in side.runs if seed not in common]
    evidence = f"{len(alone)} runs have no partner of their seed and were left out: {', '.join(alone)}"
    advice = "train and judge their partners: which seeds take part must not depend on how they turned out"
    return [(seed, seed) for seed in sorted(common, key=str)], [
        Finding("unpaired", "warning", evidence, advice)
    ] * bool(alone)


def _seeds(side: Side) -> str:
    return ", ".join("none" if seed is None else str(seed) for seed in side.runs)


def reports_of(pairs: list[list[Path]], suite: str | None, checkpoint: str) -> tuple[list[Report], list[Report]]:
    """The reports of A and of B, a pair of runs or files each. Raises ConfigError where they have none in common."""
    places = [place for pair in pairs for place in pair]
    given = {place: Report.load(place) for place in places if place.is_file()}
    for place, report in given.items():
        if suite not in (None, report.suite):
            raise ConfigError(
                f"expected a report of the suite {suite}, got {report.suite} in {place}: name another file"
            )
    folders = {place: candidates(place, suite, checkpoint) for place in places if place not in given}
    if folders:
        name = choose(folders, {place.name: report.suite for place, report in given.items()})
        given |= {place: Report.load(reports[name]) for place, reports in folders.items()}
    return [given[pair[0]] for pair in pairs], [given[pair[1]] for pair in pairs]


def candidates(run: Path, suite: str | None, checkpoint: str) -> dict[str, Path]:
    """A run's reports of this checkpoint and suite, by file name, which says suite, threat, checkpoint and images."""
    reports = {path.name: path for path in Run(run).reports(suite, checkpoint)}
    if not reports:
        options = "" if suite is None else f" --suite {suite}"
        options += "" if checkpoint == "best" else f" --checkpoint {checkpoint}"
        raise ConfigError(
            f"expected a run judged so, got {run} without such a report: type ardor evaluate {run}{options}"
        )
    return reports


def choose(folders: dict[Path, dict[str, Path]], files: dict[str, str]) -> str:
    """The name that all runs have a report of, the newest; beside a report file that of its name, else of its suite."""
    common = set.intersection(*(set(reports) for reports in folders.values()))
    if files:
        suites = set(files.values())
        common = common & set(files) or {name for name in common if suite_of(Path(name)) in suites}
    if not common:
        has = few([f"{run} has {', '.join(sorted(reports))}" for run, reports in folders.items()])
        wanted = f"; the file is of the suite {', '.join(files.values())}" if files else ""
        raise ConfigError(
            f"expected one report that all runs have, got {has}{wanted}: type ardor evaluate RUN with the same "
            "--suite, --threat and --limit for each"
        )
    return max(common, key=lambda name: (max(reports[name].stat().st_mtime for reports in folders.values()), name))
