"""The description of one kernel: what an operator's ``compute(spec)`` makes an expression of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvmconv.layout import Layout

#: Attribute of a ``te.compute`` by which a design space knows what it schedules: ``contraction``
#: (a reduction in which one factor is the same for every lane), ``grouped`` (a contraction in
#: which that factor differs from slot to slot), ``unshared`` (one in which
#: the other factor is used for one position only), ``planes`` (a contraction whose lanes are
#: neighbouring pixels), ``total`` (the sum of a contraction's partial sums), ``window`` (a
#: reduction lane by lane), ``nearby`` (what a run of the output gathers from around it), ``map``
#: (no reduction), ``guarded`` (what a contraction reads of its input, or zeros) and ``stage`` (any
#: other intermediate result). Of an algorithm on transformed
#: tiles: ``data_tile`` (a transform of the input), ``product`` (a contraction for each transformed
#: element), ``sums`` (its result) and ``output_tile`` (a transform back). Of windows on planes:
#: ``rows`` (a buffer of rows, or the reduction that reads it), ``phases`` (the buffer by phase of
#: the columns), ``wide`` (results in whole vectors) and ``lanes`` (a plane as some vectors). Of
#: resampling: ``lines`` or, on planes, ``plane_lines`` (rows of the input combined), and what
#: combines columns: ``columns`` (a vector of channels at a time), ``gathered`` (columns at the
#: places of a table) or ``interleaved`` (outputs by phase, of which each input has some). Of a
#: contraction whose input is made by the same kernel: ``inner_window`` (a reduction lane by lane)
#: and ``between`` (what is applied to it before the contraction reads it).
KIND = "tvmconv.kind"

#: Attribute of the output stage of a contraction on planes: output channels in a group.
GROUP = "tvmconv.group"

#: Attribute of a reduction over windows that reach into zero padding, four numbers for each spatial
#: axis: stride, dilation, padding before the axis, extent of the axis. Output ``o`` reads at tap
#: ``k`` the element ``o * stride + k * dilation - padding``, which is 0 beyond the extent.
WINDOW = "tvmconv.window"

#: Attribute of such a reduction whose input has a narrower halo than its windows reach: how far a
#: tile may read beyond each spatial axis at the taps that read anything of the tensor; -1 is any.
REACH = "tvmconv.reach"

#: Attribute of a contraction whose products are dot products of four bytes.
DOTS = "tvmconv.dots"

#: Attribute of a contraction of float32 whose operands may be rounded to TF32, with 10 bits after
#: the point, where there are tensor cores that multiply these.
TF32 = "tvmconv.tf32"

#: Attribute of an output stage that computes tile by tile, over (tile, slot, *position, lane),
#: four numbers for each spatial axis, last the one along which tiles are numbered first: which axis
#: it is; elements of a tile, 1 if it has no axis for them; from one to the next; output's extent.
TILES = "tvmconv.tiles"

#: Attribute of a reduction over the taps of phases (:mod:`tvmconv.ops.phases`), whose result has an
#: axis of phases before the spatial ones; :func:`tvmconv.ops.phases.windows` reads it.
PHASES = "tvmconv.phases"

#: Attribute of an output stage over (batch, slot, phase, *position, lane), three numbers for each
#: spatial axis: from one output of a phase to the next; phases; the output's extent. On planes the
#: phases of the last axis, given as 0 here, are not part of ``phase`` but stand in place of lanes.
INTERLEAVED = "tvmconv.interleaved"


#: Attribute of the root block of a scheduled function in which warps keep tiles in their registers.
WARP_TILES = "tvmconv.warp_tiles"


#: Operators whose products tensor cores can compute: those of halves, and of float32 rounded.
TENSOR_CORE_OPS = ("conv", "dense", "conv_transpose")


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: an operator over tensors of given layouts.

    Attributes
    ----------
    op : str
        Name in the operator registry.
    attrs_json : str
        The node's attributes, as canonical JSON. ``program`` lists the elementwise steps that are
        applied to the result (see :mod:`tvmconv.ops.fused`).
    inputs : tuple of Layout
        Layouts of the data inputs, ``x`` first, then the tensor operands of the program.
    output : Layout
    """

    op: str
    attrs_json: str
    inputs: tuple[Layout, ...]
    output: Layout

    @property
    def attrs(self) -> dict[str, Any]:
        """The node's attributes."""
        attrs: dict[str, Any] = json.loads(self.attrs_json)
        return attrs

    @property
    def program(self) -> list[dict[str, Any]]:
        """The elementwise steps after the operator: what the problem says, then the program."""
        attrs = self.attrs
        steps: list[dict[str, Any]] = attrs.get("program", [])
        return [*problem_steps(attrs.get("problem", "")), *steps]

    @property
    def text(self) -> str:
        """A canonical text: equal for equal kernels."""
        layouts = [
            [list(v.shape), v.block, list(v.lows), list(v.highs), v.slots, v.first, v.dtype]
            for v in (*self.inputs, self.output)
        ]
        return json.dumps([self.op, self.attrs, layouts], sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> KernelSpec:
        """Make a spec of its :attr:`text`.

        Raises
        ------
        InputError
            If the text is none: see :func:`tvmconv.autoschedule.workload.parse`, which also checks
            what only a log can get wrong.
        """
        from tvmconv.autoschedule.workload import parse

        return parse(text)

    @property
    def digest(self) -> str:
        """A short hash of :attr:`text`, for symbol names."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def problem_steps(text: str) -> list[dict[str, Any]]:
    """What a problem has after its sums, an activation or a quantisation, as steps of a program."""
    from tvmconv.ops.quantize import requantize_steps
    from tvmconv.problem import Problem

    problem = Problem.parse(text) if text else None
    if problem is None or problem.family.gated:  # whose activation is part of the product
        return []
    return activation_steps(text) if problem.activation else requantize_steps(problem)


def activation_steps(text: str) -> list[dict[str, Any]]:
    """The activation of a problem as steps of a program."""
    from tvmconv.ops.activation import split
    from tvmconv.problem import Problem

    name = Problem.parse(text).activation
    if not name:
        return []
    if name == "relu6":
        return [{"op": "clip", "min": 0.0, "max": 6.0}]
    activation, values = split(name)
    named = zip((key for key, _ in activation.parameters), values, strict=True)
    return [{"op": activation.node, **dict(named)}]


def canonical_json(attrs: Mapping[str, Any]) -> str:
    """Attributes as JSON text with sorted keys."""
    return json.dumps(dict(attrs), sort_keys=True)
