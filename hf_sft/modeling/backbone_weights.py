"""Which weight of an image classifier is which weight of the backbone that is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

TIMM = "_backbone."  # transformers' wrapper around timm's features
WHOLE = ("_backbone.model.", "_backbone.body.")  # where timm's features hold the classifier as it is
OF_CLASSIFIER = "timm_model."
ONLY_IN_BACKBONES = "hidden_states_norms."  # one for each map given; no classifier has them
COUNTER = "num_batches_tracked"  # of BatchNorm: nothing reads it, and old checkpoints lack it


def only_in_backbone(name: str) -> bool:
    """Whether a tensor of that name is new in a backbone, whatever the classifier."""
    return name.startswith(ONLY_IN_BACKBONES)


def pair_names(own: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Of two state dicts: (name in the backbone -> name in the classifier, what has no weight of its own shape there).

    prefix: of the base model, `swin.`, which classifier and backbone carry or lack. timm flattens the modules of the
    first level, `stages.0` to `stages_0`: names are the same where they differ in dots and underscores alone. A name
    that could be two weights is none.
    """
    theirs = _by_spelling(given, (OF_CLASSIFIER, prefix))
    needed = [name for name in own if not only_in_backbone(name)]
    inside = tuple(whole for whole in WHOLE if all(name.startswith(whole) for name in needed))
    ours = _by_spelling(needed, inside or (TIMM, prefix))
    pairs = {
        name: theirs[spelling]
        for spelling, name in ours.items()
        if spelling in theirs and own[name].shape == given[theirs[spelling]].shape
    }
    return pairs, [name for name in needed if name not in pairs and not name.endswith(COUNTER)]


def _by_spelling(names: Iterable[str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Name without its prefix and dots -> name; those that are then alike are left out."""
    spelled = {name: _bare(name, prefixes).replace(".", "_") for name in names}
    times = Counter(spelled.values())
    return {spelling: name for name, spelling in spelled.items() if times[spelling] == 1}


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    return name.removeprefix(next((prefix for prefix in prefixes if name.startswith(prefix)), ""))
