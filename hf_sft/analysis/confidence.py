"""How sure the model is, how sure it may be, and what it would gain by keeping silent where it doubts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import COLOURS, GREY, drawn
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions, judged
from hf_sft.analysis.proportions import Z, share
from hf_sft.analysis.section import Absent, Cell, Figure, Interval, Part, Section, Table
from hf_sft.metrics.classification import expected_calibration_error
from hf_sft.metrics.metric import Outcome
from hf_sft.metrics.temperature import doubt, fit_temperature, tempered

NUM_BINS = 15  # as the metric expected_calibration_error
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
RESAMPLES = 400
NOT_SURE = {  # problems whose predictions carry no probability of being right
    "regression": "a number comes without a probability of being right",
    "tags": "of words with tags the predictions keep the tags, and no probability for each of them",
    "pixels": "of masks the predictions keep how much of an image each class has, and no probability of a pixel",
    "boxes": "a detector's scores put its boxes in order; whether one is right depends on how much it has to overlap, "
    "so there is no one share of right ones to hold them against",
}


def show_confidence(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Calibration before and after a temperature fitted on validation; accuracy against coverage; thresholds."""
    if run.labels.problem in NOT_SURE:
        raise Absent(NOT_SURE[run.labels.problem])
    part = judged(predictions, run.record)
    scores, notes = {"as trained": part.scores}, []
    figures: dict[str, float | int | str | None] = {"split": part.split}
    temperature: float | None = None
    if part.problem == "multi_label":
        notes.append("no temperature: its thresholds are chosen on validation as they are")
    elif part.split == "validation" or "validation" not in predictions:
        notes.append("no temperature: it is fitted on validation and judged on test, and one of them is missing")
    else:
        fitted = predictions["validation"]
        temperature = fit_temperature(fitted.references, fitted.scores)
        if why := doubt(temperature, len(fitted)):
            notes.append(f"no temperature is kept: {why}")
            temperature = None
        else:
            scores[f"temperature {temperature:.2f}"] = tempered(part.scores, temperature)
            figures["temperature"] = temperature
    errors = {name: calibration_error(part, values, seed=run.seed) for name, values in scores.items()}
    first = next(iter(errors.values()))
    figures |= {"ece": first.value, "ece_low": first.low, "ece_high": first.high}
    if temperature is not None:
        after = list(errors.values())[-1].value
        figures["ece_after_temperature"] = after
        if after > first.value:
            notes.append(
                f"the temperature does not mend it: on {part.split} the calibration error is {after:.3f} with it and "
                f"{first.value:.3f} without"
            )
    parts: list[Part] = [_reliability(part, scores, errors)]
    if part.problem == "single_label":
        final = list(scores.values())[-1]
        parts += [_coverage_figure(part, final, run.seed), _coverage_table(part, final)]
        if len(part.names) == 2:
            parts.append(_thresholds(part, part.scores[:, 1]))
    sentence = (
        f"Of the rows where the model says 80 %, are 80 % right? On the {len(part):,} rows of {part.split}: points "
        "below the diagonal mean that it is surer than it may be. Look how far the error lies from 0 (of a sample of "
        "rows even a calibrated model's is not 0: see whether the interval reaches it), and how many rows a person "
        "would have to take over for the accuracy you need."
    )
    if temperature is not None:
        sentence += f" Saved with the model: hf-sft predict --calibrated divides its logits by {temperature:.2f}."
    return Section(
        name="confidence",
        title="Confidence",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=figures,
        notes=tuple(notes),
    )


def confidence_and_right(part: Predictions, scores: NDArray) -> tuple[NDArray, NDArray]:
    """float [M] and bool [M]: the top probability of each row and whether it is right; of several labels, each cell."""
    if part.problem == "multi_label":
        return scores.ravel(), part.references.ravel()
    return scores.max(axis=1), scores.argmax(axis=1) == part.references


def calibration_error(part: Predictions, scores: NDArray, *, seed: int) -> Interval:
    """Expected calibration error (as the metric) with bounds that hold the true one, of endless rows, in 95 % or more.

    Sums of |gap| over bins are too great in samples, the more so in resamples (Kumar et al. 2019; Roelofs et al. 2022),
    so percentiles of those may lie above the value itself. Here resampling rows (Efron 1979) tells how far gaps of bins
    stray. By the triangle inequality the value exceeds the true one by no more than the sum of these strays: the lower
    bound. By Jensen's it lies below it only as far as it falls short of its own mean: the upper bound.
    """

    predictions = scores >= 0.5 if part.problem == "multi_label" else scores.argmax(axis=1)
    outcome = Outcome(references=part.references, predictions=predictions, scores=scores, num_labels=len(part.names))
    confidence, right = (values.reshape(len(part), -1) for values in confidence_and_right(part, scores))
    places, gaps = _places(confidence), right - confidence

    def gap_of_bins(chosen: NDArray) -> NDArray:
        found: NDArray = np.bincount(places[chosen].ravel(), weights=gaps[chosen].ravel(), minlength=NUM_BINS)
        return found / gaps.size

    generator, here = np.random.default_rng(seed), gap_of_bins(np.arange(len(part)))
    drawn_gaps = np.stack([gap_of_bins(generator.integers(len(part), size=len(part))) for _ in range(RESAMPLES)])
    strays, errors = np.abs(drawn_gaps - here).sum(axis=1), np.abs(drawn_gaps).sum(axis=1)
    value = expected_calibration_error(outcome)
    above, below = np.quantile(strays, 0.975), errors.mean() - np.quantile(errors, 0.025)
    return Interval(value, float(max(0.0, value - above)), float(min(1.0, value + below)))


