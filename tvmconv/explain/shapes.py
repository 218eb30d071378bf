"""How the output's shape comes about, what a problem costs, and what one output reads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from math import prod

from tvmconv.explain.axes import (
    NAMES,
    Axis,
    TransposedAxis,
    axes_of,
    input_channels,
    is_transposed,
)
from tvmconv.explain.text import Section, count, digits, listed, shortened, sizes
from tvmconv.ops.options import DTYPES
from tvmconv.problem import Problem

#: Places that are listed; of more, these and the last.
_FIRST = 8


def shape_section(problem: Problem, axes: tuple[Axis, ...] | None) -> Section:
    """The output's shape, each axis with its formula and the numbers in it."""
    rows: list[tuple[object, ...]] = [("N", problem.batch, "the batch")]
    if not problem.rank:
        rows.append(("M", problem.co, "the rows of the weight"))
    elif "CO" in problem.family.filter_form:
        rows.append(("C", problem.co, "the number of filters"))
    else:
        rows.append(("C", problem.co, "as many as the input has"))
    for number, name in enumerate(NAMES[problem.rank]):
        size = problem.out_spatial[number]
        rows.append((name, size, "" if axes is None else formula(problem, axes[number], name)))
    lines = [f"input {sizes(problem.input_shape)} → output {sizes(problem.output_shape)}"]
    return Section("output shape", tuple(lines), ("axis", "size", "how"), tuple(rows))


