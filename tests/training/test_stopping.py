"""Laws of stopping on request: which second signal ends at once."""

from __future__ import annotations

import signal

import pytest

from hf_sft.training.stopping import ECHO, LAUNCHERS, TWICE, StopOnRequest


def press(monkeypatch: pytest.MonkeyPatch, after: float) -> None:
    """Ctrl-C twice, so many seconds apart."""
    clock = iter([10.0, 10.0 + after])
    monkeypatch.setattr("hf_sft.training.stopping.time.perf_counter", lambda: next(clock))
    stop = StopOnRequest(max_hours=None, started=0.0)
    stop._note(signal.SIGINT, None)
    stop._note(signal.SIGINT, None)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def test_a_second_press_ends_at_once_where_no_launcher_could_have_repeated_the_first(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        press(monkeypatch, after=ECHO / 2)
    press(monkeypatch, after=TWICE / 2)  # no key is pressed twice so fast: `timeout` signals twice


@pytest.mark.parametrize("name", LAUNCHERS)
def test_under_a_launcher_a_signal_that_follows_soon_is_the_same_one(
    name: str, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    press(monkeypatch, after=ECHO / 2)
    with pytest.raises(KeyboardInterrupt):
        press(monkeypatch, after=2 * ECHO)
