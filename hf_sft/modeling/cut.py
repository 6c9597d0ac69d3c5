"""Where a model with a frozen beginning can be cut: found by running it, and proved by running it both ways.

No family is known by name. Two small batches of different sizes are sent through the model; the first module that
learns or drops out in the order of calls marks the boundary. Everything frozen before it is replaced by blanks (NaN),
so that an input of a module at the boundary that comes out blank is what has to be recorded. A cut counts only if
the replayed model gives the outputs and gradients of the whole one, with dropout on and the same random numbers, fed
with what a store would give back: zeros where a row is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from hf_sft.modeling.replay import Cut, Reached, as_carried, replayed, sizes_of, stubbed, watched
from hf_sft.modeling.stubs import NotByRows, Output, describe_output, describe_shape

Inputs = Mapping[str, torch.Tensor]
TOLERANCE = 1e-4  # of the largest entry; float32, through a whole network
IMPOSSIBLE = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError)


def find_cut(
    model: nn.Module,
    frozen: Sequence[nn.Module],
    batches: tuple[Inputs, Inputs],
    *,
    steps_from: str | None,
    steps: tuple[Sequence[int], Sequence[int]] | None = None,
    unread: Inputs | None = None,
) -> Cut | str:
    """The cut that has the least to keep, or why there is none.

    frozen: the modules that stay in eval mode. batches: model inputs of two batches, of different numbers of rows and
    (where rows are sequences) of steps. steps: of each of their rows, without padding, which stands behind them.
    unread: inputs of one row, as blanks, that batches will not carry when they are replayed (images need not be read
    again). The model is left as it was: weights, statistics, random state.
    """
    with undisturbed(model):
        try:
            order = _calls(model, frozen, batches[0])
        except IMPOSSIBLE as error:
            return f"the model does not take a batch it was tried with: {_first_line(error)}"
        first = next((name for name, active in order if active), None)
        if not first:
            return "nothing is frozen before the first weights that learn"
        reasons = []
        names = [name for name, _ in order]
        for point in (name for name in _outwards(first) if name in names):
            for bare in (False, True):
                replaceable = _replaceable(model, frozen, point, names, bare=bare)
                found = _cut_at(model, frozen, point, replaceable, batches, unread or {}, steps_from, steps)
                if isinstance(found, Cut):
                    return found
                reasons.append(found)
        return f"the model cannot be cut before {first}: {reasons[0]}"


def _outwards(name: str) -> Iterator[str]:
    """A module and those around it, but not the model itself."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _calls(model: nn.Module, frozen: Sequence[nn.Module], batch: Inputs) -> list[tuple[str, bool]]:
    """Every call of a module in a forward pass, in order: its name, and whether it learns or draws by itself."""
    still = {id(module) for module in frozen}
    calls: list[tuple[str, bool]] = []
    handles = []
    for name, module in model.named_modules():
        learns = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        active = learns or (id(module) not in still and _drops(module))

        def note(module: nn.Module, inputs: Any, name: str = name, active: bool = active) -> None:
            calls.append((name, active))

        handles.append(module.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _drops(module: nn.Module) -> bool:
    """Whether it is a dropout (of entries, rows or paths) that can drop something."""
    if "drop" not in type(module).__name__.lower() or any(True for _ in module.children()):
        return False
    share = vars(module).get("p", vars(module).get("drop_prob"))
    return share is None or share > 0


def _cut_at(
    model: nn.Module,
    frozen: Sequence[nn.Module],
    point: str,
    replaceable: Sequence[str],
    batches: Sequence[Inputs],
    unread: Inputs,
    steps_from: str | None,
    steps: Sequence[Sequence[int]] | None,
) -> Cut | str:
    """The cut before that module, or why it is none."""
    if not any(any(True for _ in model.get_submodule(name).parameters()) for name in replaceable):
        return "nothing before it is frozen as a whole"
    try:
        stubs, lives = _observe(model, point, replaceable, batches, steps_from)
        sizes = (sizes_of(batches[0], steps_from), sizes_of(batches[1], steps_from))
        rest = [{name: value for name, value in batch.items() if name not in unread} for batch in batches]
        with stubbed(model, stubs, steps_from, {}), watched(model, point, stop=True) as seen, torch.no_grad():
            for size, given in zip(sizes, rest, strict=True):
                blanks = {name: one.expand(size.rows, *one.shape) for name, one in unread.items()}
                _run_to_point(model, {**given, **blanks})
        places = tuple(number for number, leaf in enumerate(seen[0]) if _is_blank(leaf))
        if not places:
            return "none of its inputs comes from what is frozen"
        crossing = tuple(describe_shape(lives[0][place], lives[1][place], sizes) for place in places)
        if not all(shape.by_rows for shape in crossing):
            return "what it is given does not lie row by row"
        cut = Cut(
            point=point, places=places, crossing=crossing, stubs=stubs, steps_from=steps_from, unread=dict(unread)
        )
        for number, batch in enumerate(batches):
            stored = [lives[number][place].detach().clone() for place in places]
            for shape, activation in zip(crossing, stored, strict=True):
                for row, own in enumerate(steps[number] if steps and shape.ragged else ()):
                    activation[row, own:] = 0
            if not _same(model, frozen, cut, batch, {**rest[number], **as_carried(stored)}):
                return "more than its inputs comes from what is frozen" + (", or padding is read" if steps else "")
    except NotByRows as error:
        return f"an output before it has {error}"
    except IMPOSSIBLE as error:
        return _first_line(error)
    return cut


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _replaceable(
    model: nn.Module, frozen: Sequence[nn.Module], point: str, order: Sequence[str], *, bare: bool
) -> list[str]:
    """The outermost modules that are frozen as a whole and called before the point alone.

    bare: those without parameters too, of which some change their input in place, as a blank cannot be changed.
    """
    still = {id(module) for module in frozen}
    at = order.index(point)
    before, after = set(order[:at]), set(order[at:])
    found: list[str] = []

    def walk(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            full = f"{path}.{name}".lstrip(".")
            empty = not any(True for _ in child.parameters())
            whole = bare if empty else id(child) in still
            if whole and full in before and full not in after and not point.startswith(f"{full}."):
                found.append(full)
            else:
                walk(child, full)

    walk(model, "")
    return found


def _observe(
    model: nn.Module, point: str, names: Sequence[str], batches: Sequence[Inputs], steps_from: str | None
) -> tuple[dict[str, Output], list[list[Any]]]:
    """(what those modules return, the flattened inputs of the point per batch), as they are."""
    returned: list[dict[str, Any]] = []
    lives: list[list[Any]] = []
    for batch in batches:
        with _outputs_noted(model, names) as outputs, watched(model, point, stop=False) as seen, torch.no_grad():
            model(**batch)
        returned.append(outputs)
        lives.append(seen[0])
    sizes = (sizes_of(batches[0], steps_from), sizes_of(batches[1], steps_from))
    stubs = {name: describe_output(returned[0][name], returned[1][name], sizes) for name in names}
    return stubs, lives


@contextmanager
def _outputs_noted(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each of these modules returned last, by name."""
    outputs: dict[str, Any] = {}

    def note_as(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output

        return note

    handles = [model.get_submodule(name).register_forward_hook(note_as(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _run_to_point(model: nn.Module, batch: Inputs) -> None:
    try:
        model(**batch)
    except Reached:
        return
    raise RuntimeError("it is not reached")


def _is_blank(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any())


def _same(model: nn.Module, frozen: Sequence[nn.Module], cut: Cut, batch: Inputs, carrying: Inputs) -> bool:
    """Whether the replayed model gives the outputs and gradients of the whole one, in training."""
    whole = _trained_once(model, frozen, batch)
    with replayed(model, cut):
        again = _trained_once(model, frozen, carrying)
    return whole.keys() == again.keys() and all(_close(value, again[name]) for name, value in whole.items())


def _trained_once(model: nn.Module, frozen: Sequence[nn.Module], batch: Inputs) -> dict[str, torch.Tensor]:
    """Outputs that depend on what learns, and the gradients of the sum of their squares."""
    model.train()
    for module in frozen:
        module.training = False
    torch.manual_seed(0)
    leaves = _pytree.tree_leaves(model(**batch))
    outputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not outputs:
        raise RuntimeError("its outputs have no gradient")
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = torch.stack([output.float().square().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
    found = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return found | {name: gradient for name, gradient in zip(learning, gradients, strict=True) if gradient is not None}


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = float(one.abs().max()) if one.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * max(scale, 1e-6)))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; its modes, buffers (statistics of BatchNorm) and random numbers are put back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for buffer, value in buffers:
                buffer.copy_(value)
