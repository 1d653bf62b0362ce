"""The runs and reports that a comparison pairs: by seed, and by the name of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding
from ardor.evaluation.protocol import weakness
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import suite_option
from ardor.storage.config import few
from ardor.storage.runs import Run, mapping, suite_of


@dataclass(frozen=True)
class Side:
    """A or B. runs: seed -> the run's folder or the report file; folder: whether it holds runs of several seeds."""

    path: Path
    runs: dict[int | None, Path]
    folder: bool = False

    @property
    def seeds(self) -> str:
        """The seeds, for messages."""
        return ", ".join("none" if seed is None else str(seed) for seed in self.runs)


def side_of(path: Path) -> Side:
    """The runs at a path.

    Parameters
    ----------
    path : Path
        A report file, a run's folder, or a folder of runs of one method, each with another seed.

    Raises
    ------
    ConfigError
        It is none of them, or two of its runs have the same seed.
    """
    if not path.exists():
        raise ConfigError(
            f"expected a judged run, a report file or a folder of runs, got {path}, where there is none: check the path"
        )
    if path.is_file():
        return Side(path, {_seed(Report.load(path).training, path): path})
    if Run(path).exists:
        return Side(path, {_seed(Run(path).config, path): path})
    runs: dict[int | None, Path] = {}
    for child in Run.within(path):
        seed = _seed(Run(child).config, child)
        if seed is None or seed in runs:
            got = f"{child} without recipe.seed" if seed is None else f"seed {seed} twice, in {runs[seed]} and {child}"
            raise ConfigError(f"expected runs of different seeds in {path}, got {got}: keep one method in a folder")
        runs[seed] = child
    if not runs:
        raise ConfigError(
            f"expected a judged run, a report file or a folder of runs, got {path}: type ardor evaluate RUN first"
        )
    return Side(path, runs, folder=True)


def _seed(config: dict[str, object], path: Path) -> int | None:
    seed = mapping(config.get("recipe")).get("seed")
    if not isinstance(seed, int | None):  # in a report; that of a config.yaml is checked where it is read
        raise ConfigError(f"expected recipe.seed as a whole number, got {seed!r} in {path}: name a run of ardor")
    return seed


def partners(a: Side, b: Side) -> tuple[list[tuple[int | None, int | None]], list[Finding]]:
    """The seeds of A and B to pair; two single nets are a pair whatever their seeds.

    Parameters
    ----------
    a, b : Side
        The runs by seed.

    Returns
    -------
    pairs : list of tuple
        The seed of A and that of B.
    findings : list of Finding
        A warning with the runs that have no partner, if any.

    Raises
    ------
    ConfigError
        A and B have no seed in common.
    """
    if not (a.folder or b.folder):
        return list(zip(a.runs, b.runs, strict=True)), []
    common = [seed for seed in a.runs if seed in b.runs]
    if not common:
        raise ConfigError(
            f"expected runs of the same seeds, got {a.seeds} in {a.path} and {b.seeds} in {b.path}: train B with the "
            "seeds of A"
        )
    alone = [str(side.runs[seed]) for side in (a, b) for seed in side.runs if seed not in common]
    evidence = f"left out, without a partner of the same seed: {', '.join(alone)}"
    advice = "train and judge their partners: which seeds take part must not depend on how they turned out"
    pairs = [(seed, seed) for seed in sorted(common, key=str)]
    return pairs, [Finding("unpaired", "warning", evidence, advice)] if alone else []


def reports_of(pairs: list[list[Path]], suite: str | None, checkpoint: str) -> tuple[list[Report], list[Report]]:
    """The reports of A and of B.

    Parameters
    ----------
    pairs : list of list of Path
        Two runs or report files each.
    suite : str or None
        None for the strongest that all runs have.
    checkpoint : str
        "best", "last" or "averaged": of the runs.

    Raises
    ------
    ConfigError
        The runs have no such report in common, or a file is of another suite.
    """
    places = [place for pair in pairs for place in pair]
    reports = {place: Report.load(place) for place in places if place.is_file()}
    for place, report in reports.items():
        if suite not in (None, report.suite):
            raise ConfigError(
                f"expected a report of the suite {suite}, got {report.suite} in {place}: name another file"
            )
    folders = {place: _candidates(place, suite, checkpoint) for place in places if place not in reports}
    if folders:
        name = _common_name(folders, {place.name: report.suite for place, report in reports.items()})
        reports |= {place: Report.load(candidates[name]) for place, candidates in folders.items()}
    return [reports[a] for a, _ in pairs], [reports[b] for _, b in pairs]


def _candidates(run: Path, suite: str | None, checkpoint: str) -> dict[str, Path]:
    """A run's reports of this checkpoint and suite, by file name: suite, threat, checkpoint and images."""
    reports = {path.name: path for path in Run(run).reports(suite, checkpoint)}
    if not reports:
        options = suite_option(suite)
        options += "" if checkpoint == "best" else f" --checkpoint {checkpoint}"
        raise ConfigError(
            f"expected a report in {run}, got none of this kind: type ardor evaluate {quote(str(run))}{options}"
        )
    return reports


def _common_name(folders: dict[Path, dict[str, Path]], files: dict[str, str]) -> str:
    """The strongest report that all runs have; beside a report file that of its name, else of its suite."""
    common = set.intersection(*map(set, folders.values()))
    if files:
        suites = set(files.values())
        common = common & set(files) or {name for name in common if suite_of(Path(name)) in suites}
    if not common:
        names = few([f"{', '.join(sorted(reports))} in {run}" for run, reports in folders.items()])
        beside = f"; the file is of the suite {', '.join(files.values())}" if files else ""
        raise ConfigError(
            f"expected one report that all runs have, got {names}{beside}: type ardor evaluate RUN with the same "
            "--suite, --threat and --limit for each"
        )
    run, first = next(iter(folders.items()))
    return min(sorted(common), key=lambda name: weakness(Report.load(first[name]), Run(run).threat))
