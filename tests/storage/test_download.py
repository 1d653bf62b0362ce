"""Downloads against a real server on this machine, which behaves as badly as a test asks it to."""

import base64
import hashlib
import http.server
import subprocess
import sys
import threading
import urllib.request

import pytest
import torch

from ardor import models
from ardor.errors import CheckpointError, DataError, RunError
from ardor.models.reading import read
from ardor.storage.download import _Redirects, fetch, part_of

BODY = bytes(range(256)) * 40
MD5 = hashlib.md5(BODY).hexdigest()


class Server:
    """Serves `body` under `etag`. cut: bytes after which the line breaks; ranges: whether it knows them."""

    def __init__(self):
        self.body, self.etag, self.kind, self.status = BODY, '"one"', "application/octet-stream", 200
        self.cut, self.ranges, self.headers, self.asked, self.modified, self.lie = None, True, {}, [], None, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/net.pt"

    def answer(self, request):
        wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append((wanted, condition))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        start = start if condition in (self.etag, self.modified) else 0
        if start >= len(self.body):
            return self.refuse(request)
        body = self.body[start:]
        request.send_response(206 if start and self.status == 200 else self.status)
        request.send_header("Content-Type", self.kind)
        request.send_header("Content-Length", str(len(body)))
        for name, value in {"ETag": self.etag, "Last-Modified": self.modified, **self.headers}.items():
            if value:
                request.send_header(name, value)
        if start:
            request.send_header("Content-Range", f"bytes {start + self.lie}-{len(self.body) - 1}/{len(self.body)}")
        request.end_headers()
        request.wfile.write(body if self.cut is None else body[: self.cut])
        return None

    def refuse(self, request):
        """No bytes from there on; a page comes with it."""
        request.send_response(416)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", "4")
        for name, value in {"ETag": self.etag, "Content-Range": f"bytes */{len(self.body)}", **self.headers}.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"page")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "net.pt"


def cut_at(server, target, size, **checks):
    """A transfer that breaks after `size` bytes."""
    server.cut = size
    with pytest.raises(DataError, match=f"{size:,}.*try again"):
        fetch(server.url, target, **checks)
    server.cut = None
    assert not target.exists()
    assert part_of(server.url, target).read_bytes() == server.body[:size]


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_whole_file(server, target):
    assert fetch(server.url, target, md5=MD5) == target
    assert target.read_bytes() == BODY
    assert names(target) == ["net.pt"]
    assert server.asked == [(None, None)]


@pytest.mark.parametrize("md5", [None, MD5])
def test_a_cut_transfer_goes_on_where_it_stopped(server, target, md5):
    cut_at(server, target, 5000, md5=md5)
    cut = server.cut = 3000
    with pytest.raises(DataError, match="8,000 of 10,240 bytes"):
        fetch(server.url, target, md5=md5)
    assert cut == 3000
    server.cut = None
    fetch(server.url, target, md5=md5)
    assert target.read_bytes() == BODY
    assert server.asked == [(None, None), ("bytes=5000-", '"one"'), ("bytes=8000-", '"one"')]
    assert names(target) == ["net.pt"]


def test_the_date_names_the_version_where_there_is_no_strong_etag(server, target):
    server.etag, server.modified = 'W/"weak"', "Sat, 01 Jan 2022 00:00:00 GMT"
    cut_at(server, target, 5000)
    fetch(server.url, target)
    assert server.asked[1] == ("bytes=5000-", server.modified)
    assert target.read_bytes() == BODY


