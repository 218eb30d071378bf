"""The only door to TVM: checks the pinned versions, imports once, and types everything as Any.

TVM ships no type information, so its names pass through here as ``Any``; the rest of the package
stays under ``mypy --strict``. Importing this module costs a second; command-line start-up, argument
errors and model validation never do.
"""

from __future__ import annotations

from typing import Any

from tvmconv.versions import require_tvm

require_tvm()

import tvm as _tvm  # noqa: E402
import tvm.s_tir as _s_tir  # noqa: E402
import tvm.sym as _sym  # noqa: E402
import tvm.tirx as _tirx  # noqa: E402
import tvm_ffi as _tvm_ffi  # noqa: E402
from tvm import relax as _relax  # noqa: E402
from tvm import te as _te  # noqa: E402
from tvm.s_tir import stmt as _s_tir_stmt  # noqa: E402

tvm: Any = _tvm
te: Any = _te
tirx: Any = _tirx
s_tir: Any = _s_tir
s_tir_stmt: Any = _s_tir_stmt
sym: Any = _sym
relax: Any = _relax
tvm_ffi: Any = _tvm_ffi

#: An object of TVM's: a PrimFunc, a Tensor, a Schedule, an expression.
TVMObject = Any
