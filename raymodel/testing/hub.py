"""A Hugging Face Hub here, which can be made to misbehave; of its API what reads."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from raymodel.testing.http import listening
from raymodel.testing.s3 import Fault, Faults

_PAGE = 3
"""Entries of a listing that come at once; the Hub gives a thousand."""
_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<repository>[^/]+/[^/]+)"
    r"(?:/(?P<asks>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?|/auth-check)?"
)
_FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.*)"
)
_LARGE = (".safetensors", ".bin", ".gguf", ".pt", ".onnx")
"""Files that the Hub keeps apart, with a digest of another kind."""

Kind = Literal["dataset", "model"]
_Repository = tuple[Kind, str]


@dataclass
class Hub:
    """Data sets and models with a history. A test changes them while the server runs."""

    url: str = ""
    faults: Faults = field(default_factory=Faults)
    tokens: dict[str, str] = field(default_factory=dict)
    """Repository that is not public → the token that reads it."""
    gated: set[str] = field(default_factory=set)
    """Repositories whose files no token here may read; all are told which there are."""
    requests: list[str] = field(default_factory=list)
    """`METHOD /path?query`, those that were refused too."""
    _commits: dict[tuple[_Repository, str], dict[str, bytes]] = field(default_factory=dict)
    _branches: dict[tuple[_Repository, str], str] = field(default_factory=dict)

    def push(
        self, name: str, files: dict[str, bytes], branch: str = "main", kind: Kind = "dataset"
    ) -> str:
        """Makes these the files of a branch; returns the commit."""
        digest = hashlib.sha1(json.dumps([kind, name]).encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha1(content).digest())
        commit = digest.hexdigest()
        self._commits[(kind, name), commit] = dict(files)
        self._branches[(kind, name), branch] = commit
        return commit

    def push_model(self, name: str, folder: Path, branch: str = "main", **files: bytes) -> str:
        """The same of a model's folder on a disk, and of more files by their names."""
        found = {
            str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()
        }
        return self.push(name, found | files, branch, "model")

    def fail(self, fault: Fault) -> Fault:
        """Adds what goes wrong from now on."""
        return self.faults.add(fault)

    def find(self, which: _Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files; None where there is no such revision."""
        commit = self._branches.get((which, revision), revision)
        files = self._commits.get((which, commit))
        return None if files is None else (commit, files)

    def has(self, which: _Repository) -> bool:
        return any(each == which for each, _ in self._commits)

    def contents(self) -> list[str]:
        """The names of the files whose content was asked for, in this order."""
        asked = [each.partition("/resolve/")[2] for each in self.requests if each.startswith("GET")]
        return [each.partition("/")[2] for each in asked if each]


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub that is reached as users reach a mirror: by the environment, without a token; what is
    fetched of it is kept for as long as it is there."""
    made = Hub()
    without = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    with listening(_handler(made)) as made.url, TemporaryDirectory() as cache:
        # Nobody's login on this machine is read.
        environment |= {"HF_ENDPOINT": made.url, "HF_TOKEN_PATH": "/nonexistent"}
        environment |= {"HF_HUB_CACHE": f"{cache}/hub"}
        with mock.patch.dict(os.environ, environment, clear=True):
            yield made


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # which holds a body back for 40 ms after its headers

        def do_GET(self) -> None:
            asked = f"{self.command} {self.path}"
            hub.requests.append(asked)
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._cut = False
            fault = hub.faults.find(asked)
            if fault is not None:
                if fault.does == "refuse":
                    return self._answer(fault.status, b"as the test asked")
                if fault.does == "reset":
                    return self._break_off()
                self._cut = fault.does == "cut"
                if fault.does == "wait":
                    time.sleep(fault.wait_s)
            return self._route()

        do_HEAD = do_POST = do_GET

        def _route(self) -> None:
            parts = urlsplit(self.path)
            api, file = _API.fullmatch(parts.path), _FILE.fullmatch(parts.path)
            found = api or file
            if found is None:
                return self._answer(200 if parts.path == "/" else 404, b"")
            name: str = found["repository"]
            is_data = (found["kind"] or "models").startswith("datasets")
            which: _Repository = ("dataset" if is_data else "model", name)
            wants_content = file is not None or parts.path.endswith("/auth-check")
            if self._is_refused(which, wants_content):
                return None
            if file:
                return self._file(which, unquote(file["revision"]), unquote(file["path"]))
            assert api is not None
            asks, revision = api["asks"] or "revision", unquote(api["revision"] or "main")
            at = hub.find(which, revision)
            if at is None:
                return self._error(404, "RevisionNotFound")
            commit, files = at
            if asks == "revision":
                gated = "manual" if name in hub.gated else False
                return self._json({"id": name, "sha": commit, "gated": gated})
            if asks == "paths-info":
                paths = parse_qs(self._body.decode())["paths"]
                return self._json([_entry(p, files[p]) for p in paths if p in files])
            return self._tree(files, unquote(api["path"] or ""), parse_qs(parts.query))

        def _is_refused(self, which: _Repository, wants_content: bool) -> bool:
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            wanted = hub.tokens.get(which[1])
            known = set(hub.tokens.values())
            if given and given not in known:
                self._answer(
                    401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"}
                )
            elif not hub.has(which) or (wanted is not None and given != wanted):
                self._error(404 if given else 401, "RepoNotFound")
            elif which[1] in hub.gated and wants_content:
                self._error(403 if given else 401, "GatedRepo")
            else:
                return False
            return True

        def _tree(self, files: dict[str, bytes], folder: str, query: dict[str, Any]) -> None:
            base = f"{folder}/" if folder else ""
            names = [name for name in files if name.startswith(base)]
            if not names and folder:
                return self._error(404, "EntryNotFound")
            entries = {}
            for name in names:
                parts = name.removeprefix(base).split("/")
                for depth in range(1, len(parts)):
                    inner = base + "/".join(parts[:depth])
                    entries[inner] = {"type": "directory", "path": inner, "oid": "0", "size": 0}
                entries[name] = _entry(name, files[name])
            if query.get("recursive", ["false"])[0].lower() != "true":
                entries = {k: v for k, v in entries.items() if "/" not in k.removeprefix(base)}
            start = int(query.get("cursor", ["0"])[0])
            told = [entries[name] for name in sorted(entries)]
            headers = {}
            if start + _PAGE < len(told):
                asked = self.path.partition("&cursor=")[0]
                sign = "&" if "?" in asked else "?"
                following = f"{hub.url}{asked}{sign}cursor={start + _PAGE}"
                headers["Link"] = f'<{following}>; rel="next"'
            return self._json(told[start : start + _PAGE], headers)

        def _file(self, which: _Repository, revision: str, path: str) -> None:
            at = hub.find(which, revision)
            if at is None:
                return self._error(404, "RevisionNotFound")
            if path not in at[1]:
                return self._error(404, "EntryNotFound")
            whole, entry = at[1][path], _entry(path, at[1][path])
            told = {"ETag": f'"{entry.get("lfs", entry)["oid"]}"', "X-Repo-Commit": at[0]}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted is None:
                return self._answer(200, whole, told)
            start, end = int(wanted[1]), min(int(wanted[2] or len(whole)) + 1, len(whole))
            told["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole)}"
            return self._answer(206, whole[start:end], told)

        def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
            self._answer(200, json.dumps(value).encode(), headers)

        def _error(self, status: int, code: str) -> None:
            self._answer(status, b"", {"X-Error-Code": code})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if self._cut:
                self.wfile.write(body[: len(body) // 2])
                return self._break_off()
            self.wfile.write(body)

        def _break_off(self) -> None:
            with suppress(OSError):
                self.wfile.flush()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """The tests print nothing of the requests."""

    return Handler


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(_LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry
