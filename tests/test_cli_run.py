"""`tvmconv run`: what it accepts as arrays, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.cli._arrays import file_names, load_inputs, load_npy
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.files import check_output_file, make_output_dir, replacing

SPEC = {"name": "data", "shape": [2, 3], "dtype": "float32"}
FACTS = {
    "inputs": [SPEC, {"name": "a=b", "shape": [2], "dtype": "int64"}],
    "outputs": [{"name": "out/put"}, {"name": "out_put"}],
}
DATA = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def seen(stub: Callable[..., None]) -> dict[str, Any]:
    """Stand in for a compiled file with two inputs and two outputs."""
    seen: dict[str, Any] = {}

    def load(path: Path, threads: int | None) -> Callable[..., list[Any]]:
        seen.update(path=path, threads=threads)

        def run(arrays: dict[str, Any]) -> list[Any]:
            seen["arrays"] = arrays
            return [arrays["data"] * 2, arrays["a=b"]]

        return run

    stub("tvmconv.runtime.inspect", inspect_artifact=lambda path: FACTS)
    stub("tvmconv.runtime.loader", load=load)
    return seen


def test_run(tvmconv: Callable[..., Any], seen: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(DATA))
    np.save(tmp_path / "b.npy", np.array([7, 9]))
    folder = tmp_path / "out"
    result = tvmconv(
        *("run", "m.so", "--threads", 2, "--output-dir", folder),
        *("--input", f"data={tmp_path}/x.npy", "--input", f"a=b={tmp_path}/b.npy"),
    )
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0].split() == [
        *("output", "dtype", "shape", "min", "mean", "max", "file")
    ]
    assert result.out.splitlines()[1].split()[:6] == [
        *("out/put", "float32", "2x3", "0", "5", "10")
    ]
    assert (seen["path"], seen["threads"]) == (Path("m.so"), 2)
    assert seen["arrays"]["data"].flags.c_contiguous
    assert sorted(path.name for path in folder.iterdir()) == ["out_put.npy", "out_put_2.npy"]
    np.testing.assert_array_equal(np.load(folder / "out_put.npy"), DATA * 2)
    np.testing.assert_array_equal(np.load(folder / "out_put_2.npy"), [7, 9])


def test_run_with_random_inputs(tvmconv: Callable[..., Any], seen: dict[str, Any]) -> None:
    first = json.loads(tvmconv("run", "m.so", "--seed", 5, "--json").out)
    assert json.loads(tvmconv("run", "m.so", "--seed", 5, "--json").out) == first
    assert json.loads(tvmconv("run", "m.so", "--seed", 6, "--json").out) != first
    assert {name: (a.shape, a.dtype) for name, a in seen["arrays"].items()} == {
        "data": ((2, 3), np.float32),
        "a=b": ((2,), np.int64),
    }


@pytest.mark.usefixtures("seen")
def test_run_without_inputs_lists_them(tvmconv: Callable[..., Any]) -> None:
    result = tvmconv("run", "m.so")
    assert result.code == 2
    assert result.err == (
        "tvmconv: m.so: needs --input NAME=x.npy (or --seed) for "
        "data (float32 2x3), a=b (int64 2)\n"
    )


def test_unknown_input_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m.so: no input is named 'dato'; did you mean data\?"):
        load_inputs("m.so", [SPEC], {"dato": tmp_path}, 0)
    with pytest.raises(InputError, match=r"no input is named 'q'; it has data \(float32 2x3\)"):
        load_inputs("m.so", [SPEC], {"q": tmp_path}, 0)


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy file of numbers"),
        (b"\x93NUMPY", "not a .npy file of numbers"),
        (b"no array at all", "not a .npy file of numbers"),
        (header("(2, 3)") + b"\0" * 23, "not a .npy file of numbers"),
        (header("(2, 1000000000000)"), "not a .npy file of numbers"),
        (header("(-2, 3)") + b"\0" * 24, "x.npy: "),
        (header("(2, 3") + b"\0" * 24, "not a .npy file of numbers"),
        (header("(2, 3)", "'|O'") + b"\0" * 48, "not a .npy file of numbers"),
        (header("(3, 2)") + b"\0" * 24, r"holds float32 \(3, 2\), but input 'data' takes float32"),
        (header("(2, 3)", "'<f8'") + b"\0" * 48, r"holds float64 \(2, 3\)"),
        (header("(2, 3)", "'>f4'") + b"\0" * 24, r"holds >f4 \(2, 3\)"),
        (header("()") + b"\0" * 4, r"holds float32 \(\)"),
    ],
    ids=range(12),
)
def test_wrong_npy_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_npy(path, SPEC)
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "x.npz"
    np.savez(archive, data=DATA)
    with pytest.raises(InputError, match=r"an \.npz archive"):
        load_npy(archive, SPEC)
    with pytest.raises(InputError, match="no such file"):
        load_npy(tmp_path / "nosuch.npy", SPEC)
    with pytest.raises(InputError, match="no such file"):
        load_npy(tmp_path, SPEC)
    pickled = tmp_path / "p.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a \.npy file of numbers"):
        load_npy(pickled, SPEC)


def test_names_of_outputs_become_names_of_files() -> None:
    names = ["a/b", "a:b", "A_B", "../etc", "", "\0", "é" * 300]
    files = file_names(names)
    assert files[:4] == ["a_b.npy", "a_b_2.npy", "A_B_3.npy", "_etc.npy"]
    assert len({file.lower() for file in files}) == len(names)
    assert all("/" not in file and not file.startswith(".") and len(file) < 120 for file in files)


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f.txt", "old")]
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f.txt", "new")]


def test_failed_write_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    with pytest.raises(EnvironmentError_, match=r"f\.txt: No such file"), replacing(path):
        pass  # the block made no file


def test_output_checks(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    check_output_file(file)
    check_output_file(tmp_path / "new")
    make_output_dir(tmp_path)
    make_output_dir(tmp_path / "a" / "b")
    with pytest.raises(InputError, match="is a directory"):
        check_output_file(tmp_path)
    with pytest.raises(InputError, match="is not a directory"):
        check_output_file(file / "g")
    with pytest.raises(InputError, match="is not a directory"):
        make_output_dir(file)
    with pytest.raises(InputError, match="is not a directory"):
        make_output_dir(file / "g")
    with pytest.raises(EnvironmentError_, match="/proc/g"):
        make_output_dir(Path("/proc/g"))
    with pytest.raises(EnvironmentError_, match="cannot be written"):
        check_output_file(Path("/proc/g"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "f"]


def test_compiled_file_from_end_to_end(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    file, folder = tmp_path / "pool.so", tmp_path / "out"
    compiled = tvmconv("compile", "max_pool2d:1x2x4x4:2x2:stride=2", "-o", file)
    assert (compiled.code, compiled.err) == (0, "")
    facts = json.loads(tvmconv("inspect", file, "--json").out)
    assert [(p["name"], p["shape"], p["dtype"]) for p in facts["inputs"]] == [
        ("x", [1, 2, 4, 4], "float32")
    ]
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    np.save(tmp_path / "x.npy", x)
    ran = tvmconv("run", file, "--input", f"x={tmp_path}/x.npy", "--output-dir", folder)
    assert (ran.code, ran.err) == (0, "")
    (output,) = folder.iterdir()
    np.testing.assert_array_equal(np.load(output), x[:, :, 1::2, 1::2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pool.so", "x.npy"]
    np.save(tmp_path / "x.npy", x[:, :1])
    wrong = tvmconv("run", file, "--input", f"x={tmp_path}/x.npy")
    assert wrong.code == 2
    assert "holds float32 (1, 1, 4, 4), but input 'x' takes float32 (1, 2, 4, 4)" in wrong.err