def formula(problem: Problem, axis: Axis, name: str) -> str:
    """The output size of an axis: the formula, and the numbers put in."""
    if "K" not in problem.family.filter_form:
        return f"the window is the whole of {name}"
    if isinstance(axis, TransposedAxis):
        extra = f" + {axis.extra}" if axis.extra else ""
        return (
            f"({name} − 1)·s + d·(K − 1) + 1{' + output_padding' if axis.extra else ''}"
            f" − low − high = ({axis.size} − 1)·{axis.stride} + {axis.dilation}·({axis.taps} − 1)"
            f" + 1{extra} − {axis.low} − {axis.high} = {axis.outputs}"
        )
    open_, close = "⌈⌉" if axis.ceil else "⌊⌋"
    slack = axis.size + axis.low + axis.high - axis.extent
    text = (
        f"{open_}({name} + low + high − d·(K − 1) − 1) / s{close} + 1"
        f" = {open_}({axis.size} + {axis.low} + {axis.high} − {axis.dilation}·({axis.taps} − 1)"
        f" − 1) / {axis.stride}{close} + 1 = {open_}{slack} / {axis.stride}{close} + 1"
        f" = {axis.outputs}"
    )
    rounded = -(-slack // axis.stride) if axis.ceil else slack // axis.stride
    return text + ", less a window that begins after the input" * (rounded + 1 > axis.outputs)


def macs(problem: Problem, axes: tuple[Axis, ...] | None) -> int:
    """Multiply-adds as they are counted in papers; 0 for pools.

    Those with padding count; the zeros that a transposed convolution could insert do not.
    """
    if problem.parts or axes is None or not is_transposed(axes):
        return problem.macs
    return _over_channels(problem) * prod(axis.terms for axis in axes)


def useful_flops(problem: Problem, axes: tuple[Axis, ...] | None) -> int:
    """FLOP of the terms that read an input, not padding."""
    if problem.parts:
        return sum(useful_flops(part, axes_of(part)) for part in problem.parts)
    if axes is None:
        return problem.flops
    terms = _over_channels(problem) * prod(axis.useful_terms for axis in axes)
    return terms * (2 if problem.family.arithmetic == "multiply-add" else 1)


def _over_channels(problem: Problem) -> int:
    sums = problem.co * (1 + problem.family.gated)
    return problem.batch * sums * len(input_channels(problem, 0))


def cost_section(problem: Problem, axes: tuple[Axis, ...] | None) -> Section:
    """Parameters, multiply-adds, bytes and their ratio."""
    inputs = problem.inputs
    rows: list[tuple[object, ...]] = []
    for name, shape in inputs.items():
        if name != "x":
            rows.append((name, prod(shape), sizes(shape)))
    rows.append(("parameters", problem.parameters, ""))
    total, useful = macs(problem, axes), useful_flops(problem, axes)
    if total:
        rows.append(("multiply-adds", total, _counted(problem, axes)))
    flops = 2 * total or problem.flops
    rows.append(("FLOP", flops, "2 a multiply-add" if total else "1 a term of each window"))
    lost = flops - useful
    if lost:
        where = "beyond the output" if axes and is_transposed(axes) else "with padding"
        rows.append((f"  {where}", lost, f"{digits(100 * lost / flops)} %: a kernel may skip them"))
    rows.append(("bytes read", problem.bytes_read, _bytes_read(problem)))
    written = f"{_itemsize(problem, 'output')} × {count(prod(problem.output_shape))}"
    rows.append(("bytes written", problem.bytes_written, written))
    rows.append(("FLOP a byte", flops / problem.bytes_moved, "arithmetic intensity"))
    if axes:
        extents = sizes(axis.extent for axis in axes)
        rows.append(("receptive field", _field(axes), _field_note(axes, extents)))
    columns = ("what", "number", "how")
    return Section("cost", (), columns, tuple(rows))


def _itemsize(problem: Problem, name: str) -> int:
    return DTYPES[problem.dtypes[name]].itemsize


def _bytes_read(problem: Problem) -> str:
    """The elements of each input, those of the same size together."""
    groups: dict[int, list[str]] = {}
    for name, shape in problem.inputs.items():
        groups.setdefault(_itemsize(problem, name), []).append(f"{name} {count(prod(shape))}")
    return " + ".join(f"{size} × ({' + '.join(each)})" for size, each in groups.items())


def _counted(problem: Problem, axes: tuple[Axis, ...] | None) -> str:
    """The factors of the multiply-adds."""
    if problem.parts:
        return ", then ".join(_counted(part, axes_of(part)) for part in problem.parts)
    if axes is not None and is_transposed(axes):
        per = problem.co // problem.groups
        return (
            f"{sizes(problem.input_shape)} inputs × {per} filters × {sizes(problem.kernel)} taps;"
            " no zeros are inserted"
        )
    number = problem.ci // problem.groups
    channels = f"{number} channel{'s' * (number > 1)}"
    kernel = f" × {sizes(problem.kernel)} taps" if problem.kernel else ""
    kernel += " × 2 halves" * problem.family.gated
    return f"{sizes(problem.output_shape)} outputs × {channels}{kernel}"


def _field(axes: tuple[Axis, ...]) -> str:
    return sizes(axis.field for axis in axes)


def _field_note(axes: tuple[Axis, ...], extents: str) -> str:
    if is_transposed(axes):
        return f"inputs that reach one output; one input reaches {extents} outputs"
    if any(axis.dilation > 1 for axis in axes):
        return f"from the first tap to the last; {sizes(axis.taps for axis in axes)} of it are read"
    return "inputs that reach one output, in each channel"


def reads_section(problem: Problem, axes: tuple[Axis, ...], at: tuple[int, ...]) -> Section:
    """Which inputs one output reads, and which of them are padding.

    Parameters
    ----------
    at : tuple of int
        Batch, channel and place of the output.
    """
    place = at[2:]
    channels = input_channels(problem, at[1])
    rows: list[tuple[object, ...]] = [("N", str(at[0]), str(at[0]), "")]
    rows.append(("C" if axes else "K", str(at[1]), listed(channels), ""))
    inside = len(channels)
    for axis, name, output in zip(axes, NAMES[problem.rank], place, strict=True):
        read, outside, number = _along(axis, output)
        inside *= number
        rows.append((name, str(output), read, outside))
    taps = prod(axis.taps for axis in axes) * len(channels)
    if is_transposed(axes):
        note = f"{count(inside)} products make this output; {taps} taps a window"
    elif not axes:
        note = f"{count(inside)} inputs"
    else:
        note = f"{count(inside)} inputs inside, {count(taps - inside)} in the padding"
    columns = ("axis", "output", "reads", "in the padding")
    if is_transposed(axes):
        columns = ("axis", "output", "reads", "taps that meet no input")
    title = f"what output {','.join(map(str, at))} reads"
    return Section(title, _rule(problem, axes), columns, tuple(rows), (note,))


def _rule(problem: Problem, axes: tuple[Axis, ...]) -> tuple[str, ...]:
    if "K" not in problem.family.filter_form:
        return ()
    if is_transposed(axes):
        return ("input i, times tap k, is added to output i·s − low + k·d",)
    lines = ["output o reads inputs o·s − low + k·d for each tap k"]
    if problem.flipped:
        lines = ["output o reads inputs o·s − low + (K − 1 − k)·d for each tap k: the taps in the"
                 " opposite order, as mathematics has it"]  # fmt: skip
    mode = problem.option("padding_mode")
    if mode not in (None, "zeros"):
        lines.append(f"the padding is filled by the mode {mode}")
    if mode == "sphere":
        lines.append("beyond a pole the columns are those half a turn away")
    return tuple(lines)


def _along(axis: Axis, output: int) -> tuple[str, str, int]:
    """What is read along an axis, what is not there, and how many elements are."""
    inside = axis.taps_inside(output)
    places = [axis.index(axis.position(output, tap)) for tap in inside[:_FIRST]]
    if isinstance(axis, TransposedAxis):
        pairs = zip(inside, places, strict=False)
        shown = [f"{place} (tap {tap})" for tap, place in pairs]
        return shortened(shown, len(inside)), _missed(axis, inside, output), len(inside)
    last = [axis.position(output, inside[-1])] if len(inside) > _FIRST else []
    return (
        shortened([str(place) for place in places], len(inside), *map(str, last)),
        _missed(axis, inside, output),
        len(inside),
    )


def _missed(axis: Axis, inside: range, output: int) -> str:
    """The taps that meet no input, or for a plain window where they read."""
    taps: Iterable[int] = range(axis.taps)
    if inside and inside.step == 1:
        taps = chain(range(inside.start), range(inside.stop, axis.taps))
    elif inside:
        taps = (tap for tap in taps if tap not in inside)
    missed = list(islice(taps, _FIRST))
    if not isinstance(axis, TransposedAxis):
        missed = [axis.position(output, tap) for tap in missed]
    return shortened([str(place) for place in missed], axis.taps - len(inside))
