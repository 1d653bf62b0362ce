"""`ardor models`: the nets of the package, with their figures; one of them with its card; the leaderboard."""

from __future__ import annotations

from pathlib import Path

from ardor.cli import display
from ardor.deployment.hub.card import CARD
from ardor.deployment.leaderboard import Entry, entries, page, shipped_entry, unevaluated
from ardor.deployment.leaderboard.page import row, table
from ardor.deployment.variants.comparison import size_text
from ardor.errors import ConfigError
from ardor.evaluation.protocol import threat_text
from ardor.models.builders import BUILDERS
from ardor.models.zoo import PREFIX, folder_of, require_unaltered
from ardor.storage.files import write_text


def models(
    name: str | None = None,
    /,
    *,
    leaderboard: Path | None = None,
    json: Path | None = None,
    out: Path | None = None,
) -> int:
    """List the trained nets that come with ardor; of one, named as NAME or ardor:NAME, show its card and figures.

    Each figure follows from a verdict per image and attack in the package, and is computed when it is shown. Load a
    net as `ardor.models.load("ardor:NAME")`, or name it: `--teacher ardor:NAME`, `ardor evaluate --model ardor:NAME`.

    Examples:

    `ardor models`

    `ardor models --leaderboard leaderboard --out leaderboard.md`

    Parameters
    ----------
    name
        One net.
    leaderboard
        Folder of entries: the page of those and of the package's nets, as Markdown.
    json
        File for the figures; - is standard output, instead of the text.
    out
        File for the text; default standard output.
    """
    display.require_files(json, out)
    if name is not None and leaderboard is not None:
        raise ConfigError(f"expected a net or --leaderboard, got {name} and {leaderboard}: type one of them")
    if name is not None:
        one = shipped_entry(name)
        text, content = _card(one), display.as_json(one.as_dict())
    else:
        listed = entries(leaderboard)
        text = page(listed) if leaderboard is not None else _list(listed)
        content = display.as_json([entry.as_dict() for entry in listed])
    if out is not None:
        write_text(out, text)
        text = f"Saved to {out}."
    display.result(text, {json: content})
    return 0


def _list(listed: list[Entry]) -> str:
    """The nets as one table, unranked: of several data sets and radii."""
    columns = ("net", "data", "threat", "n", "parameters", "MACs", "file", "INT8", "clean %", "AutoAttack %", "licence")
    rows = []
    for entry in sorted(listed, key=lambda entry: entry.name):
        report, forms = entry.report, entry.deployed.forms if entry.deployed else ()
        int8 = next((size_text(form.size) for form in forms if form.name == "onnx-int8"), "")
        own = {"data": report.data["name"], "threat": threat_text(report.threat), "n": f"{report.n:,}", "INT8": int8}
        cells = row(entry) | own | {"net": PREFIX + entry.name, "licence": entry.licence}
        rows.append([cells[column] for column in columns])
    nets = table(columns, rows, ("net", "data", "threat", "licence")) if rows else "The package has no trained net.\n"
    others = ", ".join(PREFIX + name for name in unevaluated())
    return (
        f"{nets}\nAutoAttack: with its 95 % interval over n images. ardor models NAME shows one, "
        f'ardor.models.load("{PREFIX}NAME") loads it.\nWithout weights: {", ".join(BUILDERS)}, timm:NAME.'
        + (f"\nTrained, not evaluated yet: {others}." if others else "")
    )


def _card(entry: Entry) -> str:
    """The model card without its metadata, and the commands that made the net."""
    folder = folder_of(entry.name)
    require_unaltered(folder, (CARD,))
    _, _, text = (folder / CARD).read_text(encoding="utf-8").partition("\n---\n")
    made = "\n".join(entry.made)
    claim = "\n".join(entry.claim.obstacles) or entry.claim.json().strip()
    return f"{text.strip()}\n\n## Made by\n\n{made}\n\n## Claim for RobustBench\n\n{claim}"
