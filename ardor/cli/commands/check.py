"""`ardor check`: a gate for continuous integration, by exit code."""

from __future__ import annotations

from pathlib import Path

from ardor.cli import display
from ardor.cli.selection import Checkpoint, Number, Overrides, find_threat, require_run, threat_of
from ardor.errors import ConfigError
from ardor.evaluation import ci_files
from ardor.evaluation.bounds import LEAST, check_report, report_to_check
from ardor.evaluation.ci_files import Case
from ardor.evaluation.protocol import title_of


def check(
    run: Path | None = None,
    /,
    *,
    min_robust: Number | None = None,
    min_clean: Number | None = None,
    min_class: Number | None = None,
    suite: str | None = None,
    confidence: bool = False,
    threat: str | None = None,
    checkpoint: Checkpoint = "best",
    json: Path | None = None,
    junit: Path | None = None,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Compare an evaluated run with bounds, for continuous integration: the exit code is 0 or 1.

    RUN is a folder that `ardor train` made and `ardor evaluate` judged; nothing is evaluated here. Only a report of the
    weights as they are now counts, on the test images of the run's data, under the threat that it was trained for
    unless you type another. The value is compared, and its 95 % interval shown; --confidence compares the interval's
    lower end, for a bound that chance alone does not pass.

    The exit code is 0 where every bound is reached, 1 where one is not, and 2 where it could not be judged: no report,
    one of other weights, or one with an error among its findings.

    Examples:

    `ardor check runs/rslad --min_robust 0.6 --suite autoattack`

    `ardor check runs/rslad --min_robust 0.5 --min_clean 0.8 --confidence --junit check.xml`

    Parameters
    ----------
    run
        Folder of a judged run; first.
    min_robust
        Least accuracy under every attack of the suite, in [0, 1].
    min_clean
        Least clean accuracy, in [0, 1].
    min_class
        Least accuracy of the worst class under every attack, in [0, 1].
    suite
        Suite of the report; default the strongest there is.
    confidence
        Compare the lower end of each 95 % interval instead of the value.
    threat
        linf or l2; default the run's.
    checkpoint
        Checkpoint of the run.
    json
        File for the result; - is standard output, instead of the text.
    junit
        File for the result as JUnit XML; - is standard output, instead of the text.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    display.require_files(json, junit)
    if run is None:
        raise ConfigError("expected RUN, got none: type ardor check runs/NAME --min_robust 0.5")
    require_run(run, "ardor check runs/NAME --min_robust 0.5")
    typed = dict(zip(LEAST, (min_robust, min_clean, min_class), strict=True))
    least = {name: value for name, value in typed.items() if value is not None}
    used = find_threat(threat, overrides, threat_of(run))
    report = report_to_check(run, used, suite, checkpoint, trust_code=trust_code)
    bounds = check_report(report, least, confidence=confidence)
    passed = all(bound.passed for bound in bounds)
    title = f"{run} ({checkpoint}): {title_of(report)}"
    text = "\n".join([title, *map(str, bounds)])
    cases = [Case(b.name, text=str(b)) if b.passed else Case(b.name, failure=str(b)) for b in bounds]
    content = {"run": str(run), "protocol": title_of(report), "passed": passed, "bounds": [b.as_dict() for b in bounds]}
    as_junit = ci_files.junit(f"ardor check {run}", cases, {"protocol": title_of(report)})
    display.result(text, {json: display.as_json(content), junit: as_junit})
    return 0 if passed else 1
