"""Reports, curves and entries of a page, made up."""

import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

from ardor.evaluation.report import Report
from ardor.evaluation.variance import GapPoint
from ardor.reporting import Example, PageEntry
from ardor.reporting.page import write as write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = '</script><script>alert("1")</script><i>'


def report(verdicts=None, seed=0, labels=None, **more):
    """Eight images: seven right when clean, five survive a, four survive b, three survive both."""
    verdicts = verdicts or {"a": "rrrrrbb-", "b": "brbrrrb-"}
    n = len(next(iter(verdicts.values())))
    given = {
        "model": {"name": "small_cnn", "hash": "0123abcd", "parameters": 2294},
        "data": {
            "name": "digits",
            "part": "test",
            "classes": 2,
            "class_names": ["cat", "dog"],
            "hash": "feed",
            "marks": [],
        },
        "suite": "paper",
        "threat": {"name": "Linf", "eps": "8/255"},
        "attacks": {"a": {"name": "PGD", "threat": {"name": "Linf", "eps": "8/255"}, "steps": 20, "step": "2/255"}},
        "index": list(range(n)),
        "labels": labels or [0, 0, 0, 0, 1, 1, 1, 1][:n],
        "verdicts": verdicts,
        "seed": seed,
        "batch": 4,
        "versions": {"ardor": "0.1.0", "torch": "2.13.0"},
    }
    return Report(**(given | more))


def share(robust, n=100, clean=90, seed=0):
    """A report with `clean` of n right and `robust` of n robust under each of two attacks, of one seed of training."""
    letters = "r" * robust + "b" * (clean - robust) + "-" * (n - clean)
    labels, trained = [0] * (n // 2) + [1] * (n - n // 2), {"recipe": {"seed": seed}}
    model = {"name": "small_cnn", "hash": f"feed{robust}", "parameters": 2294}
    return report({"a": letters, "b": letters}, labels=labels, model=model, training=trained)


def gaps(end=0.1, turn=False):
    radii = [r / 255 for r in range(0, 18, 4)]
    signed = [0, -0.1, -0.2, -0.3, -0.15 if turn else -0.4]
    accuracy = [0.9, 0.7, 0.5, 0.3, end]
    return [
        GapPoint(e, a, 2 + s, s, s / 2, abs(s), confusion(round(100 * a)))
        for e, a, s in zip(radii, accuracy, signed, strict=True)
    ]


def confusion(right):
    """A hundred images, as many cats as dogs, `right` of them right, and the cats first."""
    cats = min(right, 50)
    pairs = [[0, 0, cats], [0, 1, 50 - cats], [1, 0, 100 - max(right, 50)], [1, 1, max(right, 50) - 50]]
    return [pair for pair in pairs if pair[2]]


def curve():
    def record(epoch):
        value = {"val_clean": 0.2 * epoch, "val_robust": 0.1 * epoch} if epoch % 2 == 0 else {}
        terms = {"robust": 1 / epoch, "clean": 0.5 / epoch}
        return {"epoch": epoch, "loss": 1.5 / epoch, "terms": terms, "lr": 0.1, "best": bool(value), **value}

    return [record(epoch) for epoch in range(1, 5)]


def page_entries():
    return [
        PageEntry("teacher", "teacher", [share(60)], gaps=gaps()),
        PageEntry("natural", "student", [share(1)], curve(), gaps(0.0)),
        PageEntry("rslad", "student", [share(50), share(40, seed=1)], curve(), gaps(turn=True)),
        PageEntry(HOSTILE, "student", [share(30)], curve(), gaps()),
    ]


def example(channels=1, size=8):
    clean = torch.linspace(0.2, 0.6, channels * size * size).reshape(channels, size, size)
    step = torch.zeros_like(clean)
    step[:, 0, 0], step[:, 0, 1] = 0.1, -0.1
    said = {"natural": ("cat", "dog"), "rslad": ("cat", "cat")}
    return Example("cat", clean, {"natural": clean + step, "rslad": clean}, said)


def write(path, entries=None, shown=None, **words):
    said = {"title": "T", "intro": "I", "notes": ["see `ardor demo`"]} | words
    return write_page(path, page_entries() if entries is None else entries, shown or [], **said)


class Page(HTMLParser):
    """What a browser would see: nesting, texts by tag, attributes, table rows."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows, self.attributes = [], [], {}, [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data.strip()}" if self.rows[-1][-1] else data.strip()


def screenshot(text, folder, width, height, *more):
    """The pixels (height, width, 3) of a page in chromium."""
    (folder / "p.html").write_text(text, encoding="utf-8")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    words = ["--headless", "--no-sandbox", "--disable-sync", "--hide-scrollbars", *quiet.split()]
    words += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", *more]
    words += [f"--screenshot={folder / 'p.png'}", (folder / "p.html").as_uri()]
    subprocess.run([CHROMIUM, *words], check=True, capture_output=True)
    return np.asarray(Image.open(folder / "p.png").convert("RGB"))
