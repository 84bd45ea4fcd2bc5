"""Push a dataset folder to the Hub: one commit, one tag; files that are there already are not sent again.

The token comes from where `huggingface_hub` itself looks: HF_TOKEN, or the file that `hf auth login` wrote.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from synthmill.schemas.errors import InputError, StoreError
from synthmill.schemas.hashing import BLOCK
from synthmill.storage.files import read_json, write_text
from synthmill.storage.published.cards import merged_card, outline_of
from synthmill.storage.published.folder import CARD, MARKER, check_whole

TRIES, PAUSE_S = 4, 1.0
BUSY, REFUSED = (409, 412, 429, 500, 502, 503, 504), (401, 403)
TAGS = 50  # of one run: an export with other formats is another version


class Remote(NamedTuple):
    """What the Hub has on a branch. head: its commit, empty where there is no such dataset or branch; files: name ->
    SHA-256 (large files) or git's SHA-1; marker: its synthmill.json; card: its README.md; exists, branch: whether the
    dataset and the branch are there at all.
    """

    exists: bool = False
    branch: bool = False
    private: bool = False
    head: str = ""
    files: Mapping[str, str] = {}
    marker: Mapping[str, Any] | None = None
    card: str = ""


class Changes(NamedTuple):
    """Files to send, unchanged, and to delete; kept: descriptions of what stays of the card owner's edits."""

    sent: list[str]
    same: list[str]
    deleted: list[str]
    kept: list[str]


class PushResult(NamedTuple):
    """The dataset's URL on the Hub, the commit and the tag of a push, and its changes."""

    url: str
    commit: str
    tag: str
    changes: Changes


class Target(NamedTuple):
    """Where to push: OWNER/NAME, a branch (empty for main), and a tag; without one, `default_tag`, with a number where
    that one is taken.
    """

    repo: str
    private: bool = False
    revision: str = ""
    tag: str = ""
    default_tag: str = ""
    force: bool = False

    @property
    def branch(self) -> str:
        return self.revision or "main"


def push(folder: Path, target: Target, message: str, tell: Callable[[str], None] = lambda _: None) -> PushResult:
    """Make a dataset of the Hub hold what the folder holds.

    What its owner wrote into the card stays (storage/published/cards.py). Raises InputError without a token or a right
    to write, for somebody else's dataset, another than this one or one whose card was changed where we write (unless
    force) and a tag that is taken; StoreError where the Hub fails, and for a folder that is not as it was written.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    check_whole(folder)
    card = (folder / CARD).read_text("utf-8")
    with translated_errors(target.repo):
        check_owner(api.whoami(), target.repo)
    for attempt in range(TRIES):
        try:
            with translated_errors(target.repo):
                return push_once(api, folder, card, target, message, tell)
        except RetryPush as retry:
            if attempt == TRIES - 1:
                raise StoreError(retry.message) from retry
            tell(f"{retry.message.partition(';')[0]}: looking again")
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def push_once(
    api: Any, folder: Path, card: str, target: Target, message: str, tell: Callable[[str], None]
) -> PushResult:
    """One attempt: read the Hub, commit on top of what was read, tag. card: as we would write it."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo, branch = target.repo, target.branch
    remote, changes = compare_with_hub(api, folder, card, target)
    if not remote.exists:
        api.create_repo(repo, repo_type="dataset", private=target.private, exist_ok=True)
    if not remote.branch:
        if branch != "main":
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
        remote = read_remote(api, repo, branch)
        changes = changes_to(folder, card, remote, target)
    commit = remote.head
    if changes.sent or changes.deleted:
        tell(f"sending {len(changes.sent)} files of {len(changes.sent) + len(changes.same)} to {repo}")
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in changes.sent]
        operations += [CommitOperationDelete(name) for name in changes.deleted]
        place = {"repo_type": "dataset", "revision": branch, "parent_commit": remote.head or None}
        commit = api.create_commit(repo, operations, commit_message=message, **place).oid
    url = f"{api.endpoint}/datasets/{repo}"
    return PushResult(url, commit, tag_commit(api, repo, commit, target.tag, target.default_tag), changes)


def plan_push(folder: Path, target: Target) -> Changes:
    """What `push` would do; raises what it would raise before it writes, except for errors that need a token."""
    from huggingface_hub import HfApi

    with translated_errors(target.repo):
        return compare_with_hub(HfApi(), folder, (folder / CARD).read_text("utf-8"), target)[1]


def compare_with_hub(api: Any, folder: Path, card: str, target: Target) -> tuple[Remote, Changes]:
    """What is on the branch (on main, where the branch would be new), and what has to change.

    Raises InputError where the push may not replace it.
    """
    repo = target.repo
    remote = read_remote(api, repo, target.branch)
    if remote.exists and not remote.branch:
        remote = read_remote(api, repo, "main")._replace(branch=False)
    check_ours(folder, repo, remote, target.force)
    if remote.exists and target.private and not remote.private:
        raise InputError(f"{repo} is public already; make it private on the Hub, or leave --private out")
    changes = changes_to(folder, card, remote, target)
    tags = tags_of(api, repo) if remote.exists and target.tag else {}
    if target.tag in tags and (changes.sent or changes.deleted or tags[target.tag] != remote.head):
        raise InputError(f"{repo} has a tag {target.tag} of another version already; choose another --tag")
    return remote, changes


