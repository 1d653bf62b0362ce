"""The package as it is installed: the wheel's files, an empty environment, the container's file, what GitHub reads."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser

import pytest
import yaml

from ardor.version import __version__
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MOST = 8_000_000
"""Bytes of the wheel; the nets in it are most of them."""


def tracked(*folders):
    """The files of a checkout that git has or would add; of an unpacked archive, all but caches."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {name for name in listed if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def dist(shared):
    """The folder of the sdist and of the wheel that is built from it."""

    def make(folder):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)

    return shared("dist", make)


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_what_the_package_reads_and_nothing_else(wheel):
    names = set(wheel.namelist())
    info = f"ardor-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"ardor", info}
    forced = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    expected = tracked("ardor")
    for source, target in forced.items():
        files = tracked(source)
        assert files, source
        expected |= {name.replace(source, target, 1) for name in files}
    assert {name for name in names if name.startswith("ardor/")} == expected
    for kind in ("pyc", "pt", "log", "tmp", "orig"):
        assert not [name for name in names if name.endswith(f".{kind}")]
    for name in ("py.typed", "reporting/page.html", "plot/style.mplstyle", "models/known.csv", "recipes/rslad.yaml"):
        assert f"ardor/{name}" in names
    assert f"{info}/licenses/LICENSE" in names
    assert sum(file.compress_size for file in wheel.infolist()) < MOST
    assert max(file.file_size for file in wheel.infolist()) < 6_000_000


def test_the_pages_that_docstrings_name_are_in_the_wheel(wheel):
    names = {name for name in wheel.namelist() if name.endswith(".py")}
    pages = {page for name in names for page in re.findall(r"\bdocs/[\w/]+\.md", wheel.read(name).decode())}
    assert len(pages) > 4
    missing = {page for page in pages if f"ardor/{page}" not in wheel.namelist()}
    assert not missing


def test_the_metadata(wheel):
    metadata = Parser().parsestr(wheel.read(f"ardor-{__version__}.dist-info/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "robust" in metadata.get_payload()  # the README
    assert {*metadata.get_all("Provides-Extra")} == {*PROJECT["project"]["optional-dependencies"]}
    entries = wheel.read(f"ardor-{__version__}.dist-info/entry_points.txt").decode()
    assert "ardor = ardor.cli.main:main" in entries


def test_the_sdist_builds_the_same_wheel_and_has_the_docs(dist, wheel):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "pyproject.toml",
        "docs/concepts/findings.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
    } <= names
    pages = [(ROOT / name).read_text() for name in tracked("docs") if name.endswith(".md")]
    included = {file for page in pages for file in re.findall(r"{include} [./]*(\S+)", page)}
    assert included
    assert included <= names, "the site can be built from it"
    assert {name for name in names if name.startswith("ardor/") and not name.endswith("/")} == tracked("ardor")
    assert not [
        name for name in names if name.startswith(("tests", "benchmarks", "site", "runs", "docs/_build", ".venv"))
    ]
    assert path.stat().st_size < 2 * MOST


@pytest.mark.release
def test_pip_installs_it_into_an_empty_environment(tmp_path):
    """The packages that it needs are those of this environment: a second torch is no part of the question."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    source = tmp_path / "source"
    for name in [
        *tracked("ardor", "recipes", "docs"),
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
    ]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip, offline = [sys.executable, "-m", "pip", "-q"], ["--no-deps", "--no-index"]
    built = ["wheel", *offline, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([*pip, *built], check=True, capture_output=True)  # with `install`, what `pip install .` does
    install = ["--python", str(python), "install", *offline, *map(str, tmp_path.glob("*.whl"))]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    with open(f"{site}/needed.pth", "w") as file:  # its own .pth files, as that of an editable ardor, are not read
        file.write(sysconfig.get_path("purelib") + "\n")

    work = tmp_path / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*words):
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(python, "-c", "import ardor; print(ardor.__file__)").startswith(site)
    command = python.with_name("ardor")
    assert __version__ in run(command, "--version")
    words = ["--recipe.epochs", "1", "--recipe.batch", "256", "--student.width", "2", "--recipe.val_size", "10"]
    run(command, "train", "sat", "--data", "digits", "--run", "runs/sat", "--recipe.device", "cpu", *words)
    assert "worst_case" in run(command, "evaluate", "runs/sat", "--suite", "quick", "--limit", "10")
    assert "rslad" in run(python, "-c", "from ardor.storage.recipes import find_recipe; print(find_recipe('rslad'))")
    shipped = "from ardor.models.zoo import shipped; import ardor; [ardor.models.load(f'ardor:{n}') for n in shipped()]"
    run(python, "-c", shipped)


def test_extras_are_documented():
    text = (ROOT / "docs/reference/install.md").read_text()
    for extra in PROJECT["project"]["optional-dependencies"]:
        assert f"`{extra}`" in text, extra


def instructions(text):
    """Of a Dockerfile each instruction with its words, lines that continue joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined if line.strip()]


KNOWN = ("ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD")


def test_the_container_s_file():
    """Where docker runs, `make image` builds it. Here: what each instruction needs, and what a linter looks for."""
    steps = instructions((ROOT / "Dockerfile").read_text())
    assert {name for name, _ in steps} <= set(KNOWN)
    assert steps[0] == ("ARG", "BASE=python:3.13-slim-bookworm")
    assert steps[1] == ("FROM", "${BASE}")
    assert [words for name, words in steps if name == "USER"] == ["ardor"]
    names = [name for name, _ in steps]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert names[-2:] == ["ENTRYPOINT", "CMD"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    for words in (words for name, words in steps if name == "COPY"):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source not in ignored
    for words in (words for name, words in steps if name in ("ENTRYPOINT", "CMD")):
        assert isinstance(yaml.safe_load(words), list)  # as a list, signals reach the command
    for words in (words for name, words in steps if name == "RUN"):
        assert subprocess.run(["sh", "-n", "-c", words]).returncode == 0
        assert "apt-get" not in words or "rm -rf /var/lib/apt/lists" in words
    command = 'docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/ardor/runs" ardor train sat --data digits'
    for file in ("Dockerfile", "docs/reference/install.md"):  # user 10001 may not write to a folder of the host
        assert command in (ROOT / file).read_text()
    assert any(name == "ENV" and "HOME=/ardor" in words for name, words in steps), "any user has a home to write to"
    copied = {source for name, words in steps if name == "COPY" for source in words.split()[:-1]}
    needed = {*PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"], PROJECT["project"]["readme"]}
    assert all(any(path == source or path.startswith(f"{source}/") for source in copied) for path in needed)


def test_what_github_reads():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "config", "figure", "idea"]
    for form in forms:
        content = yaml.safe_load(form.read_text())
        if form.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(content)
        fields = [field for field in content["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
    for name in ("CODE_OF_CONDUCT.md", "SECURITY.md", "CONTRIBUTING.md", "LICENSE", ".github/pull_request_template.md"):
        assert len((ROOT / name).read_text()) > 100


def test_the_citation():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert content["cff-version"] == "1.2.0"
    assert content["version"] == __version__
    assert {"title", "authors", "message", "license", "type"} <= set(content)
    years = {reference["title"].split()[0]: reference["year"] for reference in content["references"]}
    assert years == {"Revisiting": 2021, "Adversarially": 2024}


def test_the_version_has_a_section_in_the_changelog():
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
