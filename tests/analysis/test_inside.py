"""Laws of weights and activations: what was changed is what is shown, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_runs import finish_images, finish_text
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, TEXT_FAMILIES
from tiny_runs import make_data, make_recipe, prepare

from hf_sft import RunRecord, inspect
from hf_sft.analysis.block_outputs import block_modules, block_outputs
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Cloud
from hf_sft.analysis.similarity import linear_cka, probe_accuracy, two_dimensions
from hf_sft.analysis.weights import measure_drift
from hf_sft.modeling.anatomy import find_blocks

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES, "swin")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("family", ["bert", "resnet", "timm_vit"])
def test_one_altered_block_is_the_one_that_is_shown(family: str, models: Path, tmp_path: Path) -> None:
    recipe, data = make_recipe(family, models, tmp_path), make_data(family, train=8, validation=4)
    before, after = (prepare(recipe, data).built.model for _ in range(2))
    assert all(drift.moved == 0 and drift.relative == 0 and drift.cosine == 1 for drift in measure_drift(before, after))
    layers = [block for block in find_blocks(after) if block.is_layer]
    weights = dict(after.named_parameters())
    matrix = next(weights[name] for name in layers[1].parameters if weights[name].ndim > 1)
    with torch.no_grad():
        flat = matrix.view(matrix.shape[0], -1)
        flat += torch.outer(torch.ones(flat.shape[0]), torch.arange(flat.shape[1]) / flat.shape[1])
    found = {drift.block: drift for drift in measure_drift(before, after)}
    assert [name for name, drift in found.items() if drift.moved] == [layers[1].name]
    changed = found[layers[1].name]
    assert changed.low_rank == pytest.approx(1, abs=1e-3) and changed.values[1] < 1e-3 * changed.values[0]
    assert 0 < changed.moved < 1 and changed.relative > 0 and changed.cosine < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_gives_one_vector_per_row_whatever_the_batch(family: str, models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe(family, models, tmp_path), make_data(family, train=11, validation=4))
    model, inputs = work.built.model.eval(), work.inputs["train"]
    layers = {block.name for block in find_blocks(model) if block.is_layer}
    assert layers <= set(block_modules(model))
    one, other = (block_outputs(model, inputs.rows, inputs.lengths, work.collate, batch_size=size) for size in (3, 11))
    assert layers <= set(one.features) and list(one.features) == [b for b in block_modules(model) if b in one.features]
    for name in one.features:
        assert one.features[name].shape[0] == 11 and one.features[name].any()
        assert np.allclose(one.features[name], other.features[name], atol=1e-4)
    for name in one.highest:
        assert np.allclose(one.highest[name], other.highest[name], atol=1e-4)


def test_units_that_are_never_positive_are_dead(models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe("bert", models, tmp_path), make_data("bert", train=8, validation=4))
    model, inputs = work.built.model.eval(), work.inputs["train"]
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.bias[:8] = -100.0
    found = block_outputs(model, inputs.rows, inputs.lengths, work.collate)
    assert found.dead("block.0") == pytest.approx(8 / 32)
    assert found.dead("block.1") == 0 and found.dead("embeddings") is None


def test_cka_is_one_up_to_turning_and_scale_and_near_zero_by_chance() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 200))
    turned = 7 * features @ np.linalg.qr(generator.normal(size=(200, 200)))[0] + 3
    assert linear_cka(features, turned) == pytest.approx(1)
    assert abs(linear_cka(features, generator.normal(size=(60, 300)))) < 0.1


def test_a_probe_finds_classes_that_lie_apart_and_none_in_noise() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    noise = generator.normal(size=(120, 10))
    assert probe_accuracy(noise + 4 * np.eye(3, 10)[labels], labels, seed=0) > 0.95
    assert probe_accuracy(noise, labels, seed=0) < 0.55
    assert np.isnan(probe_accuracy(noise, np.zeros(120, dtype=int), seed=0))
    points, share = two_dimensions(noise + 40 * np.eye(3, 10)[labels])
    assert points.shape == (120, 2) and share > 0.9


def test_a_frozen_run_shows_zero_drift_below_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = finish_text(tmp_path, tuning={"strategy": "head"})
    weights, activations = inspect(record.output_dir, only=["weights", "activations"], rows=30).sections
    assert not weights.failed and not activations.failed
    rows = {row[0]: row for row in weights.tables[0].rows}
    assert all(row[2] == 0 and row[3] == 0 for name, row in rows.items() if name not in ("head", "final"))
    assert rows["head"][2] and weights.key_figures["blocks_unchanged"] == len(rows) - 1
    assert all(row[2] == pytest.approx(1) for row in activations.tables[0].rows)
    (cloud,) = [part for part in activations.parts if isinstance(part, Cloud)]
    assert len(cloud.points) == len(cloud.texts) == 30 and "good film" in cloud.texts[0]
    assert weights.notes[0].startswith("the head is new")
    monkeypatch.setattr(FinishedRun, "new", frozenset())
    (weights,) = inspect(record.output_dir, only="weights").sections
    assert not any("the head is new" in note for note in weights.notes)


def test_a_trained_image_run_shows_its_filters_and_its_drift(tmp_path: Path) -> None:
    record = finish_images(tmp_path)
    report = inspect(record.output_dir, only=["errors", "weights", "activations"], rows=24)
    assert report.ok, [section.sentence for section in report.sections]
    errors, weights, activations = report.sections
    assert [figure.name for figure in weights.figures] == ["drift", "histograms", "filters"]
    assert weights.key_figures["blocks_unchanged"] == 0
    assert any("slices: none could be looked at: 24 rows" in note for note in errors.notes)
    assert "dead units after" in activations.tables[0].heads
    assert RunRecord.load(record.output_dir).inspection["weights"] == dict(weights.key_figures)
