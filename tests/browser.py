"""A real browser for tests: headless chromium by chromedriver, over the W3C WebDriver protocol, without a network."""

import base64
import contextlib
import hashlib
import json
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",
]  # fmt: skip
PRESENT = bool(shutil.which("chromium") and shutil.which("chromedriver"))
KEY = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's own name for an element


class Browser:
    """One window. Every request that it tries is in its log."""

    def __init__(self, port):
        self.base, self.session = f"http://127.0.0.1:{port}/session", ""

    def open(self, profile):
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        self.session = self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.call("POST", "/timeouts", {"script": 600_000, "pageLoad": 600_000})  # on a busy machine axe takes long

    def call(self, method, path, body=None):
        url = f"{self.base}/{self.session}{path}" if self.session else self.base
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        try:
            with OPENER.open(request) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error

    def go(self, path):
        self.call("POST", "/url", {"url": path.as_uri()})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[KEY]

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def press(self, css, keys):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": keys})

    def text(self, css):
        return self.run("return document.querySelector(arguments[0]).textContent", css)

    def drag(self, css, strokes, kind="mouse"):
        """Draw lines of points (x, y), shares of the element's box, with a mouse or a finger."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", css)
        box = self.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", css)
        steps = []
        for stroke in strokes:
            for k, (x, y) in enumerate(stroke):
                place = {"x": round(box["x"] + x * box["width"]), "y": round(box["y"] + y * box["height"])}
                steps.append({"type": "pointerMove", "duration": 10, "origin": "viewport", **place})
                steps += [{"type": "pointerDown", "button": 0}] if k == 0 else []
            steps.append({"type": "pointerUp", "button": 0})
        hand = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": steps}
        self.call("POST", "/actions", {"actions": [hand]})

    def size(self, width, height):
        """Of the page itself, at one pixel a pixel, as a phone of that width would lay it out."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def shot(self, path, whole=False):
        command = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": whole}}
        if whole:
            height = self.run("return document.documentElement.scrollHeight")
            width = self.run("return document.documentElement.clientWidth")
            command["params"]["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self.call("POST", "/goog/cdp/execute", command)["data"]))

    def requested(self):
        """Addresses of every request of a page from a file since the last call, data and blobs of the page apart."""
        log = self.call("POST", "/se/log", {"type": "performance"})
        entries = [json.loads(entry["message"])["message"] for entry in log]
        sent = [
            e["params"]["request"]["url"]
            for e in entries
            if e["method"] == "Network.requestWillBeSent" and e["params"]["documentURL"].startswith("file:")
        ]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    def complaints(self):
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def browser(folder):
    """A browser with a fresh profile in `folder`; it and its driver are gone afterwards."""
    with (folder / "driver.log").open("wb") as log:
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True)
        window = None
        try:
            line = next(line for line in driver.stdout if "started successfully on port" in line)
            window = Browser(int(line.rstrip(".\n").rpartition(" ")[2]))
            window.open(folder / "profile")
            yield window
        finally:
            if window and window.session:
                with contextlib.suppress(AssertionError, OSError):
                    window.call("DELETE", "")
            driver.terminate()
            driver.wait()
            driver.stdout.close()


AXE = "4.11.4"
AXE_INTEGRITY = "sha512-KunSNx+TVpkAw/6ULfhnx+HWRecjqZGTOyquAoWHYLRSdK1tB5Ihce1ZW+UY3fj33bYAFWPu7W/GRSmmrCGuxA=="


def axe_core(folder):
    """The source of axe-core, fetched by npm into `folder` and held to its hash; None without npm or network."""
    path = folder / f"axe-core-{AXE}.tgz"
    if not path.is_file() and shutil.which("npm"):
        folder.mkdir(parents=True, exist_ok=True)
        words = ["npm", "pack", f"axe-core@{AXE}", "--silent", "--ignore-scripts"]
        subprocess.run(words, cwd=folder, capture_output=True, timeout=300, check=False)
    if not path.is_file():
        return None
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    assert f"sha512-{digest}" == AXE_INTEGRITY, "another package than the pinned one"
    with tarfile.open(path) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def violations(window, axe, theme):
    """What axe-core refuses in the page that is open, in light or dark: rule, help and the first elements."""
    window.run("document.documentElement.dataset.theme = arguments[0]", theme)
    if not window.run("return Boolean(window.axe)"):
        window.run(axe)
    found = window.run("return axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations)")
    return [(v["id"], v["help"], [node["html"][:150] for node in v["nodes"][:3]]) for v in found]


def objections(path, axe, folder):
    """The violations of a page from a file in light and dark, everything unfolded, and the errors of its script."""
    with browser(folder) as window:
        window.size(1280, 900)
        window.go(path)
        window.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        return violations(window, axe, "light") + violations(window, axe, "dark") + window.complaints()


def until(ask, seconds=600):
    """What `ask()` says once it is true. It gives up only where nothing can come any more."""
    end = time.monotonic() + seconds
    while not (said := ask()):
        assert time.monotonic() < end, f"still {said!r} after {seconds} s"
        time.sleep(0.1)
    return said