def test_without_a_version_it_begins_anew(server, target):
    server.etag = None
    cut_at(server, target, 5000)
    fetch(server.url, target)
    assert server.asked == [(None, None)] * 2
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_sends_it_all(server, target):
    cut_at(server, target, 5000)
    server.ranges = False
    fetch(server.url, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("size", [10240, 20000, 3000])
def test_a_file_that_changed_meanwhile_is_not_mixed(server, target, size):
    cut_at(server, target, 5000)
    server.body, server.etag = b"x" * size, '"two"'
    fetch(server.url, target)
    assert target.read_bytes() == b"x" * size


def test_a_changed_file_whose_server_ignores_the_condition_is_refused(server, target):
    cut_at(server, target, 5000)
    server.headers = {"ETag": '"two"'}  # sent for the old condition
    with pytest.raises(DataError, match="another part"):
        fetch(server.url, target)
    assert part_of(server.url, target).read_bytes() == BODY[:5000]


def test_the_wrong_range_is_refused(server, target):
    cut_at(server, target, 5000)
    server.lie = 7
    with pytest.raises(DataError, match="another part"):
        fetch(server.url, target)
    assert not target.exists()


def test_a_part_as_long_as_the_file_begins_anew(server, target):
    cut_at(server, target, 5000)
    part_of(server.url, target).write_bytes(BODY + b"more")
    fetch(server.url, target)
    assert server.asked[1:] == [("bytes=10244-", '"one"'), (None, None)]
    assert target.read_bytes() == BODY


def killed_before_its_check(server, target, body=BODY):
    cut_at(server, target, 5000)
    part_of(server.url, target).write_bytes(body)


@pytest.mark.parametrize("md5", [None, MD5])
def test_a_part_that_is_whole_is_checked_and_not_fetched_again(server, target, md5):
    killed_before_its_check(server, target)
    fetch(server.url, target, md5=md5)
    assert server.asked[1:] == [("bytes=10240-", '"one"')]
    assert target.read_bytes() == BODY
    assert names(target) == ["net.pt"]


def test_a_part_that_is_whole_and_wrong_is_thrown_away(server, target):
    killed_before_its_check(server, target, b"?" + BODY[1:])
    with pytest.raises(DataError, match="10,240 bytes and md5"):
        fetch(server.url, target, md5=MD5)
    assert names(target) == []
    killed_before_its_check(server, target, b"?" + BODY[1:])
    server.headers = {"x-goog-hash": f"md5={base64.b64encode(hashlib.md5(BODY).digest()).decode()}"}
    with pytest.raises(DataError, match="10,240 bytes and md5"):
        fetch(server.url, target)
    killed_before_its_check(server, target)
    fetch(server.url, target, check=lambda path: path.stat().st_size == 10240)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("headers", [{"Content-Range": None}, {"Content-Range": "bytes */*"}, {"ETag": '"two"'}])
def test_a_refusal_that_does_not_say_that_it_is_whole_begins_anew(server, target, headers):
    killed_before_its_check(server, target)
    server.headers = headers
    fetch(server.url, target)
    assert server.asked[1:] == [("bytes=10240-", '"one"'), (None, None)]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("kind", "words"),
    [("text/html; charset=utf-8", "an HTML page"), ("application/json", "JSON"), ("application/xhtml+xml", "an HTML")],
)
def test_a_page_is_no_file_and_costs_nothing_that_is_there(server, target, kind, words):
    cut_at(server, target, 5000)
    server.kind, server.ranges = kind, False
    with pytest.raises(DataError, match=words):
        fetch(server.url, target)
    assert not target.exists()
    assert part_of(server.url, target).read_bytes() == BODY[:5000]
    server.kind, server.ranges = "application/octet-stream", True
    fetch(server.url, target)
    assert server.asked[-1][0] == "bytes=5000-"
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_error_of_the_server(server, target, status):
    server.status = status
    with pytest.raises(DataError, match=f"the answer {status}.*by hand.*net.pt") as caught:
        fetch(server.url, target)
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(target) == []


def test_another_md5_is_thrown_away(server, target):
    cut_at(server, target, 5000, md5="0" * 32)
    with pytest.raises(DataError, match=f"10,240 bytes and md5 {MD5}"):
        fetch(server.url, target, md5="0" * 32)
    assert names(target) == []


