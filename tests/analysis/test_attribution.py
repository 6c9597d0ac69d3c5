"""Laws of attribution: where a model is built to look, it is seen to look; a map that marks nothing is not believed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from analysis_runs import finish_images, finish_text
from tiny import IMAGE_FAMILIES, OTHER_IMAGE_FAMILIES, SIZE
from tiny_runs import make_data, make_recipe, prepare
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from hf_sft import inspect
from hf_sft.analysis.attention_maps import gradient_attention
from hf_sft.analysis.attributed_pictures import as_cells, blank
from hf_sft.analysis.attributed_words import merge_words, spelling
from hf_sft.analysis.map_checks import check
from hf_sft.analysis.maps import (
    deletion,
    grad_cam,
    ground_colour,
    pixel_gradients,
    rank_correlation,
    shuffled,
    word_gradients,
)
from hf_sft.analysis.section import Absent

pytest.importorskip("captum")

ATTENTIVE = {"vit", "deit", "timm_vit", "timm_deit"}
WORD, BLANK, CLASS = 7, 4, 2  # ids: the one word that counts, nothing, a special token


class OneWord(nn.Module):
    """Answers by how often one word stands in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 2, bias=False)
        with torch.no_grad():
            self.words.weight[:, 0] = 0.0
            self.words.weight[WORD, 0] = 3.0
            self.head.weight.zero_()
            self.head.weight[1, 0] = 2.0

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = torch.tanh(self.words(input_ids)) * attention_mask[..., None]
        return {"logits": self.head(states.sum(dim=1))}


class OneCorner(nn.Module):
    """Answers by the light in the upper left quarter; its `encoder.layers` are found as blocks."""

    base_model_prefix = "encoder"
    config = SimpleNamespace(model_type="corner")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([_Layer(3), _Layer(4)])
        self.classifier = nn.Linear(4, 2)
        with torch.no_grad():
            for layer in self.encoder.layers:
                layer.convolution.weight.fill_(0.05)
            self.classifier.weight.copy_(torch.stack([-torch.ones(4), torch.ones(4)]))

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = pixel_values.clone()
        half = seen.shape[2] // 2
        mask = torch.zeros_like(seen)
        mask[:, :, :half, :half] = 1
        seen = seen * mask
        for layer in self.encoder.layers:
            seen = layer(seen)
        return {"logits": self.classifier(seen.mean(dim=(2, 3)))}


class _Outputs(dict[str, Any]):
    __getattr__ = dict.__getitem__


class OneGaze(nn.Module):
    """A class token and 4 x 4 patches: one head reads the first patch for class 1, the other the last for class 0."""

    config = SimpleNamespace(_attn_implementation="sdpa")

    def __init__(self) -> None:
        super().__init__()
        places = torch.full((2, 17, 17), -9.0) + torch.eye(17) * 18
        places[0, 0, 1], places[1, 0, 16] = 18.0, 18.0  # the first patch, the last one
        places[:, 0, 0] = 17.0
        self.places = nn.Parameter(places)

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def forward(self, pixel_values: torch.Tensor, output_attentions: bool) -> _Outputs:
        assert output_attentions and self.config._attn_implementation == "eager"
        light = nn.functional.avg_pool2d(pixel_values.mean(dim=1, keepdim=True), SIZE // 4).flatten(1)
        light = torch.cat([torch.zeros(len(light), 1), light], dim=1)
        attention = self.places.softmax(dim=-1).expand(len(light), -1, -1, -1)
        read = (attention[:, :, 0] * light[:, None]).sum(dim=2)  # [B, 2]
        return _Outputs(logits=read.flip(1), attentions=(attention,))


class _Layer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.norm = nn.Identity()

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(seen)).relu()


