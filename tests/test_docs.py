"""Every block of commands and of Python in the README and the docs is run, page by page, in a folder with small runs.

What would take long is shortened (`SHORT`). A block whose first line is `# needs ...` cannot run here: its commands are
parsed, their options built, its Python compiled and its imports resolved.
"""

import ast
import contextlib
import importlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ardor
from ardor import data, models
from ardor.attacks import PGD
from ardor.cli.main import command_of, main, parse
from ardor.cli.options import option_rows
from ardor.data.arrays import read_npz
from ardor.data.folder import read_folder
from ardor.methods import RSLAD
from ardor.noise import Noise
from ardor.storage.config import HOMES, classes
from ardor.storage.imports import resolve
from ardor.storage.tensors import write_tensors
from ardor.testing import check_method
from tests.conftest import ROOT

GENERATED = [ROOT / "docs" / name for name in ("reference/api", "reference/commands", "_build")]
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not any(p.is_relative_to(made) for made in GENERATED)),
]
FENCE = re.compile(r"^```(sh|bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^cat > \S+ <<'EOF'\n[\s\S]*?^EOF$|^(?:.*\\\n)*.+$", re.MULTILINE)
NEEDS = "# needs "
LAUNCHERS = (["ardor"], ["srun"], ["torchrun"])

SHORT = {
    "train": "--recipe.epochs 1 --recipe.batch 64 --recipe.val_size 16 --data.limit 64 --gate=false",
    "plan": "--recipe.batch 16 --data.limit 64 --steps 2",
    "evaluate": "--limit 10 --batch 10",
    "doctor": "--limit 10",
    "gate": "--limit 20",
    "teachers rank": "--limit 20",
    "report": "--limit 4",
    "export": "--limit 40 --force",
    "deploy": "--limit 10 --queries 5 --force",
    "sweep": "--recipe.epochs 1 --data.limit 64 --recipe.val_size 16",
}
"""What makes a command short, in place of the page's own value."""

JUDGES = ("gate", "doctor", "data check")
"""These end with 1 where they find an error, as nets of one epoch have."""

STAGE = """
ardor train sat --data digits --run runs/teacher
ardor train natural --data digits --run runs/natural
ardor train sat --data digits --student.width 8 --run runs/sat
ardor train trades --data digits --student small_cnn --threat.eps 0.2 --recipe.augment none --run runs/trades
ardor train rslad --data digits --teacher runs/teacher --run runs/rslad
ardor train rslad --data digits --teacher runs/teacher --recipe.seed 0 --run table/rslad/s0
ardor train rslad --data digits --teacher runs/teacher --recipe.seed 1 --run table/rslad/s1
ardor train sat --data digits --student.width 8 --recipe.seed 0 --run table/sat/s0
ardor train sat --data digits --student.width 8 --recipe.seed 1 --run table/sat/s1
ardor evaluate runs/teacher
ardor evaluate runs/natural
ardor evaluate runs/rslad
ardor evaluate runs/sat
ardor evaluate table/rslad/s0
ardor evaluate table/rslad/s1
ardor evaluate table/sat/s0
ardor evaluate table/sat/s1
"""
"""The runs that the pages of concepts and the reference name; those of the guides are made by their own commands."""


def blocks(page):
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(text):
    """The commands of a block, one that goes on in the next line and a here-document kept whole."""
    return [c.replace("\\\n", " ") for c in COMMAND.findall(text) if not c.startswith("#")]


def words_of(command):
    """The words after `ardor`, also behind a launcher; None where another program is called."""
    words = shlex.split(command, comments=True) if "<<" not in command else []
    return words[words.index("ardor") + 1 :] if words[:1] in LAUNCHERS and "ardor" in words else None


def shortened(words):
    command = command_of(words)
    short = re.findall(r"--\S+(?: [^-]\S*)?", SHORT.get(command, ""))
    names = {re.split("[ =]", option)[0] for option in short}
    kept, dropped = [], False
    for word in words:
        dropped = re.split("=", word)[0] in names if word.startswith("--") else dropped
        kept += [] if dropped else [word]
    return [*kept, *" ".join(short).split()]


def run(command):
    """An `ardor` command in this process, which has torch loaded; anything else by bash."""
    words = words_of(command)
    if words is None:
        subprocess.run(["bash", "-c", command], check=True)
        return
    if command_of(words) == "bench":  # a minute even for its plan; tests/experiments run it
        parse(words)
        return
    with contextlib.redirect_stderr(io.StringIO()) as refusal:
        code = main(shortened(words))
    assert code in ((0, 1) if command_of(words) in JUDGES else (0,)), (command, refusal.getvalue())