def test_the_servers_own_md5_counts(server, target):
    said = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    server.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={said}"}
    fetch(server.url, target)
    target.unlink()
    server.body = BODY[:-1] + b"?"
    with pytest.raises(DataError, match="md5"):
        fetch(server.url, target)
    assert names(target) == []


def test_what_was_there_stays_until_the_new_one_is_whole(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    server.cut = 100
    with pytest.raises(DataError):
        fetch(server.url, target)
    assert target.read_bytes() == b"old"
    server.cut = None
    fetch(server.url, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>quota</html>" * 9, b'{"error": "quota"}', BODY, b""])
def test_what_is_no_weights_gets_no_name_however_it_is_labelled(server, target, body):
    server.body = body or b" "
    with pytest.raises(CheckpointError, match="refused.*expected a file of weights"):
        fetch(server.url, target, check=read, error=CheckpointError)
    assert names(target) == []


def test_weights_that_parse(server, target, tmp_path):
    torch.save(models.build("small_cnn").state_dict(), tmp_path / "net.pt")
    server.body = (tmp_path / "net.pt").read_bytes()
    cut_at(server, target, 5000, check=read)
    fetch(server.url, target, check=read)
    assert "linear.weight" in read(target)


def test_no_network(target):
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/net\.pt, got no answer \(URLError.*by hand"):
        fetch("http://127.0.0.1:9/net.pt", target)
    assert names(target) == []


def test_an_address_that_is_none(target):
    with pytest.raises(DataError, match="no answer.*unknown url type"):
        fetch("nowhere", target)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="expected to write"):
        fetch(server.url, tmp_path / "file" / "net.pt")
    assert server.asked == []


def test_two_at_once(server, target):
    fcntl = pytest.importorskip("fcntl")
    part = part_of(server.url, target)
    part.parent.mkdir()
    with part.open("ab") as other:
        other.write(b"theirs")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process that is downloading"):
            fetch(server.url, target)
        assert part.read_bytes() == b"theirs"
    fetch(server.url, target)
    assert target.read_bytes() == BODY


def test_a_killed_process_loses_nothing_that_came(server, target):
    """It dies without a word in the middle, and another goes on."""
    code = (
        "import os, sys, pathlib, ardor.storage.download as d\n"
        "d._verify = lambda *_: os._exit(9)\n"
        "d.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    server.cut = None
    server.body = BODY[:6000]
    assert subprocess.run([sys.executable, "-c", code, server.url, str(target)]).returncode == 9
    assert not target.exists()
    server.body = BODY
    fetch(server.url, target, md5=MD5)
    assert server.asked[-1] == ("bytes=6000-", '"one"')
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["ftp", "file", "https"])
def test_another_scheme_is_not_followed(server, target, scheme):
    server.status, server.headers = 302, {"Location": f"{scheme}://127.0.0.1:1/net.pt"}
    words = "no answer" if scheme == "https" else "a redirection from http to|not allowed"  # which is safer than http
    with pytest.raises(DataError, match=words):
        fetch(server.url, target)
    assert names(target) == []


def test_https_is_not_redirected_to_http():
    request = urllib.request.Request("https://host/net.pt")
    for url in ("http://host/net.pt", "ftp://host/net.pt"):
        with pytest.raises(Exception, match="a redirection from https to"):
            _Redirects().redirect_request(request, None, 302, "", {}, url)
    assert _Redirects().redirect_request(request, None, 302, "", {}, "https://other/net.pt").full_url


def test_a_file_larger_than_expected_is_refused(server, target):
    with pytest.raises(DataError, match="at most 100 are expected"):
        fetch(server.url, target, most=100)
    assert not target.exists()


def test_a_trickle_ends_and_is_resumed(server, target, monkeypatch):
    monkeypatch.setattr("ardor.storage.download.PATIENCE", -1)
    monkeypatch.setattr("ardor.storage.download.SLOWEST", 1 << 60)
    with pytest.raises(DataError, match="bytes a second"):
        fetch(server.url, target)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server.url, target, md5=MD5).read_bytes() == BODY
