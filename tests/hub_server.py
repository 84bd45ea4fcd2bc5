"""A local Hub for tests: datasets repositories in memory, spoken to by the real huggingface_hub and datasets.

    with HubServer({"a-token": ("me", ["my-lab"])}) as hub:
        hub.commit("my-lab/seen", {"data/train.jsonl": rows})
        hub.faults.append(Fault("PUT", "^/lfs/", "cut", skip=2))
        synthmill(..., **hub.environment(home, token="a-token"))
        assert "data/train-0.parquet" in hub.files("me/made", "v1")

It answers what they ask when Xet is off: large files go through LFS, the others inside the commit. Dates stand still.
"""

import base64
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LARGE_SUFFIXES = (".arrow", ".bin", ".gz", ".npy", ".parquet", ".safetensors", ".zip", ".zst")
DATE = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer that is an error; the code tells the client what was not found."""

    def __init__(self, status: int, message: str, code: str = "", **fields: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": quote(message, safe=" :/'\""), "X-Error-Code": code}
        self.answer = status, json.dumps({"error": message, **fields}).encode(), headers


@dataclass
class Fault:
    """What goes wrong with requests of a method whose path matches the pattern: the first `skip` pass, `times` fail.

    A number is answered as that status. "cut" closes the connection amid the upload, or amid a download; "lost" does
    what was asked, then closes it without an answer. `before` runs first: somebody else's commit, or a wait.
    """

    method: str
    path: str
    answer: int | Literal["cut", "lost"] | None = None
    times: int = 1
    skip: int = 0
    before: Callable[[], object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.skip -= 1
        return -self.times <= self.skip < 0


@dataclass(frozen=True)
class Commit:
    """The files at one moment, and the commits before it, newest first."""

    oid: str
    title: str
    files: Mapping[str, bytes]
    before: tuple["Commit", ...]


@dataclass
class Repo:
    """A dataset's commits by oid, branches and tags by name, and the large files it was sent by their sha256."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        commit = self.branches.get(revision) or self.tags.get(revision) or self.commits.get(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, branch: str, title: str, files: Mapping[str, bytes]) -> Commit:
        oid = sha1(f"{self.name} {len(self.commits)} {title}".encode()).hexdigest()
        head = self.branches.get(branch)
        self.commits[oid] = self.branches[branch] = Commit(oid, title, files, (head, *head.before) if head else ())
        return self.commits[oid]


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub wants a file through LFS: by its suffix, its size, or because it is no text."""
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > 10 * 2**20 or b"\0" in sample[:512])


def name_of(path: str, data: bytes) -> str:
    """What the Hub calls a file's content: LFS's name for a large file, Git's for another."""
    if is_large(path, len(data), data):
        return sha256(data).hexdigest()
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What the Hub says of files and of their folders, by path: under the names of trees, and of a dataset's info."""
    by_path: dict[str, dict[str, Any]] = {}
    for path, data in files.items():
        oid, git, size = name_of(path, data), name_of(path, data)[:40], len(data)
        by_path[path] = {"type": "file", "path": path, "rfilename": path, "oid": git, "blobId": git, "size": size}
        if is_large(path, size, data):
            by_path[path]["lfs"] = {"oid": oid, "sha256": oid, "size": size, "pointerSize": 133}
        for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
            oid = sha1(folder.encode()).hexdigest()
            by_path[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
    return dict(sorted(by_path.items()))


def card_data(readme: bytes) -> dict[str, Any] | None:
    """The metadata at a card's head, None without any."""
    header = re.match(rb"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", readme, re.DOTALL)
    try:
        return yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        raise Refused(400, "Invalid metadata in README.md", errors=[{"message": str(error)}]) from error


class HubServer(ThreadingHTTPServer):
    """Serves while its context is open. `tokens` maps each token to its user's name and organizations."""

    def __init__(self, tokens: Mapping[str, tuple[str, Sequence[str]]] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tokens = dict(tokens or {})
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []  # method and unquoted path, without the query
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home: Path, token: str = "") -> dict[str, str]:
        """What a process must see, before it imports the libraries, to talk to this Hub and to no other."""
        place = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": token}
        return {**place, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}

    def create(self, name: str, private: bool = False) -> Repo:
        repo = self.repos[name] = Repo(name, private)
        repo.add("main", "initial commit", {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        return repo

    def commit(self, name: str, files: Mapping[str, bytes], branch: str = "main", delete: Sequence[str] = ()) -> str:
        """Add a commit as somebody else would, and the repository where there is none. Its oid."""
        with self.lock:
            repo = self.repos.get(name) or self.create(name)
            repo.lfs |= {name_of(path, data): data for path, data in files.items() if is_large(path, len(data), data)}
            kept = {path: data for path, data in repo.branches[branch].files.items() if path not in delete}
            return repo.add(branch, "from outside", {**kept, **files}).oid

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        return dict(self.repos[name].at(revision).files)


class _Connection(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("Content-Length", 0))
        request = self.command, unquote(url.path)
        with self.server.lock:
            self.server.requests.append(request)
            fault = next((fault for fault in self.server.faults if fault.strikes(*request)), Fault(*request))
        if fault.before:
            fault.before()
        if fault.answer == "cut" and size:
            self.rfile.read(size // 2)
            return
        self.query, self.body = parse_qs(url.query), self.rfile.read(size)
        try:
            if isinstance(fault.answer, int):
                raise Refused(fault.answer, "planned")
            with self.server.lock:
                reply = self.answer(self.command.replace("HEAD", "GET"), *map(unquote, url.path.split("/")[1:]))
            if not isinstance(reply, tuple):
                reply = 200, json.dumps(reply, default=str).encode(), {}
            status, data, headers = reply
        except Refused as refusal:
            status, data, headers = refusal.answer
        if fault.answer == "lost":
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers, **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault.answer == "cut" else data)

    do_HEAD = do_POST = do_PUT = do_GET

    def check_write(self, namespace: str, code: str = "") -> None:
        if not self.user:
            raise Refused(401, "Invalid username or password.", code)
        if namespace not in self.namespaces:
            raise Refused(403, f'You don\'t have the rights to write under the namespace "{namespace}"')

    def repo(self, owner: str, name: str, write: bool = False) -> Repo:
        repo = self.server.repos.get(f"{owner}/{name}")
        if repo is None or (repo.private and owner not in self.namespaces):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(owner, "RepoNotFound")  # what the client makes of a 401 here, but over https only
        return repo

    def answer(self, method: str, *path: str) -> Any:  # what becomes JSON, or a status, bytes and headers
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        self.user, organizations = self.server.tokens.get(token, ("", ()))
        self.namespaces = (self.user, *organizations) if self.user else ()
        match method, path:
            case "GET", ["api", "whoami-v2"]:
                self.check_write(self.user)
                return {"type": "user", "name": self.user, "orgs": [{"name": name} for name in organizations]}
            case "POST", ["api", "validate-yaml"]:
                metadata = card_data(json.loads(self.body)["content"].encode())
                return {"warnings": [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]}
            case "POST", ["api", "repos", "create"]:
                return self.create_repo(**json.loads(self.body))
            case _, ["api", "datasets", owner, name, *rest]:
                reading = method == "GET" or rest[0] == "paths-info"
                return self.answer_for_repo(self.repo(owner, name, write=not reading), method, rest)
            case "GET", ["datasets", owner, name, "resolve", revision, *parts]:
                return self.resolve(self.repo(owner, name).at(revision), "/".join(parts))
            case "POST", ["datasets", owner, name, "info", "lfs", "objects", "batch"]:
                return self.plan_uploads(self.repo(owner, name.removesuffix(".git"), write=True))
            case "POST", ["datasets", owner, name, "info", "lfs", "objects", "verify"]:
                self.repo(owner, name.removesuffix(".git"), write=True)  # the bytes were checked when they came
            case "PUT", ["lfs", owner, name, oid]:  # no token comes here: the address allows it, as a signed one would
                if sha256(self.body).hexdigest() != oid:
                    raise Refused(400, "The bytes are not those of this oid")
                self.server.repos[f"{owner}/{name}"].lfs[oid] = self.body
            case _:
                raise Refused(404, f"{method} of {'/'.join(path)} is not served here")
        return None

    def create_repo(self, name: str, organization: str | None, visibility: str = "", **_: Any) -> dict[str, str]:
        namespace = organization or self.user
        self.check_write(namespace)
        full_name = f"{namespace}/{name}"
        address = {"url": f"{self.server.url}/datasets/{full_name}"}
        if full_name in self.server.repos:
            raise Refused(409, "You already created this dataset repo", **address)
        self.server.create(full_name, private=visibility == "private")
        return address

    def plan_uploads(self, repo: Repo) -> dict[str, Any]:
        """Where to send the large files that the Hub does not have yet."""
        objects = json.loads(self.body)["objects"]
        verify = {"href": self.server.url + self.path.replace("/batch", "/verify")}
        for file in objects:
            if file["oid"] not in repo.lfs:
                upload = {"href": f"{self.server.url}/lfs/{repo.name}/{file['oid']}"}
                file["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    def answer_for_repo(self, repo: Repo, method: str, path: list[str]) -> Any:
        match method, path:
            case "GET", [] | ["revision", _]:
                commit = repo.at(path[1] if path else "main")
                by_path, card = entries(commit.files), card_data(commit.files.get("README.md", b""))
                files = [by_path[path] if "blobs" in self.query else {"rfilename": path} for path in commit.files]
                own = {"id": repo.name, "private": repo.private, "createdAt": DATE, "lastModified": DATE, "tags": []}
                return {**own, "sha": commit.oid, "cardData": card, "siblings": files}
            case "GET", ["tree", revision, *parts]:
                by_path, root = entries(repo.at(revision).files), PurePosixPath(*parts)
                if parts and str(root) not in by_path:
                    raise Refused(404, f"{root} does not exist", "EntryNotFound")
                depth = None if self.query.get("recursive") == ["true"] else 1
                return [entry for path, entry in by_path.items() if root in list(PurePosixPath(path).parents)[:depth]]
            case "POST", ["paths-info", revision]:
                by_path, paths = entries(repo.at(revision).files), parse_qs(self.body.decode())["paths"]
                return [by_path[path] for path in paths if path in by_path]
            case "GET", ["refs"]:
                kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags), "converts": ("convert", {})}
                return {
                    key: [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": at.oid} for n, at in commits.items()]
                    for key, (kind, commits) in kinds.items()
                }
            case "GET", ["commits", revision]:
                line = (repo.at(revision), *repo.at(revision).before)
                return [{"id": c.oid, "title": c.title, "message": "", "authors": [], "date": DATE} for c in line]
            case "POST", ["branch", branch]:
                if branch in repo.branches:
                    raise Refused(409, f"Reference already exists: refs/heads/{branch}")
                repo.branches[branch] = repo.at(json.loads(self.body).get("startingPoint", "main"))
            case "POST", ["tag", revision]:
                if (tag := json.loads(self.body)["tag"]) in repo.tags:
                    raise Refused(409, f"Reference already exists: refs/tags/{tag}")
                repo.tags[tag] = repo.at(revision)
            case "POST", ["preupload", revision]:
                return {"files": self.upload_modes(repo.at(revision).files)}
            case "POST", ["commit", branch]:
                oid = self.commit(repo, branch, *map(json.loads, self.body.splitlines()))
                return {"commitOid": oid, "commitUrl": f"{self.server.url}/datasets/{repo.name}/commit/{oid}"}
            case _:
                raise Refused(404, f"{method} of {'/'.join(path)} is not served here")
        return None

    def upload_modes(self, stored: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """How each file that the client names is to be sent, and what the Hub has of that name."""
        files: list[dict[str, Any]] = json.loads(self.body)["files"]
        for file in files:
            large = is_large(file["path"], file["size"], base64.b64decode(file["sample"]))
            oid = name_of(file["path"], stored[file["path"]]) if file["path"] in stored else None
            file |= {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
        return files

    def resolve(self, commit: Commit, path: str) -> Any:
        if (data := commit.files.get(path)) is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        etag, size = f'"{name_of(path, data)}"', len(data)
        linked = {"X-Linked-ETag": etag, "X-Linked-Size": str(size)} if is_large(path, size, data) else {}
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "ETag": etag, **linked}
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range is None:
            return 200, data, headers
        start, stop = int(byte_range[1]), min(int(byte_range[2] or size) + 1, size)
        return 206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}

    def commit(self, repo: Repo, branch: str, header: Any, *operations: Any) -> str:
        if (head := repo.branches.get(branch)) is None:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if not head.oid.startswith(header["value"].get("parentCommit", "")):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            key, value, path = operation["key"], operation["value"], operation["value"]["path"]
            if key == "file":
                files[path] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in repo.lfs:
                    raise Refused(400, "LFS pointer pointed to a file that does not exist")
                files[path] = repo.lfs[value["oid"]]
            else:  # deletedFile or deletedFolder
                folder = path.rstrip("/") + "/"
                is_file = key == "deletedFile"
                deleted = {name for name in files if (name == path if is_file else name.startswith(folder))}
                if not deleted:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: data for name, data in files.items() if name not in deleted}
        card_data(files.get("README.md", b""))
        return repo.add(branch, header["value"]["summary"], files).oid
