"""How many inputs are generated, what may come out, and text that people and machines put into files by mistake.

HF_SFT_EXAMPLES: generated recipes in all (2,000); the other tests make a share of that number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("HF_SFT_EXAMPLES", 2000))
SECONDS = 2.0  # of processor time for one input


def examples(share: float) -> Callable[[Any], Any]:
    """The decorator of a property: the same inputs at each call, that share of EXAMPLES; time is measured inside."""
    return settings(
        max_examples=max(10, round(share * EXAMPLES)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Fails where the body took more processor time than that."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


SCALARS = (
    "", " ", "~", "null", "true", "no", "on", "0", "-1", "1", "1.0", "-0.0", "1e3", "1e999", "-.inf", ".nan", "0x1f",
    "0o17", "0x" + "f" * 4000, "9" * 5000, "1_000", "12:30:45", "2001-01-01", "=", "<<", "!!int x", "!!binary aGk=",
    "!!python/name:os.system", "&a", "*a", "&a [*a]", "'", '"', '"\\ud800"', '"\\0"', '"\\x1b[2J"', '"\\u202e"', "|",
    ">", "[", "]", "{", "}", "[[[[[[", "{a: {a: {a: ", "- - - -", "? ", ": ", "? [a]", "#", "---", "...", "%YAML 1.1",
    "@", "`", "$HOME", "${HF_TOKEN}", "~nobody/x", "/", "..", "a" * 300, "word " * 300, "k" * 20_000, "[" * 2000,
    "[1, " * 60, "train[:10%]", "package:x/y", "timm/x", "bundled:none", "evaluate:", "function:f", "\u0661", "ä😀",
    "https://u:p@h/x.csv",
)  # fmt: skip
MARKS = "\n\t :-[]{},#&*!|>'\"%@`?=\\0aT~.\r\x85\u2028\ufeff\x00\x1bé"
CHARACTERS = st.sampled_from([*MARKS])
ODD_TEXT = st.one_of(st.sampled_from(SCALARS), st.text(max_size=8), st.text(CHARACTERS, max_size=8))

# Values as Python has them: what a recipe made in a notebook, or a document that YAML takes, may hold anywhere.
ODD_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.sampled_from(SCALARS).filter(lambda text: len(text) < 5000),
    st.text(max_size=8),
)
ODD_VALUES = st.recursive(
    ODD_SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=6), st.integers(), st.floats(), st.none()), inner, max_size=4),
    ),
    max_leaves=12,
)
