#!/usr/bin/env python3
"""A static model of decode on cards that nobody here has: machine code of the build, instruction by instruction, against tables of what a card does.

    test/gpu/timing/model.py [BUILD] [--write]    BUILD: build; needs its kernels and cuobjdump (CUDA toolkit, or PyPI's triton)

Every time is held against predicted.tsv beside this file, which --write makes anew: one that is more than 5% longer than there
fails, in builds by the compiler that the table is of.

For every kernel of a decode step of an 8B model with 16-bit weights and each cache format: the predicted time of a launch, its largest term, and
the share of the time that its bytes alone would take. Terms of a launch:
  memory   bytes of weights or pages / bandwidth that streams reach
  PIPE     cycles that the instructions of the busiest multiprocessor's warps take of a pipe, four sub-cores sharing the work
  warp     one warp alone, by the control words of its instructions (stalls, barriers, latencies), times the waves of blocks
The estimate is the 4-norm of the three plus the memory's latency; launches follow each other in a graph at a fixed cost.

What it is worth: nothing is fitted, and no card has confirmed it. Both sides of a branch are counted, so pipes and warp are upper bounds for the
gemv, whose loop asks for the type of x. Costs and latencies are published measurements (CUDA's guide, RRZE-HPC/gpu-benches on A40 and L40,
microbenchmarks of a 3090 and a 4090); f32-accumulating tensor products run at half rate on GeForce cards. An unknown opcode is an error."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[3]))
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);\s+/\* (0x[0-9a-f]+) \*/")
SECOND = re.compile(r"^\s+/\* (0x[0-9a-f]{16}) \*/")

# SMs, GHz, DRAM GB/s (what the published decode of a BF16 8B by llama.cpp takes: 58.3 and 65.2 tokens of 15 GB a second), DRAM latency (clocks), cycles of HMMA.16816.F32 per sub-core, launch inside a graph (us), architecture
CARDS = {
    "rtx3090": dict(sms=82, ghz=1.75, gbps=875.0, dram=470, hmma=32.0, launch=1.5, arch=86),
    "rtx4090": dict(sms=128, ghz=2.6, gbps=980.0, dram=625, hmma=32.0, launch=1.3, arch=89),
}
ALU = set("LOP3 IADD3 SHF PRMT LEA ISETP SEL FSEL FMNMX FSETP MOV IMNMX F2FP I2FP PLOP3 CS2R P2R R2P BMSK IABS VOTE NOP".split())
UNIFORM = set("UMOV UIADD3 ULDC UISETP USHF UIMAD ULOP3 USEL ULEA S2UR R2UR UPLOP3".split())
CONTROL = set("BRA EXIT BSSY BSYNC CALL RET BREAK BRX BRXU WARPSYNC BAR DEPBAR LDGDEPBAR YIELD MEMBAR ERRBAR".split())
MEMORY = set("LDG LD STG ST LDS STS LDSM SHFL LDGSTS ATOM ATOMG RED S2R LDC".split())
DOUBLE = set("DADD DMUL DFMA DSETP".split())


def disassembler():
    spec = importlib.util.spec_from_file_location("test_cuda_sass", ROOT / "test/rules/test_cuda_sass.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disassembler()


class Instruction:
    def __init__(self, at, opcode, operands):
        self.at, self.opcode, self.operands = at, opcode, operands
        self.base, self.mods = opcode.split(".")[0], opcode.split(".")[1:]
        self.stall, self.write, self.wait = 1, 7, 0

    def control(self, word):
        bits = word >> 41
        self.stall, self.write, self.wait = bits & 15, bits >> 5 & 7, bits >> 11 & 63

    def bytes(self):
        if self.base == "LDSM":
            return 16
        return 16 if "128" in self.mods else 8 if "64" in self.mods else 4

    def pipe(self, card):
        """(pipe, cycles of a sub-core)"""
        if self.base in ("FADD", "FMUL", "FFMA"):
            return "fp32", 1.0
        if self.base in ("IMAD", "HADD2", "HMUL2", "HFMA2", "IDP"):
            return "fma", 2.0
        if self.base in ALU:
            return "alu", 2.0
        if self.base in ("MUFU", "I2F", "F2I", "F2F", "FCHK", "MOVM", "POPC", "FLO"):
            return "xu", 8.0
        if self.base == "HMMA":
            return "tensor", card["hmma"]
        if self.base == "IMMA":
            return "tensor", card["hmma"] / 2
        if self.base in MEMORY:
            return "lsu", {"SHFL": 4.0, "S2R": 2.0, "LDC": 2.0}.get(self.base, float(self.bytes()))
        if self.base in UNIFORM or self.base.startswith("U"):
            return "uniform", 2.0
        if self.base in CONTROL:
            return "control", 2.0
        if self.base in DOUBLE:
            return "fp64", 64.0
        raise SystemExit(f"unknown opcode {self.opcode}: the tables of {Path(__file__).name} lack it")

    def latency(self, card):
        if self.base in ("LDG", "LD"):
            return card["dram"] if "CONSTANT" in self.mods or "NA" in self.mods else 33
        if self.base == "LDGSTS":
            return card["dram"]
        return {"LDS": 30, "LDSM": 33, "SHFL": 24, "MUFU": 23, "MOVM": 20, "I2F": 20, "F2I": 20, "LDC": 28, "S2R": 28}.get(self.base, 14)


def read(tool, image):
    """kernel -> instructions"""
    run = subprocess.run([tool, "-sass", str(image)], capture_output=True, text=True, check=True)
    kernels, name = {}, None
    for line in run.stdout.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            name = match[1]
            kernels[name] = []
        elif match := LINE.match(line):
            kernels[name].append(Instruction(int(match[1], 16), match[2], match[3]))
        elif (match := SECOND.match(line)) and kernels[name]:
            kernels[name][-1].control(int(match[1], 16))
    return kernels


def loops(code, marks):
    """Backward branches around an instruction of the kinds `marks`, as (first, last) addresses, innermost first."""
    found = []
    for i in code:
        target = re.search(r"0x([0-9a-f]+)", i.operands) if i.base == "BRA" else None
        if target and int(target[1], 16) < i.at:
            first = int(target[1], 16)
            if any(first <= j.at <= i.at and any(j.opcode.startswith(m) for m in marks) for j in code):
                found.append((first, i.at))
    return sorted(found, key=lambda loop: loop[1] - loop[0])


def walk(body, card):
    """(cycles of one warp alone, cycles by pipe) of instructions in a row."""
    now, ready, pipes = 0.0, {}, {"issue": float(len(body))}
    for i in body:
        for k in range(6):
            if i.wait >> k & 1:
                now = max(now, ready.get(k, 0.0))
        pipe, cost = i.pipe(card)
        pipes[pipe] = pipes.get(pipe, 0.0) + cost
        if i.write != 7:
            ready[i.write] = max(ready.get(i.write, 0.0), now + i.latency(card))
        now += max(1, i.stall)
    return now, pipes


def weighted(parts, card):
    """parts: (instructions, times). Sums of walk."""
    total, pipes = 0.0, {}
    for body, times in parts:
        cycles, by = walk(body, card)
        total += cycles * times
        for pipe, n in by.items():
            pipes[pipe] = pipes.get(pipe, 0.0) + n * times
    return total, pipes


def estimate(card, warp, pipes, blocks, warps, per_sm, size):
    """(us, terms by name) of a launch of `blocks` blocks of `warps` equal warps that moves `size` bytes."""
    busiest = -(-blocks // card["sms"])
    clock = card["ghz"] * 1e3
    terms = {pipe: n * busiest * warps / 4 / clock for pipe, n in pipes.items()}
    terms["memory"] = size / card["gbps"] / 1e3
    terms["warp"] = warp * -(-busiest // per_sm) / clock
    largest_pipe = max(v for k, v in terms.items() if k not in ("memory", "warp"))
    return sum(x ** 4 for x in (largest_pipe, terms["memory"], terms["warp"])) ** 0.25 + card["dram"] / clock, terms


def split(code, inner):
    return [i for i in code if inner[0] <= i.at <= inner[1]], [i for i in code if not inner[0] <= i.at <= inner[1]]


def decode_attention(kernels, card, form, depth, n_kv=8, dim=128, rows=1, per_kv=4):
    """rows > 1: a verification. A block has up to four groups of eight columns: its warps share out groups and the four slots of pages (attention_decode.cuh)."""
    code = kernels[f"attn_decode_{form}_d{dim}"]
    found = loops(code, ["HMMA"])
    keys = found[0]
    page, slots = [a for a in found if a != keys and a[0] <= keys[0] and keys[1] <= a[1]][:2]
    in_slots, once = split(code, slots)
    in_page, slot = split(in_slots, page)
    in_keys, rest = split(in_page, keys)
    per_sm = 2 if form in ("f16", "i8") else 3
    splits = max(1, min(per_sm * card["sms"] // n_kv, -(-depth // 128)))
    groups = -(-rows * per_kv // 8)
    share, blocks = (1, 2, 4, 4)[min(groups, 4) - 1], -(-groups // 4)
    pages = -(-depth // 128)
    of_block = -(-pages // splits)
    most = -(-of_block * share // 4)  # pages of the busiest warp
    mean = pages * groups / (splits * blocks * 4)
    warp, _ = weighted([(once, 1), (slot, share), (rest, most), (in_keys, most * dim // 32)], card)
    _, pipes = weighted([(once, 1), (slot, share), (rest, mean), (in_keys, mean * dim / 32)], card)
    record = {"f16": 4 * dim * 128, "i8": 2 * dim * 128 + 6 * 128, "k4v4": dim * 128 + 12 * 128, "k4v2": dim * 96 + 12 * 128}[form]
    return estimate(card, warp, pipes, splits * n_kv * blocks, 4, per_sm, pages * n_kv * record)


def gemv(kernels, card, name, n_out, n_in):
    code = kernels[name]
    # Of the loops that stream weights the longest is the one with several steps in flight.
    body, once = split(code, max(loops(code, ["LDG.E.128.CONSTANT", "LDG.E.NA.128", "LDG.E.128"]), key=lambda a: a[1] - a[0]))
    warp, pipes = weighted([(once, 0.3), (body, n_in / 1024)], card)  # a third of what stands once is for other shapes
    return estimate(card, warp, pipes, -(-n_out // 8), 4, 5, n_out * n_in * 2)


def tile_gemv(kernels, card, name, bits, n_out, n_in, group, subs=False, warps=4):
    """Quantized weights: a block is 16 outputs, its warps take blocks of 256 columns in turn, run by run. The kernel has a loop over runs, two a turn, for
    each way that scales come to a lane; the shortest of the wanted way is taken: of F16 scales and no mins, or subs: of K quants (I2F or loads of 16 bits)."""
    code = kernels[name]
    found = loops(code, ["HMMA"])
    inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in found)]
    outer = next(a for a in loops(code, ["LDGSTS"]) if a[0] <= inner[0][0] and inner[0][1] < a[1])

    def has(loop, what):
        return any(loop[0] <= i.at <= loop[1] and i.opcode.startswith(what) for i in code)

    run = next(a for a in inner if has(a, "LDS.U16") == subs)
    in_outer, once = split(code, outer)
    opened = [a for a in loops(code, ["STS"]) if outer[0] < a[0] and a[1] < min(inner)[0]]  # scales of other kinds, made f32 first
    in_block = [i for i in in_outer if (i.at < min(inner)[0] and not any(a[0] <= i.at <= a[1] for a in opened)) or i.at > max(inner)[1]]
    in_run, _ = split(code, run)
    blocks = n_in / 256 / warps
    warp, pipes = weighted([(once, 0.5), (in_block, blocks), (in_run, blocks * 4)], card)
    size = n_out * n_in * bits / 8 + n_out * n_in / group * 2
    stage = 16 * (256 * bits // 8 + 256 // group * 2)
    shared = warps * (2 * stage + 2 * 64 * max(1, 256 // group) + 1024)
    return estimate(card, warp, pipes, -(-n_out // 16), warps, min(4, 102400 // (shared + 1024)), size)


TABLE = Path(__file__).with_name("predicted.tsv")
WORSE = 1.05


def compiler(build):
    """What made the kernels: nvcc 13.0"""
    cache = (build / "CMakeCache.txt").read_text() if (build / "CMakeCache.txt").exists() else ""
    found = re.search(r"^KVRT_BACKENDS:INTERNAL=.*?kernels by ([^,;]+?)(?:,| for|;|$)", cache, re.M)
    return found[1].strip() if found else "unknown"


def compare(build, said):
    """Problems: times that are worse than those of the table, and rows that it lacks or has too many of."""
    by = compiler(build)
    if "--write" in sys.argv:
        TABLE.write_text(f"# {by}\n" + "".join(f"{key}\t{us:.2f}\n" for key, us in said.items()))
    lines = TABLE.read_text().splitlines()
    if lines[0] != f"# {by}":
        print(f"\nnot compared: {TABLE.name} is of {lines[0][2:]}, the kernels of this build are by {by}")
        return []
    known = {key: float(us) for key, us in (line.rsplit("\t", 1) for line in lines[1:])}
    problems = [f"{key}: not in {TABLE.name} (--write)" for key in said if key not in known]
    problems += [f"{key}: no such kernel or shape any more (--write)" for key in known if key not in said]
    problems += [f"{key}: {us:.2f} us predicted, {known[key]:.2f} in {TABLE.name}: {100 * (us / known[key] - 1):.0f}% worse"
                 for key, us in said.items() if key in known and us > known[key] * WORSE]
    better = [f"{key.replace(chr(9), ' ')}: {known[key]:.2f} -> {us:.2f}" for key, us in said.items() if key in known and us < known[key] / WORSE]
    print(f"\n{len(said)} times held against {TABLE.name}" + "".join(f"\nbetter, {line}" for line in better))
    return problems


def main():
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    build = Path(folders[0] if folders else os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
    tool = disassembler()
    archs = [card["arch"] for card in CARDS.values()] + [86]
    arch = next((a for a in archs if (build / f"cuda/linear.sm_{a}.cubin").exists()), None)
    if not tool or not arch:
        print("skipped: no", "kernels in this build" if tool else "cuobjdump")
        return 77
    problems, said = [], {}
    for name, card in CARDS.items():
        own = card["arch"] if (build / f"cuda/linear.sm_{card['arch']}.cubin").exists() else arch
        kernels = {**read(tool, build / f"cuda/linear.sm_{own}.cubin"), **read(tool, build / f"cuda/attention_decode.sm_{own}.cubin"),
                   **read(tool, build / f"cuda/tile_gemv.sm_{own}.cubin")}
        print(f"\n{name}, machine code of sm_{own}: an 8B model, one row\n")
        print(f"{'kernel':24} {'shape':>18} {'us':>8} {'of bytes':>9}  largest terms (us)")

        def say(kernel, shape, found):
            us, terms = found
            said[f"{name}\tsm_{own}\t{kernel}\t{shape}"] = us
            share = 100 * terms["memory"] / us
            first = sorted(terms.items(), key=lambda t: -t[1])[:3]
            print(f"{kernel:24} {shape:>18} {us:8.1f} {share:8.0f}%  " + ", ".join(f"{k} {v:.1f}" for k, v in first))
            if not 0 < us < 1e6:
                problems.append(f"{kernel}: {us} us")
            return us

        layer = sum(say("gemv_bf16_n1", f"{o} x {i}", gemv(kernels, card, "gemv_bf16_n1", o, i))
                    for o, i in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)))
        head = say("gemv_bf16_n1", "128256 x 4096", gemv(kernels, card, "gemv_bf16_n1", 128256, 4096))
        for kernel, bits, group in (("gemv_u4", 4, 128), ("gemv_u4", 4, 32), ("gemv_u8", 8, 32), ("gemv_u6", 6, 16), ("gemv_table4", 4, 32),
                                    ("gemv_e4m3", 8, 128)):
            for o, i in ((6144, 4096), (28672, 4096), (4096, 14336)):
                say(kernel, f"{o} x {i} g{group}", tile_gemv(kernels, card, kernel, bits, o, i, group, kernel == "gemv_u6"))
        bytes_of = 2 * (32 * (6144 * 4096 + 4096 * 4096 + 28672 * 4096 + 4096 * 14336) + 128256 * 4096)
        print()
        for depth in (512, 4096, 32768, 131072):
            for form in ("f16", "i8", "k4v4", "k4v2"):
                attention = say(f"attn_decode_{form}_d128", f"{depth} positions", decode_attention(kernels, card, form, depth))
                _, terms = decode_attention(kernels, card, form, depth)
                token = 32 * (layer + attention + 2.0) + head + card["launch"] * (32 * 7 + 5)  # 2: rope and combine
                bound = bytes_of / card["gbps"] / 1e3 + 32 * terms["memory"]
                print(f"{'':24} {'a token':>18} {token:8.0f} {100 * bound / token:8.0f}%  {1e6 / token:.1f} tokens per second")
        print("\nverification, attention of 2, 4 and 8 rows against one (GQA 4), warps of a block meeting in L1")
        for depth in (4096, 32768):
            for form in ("f16", "i8", "k4v4", "k4v2"):
                one = decode_attention(kernels, card, form, depth)[0]
                ratios = [say(f"attn_decode_{form}_d128", f"{depth}, {rows} rows",
                              decode_attention(kernels, card, form, depth, rows=rows)) / one for rows in (2, 4, 8)]
                print(f"{'':24} {'against one row':>18} " + ", ".join(f"{r:.2f}" for r in ratios))
    problems += compare(build, said)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
