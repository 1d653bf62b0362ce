"""A small Hub on this machine, for creating a repository, uploading a folder and downloading it by huggingface_hub.

Commits are complete trees; files of weights go by LFS, as on the real one without xet. Tokens are set by a test. The
responses have the structure that huggingface_hub 1 and 2 read.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

LARGE = (".safetensors", ".onnx")


class Hub:
    """Repositories by name: private, and the commits of `main`, each a dict of file to bytes."""

    def __init__(self):
        self.repositories, self.private, self.stored, self.requests = {}, {}, {}, []
        self.tokens = {"owner-token": "owner", "reader-token": None}  # token -> who it may write as
        self.large = LARGE
        self.url = ""

    def commits(self, name):
        return self.repositories[name]

    def add(self, name, files, private=False):
        """A commit, by whoever; its hash."""
        made = self.repositories.setdefault(name, [])
        self.private.setdefault(name, private)
        sha = hashlib.sha1(f"{name}{len(made)}".encode()).hexdigest()
        made.append((sha, dict(files)))
        return sha

    def tree(self, name, revision):
        made = self.repositories[name]
        if revision == "main":
            return made[-1]
        return next(((sha, files) for sha, files in made if sha == revision), None)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def who(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return token if token in self.hub.tokens else None

    def may_write(self, owner):
        token = self.who()
        if token is None:
            self.answer(401, {"error": "Invalid username or password."})
        elif self.hub.tokens[token] != owner:
            self.answer(403, {"error": f"You don't have the rights to write under {owner}"})
        else:
            return True
        return False

    def read(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def find(self, name, revision="main"):
        """The commit, or None once a refusal was sent."""
        hidden = name in self.hub.private and self.hub.private[name] and self.who() is None
        if name not in self.hub.repositories or hidden:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        commit = self.hub.tree(name, revision)
        return commit or self.answer(404, {"error": "Invalid rev"}, X_Error_Code="RevisionNotFound")

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append(("POST", path))
        body = self.read()
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            content = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self.answer(200 if isinstance(content, dict) else 400, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/([^/]+)/([^/]+)/preupload/main", path):
            return self.may_write(match[1]) and self.preupload("/".join(match.groups()), json.loads(body))
        if match := re.fullmatch(r"/([^/]+)/([^/]+)\.git/info/lfs/objects/batch", path):
            return self.may_write(match[1]) and self.batch(json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+)/([^/]+)/commit/main", path):
            return self.may_write(match[1]) and self.commit("/".join(match.groups()), body)
        return self.answer(404, {"error": "Not Found"})

    def create(self, content):
        name = f"{content['organization']}/{content['name']}"
        if not self.may_write(content["organization"]):
            return
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": url})
            return
        private = content.get("visibility") == "private" or bool(content.get("private"))
        self.hub.add(name, {".gitattributes": b"*.onnx filter=lfs\n"}, private)
        self.answer(200, {"url": url})

    def preupload(self, name, content):
        _, there = self.hub.tree(name, "main")
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(self.hub.large) else "regular",
                "shouldIgnore": False,
                "oid": oid(file["path"], there[file["path"]], self.hub.large) if file["path"] in there else None,
            }
            for file in content["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, content):
        href = f"{self.hub.url}/store/"
        objects = [{**o, "actions": {"upload": {"href": href + o["oid"]}}} for o in content["objects"]]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self):
        self.hub.requests.append(("PUT", self.path))
        body, digest = self.read(), self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() == digest:
            self.hub.stored[digest] = body
            self.answer(200)
        else:
            self.answer(400, {"error": "other bytes"})

    def commit(self, name, body):
        files = dict(self.hub.tree(name, "main")[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.add(name, files)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if commit := self.find(*match.groups()):
                rows = [{"type": "file", "path": n, "size": len(f), "oid": "0" * 40} for n, f in commit[1].items()]
                self.answer(200, rows)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            if commit := self.find(match[1], match[2] or "main"):
                content = {"_id": "1", "id": match[1], "sha": commit[0], "private": self.hub.private[match[1]]}
                self.answer(200, content | {"siblings": [{"rfilename": n} for n in commit[1]], "tags": []})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[2], match[3])
        else:
            self.answer(404, {"error": "Not Found"})

    def do_HEAD(self):
        self.do_GET()

    def file(self, name, revision, file):
        commit = self.find(name, revision)
        if commit and file in commit[1]:
            content = commit[1][file]
            self.answer(200, content, ETag=f'"{oid(file, content, self.hub.large)}"', X_Repo_Commit=commit[0])
        elif commit:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit[0])


def oid(name, content, large):
    """As the Hub says which content a file has: SHA-256 by LFS, git's hash of a blob else."""
    if name.endswith(large):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving():
    """A Hub at `hub.url`, empty."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
