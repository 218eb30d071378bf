"""Hostile models: small files that ask for a lot, and files with wrong bytes; nothing crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from tests.onnx_models import ints, net, normal
from tvmconv.errors import InputError
from tvmconv.frontend import load

W = normal(6, 3, 3, 3)


def test_every_truncation_is_refused_or_a_model() -> None:
    good = net("y = Conv(x, w);", w=W).SerializeToString()
    for length in range(1, len(good), 7):
        try:
            load(good[:length])
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_flipped_bytes_never_crash() -> None:
    good = net("c = Conv<strides=[1,1]>(x, w); y = Relu(c);", w=W).SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            spoilt[place] = rng.integers(0, 256)
        try:
            load(bytes(spoilt))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def hostile() -> dict[str, onnx.ModelProto]:
    """Models of a few bytes that ask for a lot."""
    big = ints(2**20, 2**20)
    gib = ints(2**28)
    x = "float[1] x"
    many = "".join(f"a{i} = Neg(x); " for i in range(50_001))
    deep = "a0 = Relu(x); " + "".join(f"a{i + 1} = Relu(a{i}); " for i in range(20_000))
    doubling = "a0 = Relu(x); " + "".join(
        f"a{i + 1} = Concat<axis=0>(a{i}, a{i}); " for i in range(64)
    )
    fill = "".join(f"c{i} = ConstantOfShape(n); " for i in range(20))
    total = "t0 = Add(x, c0); " + "".join(f"t{i} = Add(t{i - 1}, c{i}); " for i in range(1, 20))
    return {
        "fill": net("c = ConstantOfShape(n); y = Add(x, c);", inputs=x, n=big),
        "fill negative": net("c = ConstantOfShape(n); y = Add(x, c);", inputs=x, n=ints(-5)),
        "fill many": net(fill + total + "y = Relu(t19);", inputs=x, n=ints(2**26)),
        "expand": net("c = Expand(k, n); y = Add(x, c);", inputs=x, n=big, k=normal(1)),
        "tile": net("c = Tile(k, n); y = Add(x, c);", inputs=x, n=big, k=normal(1, 1)),
        "range": net(
            "c = Range(a, b, d); f = Cast<to=1>(c); y = Add(x, f);",
            inputs=x,
            a=np.array(0, np.int64),
            b=np.array(2**62, np.int64),
            d=np.array(1, np.int64),
        ),
        "range nan": net(
            "c = Range(a, b, d); y = Add(x, c);",
            inputs=x,
            a=np.array(0, np.float32),
            b=np.array(np.inf, np.float32),
            d=np.array(1, np.float32),
        ),
        "gather": net(
            "c = ConstantOfShape(n); i = Cast<to=7>(c); g = Gather(k, i); y = Add(x, g);",
            inputs=x,
            n=ints(2**20),
            k=normal(1, 1000),
        ),
        "outer": net(
            "c = ConstantOfShape(n); u = Unsqueeze<axes=[0]>(c); v = Unsqueeze<axes=[1]>(c);"
            "m = Mul(u, v); y = Add(x, m);",
            inputs=x,
            opset=11,
            n=ints(2**20),
        ),
        "erf": net("c = ConstantOfShape(n); e = Erf(c); y = Add(x, e);", inputs=x, n=ints(2**27)),
        "pad": net("p = Pad(x, n); y = Relu(p);", inputs=x, n=ints(2**40, 2**40)),
        "pad constant": net(
            "p = Pad(k, n); y = Add(x, p);", inputs=x, n=ints(2**40, 0), k=normal(1)
        ),
        "broadcast": net("y = Add(x, k);", inputs="float[2147483647] x", k=normal(2, 1)),
        "doubling": net(doubling + "y = Relu(a64);", inputs=x),
        "nodes": net(many + "y = Relu(a0);", inputs=x),
        "weights": net("c = ConstantOfShape(n); y = Gemm(x, c);", inputs="float[1,4] x", n=big),
        "conv": net("y = Conv(x, w);", inputs="float[1,1,2147483647] x", w=normal(9, 1, 1)),
        "shared": net(
            "w = ConstantOfShape(n); "
            + "".join(f"c{i} = Gemm(x, w); m{i} = Mul(c{i}, k); " for i in range(40))
            + "y = Sum("
            + ", ".join(f"m{i}" for i in range(40))
            + ");",
            inputs="float[1,8192] x",
            n=ints(8192, 8192),
            k=normal(8192),
        ),
        "deep": net(deep + "y = Relu(a20000);", inputs=x),
        "gib": net("c = ConstantOfShape(n); e = Mul(c, c); y = Add(x, e);", inputs=x, n=gib),
        "slice step": net(
            "s = Slice(x, a, b, z, t); y = Relu(s);",
            inputs="float[4] x",
            a=ints(2**63 - 1),
            b=ints(-(2**63)),
            z=ints(0),
            t=ints(-(2**63)),
        ),
    }


#: Those that are no nonsense after all.
FINE = {"deep", "slice step"}

SCRIPT = """
import json, resource, sys, time
from tvmconv.errors import InputError
from tvmconv.frontend import load
results = {}
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        load(path)
        results[path] = ["", time.perf_counter() - start]
    except InputError as error:
        results[path] = [str(error), time.perf_counter() - start]
results["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(results))
"""


def test_hostile_models_take_little_time_and_memory(tmp_path: Path) -> None:
    paths = {}
    for name, model in hostile().items():
        paths[name] = tmp_path / f"{name}.onnx"
        paths[name].write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", SCRIPT, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    results = json.loads(done.stdout)
    assert results.pop("peak") < 2 * 2**30
    for name, path in paths.items():
        message, seconds = results[str(path)]
        assert seconds < 20, name
        assert (message == "") == (name in FINE), (name, message)
        assert "\n" not in message
