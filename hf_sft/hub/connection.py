"""Talking to the Hub: one client, failures told in words, and a second try where that can help."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session, httpx

from hf_sft.console import say
from hf_sft.errors import EnvironmentProblem, Finding, HfSftError
from hf_sft.secrets import mask

# What can end a request: an answer that is an error, no answer, an answer that is no JSON, a Hub that is switched off.
FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError, RuntimeError)
NO_ANSWER = (httpx.TransportError, ConnectionError, TimeoutError)
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try
LONGEST_WAIT = 330.0  # seconds that a Hub may ask for: its quotas are those of five minutes
SILENCE = 300.0  # seconds without a byte, after which a connection is taken for dead
# 409: another commit was being made; 412: the branch has moved on meanwhile.
PASSING = {
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS,
}  # fmt: skip
LOG_IN = "log in with a token that may write: hf auth login (or set HF_TOKEN); https://huggingface.co/settings/tokens"
pause = time.sleep
T = TypeVar("T")


class HubError(EnvironmentProblem):
    """The Hub does not do what was asked of it, or cannot be reached."""


@contextmanager
def hub_client() -> Iterator[HfApi]:
    """The client; its log and warnings are silent meanwhile."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield HfApi(endpoint=constants.ENDPOINT)
    finally:
        log.setLevel(level)


def _wait_with_end() -> None:
    """A server that falls silent is not waited for for ever, as the library would."""
    session = get_session()
    if session.timeout == httpx.Timeout(None):
        session.timeout = httpx.Timeout(SILENCE, connect=10.0)


def ask(action: Callable[[], T], place: str, expected: str, error: type[HfSftError] = HubError, *, again: int = 4) -> T:
    """What the action returns; after a failure that may pass it is tried again, as often as `again` says.

    Raises `error` for what stays: place, expected, and what the Hub said.
    """
    for number in range(again + 1):
        try:
            _wait_with_end()
            return action()
        except FAILURES as failure:
            wait = _wait(failure, number)
            if number == again or wait is None:
                found, fix = describe(failure)
                raise error(Finding(place=place, expected=expected, found=found, fix=fix)) from failure
            if wait > WAITS[-1]:
                say(f"the Hub asks for a pause of {wait:.0f} seconds")
            pause(wait)
    raise AssertionError("unreachable")


def status_of(failure: BaseException) -> int | None:
    """The status that the Hub answered with; None where it did not answer."""
    response = getattr(failure, "response", None)
    return None if response is None else int(response.status_code)


def _wait(failure: BaseException, number: int) -> float | None:
    """Seconds after which another try may succeed; None where it cannot."""
    if isinstance(failure, OfflineModeIsEnabled):
        return None
    status = status_of(failure)
    if status is None:
        return WAITS[min(number, len(WAITS) - 1)] if isinstance(failure, NO_ANSWER) else None
    if status not in PASSING and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    asked = _retry_after(failure)
    if asked is None:
        return WAITS[min(number, len(WAITS) - 1)]
    return asked if asked <= LONGEST_WAIT else None


def _retry_after(failure: BaseException) -> float | None:
    response = getattr(failure, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return float(asked) if asked.isdecimal() else None


def describe(failure: BaseException) -> tuple[str, str]:
    """(what the Hub said, what to do about it)."""
    status = status_of(failure)
    if isinstance(failure, LocalTokenNotFoundError):
        return "no token", LOG_IN
    if status is None:
        return (f"{constants.ENDPOINT}: {_first_line(failure)}", "check the connection")
    said = f"{status}: {_said(failure)}"
    if isinstance(failure, RepositoryNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return f"{said}; no such repository, or one that this token may not see", f"check its name; {LOG_IN}"
    if status == HTTPStatus.UNAUTHORIZED:
        return said, LOG_IN
    if status == HTTPStatus.FORBIDDEN:
        return said, LOG_IN
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        asked = _retry_after(failure)
        return said, f"repeat it in {asked:.0f} seconds" if asked else "repeat it in some minutes"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return said, "a fault of the Hub (https://status.huggingface.co): repeat it later"
    return said, "repeat it; if it stays, the Hub's page of the repository may say more"


def _said(failure: BaseException) -> str:
    server = getattr(failure, "server_message", None) if isinstance(failure, HfHubHTTPError) else None
    return mask(str(server).splitlines()[0]) if server else HTTPStatus(status_of(failure) or 500).phrase


def _first_line(failure: BaseException) -> str:
    return mask((str(failure).strip().splitlines() or [type(failure).__name__])[0])