def make_stage(folder):
    """The files and runs that pages name."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for kind in ("cat", "dog", "fox"):
            (folder / "photos" / part / kind).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (120 + i, 130, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / part / kind / f"{i:04}.jpg")
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    shutil.copytree(ROOT / "docs" / "examples", folder, dirs_exist_ok=True)
    (folder / "my.yaml").write_text(yaml_block())
    train, _, test = data.load("digits")
    arrays = {f"x_{part.part}": part.limit(64).images.numpy() for part in (train, test)}
    arrays |= {f"y_{part.part}": part.limit(64).labels.numpy() for part in (train, test)}
    np.savez_compressed(folder / "digits.npz", **arrays)
    with contextlib.chdir(folder):
        net = models.build("net.py:build", classes=10, channels=1)
        write_tensors(Path("w.safetensors"), net.state_dict(), {})
        for command in commands(STAGE):
            run(command)


def yaml_block():
    return re.search(r"^```yaml\n(.*?)^```", (ROOT / "docs/methods/recipes.md").read_text(), re.MULTILINE | re.DOTALL)[
        1
    ]


def names():
    """What the Python of the reference takes as given."""
    train, val, test = (split.limit(32) for split in data.load("digits"))
    student, teacher = models.build("small_cnn", channels=1, width=4), models.load("runs/teacher")
    threat, recipe = ardor.Linf(0.2), ardor.Recipe(epochs=1, batch=32, val_size=16)
    x, y, index = train.images[:8], train.labels[:8], train.index[:8]
    return {
        "ardor": ardor, "train": train, "val": val, "test": test, "student": student, "net": student, "sat": student,
        "teacher": teacher, "threat": threat, "recipe": recipe, "x": x, "x_adv": x.clone(), "images": x, "index": index,
        "noise": Noise(0, index, "crop"), "run": "runs/rslad", "x_train": x, "y_train": y, "x_test": x, "y_test": y,
        "method": RSLAD(attack=PGD(threat, steps=1, start="gaussian")), "crop_flip": data.crop_flip,
    }  # fmt: skip


def run_python(text):
    text = re.sub(r"queries=\d+", "queries=5", re.sub(r'epochs(=|": )\d+', r"epochs\g<1>1", text))
    Path("block.py").write_text(text)
    for name in ("mine", "net", "own"):  # of an earlier page
        sys.modules.pop(name, None)
    runpy.run_path("block.py", init_globals=names(), run_name="__main__")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, capsys, shared, few_queries):
    shutil.copytree(shared("docs", make_stage), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for kind, text in blocks(page):
        if text.startswith(NEEDS):
            check_python(text) if kind == "python" else check_commands(text)
        elif kind == "python" and text.startswith("# "):  # a file of the reader's
            Path(text[2:].split()[0]).write_text(text)
        elif kind == "python":
            run_python(text)
        else:
            for command in commands(text):
                run(command)


def check_commands(text):
    """Parse the commands of ardor in a block that cannot run, and build the options of a training."""
    for words in filter(None, map(words_of, commands(text))):
        parse(words)
        if command_of(words) in ("train", "plan"):
            assert main([*words, "--help"]) == 0, words


def check_python(text):
    """Compile a block that cannot run, and resolve what it takes from ardor."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ardor":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("ardor."):
            value = ardor
            for name in ast.unparse(node).split(".")[1:]:
                value = getattr(value, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_option_is_typed_twice_in_a_command(page):
    """The last of two would be used alone: several values follow one option."""
    for kind, text in blocks(page):
        for words in filter(None, map(words_of, commands(text))) if kind != "python" else ():
            dotted = [word.partition("=")[0] for word in words if word.startswith("--") and "." in word]
            assert len(dotted) == len(set(dotted)), words


def test_the_readmes_own_method_is_fifteen_lines_or_fewer():
    text = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"][1]
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    assert len((ROOT / "docs/examples/mine.py").read_text().split('"""', 2)[2].strip().splitlines()) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists() or any(path.is_relative_to(made) for made in GENERATED), target


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


def test_every_method_has_a_card_and_a_row_in_the_index():
    folder = ROOT / "docs" / "methods"
    cards = {path.stem for path in folder.glob("*.md")} - {"index", "recipes", "not_built"}
    assert cards == set(classes("method"))
    index = (folder / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[.*?\]\((\w+)\.md\)", index, re.MULTILINE)
    assert sorted(rows) == sorted(cards)
    assert f"the {len(cards)} methods" in index


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_help_names_every_method(command, capsys):
    assert main([command, "--help"]) == 0
    assert set(classes("method")) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_every_picture_has_a_script_and_is_shown():
    made = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]
    links = {(page, link) for page in PAGES for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())}
    shown = {(page.parent / link).resolve() for page, link in links}
    tables = set((ROOT / "docs" / "results" / "bench").glob("*.png"))
    images = set((ROOT / "docs" / "images").iterdir())
    assert shown == images | tables
    assert set(made) == {path.name for path in images}
    for path in tables:  # the command of a table makes its picture, too
        assert "Made by `ardor bench " in path.with_suffix(".md").read_text()


def test_the_examples_keep_the_contract(tmp_path):
    (tmp_path / "readme.py").write_text([text for kind, text in blocks(ROOT / "README.md") if kind == "python"][1])
    for name in (f"{ROOT}/docs/examples/mine.py:AdaAD", f"{tmp_path}/readme.py:Mine"):
        check_method(resolve(name, "method")())
    guide = (ROOT / "docs/guides/own_method.md").read_text()
    assert (ROOT / "docs/examples/mine.py").read_text() in guide
    assert (ROOT / "docs/examples/net.py").read_text() in guide
