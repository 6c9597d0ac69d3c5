"""Features: what reaches the last layer of a model, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from numpy.typing import NDArray
from tiny import TEXT_FAMILIES, TIMM_ARCHITECTURES, TRANSFORMERS_IMAGE_FAMILIES
from tiny_runs import make_data, make_recipe, prepare
from torch import nn

from hf_sft.errors import ModelError
from hf_sft.features import extract_features
from hf_sft.job import Job
from hf_sft.modeling.anatomy import output_layers

FAMILIES = (*TEXT_FAMILIES, *TRANSFORMERS_IMAGE_FAMILIES, *TIMM_ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are kept once made."""
    return tmp_path_factory.mktemp("models")


def prepared(family: str, models: Path, folder: Path, **changes: Any) -> Job:
    """A job with 21 training rows of many lengths."""
    return prepare(make_recipe(family, models, folder, **changes), make_data(family, train=21, validation=4))


def features_of(work: Job, batch_size: int = 4) -> NDArray:
    inputs = work.inputs["train"]
    channels_last = work.evaluator.channels_last
    return extract_features(
        work.built.model, inputs.rows, inputs.lengths, work.collate, batch_size=batch_size, channels_last=channels_last
    )


def logits_of(work: Job, position: int) -> torch.Tensor:
    """The model's answer for one row alone."""
    batch = work.collate([work.inputs["train"].rows[position]])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weight")}
    with torch.inference_mode():
        return work.built.model.eval()(**inputs).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_what_reaches_the_last_layer_in_the_order_of_the_rows(
    family: str, models: Path, tmp_path: Path
) -> None:
    work = prepared(family, models, tmp_path)
    found = torch.from_numpy(features_of(work))
    assert found.dtype == torch.float32 and len(found) == 21
    layers = output_layers(work.built.model, 2)
    parts = found.chunk(len(layers), dim=1)
    answers = torch.stack([layer(part) for layer, part in zip(layers.values(), parts, strict=True)]).mean(0)
    for position in range(21):
        assert torch.allclose(answers[position], logits_of(work, position), atol=1e-5)
    assert len(torch.unique(found, dim=0)) == 21


def test_of_a_model_that_sees_every_token_they_are_those_of_the_last_that_is_not_padding(
    models: Path, tmp_path: Path
) -> None:
    work = prepared("gpt2", models, tmp_path)
    model, found = work.built.model, features_of(work)
    nn.init.zeros_(model.score.weight)  # all answers are alike: they do not tell which token was taken
    assert np.array_equal(features_of(work), found)
    for position in range(21):
        batch = work.collate([work.inputs["train"].rows[position]])
        ids = batch["input_ids"][0]
        last = int(torch.arange(len(ids))[ids != model.config.pad_token_id].max())
        with torch.inference_mode():
            states = model.transformer(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        assert torch.allclose(states[0, last], torch.from_numpy(found[position]), atol=1e-5)


def test_the_model_is_as_it_was_and_no_dropout_falls(models: Path, tmp_path: Path) -> None:
    work = prepared("bert", models, tmp_path, model={"config": {"hidden_dropout_prob": 0.5}})
    model = work.built.model.train()
    state = torch.get_rng_state()
    assert np.array_equal(features_of(work), features_of(work))
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_frozen_parts_may_be_stubs_fed_from_the_batch(models: Path, tmp_path: Path) -> None:
    work = prepared("bert", models, tmp_path)
    whole, inputs = features_of(work), work.inputs["train"]
    recorded = [_states(work, position) for position in range(21)]
    stub = _Replayed(work.built.model)
    rows = _Recorded(recorded)
    found = extract_features(stub, rows, np.array([len(row) for row in recorded]), _collate_states, batch_size=3)
    assert found == pytest.approx(whole, abs=1e-5)
    assert len(inputs.rows) == len(rows)


def _states(work: Job, position: int) -> torch.Tensor:
    batch = work.collate([work.inputs["train"].rows[position]])
    with torch.inference_mode():
        return work.built.model.eval().bert(batch["input_ids"]).last_hidden_state[0].clone()


class _Recorded(torch.utils.data.Dataset):
    def __init__(self, states: Sequence[torch.Tensor]):
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.states[position]


def _collate_states(features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"states": nn.utils.rnn.pad_sequence(list(features), batch_first=True)}


class _Replayed(nn.Module):
    """What is above the encoder of a BERT, fed with what it gave; under the names that the whole model has."""

    def __init__(self, model: Any):
        super().__init__()
        self.bert, self.classifier, self.config = model.bert, model.classifier, model.config
        self.base_model_prefix = "bert"

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.bert.pooler(states))}


class _Odd(nn.Module):
    """A model whose answer is `answer(outputs of its last layer)`."""

    base_model_prefix = "body"

    def __init__(self, answer: Any, tokens: bool):
        super().__init__()
        self.body, self.head, self.answer, self.tokens = nn.Linear(1, 3), nn.Linear(3, 2), answer, tokens
        self.config = type("Config", (), {"num_labels": 2, "model_type": "odd"})()

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.body(states)
        return {"logits": self.answer(self.head(states if self.tokens else states.mean(1)))}


@pytest.mark.parametrize(
    ("answer", "tokens", "named"),
    [
        (lambda outputs: outputs.mean(1), True, "that of none"),
        (lambda outputs: outputs, True, "not one of them taken"),
        (lambda outputs: 3 * outputs + 1, False, "not the output of the last layer"),
        (lambda outputs: outputs[:, :1], False, "shape"),
    ],
)
def test_heads_of_another_kind_are_refused(answer: Any, tokens: bool, named: str) -> None:
    torch.manual_seed(0)
    rows = _Recorded([torch.rand(length, 1) for length in (3, 5, 2, 4)])
    with pytest.raises(ModelError, match=named):
        extract_features(_Odd(answer, tokens), rows, np.array([3, 5, 2, 4]), _collate_states, batch_size=2)


def test_two_processes_have_the_features_of_one(models: Path, tmp_path: Path) -> None:
    one = features_of(prepared("bert", models, tmp_path))
    for other in in_two_processes(_features_in_process, models, tmp_path / "two"):
        assert other == pytest.approx(one, abs=1e-6)


def _features_in_process(models: Path, folder: Path) -> NDArray:
    return features_of(prepared("bert", models, folder))
