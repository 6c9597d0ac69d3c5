"""Before training: whether the push at its end can succeed. Token, owner, name, right to write, one small file."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from hf_sft.card_metadata import is_hub_id
from hf_sft.console import say
from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.hub.connection import LOG_IN, HubError, ask, hub_client, status_of
from hf_sft.hub_access import hub_obstacle
from hf_sft.packages import PREFIX
from hf_sft.recipe import Recipe
from hf_sft.recipe_hub import Hub

PLACE = "hub.repo_id"
MARK = "hf_sft_preflight.txt"  # the small file; the first push takes it away
BRANCH = "checkpoints"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf", ".onnx", ".msgpack")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a model is to go: the whole name, and what lies there, None where nothing does."""

    repo_id: str
    found: ModelInfo | None

    @property
    def words(self) -> str:
        """What a run would do there."""
        if self.found is None:
            return f"{self.repo_id} is not on the Hub yet: a run makes it"
        state = "private" if self.found.private else "public"
        what = "a model of hf_sft, which a run replaces" if "record.json" in self.files else "no model yet"
        return f"{self.repo_id} is on the Hub ({state}), with {what}"

    @property
    def files(self) -> frozenset[str]:
        return frozenset(file.rfilename for file in (self.found.siblings if self.found else None) or ())


def look(recipe: Recipe) -> Target:
    """What can be known without changing anything: the account, its right to write, the name.

    Raises HubError or RecipeError for what would keep the push from succeeding.
    """
    settings, findings = recipe.hub, lonely_adapters(recipe)
    assert settings is not None
    if findings:
        raise RecipeError(findings)
    reason = None if get_token() is None else hub_obstacle()
    if reason is not None:
        fix = "connect, or leave hub out and push the finished run later: hf-sft push RUN"
        raise HubError(Finding(place="hub", expected="the Hub, which the model is to go to", found=reason, fix=fix))
    with hub_client() as api:
        return find_target(api, settings, again=2)


def find_target(api: HfApi, settings: Hub, *, again: int = 4) -> Target:
    """`look`, of a Hub that is there; again: how often it is asked once more where that may help."""
    if get_token() is None:
        raise HubError(Finding(place="hub", expected="a token of the Hub", found="none", fix=LOG_IN))
    account = ask(lambda: api.whoami(), "hub", "an account for the token", again=again)
    _refuse_reader(account)
    repo_id = _whole_name(settings.repo_id, account)
    target = Target(repo_id=repo_id, found=_find(api, repo_id, again))
    _refuse_other_visibility(settings, target)
    _refuse_foreign(target)
    return target


def _find(api: HfApi, repo_id: str, again: int = 0) -> ModelInfo | None:
    def find() -> ModelInfo | None:
        try:
            return api.model_info(repo_id)
        except RepositoryNotFoundError:
            return None

    return ask(find, PLACE, f"an answer about {repo_id}", again=again)


def _refuse_reader(account: dict[str, Any]) -> None:
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        found = f"a token that may only read ({token.get('displayName') or account.get('name')})"
        raise HubError(Finding(place="hub", expected="a token that may write", found=found, fix=LOG_IN))


def _whole_name(name: str, account: dict[str, Any]) -> str:
    """With its owner. Raises RecipeError where the account is neither the owner nor in that organisation."""
    own = str(account["name"])
    owner, slash, _ = name.rpartition("/")
    if not slash:
        return f"{own}/{name}"
    known = [own, *(str(group.get("name")) for group in account.get("orgs") or ())]
    if owner.lower() not in (one.lower() for one in known):
        expected, fix = "an owner that this token may write for", nearest(owner, known)
        raise RecipeError(Finding(place=PLACE, expected=expected, found=owner, fix=fix))
    return name


def _refuse_other_visibility(settings: Hub, target: Target) -> None:
    """What is private is not made public in passing, nor the other way round."""
    if settings.private is None or target.found is None or bool(target.found.private) == settings.private:
        return
    is_, wanted = ("private", "public") if target.found.private else ("public", "private")
    fix = f"change it on {constants.ENDPOINT}/{target.repo_id}/settings, leave hub.private out, or choose another name"
    found, expected = f"{target.repo_id} is {is_}", f"a {wanted} repository, as hub.private says"
    raise RecipeError(Finding(place="hub.private", expected=expected, found=found, fix=fix))


def _refuse_foreign(target: Target) -> None:
    """A model that hf_sft did not push is not replaced."""
    weights = sorted(name for name in target.files if name.endswith(WEIGHTS))
    if weights and "record.json" not in target.files:
        expected, found = "a new repository, or one of hf_sft", f"{target.repo_id} with another model ({weights[0]})"
        raise RecipeError(Finding(place=PLACE, expected=expected, found=found, fix="choose another name"))


def get_ready(recipe: Recipe) -> Hub:
    """Make the repository, write a small file there -> the settings, with the repository's whole name.

    Raises HubError or RecipeError for what would keep the push from succeeding.
    """
    settings = recipe.hub
    assert settings is not None
    with hub_client() as api:
        target = find_target(api, settings)
        repo_id = target.repo_id
        private = make_repository(api, target, settings.private)
        mark = f"A run of hf_sft that pushes here has begun ({uuid.uuid4().hex}).\n".encode()
        _write(api, repo_id, mark, None)
        if settings.every == "checkpoint":
            ask(lambda: api.create_branch(repo_id, branch=BRANCH, exist_ok=True), PLACE, f"the branch {BRANCH}")
            _write(api, repo_id, mark, BRANCH)
    state = "private" if private else "public"
    what = "its finished model is replaced at the end" if "record.json" in target.files else "it can be written"
    say(f"{constants.ENDPOINT}/{repo_id} ({state}): {what}")
    return settings.model_copy(update={"repo_id": repo_id})


def make_repository(api: HfApi, target: Target, private: bool | None) -> bool:
    """Create it where it is not there yet -> whether it is private."""
    if target.found is not None:
        return bool(target.found.private)
    hidden = private is not False
    expected = "to create it"

    def create() -> None:
        try:
            api.create_repo(target.repo_id, private=hidden)
        except OSError as error:
            if status_of(error) != HTTPStatus.CONFLICT or _find(api, target.repo_id) is None:
                raise  # 409 is no failure where somebody was quicker

    ask(create, f"hub: {target.repo_id}", expected)
    return hidden


def _write(api: HfApi, repo_id: str, content: bytes, branch: str | None) -> None:
    """Always a new content: what is there already would not be written, and so prove nothing."""
    ask(
        lambda: api.create_commit(
            repo_id,
            [CommitOperationAdd(path_in_repo=MARK, path_or_fileobj=content)],
            commit_message="A run begins",
            revision=branch,
        ),
        f"hub: {repo_id}",
        "to write a small file",
    )


def lonely_adapters(recipe: Recipe) -> Sequence[Finding]:
    """Adapters without a base that others have would be of no use on the Hub."""
    lora = recipe.tuning.lora
    name = recipe.locate(recipe.model.name)
    if recipe.tuning.strategy != "lora" or lora is None or lora.merge:
        return []
    if is_hub_id(name) and not name.startswith(PREFIX):
        return []
    expected, found = "a base on the Hub, beside hub", f"{recipe.model.name}, which is on this machine alone"
    fix = "set tuning.lora.merge: true, or name the base by its Hub id"
    return [Finding(place="tuning.lora.merge", expected=expected, found=found, fix=fix)]
