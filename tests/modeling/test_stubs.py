"""Laws of stubs: a blank has the shape of what it stands for, and whoever reads it gets NaN, never a wrong number."""

from __future__ import annotations

import pytest
import torch

from hf_sft.modeling.stubs import NotByRows, Shape, Sizes, describe_output, describe_shape

SIZES = (Sizes(3, 5), Sizes(2, 7))


@pytest.mark.parametrize(
    ("one", "other", "sides", "by_rows", "ragged"),
    [
        ((3, 5, 4), (2, 7, 4), ("rows", "steps", 4), True, True),
        ((3, 4), (2, 4), ("rows", 4), True, False),
        ((15, 4), (14, 4), ("rows*steps", 4), False, False),
        ((3, 2, 5, 5), (2, 2, 7, 7), ("rows", 2, "steps", "steps"), False, False),
        ((1, 8), (1, 8), (1, 8), False, False),
    ],
)
def test_a_shape_follows_from_rows_and_steps(
    one: tuple[int, ...], other: tuple[int, ...], sides: tuple[object, ...], by_rows: bool, ragged: bool
) -> None:
    shape = describe_shape(torch.zeros(one), torch.zeros(other), SIZES)
    assert (shape.sides, shape.by_rows, shape.ragged) == (sides, by_rows, ragged)
    assert tuple(shape.blank(SIZES[1], torch.device("cpu")).shape) == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3, 6), torch.zeros(2, 8)),
        (torch.zeros(3, 4), torch.zeros(2, 4, 1)),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.ones(3, 5, dtype=torch.bool), torch.ones(2, 7, dtype=torch.bool)),
    ],
)
def test_what_no_blank_can_stand_for_is_refused(one: torch.Tensor, other: torch.Tensor) -> None:
    with pytest.raises(NotByRows):
        describe_shape(one, other, SIZES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_blank_that_is_read_makes_nan_and_takes_no_memory(dtype: torch.dtype) -> None:
    blank = Shape(("rows", "steps", 768), dtype).blank(Sizes(64, 512), torch.device("cpu"))
    assert blank.shape == (64, 512, 768) and blank.untyped_storage().nbytes() <= 8
    assert bool((blank.sum() + 1.0).isnan()) and bool((blank[0, 0] * 0.0).isnan().all())


def test_a_whole_output_is_described_with_what_is_no_tensor() -> None:
    outputs = [
        {"hidden": torch.zeros(rows, steps, 4), "past": None, "size": (8, 8)} for rows, steps in ((3, 5), (2, 7))
    ]
    described = describe_output(outputs[0], outputs[1], SIZES)
    blank = described.blank(Sizes(4, 6), torch.device("cpu"))
    assert blank["hidden"].shape == (4, 6, 4) and blank["past"] is None and blank["size"] == (8, 8)
