"""``python -m tests.onnx_backend_table [GLOB…]``: what becomes of ONNX's tests of backends."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import onnx_backend
from tests.onnx_backend import Case, Outcome, cases, data_of, fault

#: Families by their ONNX operators; a case belongs to the first of which its model has one.
FAMILIES: Mapping[str, str] = {
    "quantised": "ConvInteger QLinearConv QLinearMatMul MatMulInteger QuantizeLinear "
    "DequantizeLinear DynamicQuantizeLinear",
    "convolution": "Conv",
    "transposed convolution": "ConvTranspose",
    "deformable convolution": "DeformConv",
    "max and average pooling": "MaxPool AveragePool GlobalMaxPool GlobalAveragePool",
    "Lp pooling": "LpPool GlobalLpPool",
    "unpooling": "MaxUnpool",
    "resizing": "Resize Upsample",
    "padding": "Pad",
    "batch normalisation": "BatchNormalization",
    "other normalisation": "InstanceNormalization GroupNormalization LayerNormalization LRN "
    "MeanVarianceNormalization RMSNormalization LpNormalization",
    "matrix products": "Gemm MatMul",
    "reductions": "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceSumSquare",
    "arg max and min": "ArgMax ArgMin",
    "activations": "Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Mish Gelu "
    "PRelu ThresholdedRelu Softplus Softsign Tanh Softmax LogSoftmax Hardmax Clip Shrink Dropout",
    "shapes": "Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Concat Expand Tile "
    "DepthToSpace SpaceToDepth Identity Shape Size Constant ConstantOfShape Range Gather "
    "CenterCropPad",
    "element types": "Cast CastLike BitCast",
    "elementwise": "Add Sub Mul Div Mod Pow Sum Mean Max Min Abs Neg Exp Log Sqrt Reciprocal Erf "
    "Floor Ceil Round Sign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Less LessOrEqual "
    "Greater GreaterOrEqual Equal And Or Xor Not IsNaN IsInf Where BitShift BitwiseAnd BitwiseOr "
    "BitwiseXor BitwiseNot",
}


def family(name: str, case: Case) -> str:
    """The family of a case; operators written out as functions are one of their own."""
    if name.startswith("real/"):
        return "whole networks"
    if name.startswith("function/"):
        return "functions written out"
    model, _ = data_of(case)
    found = {node.op_type for node in model.graph.node}
    return next((f for f, names in FAMILIES.items() if found & set(names.split())), "the rest")


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """Passed, refused and wrong cases by family."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, outcome in outcomes.items():
        counts[family(name, cases()[name])][outcome.result] += 1
    result = Table(title="onnx.backend.test")
    for column in ("family", "passed", "refused", "wrong"):
        result.add_column(column, justify="left" if column == "family" else "right")
    order = ["whole networks", *FAMILIES, "functions written out", "the rest"]
    total: Counter[str] = Counter()
    for name in sorted(counts, key=order.index):
        _add(result, name, counts[name])
        total.update(counts[name])
    result.add_section()
    _add(result, "all", total)
    return result


def _add(result: Table, name: str, counts: Counter[str]) -> None:
    wrong = counts["wrong"] + counts["crashed"]
    result.add_row(name, *(str(n) for n in (counts["passed"], counts["refused"], wrong)))


def main(arguments: Sequence[str]) -> int:
    """Run the cases that match; ``--json FILE`` writes their outcomes."""
    globs = list(arguments)
    file = None
    if "--json" in globs:
        place = globs.index("--json")
        file = Path(globs[place + 1])
        del globs[place : place + 2]
    names = [n for n in cases() if not globs or any(fnmatchcase(n, glob) for glob in globs)]
    start = time.perf_counter()
    with onnx_backend.running(names) as futures:
        outcomes = {name: future.result() for name, future in futures.items()}
    console = Console()
    for name, outcome in outcomes.items():
        if message := fault(name, outcome):
            console.print(f"{name}: {message}", markup=False, highlight=False)
    console.print(table(outcomes))
    console.print(f"{len(names)} cases in {time.perf_counter() - start:.0f} s")
    if file is not None:
        file.write_text(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}))
    return int(any(fault(name, outcome) for name, outcome in outcomes.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
