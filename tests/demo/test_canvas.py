"""The page to draw on, opened from its file in a real browser that has no network, after a quick demo."""

import base64
import gzip
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ardor import losses, models
from ardor.attacks import APGD
from ardor.cli.commands import demo_page
from ardor.cli.main import main
from ardor.data import load
from ardor.demo import demo
from ardor.demo.page import Runtime, Student, fetch, student_of, unpack, write
from ardor.demo.page.npm import INTEGRITY, NAME, PACK
from ardor.demo.page.shown import shown, worst
from ardor.deployment.export.onnx_session import Session
from ardor.errors import ConfigError, DataError
from ardor.evaluation.report import Report
from ardor.noise import Noise
from ardor.reporting.template import package_text
from tests.browser import PRESENT, browser, until, violations

pytest.importorskip("onnxruntime")
ALL = "return [...document.querySelectorAll(arguments[0])]"
PIXELS = "[...ink.getImageData(0, 0, 640, 640).data]"
UNNAMED = "button, input, canvas:not([aria-hidden]), article, [role=region]"
STROKES = {
    "three": [[(0.25, 0.2), (0.5, 0.1), (0.7, 0.25), (0.5, 0.45), (0.72, 0.62), (0.6, 0.85), (0.25, 0.82)]],
    "four": [[(0.55, 0.1), (0.25, 0.6), (0.8, 0.6)], [(0.65, 0.35), (0.6, 0.92)]],
    "one": [[(0.5, 0.1), (0.5, 0.9)]],
    "dot": [[(0.3, 0.3)]],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """onnxruntime-web as npm brings it; where there is no npm, or npm has no registry, these tests cannot run."""
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    try:
        return fetch(tmp_path_factory.mktemp("package"))
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(package, tmp_path_factory):
    """The folder of a quick demo with its page, by the shell; the package lies where an earlier call kept it."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "data").mkdir()
        shutil.copy(package, folder / "data" / NAME)
        patch.setattr("ardor.demo.work.deploys", lambda: False)  # so that the page makes its own exports
        patch.setattr("ardor.demo.page.npm.subprocess.run", lambda *a, **k: pytest.fail("asked npm a second time"))
        assert main(["demo", "--quick", "--page", "--processes", "1"]) == 0
    return folder / "runs" / "demo-quick"


@pytest.fixture(scope="module")
def window(made, tmp_path_factory):
    if not PRESENT:
        pytest.skip("no chromium with chromedriver")
    with browser(tmp_path_factory.mktemp("browser")) as window:
        window.size(1280, 1000)
        yield window


@pytest.fixture
def page(window, made):
    """The page, opened anew and ready."""
    window.requested(), window.complaints()
    window.go(made / "draw.html")
    until(lambda: window.text("#numbers"))
    return window


@pytest.fixture(scope="module")
def nets(made):
    return [models.load(made / "seed0" / name).eval() for name in ("natural", "rslad")]


def numbers(window):
    return json.loads(window.text("#numbers"))


def slide(window, value):
    """Move the slider as a hand would, by keys."""
    window.press("#slider", "\ue011" + "\ue014" * round(value / 0.005))  # Home, then to the right
    return until(lambda: (said := numbers(window))["perturbation"] == pytest.approx(value) and said)


def draw(window, name, kind="mouse"):
    window.click("#clear")
    window.drag("#pad", STROKES[name], kind)
    return until(lambda: (said := numbers(window))["searched"] and said)


def embedded(made):
    """The ONNX files that stand in the page."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', (made / "draw.html").read_text(), re.DOTALL)[1])
    return [base64.b64decode(net["onnx"]) for net in data["nets"]]


@pytest.fixture(scope="module")
def sessions(made):
    return [Session(content, threads=1) for content in embedded(made)]


def require_alike(said, sessions):
    """Every logit that the page shows is what onnxruntime says here of the same image."""
    for net, session in zip(said["nets"], sessions, strict=True):
        for image, logits in (("image", "logits"), (None, "untouched_logits")):
            x = torch.tensor(net[image] if image else said["untouched"]).view(1, 1, 8, 8)
            assert np.abs(session(x)[0].numpy() - net[logits]).max() < 1e-4


@pytest.mark.slow
def test_a_test_digit_is_read_as_python_reads_it(page, sessions):
    page.click(".pick:nth-child(2)")
    until(lambda: page.run("return document.querySelector('.pick:nth-child(2)').ariaPressed") == "true")
    for value in (0, 0.1, 0.2, 0.3):
        said = slide(page, value)
        require_alike(said, sessions)
        for k, net in enumerate(said["nets"]):
            moved = np.abs(np.array(net["image"]) - said["untouched"])
            assert moved.max() == pytest.approx(value, abs=1e-5)
            answer, before = np.argmax(net["logits"]), np.argmax(net["untouched_logits"])
            card = f".net[data-net='{k}']"
            assert page.text(f"{card} .answer") == str(answer)
            word = "is what it reads" if not value else "still reads" if answer == before else "fooled"
            assert word in page.text(f"{card} .judged")
            shares = torch.tensor(net["logits"]).softmax(0)
            bars = page.run(f"{ALL}.map(b => parseFloat(b.style.width))", f"{card} .share")
            assert np.abs(np.array(bars) - 100 * shares.numpy()).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_drawing_is_read_attacked_and_read_as_python_does(page, sessions, kind):
    """The search is within the radius, makes each net less sure of its own answer, and is the same each time."""
    said = draw(page, "three", kind)
    assert said["perturbation"] == 0, "a new drawing is shown untouched first"
    require_alike(said, sessions)
    said = slide(page, 0.2)
    require_alike(said, sessions)
    for net in said["nets"]:
        moved, label = np.abs(np.array(net["image"]) - said["untouched"]), int(np.argmax(net["untouched_logits"]))
        assert moved.max() == pytest.approx(0.2, abs=1e-5)
        assert 0 <= min(net["image"]) <= max(net["image"]) <= 1
        pair = torch.tensor([net["untouched_logits"], net["logits"]])
        was, now = losses.margin(pair, torch.tensor([label, label]))
        assert now > was
    assert said["nets"][0]["image"] != said["nets"][1]["image"], "each net its own"
    again = draw(page, "three", kind)
    assert again["untouched"] == said["untouched"]
    assert slide(page, 0.2) == said


@pytest.mark.slow
def test_the_search_is_about_as_strong_as_gradients(page, nets):
    """Against each net, on test images, at the radius of the threat."""
    _, _, test = load("digits")
    test = test.take(slice(0, 12))
    x, y, _ = test.batch(slice(None))
    script = """const [net, image, label] = arguments;
        return search((images) => run(net, images), Float32Array.from(image), label, DATA.eps, async () => true)
            .then((change) => Array.from(moved(Float32Array.from(image), change, 1)))"""
    for k, net in enumerate(nets):
        found = [page.run(script, k, x[i].flatten().tolist(), int(y[i])) for i in range(len(x))]
        theirs = torch.tensor(found).view_as(x)
        assert (theirs - x).abs().max() < 0.2 + 1e-6
        ours = worst(net, test, demo.THREAT)
        margins = [losses.margin(net(z), y).mean() for z in (x, theirs, ours)]
        assert margins[1] > margins[0] + 0.9 * (margins[2] - margins[0])


@pytest.mark.slow
def test_a_drawing_becomes_a_digit_as_the_data_are(page):
    """Counts to 16 in 8x8, ink, height and margins as in scikit-learn's digits; place and size do not matter."""
    _, _, test = load("digits")
    data = 16 * test.images[:, 0].numpy()
    for name, strokes in STROKES.items():
        counts = page.run("return reduced(arguments[0])", strokes)
        image = np.array(counts).reshape(8, 8)
        assert image.min() == 0
        assert image.max() == 16
        if name != "dot":
            assert abs(image.mean() - data.mean()) < 0.35, name  # 4.9 of 16
            assert image[0].any()
            assert image[7].any()
            assert not image[:, [0, 7]].any(), "the first and last column are nearly empty in the data"
        moved = [[(300 + 40 * x, 7 + 40 * y) for x, y in stroke] for stroke in strokes]
        assert page.run("return reduced(arguments[0])", moved) == counts
    slanted = [[(0.5 + 0.3 * (0.5 - y), y) for _, y in stroke] for stroke in STROKES["one"]]
    assert page.run("return reduced(arguments[0])", slanted) == page.run("return reduced(arguments[0])", STROKES["one"])
    assert page.run("return reduced([[]])") is None


@pytest.mark.slow
def test_blocks_are_counted_as_scikit_learn_says(page):
    bitmap = np.random.default_rng(0).integers(0, 2, (32, 32))
    blocks = bitmap.reshape(8, 4, 8, 4).sum((1, 3))
    assert page.run("return counted(arguments[0])", bitmap.flatten().tolist()) == blocks.flatten().tolist()


@pytest.mark.slow
def test_the_strip_says_where_each_net_is_fooled(page, nets):
    said = draw(page, "four")
    words = until(lambda: (w := page.run(f"{ALL}.map(e => e.textContent)", ".until"))[0] and w)
    for k, word in enumerate(words):
        start = float(word.split()[2]) if word.startswith("fooled") else None
        for value in [0.05, 0.15, 0.25] if start is None else [start - 0.005, start]:
            said = slide(page, round(value, 3))
            changed = np.argmax(said["nets"][k]["logits"]) != np.argmax(said["nets"][k]["untouched_logits"])
            assert changed == (start is not None and value == start)


@pytest.mark.slow
def test_a_hand_may_be_faster_than_the_nets(window, made, sessions):
    window.go(made / "draw.html")
    window.drag("#pad", STROKES["one"])
    until(lambda: window.text("#numbers"))
    until(lambda: numbers(window)["searched"])
    assert window.text("#source") == "your drawing"
    require_alike(slide(window, 0.1), sessions)


@pytest.mark.slow
def test_clear_and_a_new_stroke_after_a_test_digit(page):
    page.click("#clear")
    assert until(lambda: page.text(".answer") == "–")
    page.click(".pick:nth-child(1)")
    until(lambda: page.text(".answer") != "–")
    page.drag("#pad", STROKES["one"])
    assert page.text("#source") == "your drawing"
    assert page.run("return document.querySelectorAll('.pick[aria-pressed=true]').length") == 0
    assert page.run("return state.strokes.length") == 1
    greys = page.run(f"return {PIXELS}.filter((v, k) => k % 4 == 0 && v > 60 && v < 250).length")
    assert greys < 0.01 * 640**2, "the test digit is gone from the pad"


@pytest.mark.slow
def test_nothing_is_asked_of_the_network(page, made):
    draw(page, "one")
    assert page.requested() == [(made / "draw.html").as_uri()]
    assert page.complaints() == []
    policy = page.run("return document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy
    refused = "return fetch(arguments[0]).then(() => 'let through', () => 'refused')"
    assert page.run(refused, (made / "results.json").as_uri()) == "refused"
    assert page.run(refused, "http://127.0.0.1:9/") == "refused"
    page.complaints()
    text = (made / "draw.html").read_text()
    own = text.split('id="glue"')[0]
    assert not re.findall(r'(?:src|href)="(?!data:|#)', own)
    assert "Permission is hereby granted" in own
    assert "Licensed under the MIT License" in text


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_has_no_objection(page, axe, theme):
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert violations(page, axe, theme) == []


@pytest.mark.slow
def test_it_looks_right_wide_and_narrow(page, tmp_path):
    """Nothing sticks out, everything has a name, and the pad shows what was drawn."""
    draw(page, "three")
    slide(page, 0.1)
    for width, height in ((1280, 1000), (390, 844)):
        page.size(width, height)
        assert page.run("return document.documentElement.scrollWidth") <= width
        page.shot(tmp_path / f"{width}.png")
        with Image.open(tmp_path / f"{width}.png") as picture:
            assert picture.size == (width, height)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    page.size(1280, 1000)
    left, button = (
        page.run("return document.querySelector(arguments[0]).getBoundingClientRect().x", name)
        for name in ("header .brand", "#theme")
    )
    assert left < 200
    assert button > 1000
    starts = page.run(
        f"{ALL}.map(e => e.getBoundingClientRect().x - e.parentElement.getBoundingClientRect().x)", ".share"
    )
    assert set(starts) == {0}
    nameless = page.run(f"{ALL}.filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))", UNNAMED)
    assert nameless == []
    drawn = page.run(f"return {PIXELS}.filter((v, k) => k % 4 == 0 && v < 60).length")
    assert 0.02 < drawn / 640**2 < 0.3


def test_no_class_of_the_page_is_one_of_the_layout_that_all_pages_share():
    """A class of both would have the rules of both."""
    layout, own = (
        set(re.findall(r"\.([a-z][\w-]*)", package_text(package, "style.css")))
        for package in ("ardor.reporting", "ardor.demo.page")
    )
    assert layout & own == set()


@pytest.mark.slow
def test_the_digits_are_right_when_clean_and_worst_within_the_threat(nets):
    _, _, test = load("digits")
    digits = shown(nets, test, demo.THREAT)
    assert digits == sorted(digits, key=lambda d: d.label)
    for digit in digits:
        for net, image in zip(nets, digit.worst, strict=True):
            label = torch.tensor([digit.label])
            clean, attacked = (net(x[None, None]) for x in (digit.clean, image))
            assert clean.argmax() == digit.label
            assert losses.margin(attacked, label) > losses.margin(clean, label)
            assert (image - digit.clean).abs().max() <= 0.2 + 1e-6


@pytest.mark.slow
def test_the_worst_of_the_starts_is_taken(nets):
    _, _, test = load("digits")
    test = test.take(slice(0, 30))
    x, y, index = test.batch(slice(None))
    attack = APGD(demo.THREAT, loss="margin")
    for net in nets:
        found = losses.margin(net(worst(net, test, demo.THREAT)), y)
        one = attack.maximise(lambda z: losses.margin(net(z), y), x, Noise(0, index, "canvas 0"))  # noqa: B023
        one = losses.margin(net(one), y)
        assert (found >= one - 1e-4).all()
        assert (found > one + 1e-4).any()


class AskedError(Exception):
    """An export was asked for."""


@pytest.mark.slow
def test_an_export_of_these_weights_is_taken_and_another_is_not(made, tmp_path, monkeypatch):
    def ask(*args, **words):
        raise AskedError

    monkeypatch.setattr("ardor.demo.page.page.export", ask)
    _, _, test = load("digits")
    run = shutil.copytree(made / "seed0" / "natural", tmp_path / "run")
    report = Report.load(next(run.glob("report-*.json")))
    ours, theirs = embedded(made)
    (run / "best.onnx").write_bytes(ours)
    assert student_of(run, "a", "b", report, test, demo.THREAT).onnx == ours
    for wrong in (theirs, b"no model", ours[:-1]):
        (run / "best.onnx").write_bytes(wrong)
        with pytest.raises(AskedError):
            student_of(run, "a", "b", report, test, demo.THREAT)
        assert (run / "best.onnx").read_bytes() == wrong, "the user's file stays"


@pytest.mark.slow
def test_strangers_words_are_escaped_and_the_same_page_has_the_same_bytes(made, nets, tmp_path, monkeypatch):
    monkeypatch.setattr("ardor.demo.page.shown.STARTS", 1)
    _, _, test = load("digits")
    report = Report.load(next((made / "seed0" / "natural").glob("report-*.json")))
    hostile = "</script><script>alert(1)</script>"
    students = [Student(hostile, hostile, net, b"onnx", report) for net in nets]
    runtime = Runtime("var ort;", "export default 1", b"wasm")
    one, two = (
        write(tmp_path / name, students, test, demo.THREAT, runtime, intro=hostile, notes=[hostile])
        for name in ("a.html", "b.html")
    )
    assert one.read_bytes() == two.read_bytes()
    text = one.read_text()
    assert "<script>alert" not in text
    assert text.count("</script>") == 6
    assert gzip.decompress(base64.b64decode(re.search(r'id="wasm">(.*?)<', text)[1])) == b"wasm"


def test_the_package_is_the_pinned_one_or_refused(package, tmp_path):
    content = bytearray(package.read_bytes())
    assert f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" == INTEGRITY
    runtime = unpack(package)
    assert runtime.wasm.startswith(b"\0asm")
    content[len(content) // 2] ^= 1
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataError, match="expected onnxruntime-web.*of sha512-.*got .*of sha512-"):
        unpack(tmp_path / NAME)
    with pytest.raises(DataError, match=r"npm pack onnxruntime-web@"):
        unpack(tmp_path / "absent.tgz")


def fake_npm(folder, script):
    """A program called npm."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_without_npm_or_its_registry_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConfigError, match=rf"got no such program: install Node\.js, or type {PACK}"):
        fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert main(["demo", "--quick", "--page"]) != 0
    assert not (tmp_path / "runs").exists(), "said before anything is trained"
    fake_npm(tmp_path / "bin", "echo 'npm error ENOTFOUND registry' >&2; exit 1")
    with pytest.raises(DataError, match="got npm error ENOTFOUND registry: look at the network"):
        fetch(tmp_path / "data")
    shutil.rmtree(tmp_path / "bin")
    fake_npm(tmp_path / "bin", f"echo another > {NAME}")
    with pytest.raises(DataError, match="of sha512-"):
        fetch(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == [], "nothing is kept of what was refused"


def test_a_package_by_hand_needs_no_npm(package, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "wrong.tgz").write_bytes(b"wrong")
    assert main(["demo", "--quick", "--page", "--onnxruntime_web", "wrong.tgz"]) != 0
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.tgz"]
    assert demo_page.runtime(package) == unpack(package)
