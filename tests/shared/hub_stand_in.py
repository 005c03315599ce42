"""A hub of the test's own: an HTTP server that answers what huggingface_hub 2.4 asks.

Repositories are made, filled and read; big files go the way of git LFS, as on the hub. Variables that
lead there are read when huggingface_hub is imported, so programs run in a new interpreter, each a fork.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from places import REPOSITORY, script_environment

TOKEN = "hf_ofthetest"
_MODEL = r"/api/models/([^/]+/[^/]+)"


@dataclass
class Repository:
    """Commits by their names, each with all files of its time, and what branches point at."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files."""
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        found = self.files(branch)
        before = found[1] if found else {}
        name = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[name] = {**before, **files}
        self.branches[branch] = name
        return name


class Hub:
    """Repositories, and every request that came, ``"GET /owner/name/resolve/main/config.json"``."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.large: dict[str, bytes] = {}
        self.url = ""

    def make(self, name: str, files: dict[str, bytes], **of: bool) -> Repository:
        repository = self.repositories.setdefault(name, Repository(**of))
        repository.commit("main", files)
        return repository


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at a port of this machine, for the time of the block."""
    hub = Hub()

    class Handler(_Handler):
        of = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_FORKS = """
import json, os, sys, traceback
preload, programs = json.loads(sys.argv[1])
exec(preload)
for program, folder in programs:
    print("--", flush=True)
    child = os.fork()
    if not child:
        os.chdir(folder)
        try:
            exec(preload + program, {"__name__": "__main__"})
        except BaseException as error:
            print(f"{type(error).__name__}: {error}" if isinstance(error, ValueError) else "")
            if not isinstance(error, ValueError):
                traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


def said(
    hub: Hub, home: Path, programs: Mapping[str, str], *, preload: str, token: str | None = TOKEN
) -> dict[str, str]:
    """What programs print, in a process of its own each, with this hub; of a `ValueError` one line.

    Args:
        hub: the only one they know.
        home: for the cache, and the working folder.
        programs: by name.
        preload: imported before, once for all.
        token: of the user; None for none.
    """
    environment = script_environment(
        HF_ENDPOINT=hub.url,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(home / "home"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        OMP_NUM_THREADS="1",
        NO_PROXY="127.0.0.1",
    )
    environment.pop("HF_TOKEN", None)
    if token is not None:
        environment["HF_TOKEN"] = token
    arguments = json.dumps([preload, [(text, str(home)) for text in programs.values()]])
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("--\n")[1:]
    return {name: part.strip() for name, part in zip(programs, parts, strict=True)}


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.of.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/large/"):
            self.of.large[path.rpartition("/")[2]] = body
            self._json({})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            if self._open(found[1], writes=True):
                self._batch(json.loads(body))
        elif found := re.fullmatch(_MODEL + "/(preupload|commit|branch|revision)/(.+)", path):
            if repository := self._open(found[1], writes=self.command == "POST"):
                getattr(self, f"_{found[2]}")(repository, found[1], found[3], body)
        elif found := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repository := self._open(found[1]):
                self._resolve(repository, found[2], found[3])
        else:
            self._refuse(501, f"no such thing here: {path}", "")

    def _open(self, name: str, *, writes: bool = False) -> Repository | None:
        """The repository, if there is one and the token is let in; else the answer is given."""
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.of.repositories.get(name)
        if repository is None or (repository.private and not has_token):
            self._refuse(404 if has_token else 401, "Repository Not Found", "RepoNotFound")
        elif repository.gated and not has_token:
            self._refuse(401, "Access to this model is restricted", "GatedRepo")
        elif writes and not has_token:
            self._refuse(401, "Invalid username or password.", "")
        else:
            return repository
        return None

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Invalid username or password.", "")
            return
        code = 409 if name in self.of.repositories else 200
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        if code == 200:
            self.of.make(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self._json({"url": f"{self.of.url}/{name}", "name": name, "id": name}, code)

    def _preupload(self, repository: Repository, name: str, revision: str, body: bytes) -> None:
        if repository.files(revision) is None:
            self._refuse(404, "Invalid rev id", "RevisionNotFound")
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**thing, "actions": {"upload": {"href": f"{self.of.url}/large/{thing['oid']}"}}}
            for thing in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _branch(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        code = 409 if branch in repository.branches else 200
        repository.branches.setdefault(branch, repository.branches["main"])
        self._json({}, code)

    def _revision(self, repository: Repository, name: str, revision: str, body: bytes) -> None:
        found = repository.files(revision)
        if found is None:
            self._refuse(404, "Invalid rev id", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in found[1]]
        self._json({"id": name, "sha": found[0], "siblings": siblings, "tags": [], "private": False})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        files = {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.of.large[value["oid"]]
        commit = repository.commit(branch, files)
        url = f"{self.of.url}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, repository: Repository, revision: str, file: str) -> None:
        found = repository.files(revision)
        if found is None:
            self._refuse(404, "Invalid rev id", "RevisionNotFound")
            return
        commit, files = found
        if file not in files:
            self._refuse(404, "Entry not found", "EntryNotFound", commit)
            return
        etag = hashlib.sha256(files[file]).hexdigest()
        self._answer(200, files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _json(self, value: object, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: int, message: str, kind: str, commit: str = "") -> None:
        told = {"X-Error-Code": kind, "X-Error-Message": message, "X-Repo-Commit": commit}
        body = json.dumps({"error": message}).encode()
        self._answer(code, body, {name: value for name, value in told.items() if value})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
