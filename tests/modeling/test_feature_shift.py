"""How far features lie from those of pretraining: laws of the measure, and the advice that rests on it."""

from pathlib import Path

import pytest
import torch
from tiny_runs import make_data, make_recipe, prepare
from torch import nn

from hf_sft.advice import SHIFTED_FROM, Evidence, advise
from hf_sft.commands.evidence import shift_of
from hf_sft.modeling.feature_shift import watching


def _pretrained() -> tuple[nn.Module, torch.Tensor]:
    """A BatchNorm that knows these values exactly: [4096, 3, 2], channels of other means and spreads."""
    values = torch.randn(4096, 3, 2, generator=torch.Generator().manual_seed(0))
    values = values * torch.tensor([0.5, 1.0, 4.0])[:, None] + torch.tensor([-1.0, 0.0, 9.0])[:, None]
    norm = nn.BatchNorm1d(3, momentum=None)
    norm(values)
    return norm.eval(), values


def test_what_a_model_was_pretrained_on_is_not_shifted() -> None:
    norm, values = _pretrained()
    with watching([norm]) as seen:
        for part in values.split(1000):
            norm(part)
    assert seen.shift() == pytest.approx(0, abs=1e-3)
    norm(values + 7)
    assert seen.shift() == pytest.approx(0, abs=1e-3), "only what comes inside the block counts"


@pytest.mark.parametrize(("moved", "widened", "distance"), [(1.0, 1.0, 1.0), (0.0, 3.0, 2.0), (3.0, 5.0, 5.0)])
def test_the_shift_is_counted_in_standard_deviations(moved: float, widened: float, distance: float) -> None:
    norm, values = _pretrained()
    mean, spread = values.mean(dim=(0, 2), keepdim=True), values.std(dim=(0, 2), keepdim=True)
    with watching([norm]) as seen:
        norm((values - mean) * widened + mean + moved * spread)
    assert seen.shift() == pytest.approx(distance, abs=0.01)


def test_models_without_such_statistics_and_random_weights_tell_nothing(tmp_path: Path) -> None:
    for family, changes, told in (("resnet", {}, True), ("resnet", {"weights": "random"}, False), ("bert", {}, False)):
        recipe = make_recipe(family, tmp_path / family, tmp_path / "out", model=changes)
        found = shift_of(prepare(recipe, make_data(family, train=12, validation=4)))
        assert (found is not None and found > 0) == told


def test_shifted_features_that_tell_the_labels_apart_train_their_first_layers() -> None:
    known = {"rows_per_class": 55.0, "classes": 50, "gained": 0.7, "layers": 12}
    assert advise(Evidence(**known, shift=SHIFTED_FROM - 0.01)).strategy == "top_layers"
    advice = advise(Evidence(**known, shift=SHIFTED_FROM + 0.01))
    assert advice.strategy == "first_layers" and "standard deviations" in advice.reason
