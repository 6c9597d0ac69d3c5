"""Laws of the picture of a training."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from record_fixture import make_history, make_recipe, make_record

from hf_sft.curves import as_png, best_epoch, draw_curves, metric_names, save_curves
from hf_sft.record import RunRecord

MANY = (
    "macro_f1", "accuracy", "weighted_precision", "weighted_recall", "auroc", "average_precision", "log_loss",
    "expected_calibration_error",
)  # fmt: skip


def _with_metrics(num_epochs: int, metrics: dict[str, list[Any]]) -> RunRecord:
    """A record whose epochs hold these metrics, one value per epoch."""
    history = make_history(num_epochs)
    for place, entry in enumerate(history["epochs"]):
        entry.pop("accuracy"), entry.pop("macro_f1")
        entry |= {name: values[place] for name, values in metrics.items()}
    return make_record(recipe=make_recipe(metrics=list(metrics)), history=history)


def _with_gaps() -> RunRecord:
    """Numbers missing everywhere: None, NaN and keys that are absent."""
    history = make_history(4)
    history["epochs"][1] |= {"accuracy": None, "validation_loss": None}
    history["epochs"][2]["macro_f1"] = float("nan")
    del history["epochs"][3]["macro_f1"]
    history["steps"][0] |= {"grad_norm": None, "loss": float("inf")}
    del history["steps"][1]["learning_rate"]
    return make_record(history=history)


EDGE_CASES = {
    "usual": make_record(),
    "one epoch": make_record(history=make_history(1)),
    "one step": make_record(history=make_history(1, steps_per_epoch=1)),
    "no validation": make_record(history=make_history(3, validation=False)),
    "no steps": make_record(history={"steps": [], "epochs": make_history()["epochs"]}),
    "no epochs": make_record(history={"steps": make_history()["steps"], "epochs": []}),
    "gaps": _with_gaps(),
    "regression": _with_metrics(3, {"spearman": [-0.1, 0.4, 0.6], "mse": [900.0, 90.0, 40.0], "mae": [30.0, 9.0, 6.0]}),
    "unbounded": _with_metrics(2, {"mse": [900.0, 90.0]}),
    "many metrics": _with_metrics(30, {name: [0.5 + epoch / 100 for epoch in range(30)] for name in MANY}),
    "strange names": _with_metrics(2, {"function:_mine": [0.1, 0.2]}),
    "formula": _with_metrics(2, {"function:$x_{": [0.1, 0.2]}),
}


@pytest.mark.parametrize("name", EDGE_CASES)
def test_every_panel_shows_its_curves_and_no_legend_hides_one(name: str) -> None:
    figure = draw_curves(EDGE_CASES[name])
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    assert pixels.shape == (400, 1200, 4)
    legends = [axis.get_legend() for axis in figure.axes]
    assert any(legends)
    for axis, legend in zip(figure.axes, legends, strict=True):
        if legend is None:
            continue
        assert legend.get_texts()
        box = legend.get_window_extent()
        assert not box.overlaps(axis.get_window_extent())
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) and box.y0 >= 0
        inside = axis.get_window_extent()
        panel = pixels[400 - int(inside.y1) : 400 - int(inside.y0), int(inside.x0) : int(inside.x1), :3].astype(int)
        assert (np.ptp(panel, axis=2) > 60).sum() > 20  # coloured pixels, not only frame and grid


def test_run_without_history_says_so_in_every_panel() -> None:
    figure = draw_curves(make_record(history={"steps": [], "epochs": []}))
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts == ["no loss was logged", "no metrics on validation", "no step was logged"]


def _curves(record: RunRecord, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> (epochs, values) of what the legend of a panel names."""
    figure = draw_curves(record)
    legend = figure.axes[panel].get_legend()
    assert legend is not None
    lines = {str(line.get_label()): line for axis in figure.axes for line in axis.lines}
    named = {text.get_text(): lines[text.get_text()] for text in legend.get_texts()}
    return {
        name: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for name, line in named.items()
    }


def test_loss_panel_draws_the_numbers_of_the_history() -> None:
    record = make_record()
    curves, epochs, steps = _curves(record, 0), record.history["epochs"], record.history["steps"]
    assert curves["training, each log"] == ([s["epoch"] for s in steps], [s["loss"] for s in steps])
    assert curves["training, epoch mean"] == ([1, 2, 3], [e["train_loss"] for e in epochs])
    assert curves["validation"] == ([1, 2, 3], [e["validation_loss"] for e in epochs])


def test_missing_values_are_skipped_not_drawn_as_zero() -> None:
    curves = _curves(EDGE_CASES["gaps"], 1)
    assert curves["accuracy (best 0.9, epoch 3)"][0] == [1, 3, 4]
    assert curves["macro_f1"][0] == [1, 2]


def test_metrics_beyond_one_have_an_axis_of_their_own() -> None:
    figure = draw_curves(EDGE_CASES["regression"])
    drawn = [{str(line.get_label()) for line in axis.lines} for axis in figure.axes]
    (left,) = [labels for labels in drawn if "spearman (best 0.6, epoch 3)" in labels]
    (right,) = [labels for labels in drawn if "mse (right)" in labels]
    assert "mae (right)" in right
    assert left.isdisjoint(right)


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("accuracy", [0.5, 0.9, 0.7], 2),
        ("accuracy", [0.9, 0.9, 0.7], 2),  # equal: the lower validation loss
        ("mse", [3.0, 4.0, 2.0], 3),
        ("expected_calibration_error", [0.1, 0.05, 0.2], 2),
        ("evaluate:mape", [3.0, 4.0, 2.0], 3),
        ("accuracy", [None, float("nan"), 0.1], 3),
    ],
)
def test_best_epoch_follows_the_direction_of_the_first_metric(metric: str, values: list[Any], expected: int) -> None:
    record = _with_metrics(3, {metric: values})
    plain = metric.rpartition(":")[2]
    for entry in record.history["epochs"]:
        entry[plain] = entry[metric]
    best = best_epoch(record)
    assert best is not None and best["epoch"] == expected


def test_metrics_keep_the_order_of_the_recipe() -> None:
    assert metric_names(make_record(recipe=make_recipe(metrics=["macro_f1", "accuracy"]))) == ["macro_f1", "accuracy"]
    assert metric_names(make_record(recipe=make_recipe(metrics=[]))) == ["accuracy", "macro_f1"]


def test_same_record_gives_the_same_bytes_whatever_style_is_set(tmp_path: Path) -> None:
    plain = as_png(make_record())
    with matplotlib.rc_context({"axes.facecolor": "black", "savefig.bbox": "tight", "lines.linewidth": 9}):
        assert as_png(make_record()) == plain
    save_curves(make_record(), tmp_path / "report" / "curves.png")
    assert (tmp_path / "report" / "curves.png").read_bytes() == plain
    assert Image.open(io.BytesIO(plain)).size == (1200, 400)


def test_record_is_described_without_torch_and_drawn_without_pyplot() -> None:
    program = (
        "import sys, hf_sft.card, hf_sft.curves, hf_sft.summary\n"
        "early = {'torch', 'transformers', 'matplotlib', 'huggingface_hub'} & set(sys.modules)\n"
        "from record_fixture import make_record\n"
        "hf_sft.curves.draw_curves(make_record()), hf_sft.card.model_card(make_record())\n"
        "print(sorted(early | {'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {paths!r}\n{program}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
