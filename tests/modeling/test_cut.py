"""Laws of cutting a model: the replayed model is the whole one, or there is no cut and a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hf_sft.modeling.cut import find_cut
from hf_sft.modeling.replay import Cut, as_carried, record, replayed

STEPS = ((5, 4, 2), (7, 3))


class Toy(nn.Module):
    """Embeds ids, a frozen layer, a dropout, a layer that learns; `mix` joins (ids, embedded, below, above)."""

    def __init__(self, mix: Callable[..., torch.Tensor] | None = None):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.below = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.3)
        self.above = nn.Linear(6, 2)
        self.mix = mix

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(input_ids)
        below = self.below(embedded)
        above = self.above(self.drop(below))
        if self.mix is not None:
            above = self.mix(input_ids, embedded, below, above)
        return (above * attention_mask[..., None]).sum(1)


def batches() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    found = []
    for steps in STEPS:
        mask = torch.tensor([[1.0] * own + [0.0] * (max(steps) - own) for own in steps])
        found.append({"input_ids": torch.randint(0, 20, mask.shape), "attention_mask": mask})
    return found[0], found[1]


def frozen_below(model: Toy) -> list[nn.Module]:
    for part in (model.embed, model.below):
        part.requires_grad_(False)
    return [model.embed, model.below]


def cut(model: Toy) -> Cut | str:
    return find_cut(model, frozen_below(model), batches(), steps_from="input_ids", steps=STEPS)


def test_a_plain_stack_is_cut_before_the_first_module_that_draws_or_learns() -> None:
    found = cut(Toy())
    assert isinstance(found, Cut)
    assert found.point == "drop" and set(found.stubs) == {"embed", "below"}
    assert found.crossing[0].ragged and found.crossing[0].of_one == (6,)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (lambda ids, embedded, below, above: above + embedded[..., :2], "more than its inputs"),
        (lambda ids, embedded, below, above: above * below.mean(), "more than its inputs"),
    ],
)
def test_a_way_around_the_boundary_is_no_cut(mix: Callable[..., torch.Tensor], words: str) -> None:
    found = cut(Toy(mix))
    assert isinstance(found, str) and words in found


class ReadsPadding(Toy):
    """Takes the mean over all steps, those of padding too."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.above(self.drop(self.below(self.embed(input_ids)))).mean(1)


def test_a_model_that_reads_padding_is_no_cut() -> None:
    found = cut(ReadsPadding())
    assert isinstance(found, str) and "padding" in found


def test_what_trains_first_leaves_nothing_to_cut() -> None:
    model = Toy()
    model.below.requires_grad_(False)
    found = find_cut(model, [model.below], batches(), steps_from="input_ids", steps=STEPS)
    assert isinstance(found, str) and "nothing" in found


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model = Toy()
    model.train()
    frozen = frozen_below(model)
    modes = {name: module.training for name, module in model.named_modules()}
    given = batches()
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    find_cut(model, frozen, given, steps_from="input_ids", steps=STEPS)
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert is_whole(model) and all(parameter.grad is None for parameter in model.parameters())


def is_whole(model: nn.Module) -> bool:
    return not any(
        "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )


def test_replaying_gives_the_outputs_and_ends_also_where_something_is_raised() -> None:
    model = Toy().eval()
    found, batch = cut(model), batches()[0]
    assert isinstance(found, Cut)
    model.eval()
    with torch.no_grad():
        whole, kept = model(**batch), record(model, found, batch)
        with pytest.raises(KeyError, match="within"), replayed(model, found):
            assert not is_whole(model)
            assert torch.equal(model(**batch, **as_carried(kept)), whole)
            raise KeyError("within")
        assert is_whole(model) and torch.equal(model(**batch), whole)


def test_a_batch_without_activations_gives_nan_not_a_wrong_number() -> None:
    model = Toy().eval()
    found, batch = cut(model), batches()[0]
    assert isinstance(found, Cut)
    with torch.no_grad(), replayed(model.eval(), found):
        assert bool(model(**batch).isnan().all())


def test_recording_computes_nothing_behind_the_cut() -> None:
    model = Toy().eval()
    found = cut(model)
    assert isinstance(found, Cut)
    model.above.forward = None  # type: ignore[method-assign, assignment]
    (activation,) = record(model.eval(), found, batches()[1])
    assert activation.shape == (2, 7, 6)
