"""A stand-in of the Hugging Face Hub on this machine: huggingface_hub's requests over one folder.

Models only, one commit a repository. Written after what huggingface_hub 2.4 was seen to ask for: making a
repository, preupload and commit, info, tree, and files by HEAD and GET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@contextmanager
def local_hub(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves `root/<owner>/<name>/...` as repositories. Gives the address and the list of requests so far."""
    seen: list[str] = []

    class Handler(_Handler):
        folder, log = root, seen

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    log: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.log.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[0] != "api":
            if len(parts) > 4 and parts[2] == "resolve":
                return self._file("/".join(parts[:2]), "/".join(parts[4:]))
            return self._error(404, "EntryNotFound")
        if parts[1] == "repos":
            return self._create(json.loads(body))
        if parts[1] == "validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts[1] == "whoami-v2":
            return self._json({"name": "me", "type": "user", "orgs": [], "auth": {}})
        name = "/".join(parts[2:4])
        if not (self.folder / name).is_dir():
            return self._error(404, "RepoNotFound")
        kind = parts[4] if len(parts) > 4 else "info"
        answers = {"info": self._info, "revision": self._info, "tree": self._tree}
        if kind in answers:
            return answers[kind](name)
        if kind == "preupload":
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": each["path"], **regular} for each in files]})
        if kind == "commit":
            return self._commit(name, body)
        return self._error(404, "EntryNotFound")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})

    def _commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, filter(None, body.splitlines())):
            if line["key"] == "file":
                path = self.folder / name / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self._sha(name)
        address = f"http://{self.headers['Host']}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})

    def _files(self, name: str) -> list[str]:
        root = self.folder / name
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def _sha(self, name: str) -> str:
        digest = hashlib.sha1()
        for file in self._files(name):
            digest.update(file.encode() + (self.folder / name / file).read_bytes())
        return digest.hexdigest()

    def _info(self, name: str) -> None:
        siblings = [{"rfilename": file} for file in self._files(name)]
        self._json({"_id": "0", "id": name, "modelId": name, "sha": self._sha(name), "private": False,
                    "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _tree(self, name: str) -> None:
        root = self.folder / name
        sizes = {file: (root / file).stat().st_size for file in self._files(name)}
        self._json([{"type": "file", "path": file, "size": size, "oid": _oid((root / file).read_bytes())}
                    for file, size in sizes.items()])  # fmt: skip

    def _file(self, name: str, file: str) -> None:
        path = self.folder / name / file
        if not path.is_file():
            return self._error(404, "EntryNotFound" if (self.folder / name).is_dir() else "RepoNotFound")
        content = path.read_bytes()
        self._send(200, content, {"X-Repo-Commit": self._sha(name), "ETag": f'"{_oid(content)}"'})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(
            status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code}
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
