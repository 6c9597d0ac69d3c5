"""A Hub on this machine's loopback, in memory: repositories, branches, commits, large files; and faults on demand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
MAIN = "main"
REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+?)"


@dataclass
class Repo:
    """branches: name -> commits, the last one newest, each (id, all files)."""

    private: bool
    branches: dict[str, list[tuple[str, Files]]] = field(default_factory=lambda: {MAIN: [("0" * 40, {})]})

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        every = (commit for commits in self.branches.values() for commit in commits)
        return next((commit for commit in every if commit[0] == revision), None)


@dataclass
class Fault:
    """What goes wrong: `times` requests whose "METHOD path" matches are answered so. cut: the connection is reset.

    after: what was asked for is done first, and only its answer is lost.
    """

    request: str
    status: int = 500
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""
    cut: bool = False
    after: bool = False


class LoopbackHub(ThreadingHTTPServer):
    """Accounts by token; `log` holds "METHOD path" of every request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.accounts = {
            "hf_" + "w" * 30: ("me", "write"),
            "hf_" + "r" * 30: ("me", "read"),
            "hf_" + "o" * 30: ("other", "write"),
        }
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.commits = 0
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, revision: str = MAIN, kind: str = "models") -> Files:
        found = self.repos[kind, repo].at(revision)
        assert found is not None
        return found[1]

    def add(self, repo: str, files: Files, *, kind: str = "models", private: bool = False) -> str:
        """A repository with one commit -> its id."""
        self.repos.setdefault((kind, repo), Repo(private))
        return self.commit(kind, repo, MAIN, files)

    def commit(self, kind: str, repo: str, branch: str, files: Files) -> str:
        self.commits += 1
        commit = hashlib.sha1(f"{repo}{self.commits}".encode()).hexdigest()
        self.repos[kind, repo].branches[branch].append((commit, files))
        return commit

    def writes(self) -> list[str]:
        """Commits that were asked for since the log was cleared, and large files that were sent."""
        return [line for line in self.log if "/commit/" in line or line.startswith("PUT ")]

    def go_away(self) -> None:
        """Nobody listens at the address any more, and open connections end."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server: LoopbackHub
    answers = True

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        line = f"{self.command} {unquote(address.path)}"
        fault = self._fault(line)
        if fault is not None and fault.cut:
            self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if fault is not None and fault.after:
            self.answers = False
            self.route(unquote(address.path), address.path, parse_qs(address.query), body)
            self.answers = True
        if fault is not None:
            self.refuse(fault.status, message=fault.message, headers=fault.headers)
            return
        with self.server.lock:
            self.route(unquote(address.path), address.path, parse_qs(address.query), body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _fault(self, line: str) -> Fault | None:
        with self.server.lock:
            self.server.log.append(line)
            for fault in self.server.faults:
                if fault.times > 0 and re.search(fault.request, line):
                    fault.times -= 1
                    return fault
        return None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if not self.answers:
            return
        body = content if isinstance(content, bytes) else json.dumps(content if content is not None else {}).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer({"error": message}, status, told)

    def account(self) -> tuple[str, str] | None:
        return self.server.accounts.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def route(self, path: str, raw: str, query: dict[str, list[str]], body: bytes) -> None:
        account = self.account()
        if path in ("", "/"):
            return self.answer()
        if path == "/api/whoami-v2":
            return self.whoami(account)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.startswith("/large/") and self.command == "PUT":
            self.server.large[hashlib.sha256(body).hexdigest()] = body
            return self.answer()
        if path == "/verify":
            return self.answer()
        if account is None and self.command not in ("GET", "HEAD") and not path.endswith("paths-info"):
            return self.refuse(401, message="Invalid username or password.")
        if path == "/api/repos/create":
            return self.create(account, json.loads(body))
        if found := re.match(r"^/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$", path):
            return self.large_files(json.loads(body))
        if found := re.match(r"^/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", raw):
            return self.resolve(found[1] or "models", unquote(found[2]), unquote(found[3]), unquote(found[4]), account)
        if found := re.match(rf"^/api/{REPO}(?:/(?P<verb>preupload|commit|tree|revision|paths-info|branch|refs)"
                             r"(?:/(?P<revision>[^/]+))?(?P<rest>/.*)?)?$", raw):  # fmt: skip
            return self.repository(found, query, body, account)
        return self.refuse(404, "EntryNotFound", f"no such address: {path}")

    def whoami(self, account: tuple[str, str] | None) -> None:
        if account is None:
            return self.refuse(401, message="Invalid credentials in Authorization header")
        name, role = account
        token = {"role": role, "displayName": f"{role} token"}
        return self.answer(
            {"type": "user", "name": name, "orgs": [{"name": "our-team"}], "auth": {"accessToken": token}}
        )

    def create(self, account: tuple[str, str] | None, asked: dict[str, Any]) -> None:
        assert account is not None
        owner = asked.get("organization") or account[0]
        repo, kind = f"{owner}/{asked['name']}", asked.get("type", "model") + "s"
        url = {"url": f"{self.server.url}/{repo}", "name": repo}
        if owner not in (account[0], "our-team") or account[1] != "write":
            return self.refuse(403, message=f"You don't have the rights to create a model under {owner}")
        if (kind, repo) in self.server.repos:
            return self.answer({"error": "You already created this model repo", **url}, 409)
        self.server.repos[kind, repo] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        return self.answer(url)

    def large_files(self, asked: dict[str, Any]) -> None:
        def place(one: dict[str, Any]) -> dict[str, Any]:
            known = one["oid"] in self.server.large
            actions = {"upload": {"href": f"{self.server.url}/large/{one['oid']}", "header": {}}}
            return {"oid": one["oid"], "size": one["size"], **({} if known else {"actions": actions})}

        self.answer({"transfer": "basic", "objects": [place(one) for one in asked["objects"]]})

    def visible(self, kind: str, repo: str, account: tuple[str, str] | None) -> Repo | None:
        found = self.server.repos.get((kind, repo))
        if found is None or (found.private and (account is None or account[0] != repo.split("/")[0])):
            self.refuse(401 if account is None else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def repository(
        self, found: re.Match[str], query: dict[str, list[str]], body: bytes, account: tuple[str, str] | None
    ) -> None:
        kind, repo, verb = found["kind"], unquote(found["repo"]), found["verb"]
        revision, rest = unquote(found["revision"] or MAIN), unquote(found["rest"] or "").strip("/")
        there = self.visible(kind, repo, account)
        if there is None:
            return
        if verb == "branch":
            there.branches.setdefault(revision, [there.branches[MAIN][-1]])
            return self.answer()
        state = there.at(revision)
        if state is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = state
        if verb in ("preupload", "commit") and (account is None or account[1] != "write"):
            return self.refuse(403, message="this token may not write")
        if verb == "preupload":
            return self.answer({"files": [self.mode(one, files) for one in json.loads(body)["files"]]})
        if verb == "commit":
            return self.change(kind, repo, revision, files, body)
        if verb in ("tree", "paths-info"):
            return self.tree(files, rest, query, json.loads(body)["paths"] if verb == "paths-info" else None)
        siblings = [{"rfilename": name} for name in files]
        info = {"_id": "0", "id": repo, "sha": commit, "private": there.private, "siblings": siblings, "tags": []}
        return self.answer(info | {"disabled": False, "gated": False, "downloads": 0, "likes": 0} | _card(files))

    def mode(self, one: dict[str, Any], files: Files) -> dict[str, Any]:
        large = one["path"].endswith(".safetensors")
        known = {"oid": _entry(one["path"], files[one["path"]])["oid"]} if one["path"] in files and not large else {}
        return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}

    def change(self, kind: str, repo: str, branch: str, files: Files, body: bytes) -> None:
        after = dict(files)
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                after[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                after[value["path"]] = self.server.large[value["oid"]]
            elif item["key"] == "deletedFile":
                del after[value["path"]]
        commit = self.server.commit(kind, repo, branch, after)
        self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True})

    def tree(self, files: Files, folder: str, query: dict[str, list[str]], paths: Any) -> None:
        entries = [_entry(name, content) for name, content in files.items()]
        if paths is not None:
            return self.answer([entry for entry in entries if entry["path"] in paths])
        inside = f"{folder}/" if folder else ""
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        names = [entry for entry in entries if entry["path"].startswith(inside)]
        if inside and not names:
            return self.refuse(404, "EntryNotFound", "no such folder")
        return self.answer([entry for entry in names if recursive or "/" not in entry["path"][len(inside) :]])

    def resolve(self, kind: str, repo: str, revision: str, name: str, account: tuple[str, str] | None) -> None:
        there = self.visible(kind, repo, account)
        if there is None:
            return
        state = there.at(revision)
        if state is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = state
        if name not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_entry(name, content)["oid"]}"', "Accept-Ranges": "bytes"}
        part = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self.answer(content, headers=headers)
        start, end = int(part[1]), min(int(part[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.answer(content[start : end + 1], 206, headers)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(".safetensors"):
        large = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": large, "size": len(content), "pointerSize": 130}
    return entry


def _card(files: Files) -> dict[str, Any]:
    """cardData, as the Hub reads it from README.md."""
    import yaml

    text = files.get("README.md", b"").decode()
    found = re.match(r"^---\n(.*?)\n---", text, re.DOTALL)
    return {"cardData": yaml.safe_load(found[1])} if found else {}
