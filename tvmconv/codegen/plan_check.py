"""Check that a plan stays inside its memory, before it becomes code that checks nothing."""

from __future__ import annotations

import math
import re

from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    CopyStep,
    KernelStep,
    Plan,
    Space,
    Step,
    TensorArgument,
    step_name,
)

#: What kernels assume of every buffer in the arena or among the weights.
ALIGNMENT_BYTES = 64

#: Inputs, and likewise outputs, that a model can have (``TVMCONV_MAX_PORTS`` in plan.h).
MAX_PORTS = 256


def _operands(step: Step) -> tuple[TensorArgument | BlockedTensor, ...]:
    if isinstance(step, KernelStep):
        return step.arguments
    if isinstance(step, BorderStep):
        return (step.tensor,)
    return (step.source, step.destination)


def _check_step(step: Step) -> None:
    if isinstance(step, KernelStep):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step.kernel) or step.kernel == "main":
            raise ValueError(f"{step.kernel!r} is not a name for a kernel")
        for argument in step.arguments:
            if argument.offset % ALIGNMENT_BYTES:
                raise ValueError(f"kernels need 64-byte-aligned memory, not {argument}")
    elif isinstance(step, CopyStep):
        if step.source.nbytes != step.destination.nbytes:
            raise ValueError(f"sizes of {step.source} and {step.destination} differ")
    elif not isinstance(step, BorderStep):
        plain, blocked = step.source, step.destination
        if math.prod(plain.shape) != math.prod(blocked.shape) or plain.dtype != blocked.dtype:
            raise ValueError(f"{plain} and {blocked} do not hold the same tensor")


def check_plan(plan: Plan, weight_bytes: int) -> None:
    """Check that every operand of every step lies inside its memory.

    Raises
    ------
    ValueError
        One does not, or a dimension is not positive, or the operands of a step do not fit
        together. A plan comes from the compiler, so this is its mistake, never the user's.
    """
    if max(len(plan.inputs), len(plan.outputs)) > MAX_PORTS:
        raise ValueError(f"more than {MAX_PORTS} inputs or outputs")
    sizes: dict[tuple[Space, int], int] = {("arena", 0): plan.arena_bytes}
    sizes["weights", 0] = weight_bytes
    sizes |= {("input", k): port.nbytes for k, port in enumerate(plan.inputs)}
    sizes |= {("output", k): port.nbytes for k, port in enumerate(plan.outputs)}
    if any(min((1, *port.shape)) < 1 for port in (*plan.inputs, *plan.outputs)):
        raise ValueError("an input or output without elements")
    for number, step in enumerate(plan.steps):
        try:
            _check_step(step)
            for operand in _operands(step):
                index = operand.index if isinstance(operand, TensorArgument) else 0
                room = sizes.get((operand.space, index), -1)
                if min((1, *operand.shape)) < 1 or operand.offset < 0:
                    raise ValueError(f"{operand} has no elements or starts before its memory")
                if operand.offset + operand.nbytes > room:
                    raise ValueError(f"{operand} ends outside its {room} bytes")
        except ValueError as error:
            raise ValueError(f"step {number} ({step_name(step)}): {error}") from None
