"""Is the Hub there? One probe per process, and what becomes of a recipe that needs the Hub when it is not."""

from __future__ import annotations

import functools
import queue
import re
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session, httpx

from hf_sft.console import say
from hf_sft.errors import DataError, Finding, ModelError

PATIENCE = 1.8  # seconds for name resolution, connection and answer together; the libraries would retry for 24
# What stops a request before the Hub sees it: no network, an odd HF_ENDPOINT, a proxy of an unknown kind.
_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError)
_DATASETS_SCHEME = "hf://datasets/"

Kind = Literal["model", "dataset"]
ERRORS: dict[Kind, type[ModelError] | type[DataError]] = {"model": ModelError, "dataset": DataError}
INSTEAD: dict[Kind, str] = {
    "model": "name a local folder, package:<python package>/<folder>, timm/<architecture> with model.weights",
    "dataset": "name a local file or folder (paths start from the recipe's folder), "
    "bundled:reviews, bundled:digits or bundled:entities",
}
# What the Hub answers: its error, what `datasets` (which drops that error) says instead, and what to do.
REFUSALS = (
    (
        GatedRepoError,
        "is a gated dataset",
        "accept the conditions on its page, then log in with that account: hf auth login",
    ),
    (RevisionNotFoundError, "doesn't exist for dataset", "name a branch, tag or commit that its page lists"),
    (RepositoryNotFoundError, "or cannot be accessed", "check the id; for a private one log in: hf auth login"),
)  # a GatedRepoError is a RepositoryNotFoundError too: it stands first


def hub_is_reachable() -> bool:
    """Asks the Hub (HF_ENDPOINT, through huggingface_hub's own client and proxies) at most once per process.

    False at once under HF_HUB_OFFLINE. Takes at most PATIENCE seconds.
    """
    return hub_obstacle() is None


def require_hub(place: str, name: str, kind: Kind, *, revision: str | None = None) -> None:
    """To be called before anything is asked of the Hub about `name`; a path or an address needs no Hub and passes.

    place: the recipe's key that names it. Where the Hub cannot be reached the libraries are told so for the rest of
    the process, so that what is in the local cache loads without waiting.
    Raises ModelError or DataError when `name` is not in the cache either.
    """
    name = name.removeprefix(_DATASETS_SCHEME)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or Path(name).exists():
        return
    obstacle = hub_obstacle()
    if obstacle is None:
        return
    _tell_libraries()
    if _is_cached(name, kind, revision):
        say(f"{place}: {obstacle}; using the copy of {name} in the cache")
        return
    raise ERRORS[kind](
        Finding(
            place=place,
            expected=f"the Hub, or a copy of {name} in its cache",
            found=f"{obstacle}, and no copy in {_cache_of(kind)}",
            fix=f"{INSTEAD[kind]}, or run an embedded recipe: hf-sft run bundled:bert_sentiment",
        )
    )


def what_to_do(error: BaseException, otherwise: str) -> str:
    """The fix for what a Hub that can be reached refuses; `otherwise` for all other errors."""
    for cause in _causes(error):
        for kind, words, fix in REFUSALS:
            if isinstance(cause, kind) or words in str(cause):
                return fix
    return otherwise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@functools.cache
def hub_obstacle() -> str | None:
    """Why the Hub cannot be asked, in words; None when it answers."""
    if constants.HF_HUB_OFFLINE:
        return "the Hub is switched off (HF_HUB_OFFLINE)"
    reason = _probe(constants.ENDPOINT)
    return None if reason is None else f"{constants.ENDPOINT} cannot be reached ({reason})"


def _probe(endpoint: str) -> str | None:
    """One request in a thread of its own: timeouts of sockets do not hold for name resolution."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_ask(endpoint)), name="hub probe", daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return f"no answer within {PATIENCE:g} seconds"


def _ask(endpoint: str) -> str | None:
    """None when a server answers, whatever it thinks of the request; else what went wrong."""
    try:
        status = get_session().head(endpoint, timeout=PATIENCE, follow_redirects=False).status_code
    except httpx.TimeoutException:
        return f"no answer within {PATIENCE:g} seconds"
    except _NO_ANSWER as error:
        return re.sub(r"^\[Errno -?\d+\] ", "", (str(error).splitlines() or [type(error).__name__])[0])
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"it answers {status}"
    return None


def _tell_libraries() -> None:
    """Offline mode, as transformers, huggingface_hub and datasets look it up at every call."""
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # imported later, it reads the line above
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def _is_cached(name: str, kind: Kind, revision: str | None) -> bool:
    if kind == "model":
        return isinstance(try_to_load_from_cache(name, constants.CONFIG_NAME, revision=revision), str)
    from datasets.naming import camelcase_to_snakecase

    owner, slash, own_name = name.rpartition("/")
    folder = f"{owner}___{camelcase_to_snakecase(own_name)}" if slash else camelcase_to_snakecase(own_name)
    return any(found.is_dir() for found in (_cache_of(kind) / folder).glob("*/*/*"))


def _cache_of(kind: Kind) -> Path:
    if kind == "model":
        return Path(constants.HF_HUB_CACHE)
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE).expanduser()
