"""A stand-in for the Hugging Face Hub on this machine: enough of it for the real `huggingface_hub` to push and load.

`HfApi(endpoint=HubStub().start(), token="any")`. Nothing leaves the machine, and nothing is kept. Each commit
has a hash over all its files, as a Git repository has; `main` is the newest. Source: notebook 08, section "The Hub".
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class HubStub:
    """Repositories in memory. commits: {"owner/name": {hash: {file: bytes}}}, the newest last."""

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}

    def start(self) -> str:
        """Returns the address, for `HfApi(endpoint=…)`."""
        commits = self.commits

        class Handler(_Handler):
            repositories = commits

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """The addresses that huggingface_hub asks for. Source: https://huggingface.co/docs/hub/api"""

    protocol_version = "HTTP/1.1"
    repositories: dict

    def do_GET(self):
        match self._parts():
            case ["api", "whoami-v2"]:
                self._answer({"type": "user", "name": "student", "orgs": [], "auth": {"type": "access_token"}})
            case ["api", "models", owner, name, *rest]:
                revision = rest[1] if len(rest) > 1 else "main"
                if files := self._files(f"{owner}/{name}", revision):
                    hash, contents = files
                    tree = [self._described(file, content) for file, content in contents.items()]
                    siblings = [{"rfilename": file} for file in contents]
                    about = {"id": f"{owner}/{name}", "sha": hash, "private": False, "tags": [], "siblings": siblings}
                    self._answer(tree if rest[:1] == ["tree"] else about)
            case [owner, name, "resolve", revision, *path]:
                if files := self._files(f"{owner}/{name}", revision):
                    self._send_file(files[0], files[1].get("/".join(path)))
            case _:
                self._answer({"error": "unknown here"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self._parts():
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'student'}/{asked['name']}"
                self.repositories.setdefault(name, {"0" * 40: {}})
                self._answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._answer({"files": [{"path": file["path"], **plain} for file in files]})
            case ["api", "models", owner, name, "commit", _]:
                self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
            case _:
                self._answer({"error": "unknown here"}, 404)

    def _commit(self, repository: str, lines: list[dict]) -> None:
        files = dict(list(self.repositories[repository].values())[-1])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                files.pop(line["value"]["path"], None)
        digest = hashlib.sha1(repr([*self.repositories[repository], sorted(files.items())]).encode()).hexdigest()
        self.repositories[repository][digest] = files
        # Version 1.0 of the library takes this address apart by the name of the real Hub.
        self._answer({"commitOid": digest, "commitUrl": f"https://huggingface.co/{repository}/commit/{digest}"})

    def _parts(self) -> list[str]:
        return [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]

    def _files(self, repository: str, revision: str) -> tuple[str, dict] | None:
        commits = self.repositories.get(repository, {})
        hash = list(commits)[-1] if commits and revision == "main" else revision
        if hash in commits:
            return hash, commits[hash]
        code = "RevisionNotFound" if commits else "RepoNotFound"
        self._answer({"error": "not found"}, 404, {"X-Error-Code": code})

    def _described(self, file: str, content: bytes) -> dict:
        return {"type": "file", "path": file, "size": len(content), "oid": _git_hash(content)}

    def _send_file(self, hash: str, content: bytes | None) -> None:
        if content is None:
            self._answer({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hash})
        else:
            self._answer(content, headers={"X-Repo-Commit": hash, "ETag": f'"{_git_hash(content)}"'})

    def _answer(self, content, status: int = 200, headers: dict | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Nothing: a notebook would show each request."""


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
