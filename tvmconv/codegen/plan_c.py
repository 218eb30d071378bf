"""Write a plan as the C tables of runtime/plan.h."""

from __future__ import annotations

from collections.abc import Sequence

from tvmconv.codegen.plan import (
    BlockedTensor,
    CopyStep,
    KernelStep,
    PackStep,
    Plan,
    Port,
    Step,
    TensorArgument,
    UnpackStep,
    element_bytes,
)
from tvmconv.layout import HALVES
from tvmconv.runtime.inspect import DTYPES

#: The symbols that the generated tables expect of the object with the model's data.
WEIGHTS_SYMBOL, METADATA_SYMBOL = "tvmconv_weights", "tvmconv_metadata_text"

_HEADER = f"""\
#include "plan.h"

extern __attribute__((visibility("hidden"))) const uint8_t {WEIGHTS_SYMBOL}[];
extern __attribute__((visibility("hidden"))) const char {METADATA_SYMBOL}[];
"""


def c_string(text: str) -> str:
    """A C string literal; everything but letters and digits is an octal escape."""
    plain = (chr(b) if chr(b).isalnum() and b < 128 else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(plain) + '"'


def numbers(values: Sequence[int]) -> str:
    """A C initialiser."""
    return "{" + ", ".join(map(str, values)) + "}"


def _dtype(name: str) -> str:
    code, bits = DTYPES[name]
    return f"{{{code}, {bits}, 1}}"


def _seen(name: str) -> str:
    """The element type that a kernel takes: words for halves (:mod:`tvmconv.codegen.halves`)."""
    return "uint16" if name in HALVES else name


class Tables:
    """The text of plan.c, grown table by table."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shapes: dict[tuple[int, ...], str] = {}

    def shape(self, shape: tuple[int, ...]) -> str:
        """The name of an array with these extents."""
        if shape not in self.shapes:
            self.shapes[shape] = name = f"shape_{len(self.shapes)}"
            values = numbers(shape or (0,))  # C has no empty array
            self.lines.append(f"static const int64_t {name}[] = {values};")
        return self.shapes[shape]

    def ports(self, name: str, ports: Sequence[Port]) -> str:
        """Define the table of inputs or outputs; the name to refer to it by."""
        if not ports:
            return "NULL"
        rows = [
            f"  {{{c_string(p.name)}, {p.nbytes}u, {len(p.shape)}, {_dtype(p.dtype)}, "
            f"{self.shape(p.shape)}}},"
            for p in ports
        ]
        self.lines += [f"static const tvmconv_port {name}[] = {{", *rows, "};"]
        return name

    def step(self, number: int, step: Step) -> str:
        """Define one step's tables; its row in the table of steps."""
        if isinstance(step, KernelStep):
            return self._kernel(number, step)
        if isinstance(step, CopyStep):
            return self._copy(number, step)
        if isinstance(step, PackStep):
            return self._layout(number, "PACK", step.source, step.destination)
        if isinstance(step, UnpackStep):
            return self._layout(number, "UNPACK", step.destination, step.source)
        return self._layout(number, "BORDER", None, step.tensor)

    def _kernel(self, number: int, step: KernelStep) -> str:
        rows = [
            f"  {{{_place(a)}, {len(a.shape)}, {_dtype(_seen(a.dtype))}, {self.shape(a.shape)}}},"
            for a in step.arguments
        ]
        self.lines += [
            f"extern int __tvm_ffi_{step.kernel}(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);",
            f"static const tvmconv_tensor arguments_{number}[] = {{",
            *(rows or ["  {{0, 0, 0u}, 0, {0, 0, 0}, NULL},"]),
            "};",
            f"static const tvmconv_kernel_step step_{number} = "
            f"{{__tvm_ffi_{step.kernel}, arguments_{number}, {len(step.arguments)}}};",
        ]
        return f"  {{TVMCONV_KERNEL, {{.kernel = &step_{number}}}}},"

    def _copy(self, number: int, step: CopyStep) -> str:
        places = f"{_place(step.source)}, {_place(step.destination)}"
        self.lines.append(
            f"static const tvmconv_copy_step step_{number} = {{{places}, {step.source.nbytes}u}};"
        )
        return f"  {{TVMCONV_COPY, {{.copy = &step_{number}}}}},"

    def _layout(
        self, number: int, kind: str, plain: TensorArgument | None, tensor: BlockedTensor
    ) -> str:
        missing = 5 - len(tensor.shape)
        batch, slot, *planes = tensor.strides
        strides = (batch, slot, *(0,) * (2 - len(planes)), *planes)
        fields = (
            _place(plain) if plain else "{0, 0, 0u}",
            _place(tensor),
            str(element_bytes(tensor.dtype)),
            str(tensor.block),
            str(tensor.shape[0]),
            str(tensor.shape[1]),
            numbers((*(1,) * missing, *tensor.shape[2:])),
            numbers((*(0,) * missing, *tensor.lows)),
            numbers((*(0,) * missing, *tensor.highs)),
            numbers(strides),
            str(tensor.fill % 256),
        )
        self.lines.append(
            f"static const tvmconv_layout_step step_{number} = {{{', '.join(fields)}}};"
        )
        return f"  {{TVMCONV_{kind}, {{.layout = &step_{number}}}}},"


def _place(tensor: TensorArgument | BlockedTensor) -> str:
    index = tensor.index if isinstance(tensor, TensorArgument) else 0
    return f"{{TVMCONV_{tensor.space.upper()}, {index}, {tensor.offset}u}}"


def plan_source(plan: Plan) -> str:
    """The text of plan.c for a checked plan."""
    tables = Tables()
    inputs = tables.ports("inputs", plan.inputs)
    outputs = tables.ports("outputs", plan.outputs)
    rows = [tables.step(number, step) for number, step in enumerate(plan.steps)]
    steps = "NULL"
    if rows:
        steps = "steps"
        tables.lines += ["static const tvmconv_step steps[] = {", *rows, "};"]
    tensors = sum(len(s.arguments) for s in plan.steps if isinstance(s, KernelStep))
    counts = (len(plan.inputs), len(plan.outputs), len(plan.steps), tensors, plan.threads)
    tables.lines.append(
        f"const tvmconv_plan tvmconv_model_plan = {{{plan.arena_bytes}u, {WEIGHTS_SYMBOL}, "
        f"{METADATA_SYMBOL}, {inputs}, {outputs}, {steps}, {', '.join(map(str, counts))}}};"
    )
    return _HEADER + "\n".join(tables.lines) + "\n"
