"""What the answers rest on: words or places of a picture, with checks that tell whether such a map can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from hf_sft.analysis.attributed_pictures import show_pictures
from hf_sft.analysis.attributed_words import show_words
from hf_sft.analysis.chosen_rows import choose
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions, single_label
from hf_sft.analysis.section import Absent, Section


def show_attribution(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Integrated gradients of words and pixels; attention or Grad-CAM of pictures; deletion and shuffling checks."""
    part = single_label(predictions, "what an answer rests on", run.record)
    if find_spec("captum") is None:
        raise Absent("it needs captum: pip install 'hf-sft[report]'")
    chosen = choose(run, part)
    if "pixel_values" in chosen.inputs:
        return show_pictures(run, chosen)
    if "input_ids" in chosen.inputs:
        return show_words(run, chosen)
    raise Absent("the model reads neither words nor pixels")