def _places(confidence: NDArray) -> NDArray:
    """The bin of each confidence: bin m is (m/15, (m+1)/15]."""
    found: NDArray = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    return found


def bins_of(confidence: NDArray, right: NDArray) -> list[tuple[float, Interval, int]]:
    """(mean confidence, share right, rows) of each of 15 equal bins that holds rows."""
    places = _places(confidence)
    found = []
    for place in np.unique(places):
        inside = places == place
        count = int(inside.sum())
        found.append((float(confidence[inside].mean()), share(int(right[inside].sum()), count), count))
    return found


def _reliability(part: Predictions, scores: Mapping[str, NDArray], errors: Mapping[str, Interval]) -> Figure:
    with drawn(4.2 * len(scores) + 0.3, 5.2) as canvas:
        panels = canvas.panels(2, len(scores), sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        for place, (name, values) in enumerate(scores.items()):
            upper, lower = panels[place], panels[place + len(scores)]
            confidence, right = confidence_and_right(part, values)
            upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
            bins = bins_of(confidence, right)
            centre = [entry[0] for entry in bins]
            middle = np.array([entry[1].value for entry in bins])
            bounds = np.array([[entry[1].low, entry[1].high] for entry in bins])
            distance = np.abs(np.stack([middle - bounds[:, 0], bounds[:, 1] - middle])) if len(bins) else None
            upper.errorbar(centre, middle, yerr=distance, fmt="o-", color=COLOURS[0], ecolor="#9ecae1", markersize=4)
            error = errors[name]
            upper.set_title(f"{name}: ECE {error.value:.3f} ({error.low:.3f} to {error.high:.3f})", fontsize=10)
            upper.set_ylim(0, 1.02)
            upper.set_xlim(0, 1.02)
            upper.grid(alpha=0.25)
            lower.hist(confidence, bins=np.linspace(0, 1, NUM_BINS + 1).tolist(), color=COLOURS[0], alpha=0.7)
            lower.set_xlabel("confidence")
            if not place:
                upper.set_ylabel("share right")
                lower.set_ylabel("rows" if part.problem == "single_label" else "cells")
    caption = (
        "Above: the share that is right among predictions of like confidence, with 95 % intervals; on the dashed "
        "line the model is as sure as it is right, below it too sure. Underneath: how often it is how sure."
    )
    return canvas.figure("reliability", caption)


def _coverage_figure(part: Predictions, scores: NDArray, seed: int) -> Figure:
    confidence, right = confidence_and_right(part, scores)
    order = np.argsort(-confidence, kind="stable")
    number = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(right[order]) / number
    half = Z * np.sqrt(np.maximum(accuracy * (1 - accuracy), 1e-12) / number)
    shown = number >= min(10, len(order))
    with drawn(5.6, 3.4) as canvas:
        (panel,) = canvas.panels()
        x = number[shown] / len(order)
        panel.fill_between(
            x,
            np.clip(accuracy - half, 0, 1)[shown],
            np.clip(accuracy + half, 0, 1)[shown],
            color="#c6dbef",
            linewidth=0,
        )
        panel.plot(x, accuracy[shown], color=COLOURS[0])
        panel.axhline(float(right.mean()), color=GREY, linewidth=0.8, linestyle=":")
        panel.set_xlabel("share of the rows that are answered, the surest first")
        panel.set_ylabel("accuracy of these")
        panel.set_xlim(0, 1)
        panel.grid(alpha=0.25)
    caption = (
        "If the model may keep silent: accuracy of the rows it answers. A flat line means its doubts tell nothing."
    )
    return canvas.figure("coverage", caption)


def _coverage_table(part: Predictions, scores: NDArray) -> Table:
    confidence, right = confidence_and_right(part, scores)
    order = np.argsort(-confidence, kind="stable")
    rows: list[list[Cell]] = []
    for coverage in COVERAGES:
        count = max(1, round(coverage * len(order)))
        kept = order[:count]
        rows.append([coverage, count, float(confidence[kept[-1]]), share(int(right[kept].sum()), count)])
    heads = ("coverage", "rows answered", "confidence at least", "accuracy")
    caption = "What the accuracy would be if the model answered only where it is at least so sure."
    return Table(name="coverage", caption=caption, heads=heads, rows=rows)


def _thresholds(part: Predictions, scores: NDArray) -> Table:
    """Two classes: what each threshold on the second class's probability gives."""
    true = part.references == 1
    rows: list[list[Cell]] = []
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        said = scores >= threshold
        hits, found, support = int((said & true).sum()), int(said.sum()), int(true.sum())
        f1 = 2 * hits / max(found + support, 1)
        accuracy = float((said == true).mean())
        rows.append([threshold, found, share(hits, found), share(hits, support), f1, accuracy])
    name = part.names[1]
    caption = f"Say {name!r} from which probability on? Choose by what a miss and a false alarm cost."
    heads = ("threshold", "said", "precision", "recall", "F1", "accuracy")
    return Table(name="thresholds", caption=caption, heads=heads, rows=rows)
