"""A Hugging Face Hub here, which can be made to misbehave; of its API what reads data."""

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
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from raymodel.testing.http import listening
from raymodel.testing.s3 import Fault, Faults

_PAGE = 3
"""Entries of a listing that come at once; the Hub gives a thousand."""
_API = re.compile(
    r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?|/auth-check)?"
)
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


@dataclass
class Hub:
    """Data sets with a history. A test changes them while the server runs."""

    url: str = ""
    faults: Faults = field(default_factory=Faults)
    tokens: dict[str, str] = field(default_factory=dict)
    """Data set that is not public → the token that reads it."""
    gated: set[str] = field(default_factory=set)
    """Data sets whose files no token here may read; all are told which there are."""
    requests: list[str] = field(default_factory=list)
    """`METHOD /path?query`, those that were refused too."""
    _commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    _branches: dict[tuple[str, str], str] = field(default_factory=dict)

    def push(self, data_set: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Makes these the files of a branch; returns the commit."""
        told = json.dumps([data_set, sorted((k, v.hex()) for k, v in files.items())])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self._commits[data_set, commit] = dict(files)
        self._branches[data_set, branch] = commit
        return commit

    def fail(self, fault: Fault) -> Fault:
        """Adds what goes wrong from now on."""
        return self.faults.add(fault)

    def find(self, data_set: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files; None where there is no such revision."""
        commit = self._branches.get((data_set, revision), revision)
        files = self._commits.get((data_set, commit))
        return None if files is None else (commit, files)

    def has(self, data_set: str) -> bool:
        return any(name == data_set for name, _ in self._commits)


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub that is reached as users reach a mirror: by the environment, without a token."""
    made = Hub()
    without = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    with listening(_handler(made)) as made.url:
        # Nobody's login on this machine is read.
        environment |= {"HF_ENDPOINT": made.url, "HF_TOKEN_PATH": "/nonexistent"}
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
            data_set = found[1]
            wants_content = file is not None or parts.path.endswith("/auth-check")
            if self._is_refused(data_set, wants_content):
                return None
            if file:
                return self._file(data_set, unquote(file[2]), unquote(file[3]))
            assert api is not None
            kind, revision = api[2] or "revision", unquote(api[3] or "main")
            at = hub.find(data_set, revision)
            if at is None:
                return self._error(404, "RevisionNotFound")
            commit, files = at
            if kind == "revision":
                gated = "manual" if data_set in hub.gated else False
                return self._json({"id": data_set, "sha": commit, "gated": gated})
            if kind == "paths-info":
                paths = parse_qs(self._body.decode())["paths"]
                return self._json([_entry(p, files[p]) for p in paths if p in files])
            return self._tree(files, unquote(api[4] or ""), parse_qs(parts.query))

        def _is_refused(self, data_set: str, wants_content: bool) -> bool:
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            wanted = hub.tokens.get(data_set)
            known = set(hub.tokens.values())
            if given and given not in known:
                self._answer(
                    401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"}
                )
            elif not hub.has(data_set) or (wanted is not None and given != wanted):
                self._error(404 if given else 401, "RepoNotFound")
            elif data_set in hub.gated and wants_content:
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

        def _file(self, data_set: str, revision: str, path: str) -> None:
            at = hub.find(data_set, revision)
            if at is None:
                return self._error(404, "RevisionNotFound")
            if path not in at[1]:
                return self._error(404, "EntryNotFound")
            whole = at[1][path]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if wanted is None:
                return self._answer(200, whole)
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(whole))
            told = {"Content-Range": f"bytes {start}-{end - 1}/{len(whole)}"}
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
    return {"type": "file", "path": path, "size": len(content), "oid": oid}
