"""Pushing a finished run: one commit with what changed, and nothing where nothing did."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from hf_sft.console import say
from hf_sft.errors import Finding, HfSftError, RecipeError, first_few
from hf_sft.hub.connection import HubError, ask, hub_client
from hf_sft.hub.contents import CARD, RECORD, Content, Contents, as_given, contents_of
from hf_sft.hub.preflight import MARK, PLACE, find_target, make_repository
from hf_sft.recipe import Recipe
from hf_sft.recipe_hub import Hub
from hf_sft.record import RunRecord


class PushError(HubError):
    """The run is finished and whole in its folder; what failed is the push. The command ends with 75, EX_TEMPFAIL.

    record: of that run.
    """

    exit_code = 75
    heading = "the run is finished and whole in its folder; the push is not"
    record: RunRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did. kept: files that were edited on the Hub since; left_out: files of model/ that are never sent."""

    repo_id: str
    url: str
    uploaded: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: int
    size: int
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = len(self.uploaded) + self.unchanged
        if not self.uploaded and not self.removed:
            lines = [f"{self.url} holds this run already: nothing to upload ({number} files)"]
        else:
            files = f"{len(self.uploaded)} of {number} files uploaded ({self.size / 1e6:,.1f} MB): "
            lines = [f"{self.url}: {files}{first_few(self.uploaded)}" + _and("removed", self.removed)]
        if self.kept:
            lines.append(f"edited on the Hub and left as it is: {first_few(self.kept)}; --overwrite-card replaces it")
        if self.left_out:
            lines.append(f"not uploaded, as it may hold code or paths: {first_few(self.left_out)}")
        return "\n".join(lines)


def _and(what: str, names: tuple[str, ...]) -> str:
    return f"; {what}: {first_few(names)}" if names else ""


def push(
    run: str | Path, repo: str | None = None, *, private: bool | None = None, overwrite_card: bool = False
) -> Pushed:
    """Put a finished run on the Hub, what changed since the last push alone.

    run: its folder. repo: me/my-model; absent: the recipe's hub.repo_id. private: absent: the recipe's hub.private;
    a new repository is private where that says nothing. overwrite_card: also where it was edited on the Hub.

    Raises PushError when the Hub does not take it, RecipeError or DataError for what it cannot be asked.
    """
    path = Path(run)
    record = RunRecord.load(path.parent if path.name == "model" and not (path / RECORD).is_file() else path)
    settings = settings_of(record, repo, private)
    with hub_client() as api:
        target = find_target(api, settings)
        repo_id = target.repo_id
        contents = contents_of(record, repo_id)
        make_repository(api, target, settings.private)
        return ask(
            lambda: _commit(api, repo_id, contents, overwrite_card=overwrite_card),
            f"hub: {repo_id}",
            f"to upload {record.directory.path}",
            PushError,
        )


def push_finished(record: RunRecord, settings: Hub) -> Pushed:
    """The push at the end of a run. Raises PushError, with the command that repeats it."""
    folder = record.directory.path
    try:
        found = push(folder, settings.repo_id, private=settings.private)
    except HfSftError as failure:
        first = failure.findings[0]
        again = f"hf-sft push {folder}, or the same command again: nothing is trained anew; first: {first.fix}"
        expected, said = f"a push to {settings.repo_id}", f"{first.place}: {first.found}"
        error = PushError(Finding(place=str(folder), expected=expected, found=said, fix=again))
        error.record = record
        raise error from failure
    say(str(found))
    return found


def settings_of(record: RunRecord, repo: str | None, private: bool | None) -> Hub:
    """Where the run goes: as the recipe says, but for what is given. Raises RecipeError for a name that is none."""
    asked: dict[str, Any] = dict(record.recipe.get("hub") or {})
    if repo is not None and repo != asked.get("repo_id"):
        asked = {"license": asked.get("license"), "repo_id": repo}
    if private is not None:
        asked["private"] = private
    if not asked.get("repo_id"):
        fix = "hf-sft push RUN me/my-model"
        raise RecipeError(Finding(place=PLACE, expected="the name of a repository", found="none", fix=fix))
    content = {"task": record.recipe["task"], "model": {"name": "x"}, "dataset": {"path": "x"}, "hub": asked}
    found = Recipe.from_dict(content).hub
    assert found is not None
    return found


def _commit(api: HfApi, repo_id: str, contents: Contents, *, overwrite_card: bool) -> Pushed:
    there = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True) if isinstance(entry, RepoFile)}
    changed = [name for name, content in contents.files.items() if not _same(content, there.get(name))]
    before = _pushed_before(api, repo_id) if RECORD in there and changed else {}
    kept = [CARD] if CARD in changed and not overwrite_card and _edited(api, repo_id, there.get(CARD), before) else []
    uploaded = [name for name in changed if name not in kept]
    removed = [name for name in (*before, MARK) if name in there and name not in contents.files]
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=as_given(contents.files[name])) for name in uploaded
    ]
    operations += [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in removed]
    if operations:
        api.create_commit(repo_id, operations, commit_message="A run of hf_sft")
    return Pushed(
        repo_id=repo_id,
        url=f"{constants.ENDPOINT}/{repo_id}",
        uploaded=tuple(uploaded),
        removed=tuple(name for name in removed if name != MARK),
        unchanged=len(contents.files) - len(uploaded),
        size=sum(_size(contents.files[name]) for name in uploaded),
        kept=tuple(kept),
        left_out=contents.left_out,
    )


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _same(content: Content, there: RepoFile | None) -> bool:
    """Whether the Hub's file has this content: large ones are named by SHA-256, others as git names a blob."""
    if there is None or there.size != _size(content):
        return False
    data = content if isinstance(content, bytes) else None
    if there.lfs is not None:
        whole = hashlib.sha256(data) if data is not None else _hashed(content, hashlib.sha256())
        return whole.hexdigest() == there.lfs.sha256
    start = hashlib.sha1(b"blob %d\0" % there.size)
    if data is not None:
        start.update(data)
        return start.hexdigest() == there.blob_id
    return _hashed(content, start).hexdigest() == there.blob_id


def _hashed(path: Content, digest: Any) -> Any:
    assert isinstance(path, Path)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest


def _pushed_before(api: HfApi, repo_id: str) -> Mapping[str, str]:
    """Name -> SHA-256 of the files that the last push put there, as its record says; empty where it does not."""
    try:
        found = json.loads(_download(api, repo_id, RECORD)).get("published")
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _edited(api: HfApi, repo_id: str, there: RepoFile | None, before: Mapping[str, str]) -> bool:
    """Whether the card is another than the one that was pushed."""
    if there is None or CARD not in before:
        return False
    return hashlib.sha256(_download(api, repo_id, CARD)).hexdigest() != before[CARD]


def _download(api: HfApi, repo_id: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return Path(api.hf_hub_download(repo_id, name, local_dir=folder)).read_bytes()