def test_a_model_that_looks_at_one_word_is_seen_to_look_there() -> None:
    model = OneWord().eval()
    ids = torch.tensor([[CLASS, 9, WORD, 11, 3, 0], [CLASS, 12, 13, 14, WORD, 15]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    found = word_gradients(model, inputs, torch.tensor([1, 1]), BLANK, [CLASS, 0])
    assert found.argmax(axis=1).tolist() == [2, 4] and found[0, 2] > 1
    others = np.abs(np.delete(found[0], 2))
    assert others.max() < 1e-6
    against = word_gradients(model, inputs, torch.tensor([0, 0]), BLANK, [CLASS, 0])
    assert np.allclose(against, -found, atol=1e-5)


@pytest.mark.parametrize("method", ["Grad-CAM", "Integrated gradients"])
def test_a_model_that_looks_at_one_corner_is_seen_to_look_there(method: str) -> None:
    model = OneCorner().eval()
    drawn = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    pixels = torch.where(drawn > 0.6, drawn, 0.0)  # bright spots on a black ground, everywhere
    colour = ground_colour(pixels)
    assert not colour.any()
    targets = torch.tensor([1, 1, 1])
    if method == "Grad-CAM":
        found, block = grad_cam(model, pixels, targets)
        assert block == "block.1"
    else:
        found = pixel_gradients(model, pixels, targets, colour)
    quarter = found[:, : SIZE // 2, : SIZE // 2].sum() / found.sum()
    assert quarter > 0.9
    cells = as_cells(found).reshape(3, 8, 8)
    assert cells[:, :3, :3].min() > cells[:, 5:, 5:].max()

    def answer(blanked: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores = model(blank(pixels, blanked, colour))["logits"].softmax(-1)[:, 1]
        return scores.double().numpy()

    shares = (0.0, 0.1, 0.25, 0.5, 1.0)
    marked, at_random = deletion(answer, as_cells(found), np.ones((3, 64), dtype=bool), shares, 0)
    assert (marked[2] < at_random[2]).all() and np.allclose(marked[0], at_random[0])
    assert "costs" in check(method, marked, at_random, 0.1, 0).in_words()


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES, "swin"])
def test_every_family_of_images_has_a_map(family: str, tmp_path: Path) -> None:
    work = prepare(make_recipe(family, tmp_path, tmp_path / "out"), make_data(family, train=4, validation=4))
    batch = work.collate([work.inputs["train"].rows[number] for number in range(4)])
    found, block = grad_cam(work.built.model.eval(), batch["pixel_values"], torch.tensor([0, 1, 0, 1]))
    assert found.shape == (4, SIZE, SIZE) and found.any() and block.startswith("block.")


def test_attention_that_speaks_for_the_answer_is_shown() -> None:
    model, pixels = OneGaze().eval(), torch.ones(2, 3, SIZE, SIZE)
    found, where = gradient_attention(model, pixels, torch.tensor([1, 0]))
    assert where == "all 1 blocks" and model.config._attn_implementation == "sdpa"
    corners = as_cells(found).reshape(2, 8, 8)[:, [0, -1], [0, -1]]
    assert corners[0, 0] > 0.1 and corners[1, 1] > 0.1  # for class 1 the first patch, for class 0 the last
    assert corners[0, 1] < 1e-3 and corners[1, 0] < 1e-3


@pytest.mark.parametrize("family", [*IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES])
def test_attention_is_shown_of_transformers_whose_patches_all_meet(family: str, tmp_path: Path) -> None:
    work = prepare(make_recipe(family, tmp_path, tmp_path / "out"), make_data(family, train=4, validation=4))
    pixels = work.collate([work.inputs["train"].rows[number] for number in range(4)])["pixel_values"]
    model, targets = work.built.model.eval(), torch.tensor([0, 1, 0, 1])
    with torch.inference_mode():
        before = model(pixel_values=pixels).logits
    if family in ATTENTIVE:
        found, _ = gradient_attention(model, pixels, targets)
        assert found.shape == (4, SIZE, SIZE) and found.any() and (found >= 0).all()
    else:
        with pytest.raises(Absent, match="attention"):
            gradient_attention(model, pixels, targets)
    with torch.inference_mode():
        assert torch.equal(model(pixel_values=pixels).logits, before)


def test_a_map_that_marks_nothing_is_not_to_be_trusted() -> None:
    generator = np.random.default_rng(0)
    importance, weights = generator.random((30, 20)), generator.random((30, 20))

    def answer(blanked: np.ndarray) -> np.ndarray:
        found: np.ndarray = (weights * ~blanked).sum(axis=1) / 20
        return found

    shares = (0.0, 0.25, 0.5, 1.0)
    able = np.ones((30, 20), dtype=bool)
    for values, words in ((importance, "do not trust it"), (weights, "costs")):
        marked, at_random = deletion(answer, values, able, shares, 1)
        assert words in check("This map", marked, at_random, 0.0, 0).in_words()
    marked, at_random = deletion(answer, weights, able, shares, 1)
    assert "shuffled weights" in check("This map", marked, at_random, 0.9, 0).in_words()
    assert "do not trust it" in check("This map", at_random - 0.001, at_random, 0.0, 0).in_words()


def test_shuffled_weights_are_the_same_numbers_elsewhere() -> None:
    model = OneWord()
    other = shuffled(model, 0)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(
            one.sort().values if one.ndim == 1 else one.flatten().sort().values, two.flatten().sort().values
        )
        assert not torch.equal(one, two), name
    assert rank_correlation(np.arange(9.0), -np.arange(9.0)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["play", "##ing", "fine"], ("playing", "fine")),
        (["Ġplay", "ing", "Ġfine"], ("playing", "fine")),
        (["▁play", "ing", "▁fine"], ("playing", "fine")),
        (["play", "ing"], ("play", "ing")),
    ],
)
def test_pieces_are_put_together_to_words(tokens: list[str], words: tuple[str, ...]) -> None:
    found = merge_words(tokens, np.arange(1.0, len(tokens) + 1))
    assert found.pieces == words and max(found.weights) == 1


def test_words_of_bytes_are_written_with_their_letters() -> None:
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: place for place, letter in enumerate(ByteLevel.alphabet())}, merges=[])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokens = fast.tokenize("schön ça 良い")
    assert "Ã" in tokens
    assert merge_words(tokens, np.ones(len(tokens)), spelling(fast)).pieces == ("schön", "ça", "良い")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that has learned that `good` is positive and `bad` negative."""
    settings = {"num_train_epochs": 14, "per_device_train_batch_size": 8, "learning_rate": 2e-2}
    return finish_text(tmp_path_factory.mktemp("run"), training=settings)


def test_a_text_run_shows_its_words(trained: Any) -> None:
    (section,) = inspect(trained.output_dir, only="attribution").sections
    assert not section.failed, section.sentence
    assert [part.name for part in section.parts] == ["texts", "words", "deletion"]
    assert section.notes and "integrated_gradients_gain_over_random" in section.key_figures


def test_an_image_run_shows_its_places(tmp_path: Path) -> None:
    (section,) = inspect(finish_images(tmp_path, "vit").output_dir, only="attribution").sections
    assert not section.failed, section.sentence
    assert [part.name for part in section.parts] == ["maps", "deletion"]
    assert {"attention_gain_over_random", "integrated_gradients_like_shuffled"} <= set(section.key_figures)