class RetryPush(StoreError):
    """Worth another attempt: somebody else committed since we read the Hub, or the Hub is busy."""


@contextmanager
def translated_errors(repo: str) -> Iterator[None]:
    """Raise the client's errors as ours."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    unreachable: Any = HfHubHTTPError.__bases__[0]  # the base of all errors of its HTTP library, whichever that is
    retry_hint = "run the same command again: what was uploaded is not sent again"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise InputError("there is no token for the Hub; set HF_TOKEN, or run `hf auth login`") from error
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no name of a dataset; expected OWNER/NAME") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = " ".join(str(error.server_message or error).split())[:200]
        if status in BUSY:
            raise RetryPush(f"the Hub answered {status} for {repo} ({reason}); {retry_hint}") from error
        if status in REFUSED:
            raise InputError(
                f"the Hub refuses this token for {repo} ({status}: {reason}); it needs the right to write"
            ) from error
        raise StoreError(f"the Hub answered {status or 'nothing'} for {repo} ({reason}); {retry_hint}") from error
    except ValueError as error:  # the Hub checks the card before it accepts a commit
        raise InputError(f"the Hub does not take this for {repo}: {' '.join(str(error).split())[:400]}") from error
    except (OSError, RuntimeError, unreachable) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())[:200]
        raise StoreError(f"the Hub cannot be reached ({reason}); {retry_hint}") from error


def check_owner(account: Mapping[str, Any], repo: str) -> None:
    """Raises InputError where the token's account does not own the dataset."""
    writable = [account.get("name"), *(org.get("name") for org in account.get("orgs") or ())]
    if repo.partition("/")[0] not in writable:
        raise InputError(f"{repo} is not yours: this token writes to {', '.join(map(str, writable))}")


def read_remote(api: Any, repo: str, branch: str) -> Remote:
    """What the Hub has on a branch."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.dataset_info(repo, revision=branch, files_metadata=True)
    except RevisionNotFoundError:
        return Remote(exists=True, private=bool(api.dataset_info(repo).private))
    except RepositoryNotFoundError:
        return Remote()
    files = {
        sibling.rfilename: sibling.lfs.sha256 if sibling.lfs else sibling.blob_id for sibling in info.siblings or ()
    }

    def text(name: str) -> str:
        if name not in files:
            return ""
        path = Path(api.hf_hub_download(repo, name, repo_type="dataset", revision=info.sha))
        try:
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{name} of {repo} is no UTF-8 text; mend it or delete it there") from error

    stored = orjson.loads(text(MARKER) or "null")
    marker = stored if isinstance(stored, dict) else None
    return Remote(True, True, bool(info.private), info.sha or "", files, marker, text(CARD))


def check_ours(folder: Path, repo: str, remote: Remote, force: bool) -> None:
    """Raises InputError where the push would overwrite another dataset."""
    if force or not set(remote.files) - {".gitattributes"}:
        return
    ours, theirs = read_json(folder / MARKER), remote.marker
    if theirs is None:
        raise InputError(f"{repo} holds a dataset that synthmill did not make; choose another name, or --force")
    for field in ("flow", "sources"):
        if ours.get(field) != theirs.get(field):
            raise InputError(
                f"{repo} is another dataset: its {field} is {theirs.get(field)}, here it is {ours.get(field)}; choose "
                "another name, or --force"
            )


def changes_to(folder: Path, card: str, remote: Remote, target: Target) -> Changes:
    """Which files to send, to leave and to delete; only files that the Hub's marker lists are deleted. The
    folder's card is written anew, merged with the owner's edits on the Hub. Raises InputError where the two conflict.
    """
    place = f"{CARD} of {target.repo}"
    merged = merged_card(card, remote.card, outline_of(remote.marker), place, force=target.force)
    write_text(folder / CARD, merged.text)
    local = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    unchanged = [name for name, path in local.items() if name in remote.files and remote.files[name] in hashes(path)]
    ours = {name for field in ("files", "written") for name in (remote.marker or {}).get(field, ())}
    deleted = [name for name in remote.files if name not in local and name in ours]
    return Changes([name for name in local if name not in unchanged], unchanged, sorted(deleted), merged.kept)


def hashes(path: Path) -> tuple[str, str]:
    """A file's SHA-256, and its SHA-1 as a git blob."""
    sha_256, git_sha_1 = sha256(), sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sha_256.update(block)
            git_sha_1.update(block)
    return sha_256.hexdigest(), git_sha_1.hexdigest()


def tags_of(api: Any, repo: str) -> dict[str, str]:
    """tag -> commit."""
    return {ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type="dataset").tags}


def tag_commit(api: Any, repo: str, commit: str, tag: str, default: str) -> str:
    """Tag a commit, unless it has the tag already; returns the tag."""
    tags = tags_of(api, repo)
    names = [tag] if tag else [default, *(f"{default}-{n}" for n in range(2, TAGS))]
    for name in names:
        if tags.get(name) == commit:
            return name
        if name not in tags:
            api.create_tag(repo, tag=name, revision=commit, repo_type="dataset")
            return name
    raise InputError(f"{repo} has the tags {names[0]} to {names[-1]} already; name another with --tag")
