"""Target files, their validation, and the detection of the host."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import cpu_targets
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.host import _FLAGS, cache_sizes, detect, match_target, parse_cpuinfo
from tvmconv.records import to_toml
from tvmconv.target import Target, from_dict, load_file, load_target, target_files, targets

BASE = "fpu cx8 cmov mmx fxsr sse sse2 lm nopl"
V2 = f"{BASE} cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN3 = (
    f"{V3} adx aes clflushopt clwb clzero fsgsbase fsrm invpcid mwaitx pclmulqdq pku 3dnowprefetch"
    " rdpid rdpru rdrand rdseed sha_ni sse4a vaes vpclmulqdq wbnoinvd xsavec xsaveopt xsaves"
)
ZEN4 = (
    f"{V4} {ZEN3} avx512_bf16 avx512_bitalg avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni"
    " avx512_vpopcntdq gfni user_shstk"
)
ZEN5 = f"{ZEN4} avx512_vp2intersect avx_vnni movdir64b movdiri"
# The flags of an EPYC 9005 as a guest sees them: pku, movdiri and some more are hidden.
ZEN5_GUEST = " ".join(
    flag
    for flag in ZEN5.split()
    if flag
    not in ("movdir64b", "movdiri", "mwaitx", "pku", "rdpru", "rdseed", "user_shstk", "wbnoinvd")
)

#: CPU → (vendor, family, model, flags, the target it is, what is switched off)
CPUS: dict[str, tuple[str, int, int, str, str, tuple[str, ...]]] = {
    "EPYC 7763": ("AuthenticAMD", 25, 1, ZEN3, "znver3", ()),
    "Ryzen 5800X": ("AuthenticAMD", 25, 33, ZEN3, "znver3", ()),
    "EPYC 9654": ("AuthenticAMD", 25, 17, ZEN4, "znver4", ()),
    "Ryzen 7950X": ("AuthenticAMD", 25, 97, ZEN4, "znver4", ()),
    "EPYC 9755": ("AuthenticAMD", 26, 2, ZEN5, "znver5", ()),
    "EPYC 9755 guest": (
        "AuthenticAMD", 26, 2, ZEN5_GUEST, "znver5",
        ("-movdir64b", "-movdiri", "-mwaitx", "-pku", "-rdpru", "-rdseed", "-shstk", "-wbnoinvd"),
    ),
    "Zen 5 with a 256-bit vector unit": ("AuthenticAMD", 26, 36, ZEN5, "x86-64-v4", ()),
    "Zen 4 without AVX-512": ("AuthenticAMD", 25, 17, ZEN3, "x86-64-v3", ()),
    "Zen 3 without AVX": ("AuthenticAMD", 25, 1, V2, "x86-64-v2", ()),
    "Zen 2": ("AuthenticAMD", 23, 49, V3, "x86-64-v3", ()),
    "Xeon 6130": (
        "GenuineIntel", 6, 85,
        f"{V4} adx aes clflushopt clwb erms fsgsbase invpcid pclmulqdq pku 3dnowprefetch rdrand"
        " rdseed xsavec xsaveopt xsaves",
        "skylake-avx512", (),
    ),
    "Sapphire Rapids": ("GenuineIntel", 6, 143, f"{V4} amx_tile avx512_fp16", "x86-64-v4", ()),
    "Haswell": ("GenuineIntel", 6, 60, V3, "x86-64-v3", ()),
    "AVX-512 F alone": ("GenuineIntel", 6, 87, f"{V3} avx512f avx512cd", "x86-64-v3", ()),
    "Sandy Bridge": ("GenuineIntel", 6, 42, f"{V2} avx xsave", "x86-64-v2", ()),
    "QEMU's model of Zen 3 with few flags": ("AuthenticAMD", 25, 1, f"{V3} aes", "znver3", (
        "-adx", "-clflushopt", "-clwb", "-clzero", "-fsgsbase", "-fsrm", "-invpcid", "-mwaitx",
        "-pclmul", "-pku", "-prfchw", "-rdpid", "-rdpru", "-rdrnd", "-rdseed", "-sha", "-sse4a",
        "-vaes", "-vpclmulqdq", "-wbnoinvd", "-xsavec", "-xsaveopt", "-xsaves",
    )),
}  # fmt: skip


def cpuinfo(vendor: str, family: int, model: int, flags: str, name: str = "a CPU") -> str:
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\nflags\t\t: {flags}\npower management:\n\n"
    )


@pytest.mark.parametrize("path", target_files(), ids=lambda path: path.stem)
def test_file_describes_a_target_of_its_name(path: Path) -> None:
    target = load_file(path)
    assert target.name == path.stem
    if target.is_gpu:
        return
    caches = target.caches
    assert caches.l1_bytes < caches.l2_bytes < (caches.l3_bytes or math.inf)
    assert (
        caches.l1_bytes_per_cycle
        >= caches.l2_bytes_per_cycle
        >= caches.l3_bytes_per_cycle
        >= caches.dram_bytes_per_cycle
    )
    assert caches.l1_bytes_per_cycle == target.vector.loads_per_cycle * target.vector.bits / 8
    if target.arch == "x86_64":
        assert target.layout.channel_block * 4 == caches.line_bytes


def test_names_and_aliases_are_unique() -> None:
    names = [name for t in targets().values() for name in (t.name, *t.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("target", cpu_targets(), ids=lambda t: t.name)
def test_every_number_has_its_source(target: Target, repository: Path) -> None:
    text = (repository / "targets" / f"{target.name}.toml").read_text(encoding="utf-8")
    body = text[text.index("[vector]") : text.index("[layout]")]
    numbers = [line for line in body.splitlines() if " = " in line]
    known = ("bits", "line_bytes")  # what the instruction set says, and every x86
    optional = ("lane_operand", "issue_width", "prefetch_cycles")
    assert len([n for n in numbers if not n.startswith(optional)]) == 15
    assert [n for n in numbers if "#" not in n and not n.startswith(known)] == []


def test_llvm_target() -> None:
    assert load_target("zen3").llvm_target() == {
        "kind": "llvm",
        "mtriple": "x86_64-unknown-linux-gnu",
        "mcpu": "znver3",
        "mattr": [],
        "num-cores": 8,
        "opt-level": 3,
    }


def test_zig_spells_features_with_underscores() -> None:
    assert load_target("skx").zig_mcpu == "skylake_avx512-prefer_256_bit"
    assert load_target("avx2").zig_mcpu == "x86_64_v3"


def test_round_trip_through_toml(tmp_path: Path) -> None:
    for target in targets().values():
        path = tmp_path / "copy.toml"
        path.write_text(to_toml(target.to_dict()), encoding="utf-8")
        assert load_file(path).to_dict() == target.to_dict()
        assert load_target(str(path)).to_dict() == target.to_dict()


def test_toml_strings_are_escaped(tmp_path: Path) -> None:
    table = load_target("znver3").to_dict() | {"description": 'a "b" \\ \n\t\x00\x7f é 😀'}
    path = tmp_path / "odd.toml"
    path.write_text(to_toml(table), encoding="utf-8")
    assert load_file(path).description == table["description"]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(table: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            table = table[key]
        table[last] = value

    return edit


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def edit(table: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            table = table[key]
        del table[last]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("cores"), "cores: is missing"),
        (drop("vector.registers"), "vector.registers: is missing"),
        (drop("caches"), "caches: is missing"),
        (change("vector.register", 16), "vector.register: unknown key; did you mean registers?"),
        (change("colour", "red"), "colour: unknown key"),
        (change("cores", 0), "cores: must be positive"),
        (change("cores", 2.5), "cores: 2.5 is not of type int"),
        (change("cores", True), "cores: True is not of type int"),
        (change("cores", "8"), "cores: '8' is not of type int"),
        (change("frequency_ghz", -1), "frequency_ghz: must be positive"),
        (change("name", "Zen 3"), "name: 'Zen 3' is not lower-case"),
        (change("aliases", ["host"]), "name: 'host' is what detection is called"),
        (change("aliases", "zen3"), "aliases: 'zen3' is not a list"),
        (change("aliases", [3]), "aliases: 3 is not of type str"),
        (change("llvm", "znver3"), "llvm: must be a table"),
        (change("llvm.triple", "aarch64-linux-gnu"), "llvm.triple: 'aarch64-linux-gnu' does not"),
        (change("zig.triple", "aarch64-linux-gnu"), "zig.triple: 'aarch64-linux-gnu' does not"),
        (change("llvm.features", ["avx2"]), "llvm.features: 'avx2' needs + or -"),
        (change("llvm.opt_level", 4), "llvm.opt_level: 4 is not 0 to 3"),
        (change("vector.bits", 192), "vector.bits: 192 is no power of 2"),
        (change("vector.fma_per_cycle", 0), "vector.fma_per_cycle: must be positive"),
        (change("vector.embedded_broadcast", 1), "vector.embedded_broadcast: 1 is not of"),
        (change("caches.l2_bytes", 0), "caches.l2_bytes: must be >= 1"),
        (change("caches.l3_bytes", -1), "caches.l3_bytes: must be >= 0"),
        (change("layout.channel_block", 12), "layout.channel_block: 12 is no multiple of the 8"),
        (change("match", {"vendor": "X"}), "match: needs either flags, or level"),
        (change("match", {"flags": ["avx"], "vendor": "X"}), "match: needs either flags, or level"),
    ],
)  # fmt: skip
def test_wrong_table_is_refused(edit: Callable[[dict[str, Any]], None], message: str) -> None:
    table = copy.deepcopy(load_target("znver3").to_dict())
    edit(table)
    with pytest.raises(InputError) as caught:
        from_dict(table, "my.toml")
    assert str(caught.value).startswith(f"my.toml: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "not a TOML file"),
        (b"\xff\xfe", "not a TOML file"),
        (b"a = " + b"[" * 100_000, "not a TOML file"),
        (b"", "name: is missing"),
    ],
    ids=["cut", "not UTF-8", "deep", "empty"],
)
def test_wrong_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_target(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_target("./nosuch.toml")
    with pytest.raises(InputError, match="Is a directory"):
        load_target(tmp_path)


def test_unknown_name_has_suggestions() -> None:
    with pytest.raises(InputError, match=r"unknown target 'znver33'; did you mean znver3"):
        load_target("znver33")
    with pytest.raises(InputError, match="`tvmconv targets` lists them"):
        load_target("q")


@pytest.mark.parametrize("name", CPUS)
def test_detects(name: str) -> None:
    *what, expected, off = CPUS[name]
    target = match_target(parse_cpuinfo(cpuinfo(*what)))  # type: ignore[arg-type]
    assert target.name == expected
    assert target.llvm.features == load_target(expected).llvm.features + off


@pytest.fixture(scope="module")
def llvm_features() -> Callable[..., set[str]]:
    from tvmconv._tvm import tvm

    def features(cpu: str, triple: str = "x86_64-unknown-linux-gnu") -> set[str]:
        target = {"kind": "llvm", "mcpu": cpu, "mtriple": triple}
        known = tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target(target))
        return {str(feature) for feature in known}

    return features


#: What LLVM lists as features of a CPU but are its tuning, or part of every x86-64.
NO_ISA = {
    "64bit", "64bit-mode", "allow-light-256-bit", "branchfusion", "cmov", "crc32", "cx8", "fxsr",
    "idivq-to-divl", "macrofusion", "mmx", "nopl", "sbb-dep-breaking", "sse", "sse2", "vzeroupper",
    "x87",
}  # fmt: skip
TUNING = ("false-", "fast-", "faster-", "no-bypass-", "prefer-", "slow-", "tuning-")


@pytest.mark.parametrize("name", CPUS)
def test_names_no_instruction_that_the_cpu_lacks(
    name: str, llvm_features: Callable[[str], set[str]]
) -> None:
    *what, _, _ = CPUS[name]
    cpu = parse_cpuinfo(cpuinfo(*what))  # type: ignore[arg-type]
    llvm = match_target(cpu).llvm
    enabled = llvm_features(llvm.cpu) - {f[1:] for f in llvm.features if f[0] == "-"} - NO_ISA
    assert cpu.lacking(f for f in enabled if not f.startswith(TUNING)) == []


def test_llvm_knows_every_cpu(llvm_features: Callable[..., set[str]]) -> None:
    from tvmconv._tvm import tvm

    for target in targets().values():
        assert tvm.target.codegen.llvm_is_valid_cpu(target.llvm.cpu, target.llvm.triple)
        if target.match:
            level = target.match.level or target.name
            required = targets()[level].match
            assert required is not None
            assert {*required.flags, *target.match.extra} <= llvm_features(
                target.llvm.cpu, target.llvm.triple
            )


def test_flag_names_are_those_of_features_in_use() -> None:
    matches = [target.match for target in targets().values() if target.match]
    used = {feature for match in matches for feature in (*match.flags, *match.extra)}
    assert set(_FLAGS) <= used


def test_cpu_without_sse42_is_refused() -> None:
    cpu = parse_cpuinfo(cpuinfo("GenuineIntel", 6, 23, f"{BASE} pni ssse3", "Core 2"))
    with pytest.raises(EnvironmentError_, match=r"Core 2\) lacks .*sse4.2.* x86-64-v2 needs"):
        match_target(cpu)


def test_cores_that_differ_count_with_what_they_share() -> None:
    text = cpuinfo("GenuineIntel", 6, 151, V4) + cpuinfo("GenuineIntel", 6, 151, V3)
    assert match_target(parse_cpuinfo(text)).name == "x86-64-v3"


V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp"
V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
#: Board -> (Features, CPU architecture, implementer, parts, the target, what is switched off)
ARM_CPUS: dict[str, tuple[str, int, int, tuple[int, ...], str, tuple[str, ...]]] = {
    "Raspberry Pi 5": (V82, 8, 0x41, (0xD0B,) * 4, "cortex-a76", ()),
    "Raspberry Pi 4": (
        "fp asimd evtstrm crc32 cpuid", 8, 0x41, (0xD08,) * 4, "cortex-a72", ("-aes", "-sha2"),
    ),
    "Raspberry Pi 3": (
        "fp asimd evtstrm crc32 cpuid", 8, 0x41, (0xD03,) * 4, "cortex-a53", ("-aes", "-sha2"),
    ),
    "Raspberry Pi 2": (V7, 7, 0x41, (0xC07,) * 4, "cortex-a7", ()),
    "Raspberry Pi 4, 32-bit system": (f"{V7} crc32", 7, 0x41, (0xD08,) * 4, "cortex-a7", ()),
    "RK3588, large cores last": (
        V82, 8, 0x41, (0xD05,) * 4 + (0xD0B,) * 4, "cortex-a76", (),
    ),
    "Graviton2": (f"{V82} ssbs", 8, 0x41, (0xD0C,) * 2, "neoverse-n1", ()),
    "Graviton3": (f"{V82} sve bf16 i8mm", 8, 0x41, (0xD40,) * 2, "neoverse-v1", ()),
    "Graviton3, SVE hidden": (f"{V82} bf16 i8mm", 8, 0x41, (0xD40,) * 2, "neoverse-v1", ("-sve",)),
    "M1 with Linux": (V82, 8, 0x61, (0x22, 0x23), "apple-m1", ()),
    "ThunderX2": (V82, 8, 0x43, (0xAF,) * 2, "aarch64", ()),
}  # fmt: skip


def arm_cpuinfo(flags: str, arch: int, implementer: int, parts: tuple[int, ...]) -> str:
    """As Linux writes it; 32-bit kernels add the board at the end."""
    return (
        "".join(
            f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {flags}\n"
            f"CPU implementer\t: {implementer:#x}\nCPU architecture: {arch}\nCPU variant\t: 0x0\n"
            f"CPU part\t: {part:#05x}\nCPU revision\t: 3\n\n"
            for number, part in enumerate(parts)
        )
        + "Hardware\t: BCM2835\nRevision\t: c03111\n"
    )


@pytest.mark.parametrize("name", ARM_CPUS)
def test_arm_cpus(name: str) -> None:
    flags, arch, implementer, parts, expected, off = ARM_CPUS[name]
    target = match_target(parse_cpuinfo(arm_cpuinfo(flags, arch, implementer, parts)))
    assert target.name == expected
    assert target.llvm.features == targets()[expected].llvm.features + off


def test_arm_without_neon_is_refused() -> None:
    cpu = parse_cpuinfo(arm_cpuinfo("half thumb vfp edsp", 7, 0x41, (0xC09,)))
    with pytest.raises(EnvironmentError_, match="lacks neon vfp4, which cortex-a7 needs"):
        match_target(cpu)


def test_libc() -> None:
    triples = {
        "cortex-a72": "aarch64-linux-musl", "cortex-a7": "arm-linux-musleabihf",
        "riscv64": "riscv64-linux-musl", "znver3": "x86_64-linux-musl",
    }  # fmt: skip
    for name, triple in triples.items():
        target = load_target(name)
        assert target.with_libc("musl").zig.triple == triple
        assert target.with_libc("gnu") == target.with_libc(None) == target
    with pytest.raises(InputError, match="libc 'bionic' cannot replace"):
        load_target("cortex-a72").with_libc("bionic")


@pytest.mark.parametrize("text", ["", "\n\n", "flags", "processor: 0\nflags: sse"])
def test_other_cpuinfo_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentError_, match="name one with --target"):
        parse_cpuinfo(text)


def test_cpuinfo_with_odd_numbers_gives_a_level() -> None:
    text = cpuinfo("AuthenticAMD", 25, 1, V3).replace(": 25", ": unknown")
    assert match_target(parse_cpuinfo(text)).name == "x86-64-v3"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Make four CPUs, two hyper-threads a core, with 48 KiB, 2 MiB and no level 3."""
    for cpu in range(4):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}"
        caches = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
        for index, (level, kind, size) in enumerate(caches):
            cache = folder / f"cache/index{index}"
            cache.mkdir(parents=True)
            for name, value in (("level", level), ("type", kind), ("size", size)):
                (cache / name).write_text(f"{value}\n")
        (folder / "topology").mkdir()
        (folder / "topology/thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cpus", "cores"),
    [
        ("", [0, 1, 2, 3], 2),
        ("", [0, 2], 1),
        ("", [1], 1),
        ("max 100000", [0, 1], 2),
        ("50000 100000", [0, 1], 1),
        ("150000 100000", [0, 1], 2),
        ("0 0", [0, 1], 2),
    ],
)
def test_counts_cores(sysfs: Path, quota: str, cpus: list[int], cores: int) -> None:
    file = sysfs / "cpuinfo"
    file.write_text(cpuinfo("AuthenticAMD", 25, 1, ZEN3, "EPYC"))
    if quota:
        (sysfs / "fs/cgroup").mkdir(parents=True)
        (sysfs / "fs/cgroup/cpu.max").write_text(quota)
    target = detect(file, sysfs, cpus)
    assert target.cores == cores
    assert target.name == "znver3"
    assert "EPYC" in target.description


def test_reads_cache_sizes(sysfs: Path) -> None:
    assert cache_sizes(sysfs, 0) == {"l1_bytes": 48 << 10, "l2_bytes": 2 << 20}
    assert cache_sizes(sysfs, 9) == {}


@pytest.mark.parametrize("size", ["", "K", "0K", "many", "-1K", "48"])
def test_odd_cache_size_is_left_out(sysfs: Path, size: str) -> None:
    (sysfs / "devices/system/cpu/cpu0/cache/index0/size").write_text(size)
    assert cache_sizes(sysfs, 0) == {"l2_bytes": 2 << 20}


def test_detect_without_cpuinfo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError_, match=r"cannot detect the host.*--target"):
        detect(tmp_path / "cpuinfo")


def test_detected_host_reads_back(tmp_path: Path) -> None:
    host = load_target("host")
    path = tmp_path / "this.toml"
    path.write_text(to_toml(host.to_dict()), encoding="utf-8")
    assert load_target(path) == host
