"""What the README and the docs say is run, in order, in an empty folder."""

import io
import re
import runpy
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout

import pytest

from ardor import data, models
from ardor.cli.main import main
from ardor.cli.options import option_rows
from ardor.data.arrays import read_npz
from ardor.data.folder import read_folder
from ardor.storage.config import HOMES, classes
from ardor.storage.imports import resolve
from ardor.testing import check_method
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(<!-- run -->\n)?```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return [(bool(run), kind, text) for run, kind, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def shell(text):
    """`ardor ...` lines in this process, which has torch loaded; anything else by bash."""
    for command in re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip()):
        words = shlex.split(command, comments=True)
        if words[:1] == ["ardor"]:
            assert main(words[1:]) == 0, command
        else:
            subprocess.run(["bash", "-c", command], check=True)


def heredocs(text):
    """Commands of a block, a here-document kept whole."""
    parts, rest = [], text
    while match := re.search(r"^cat > \S+ <<'EOF'\n.*?^EOF$", rest, re.MULTILINE | re.DOTALL):
        parts += [rest[: match.start()], match[0]]
        rest = rest[match.end() :]
    return [part for part in [*parts, rest] if part.strip()]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(run for run, _, _ in blocks(p))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_marked_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for run, kind, text in blocks(page):
        if not run:
            continue
        if kind == "python":
            (tmp_path / "block.py").write_text(text)
            runpy.run_path("block.py", run_name="__main__")
        else:
            for part in heredocs(text):
                if part.startswith("cat >"):
                    subprocess.run(["bash", "-c", part], check=True)
                else:
                    shell(part)


def test_readme_python_and_own_method_run(tmp_path, monkeypatch, capsys):
    """The README's example, its method of 15 lines and its shell lines, on a teacher that one epoch made."""
    monkeypatch.chdir(tmp_path)
    short = ["--recipe.epochs", "1", "--recipe.batch", "256", "--recipe.device", "cpu", "--gate=false"]
    teacher = ["train", "sat", "--data", "digits", "--run", "runs/teacher", "--student.width", "8"]
    assert main([*teacher, *short]) == 0
    shutil.copytree("runs/teacher", "runs/demo/seed0/teacher")
    python = [text for _, kind, text in blocks(ROOT / "README.md") if kind == "python"]
    (tmp_path / "example.py").write_text(python[0].replace("epochs=3", "epochs=1"))
    (tmp_path / "mine.py").write_text(python[1])
    with redirect_stdout(io.StringIO()) as shown:
        runpy.run_path("example.py")
    assert "worst_case" in shown.getvalue()
    lines = [text for _, kind, text in blocks(ROOT / "README.md") if kind == "sh"]
    (tmp_path / "runs" / "rslad").mkdir(parents=True)
    for text in lines[1:]:
        for command in text.splitlines():
            if command.startswith("ardor train rslad"):
                assert main([*shlex.split(command, comments=True)[1:], *short]) == 0, command
    for command in ("evaluate runs/rslad --suite quick", "evaluate runs/teacher --suite quick"):
        assert main(command.split()) == 0
    assert main(["report", "runs/teacher", "runs/rslad", "--out", "report.html", "--limit", "40"]) == 0
    assert "<html" in (tmp_path / "report.html").read_text()


def test_the_readmes_own_method_is_fifteen_lines_or_fewer():
    text = [text for _, kind, text in blocks(ROOT / "README.md") if kind == "python"][1]
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    assert len((ROOT / "docs/examples/mine.py").read_text().split('"""', 2)[2].strip().splitlines()) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_recipes_are_read_and_name_what_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        assert main(["train", path.stem, "--help"]) == 0


@pytest.mark.parametrize(
    "make",
    [
        *(one for kind in HOMES for one in classes(kind).values()),
        *models.builders.BUILDERS.values(),
        *(models.build, models.load, data.load),
    ],
    ids=lambda make: make.__name__,
)
def test_every_option_has_a_text(make):
    assert [option for option, _, text in option_rows("it", make) if not text] == []


@pytest.mark.parametrize("reader", [read_npz, read_folder])
def test_every_option_of_a_reader_has_a_text(reader):
    assert [option for option, _, text in option_rows("it", reader) if not text] == []


def test_every_method_has_a_card():
    cards = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"recipes", "not_built"}
    assert cards == set(classes("method"))


def test_the_examples_keep_the_contract(tmp_path):
    (tmp_path / "readme.py").write_text([text for _, kind, text in blocks(ROOT / "README.md") if kind == "python"][1])
    for name in (f"{ROOT}/docs/examples/mine.py:AdaAD", f"{tmp_path}/readme.py:Mine"):
        check_method(resolve(name, "method")())
    assert (ROOT / "docs/examples/mine.py").read_text() in (ROOT / "docs/start/index.md").read_text()
    assert (ROOT / "docs/examples/net.py").read_text() in (ROOT / "docs/start/index.md").read_text()
