#!/usr/bin/env python3
"""A static model of decode on cards that nobody here has: machine code of the build, instruction by instruction, against tables of what a card does.

    test/gpu/timing/model.py [BUILD] [--write]    BUILD: build; needs its kernels and cuobjdump (CUDA toolkit, or PyPI's triton)

Every time is held against predicted.tsv beside this file, which --write makes anew: one that is more than 5% longer than there
fails, in builds by the compiler that the table is of. What a kernel was first predicted to take stays in the table's last column.

For every kernel of a decode step of an 8B model with 16-bit weights and each cache format: the predicted time of a launch, its largest term, and
the share of the time that its bytes alone would take. Terms of a launch:
  memory   bytes of weights or pages / bandwidth that streams reach
  PIPE     cycles that the instructions of the busiest multiprocessor's warps take of a pipe, four sub-cores sharing the work
  warp     one warp alone, by the control words of its instructions (stalls, barriers, latencies), times the waves of blocks
The estimate is the 4-norm of the three plus the memory's latency; launches follow each other in a graph at a fixed cost.

What it is worth: card.py has the card, frozen, and calibrate.py says how far off it is for published kernels; of kvrt's no card has
confirmed anything. Here both sides of a branch are counted, so warp is an upper bound, of attention as of the gemv; pipes have the tables'
cycles, without the factor PIPE of what was executed. Costs and latencies are published measurements (CUDA's guide, RRZE-HPC/gpu-benches on A40 and L40, microbenchmarks of a 3090 and a
4090); f32-accumulating tensor products run at half rate on GeForce cards. An unknown opcode is an error."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import calibrate
from card import CARDS, LINE, SECOND, Instruction, digest, estimate, weighted

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[3]))


def disassembler():
    spec = importlib.util.spec_from_file_location("test_cuda_sass", ROOT / "test/rules/test_cuda_sass.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disassembler()


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


def tile_gemv(kernels, card, name, bits, n_out, n_in, group, subs=False, opens=False, warps=4):
    """Quantized weights: a block is 16 outputs, its warps take blocks of 256 columns in turn, run by run. The kernel has a loop over runs, two a turn, for
    each way that scales come to a lane; the shortest of the wanted way is taken: of F16 scales and no mins, or subs: of K quants (I2F or loads of 16 bits). Of two of a way
    the shorter one is for groups of 32. opens: scales are made f32 first, for which a block has room."""
    code = kernels[name]
    found = loops(code, ["HMMA"])
    inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in found)]
    outer = next(a for a in loops(code, ["LDGSTS"]) if a[0] <= inner[0][0] and inner[0][1] < a[1])

    def has(loop, what):
        return any(loop[0] <= i.at <= loop[1] and i.opcode.startswith(what) for i in code)

    def products(loop):
        return sum(loop[0] <= i.at <= loop[1] and i.base == "HMMA" for i in code)

    ways = [a for a in inner if has(a, "LDS.U16") == subs]
    ways = [a for a in ways if products(a) == min(products(b) for b in ways)]
    run = ways[0 if group == 32 else min(1, len(ways) - 1)]
    in_outer, once = split(code, outer)
    opened = [a for a in loops(code, ["STS"]) if outer[0] < a[0] and a[1] < min(inner)[0]]  # scales of other kinds, made f32 first
    in_block = [i for i in in_outer if (i.at < min(inner)[0] and not any(a[0] <= i.at <= a[1] for a in opened)) or i.at > max(inner)[1]]
    in_run, _ = split(code, run)
    blocks = n_in / 256 / warps
    warp, pipes = weighted([(once, 0.5), (in_block, blocks), (in_run, blocks * 4)], card)
    size = n_out * n_in * bits / 8 + n_out * n_in / group * 2
    stage = 16 * (256 * bits // 8 + 256 // group * 2)
    shared = warps * (2 * stage + (2 * 64 * max(1, 256 // group) if opens else 0) + 1024)
    return estimate(card, warp, pipes, -(-n_out // 16), warps, min(4, 102400 // (shared + 1024)), size)


DECODES = ("rtx3090", "rtx4090")
TABLE = Path(__file__).with_name("predicted.tsv")
WORSE = 1.05


def compiler(build):
    """What made the kernels: nvcc 13.0"""
    cache = (build / "CMakeCache.txt").read_text() if (build / "CMakeCache.txt").exists() else ""
    found = re.search(r"^KVRT_BACKENDS:INTERNAL=.*?kernels by ([^,;]+?)(?:,| for|;|$)", cache, re.M)
    return found[1].strip() if found else "unknown"


def compare(build, said):
    """Problems: times that are worse than those of the table, and rows that it lacks or has too many of. The table's third column is what was first said
    of a kernel and shape; --write leaves it, so that what kernels lost by and by stays to be seen."""
    by = f"{compiler(build)}, card.py {digest()}"
    lines = TABLE.read_text().splitlines()
    first = {key: float(us) for key, _, us in (line.rsplit("\t", 2) for line in lines[1:])}
    if "--write" in sys.argv:
        TABLE.write_text(f"# {by}\n" + "".join(f"{key}\t{us:.2f}\t{first.get(key, us):.2f}\n" for key, us in said.items()))
        lines = TABLE.read_text().splitlines()
    if not lines[0].endswith(digest()):
        return [f"{TABLE.name} is of {lines[0][2:]}, this card.py is {digest()}: the model was frozen, see its head"]
    if lines[0] != f"# {by}":
        print(f"\nnot compared: {TABLE.name} is of {lines[0][2:]}, the kernels of this build are by {by}")
        return []
    known = {key: float(us) for key, us, _ in (line.rsplit("\t", 2) for line in lines[1:])}
    # A card's own machine code where the build has it and the table has not, or the other way round: nothing to hold it against.
    pairs = {key.rsplit("\t", 2)[0] for key in known} & {key.rsplit("\t", 2)[0] for key in said}
    others = sorted({key.rsplit("\t", 2)[0] for key in said} - pairs)
    known = {key: us for key, us in known.items() if key.rsplit("\t", 2)[0] in pairs}
    said = {key: us for key, us in said.items() if key.rsplit("\t", 2)[0] in pairs}
    if others:
        print(f"\nnot compared, the table has other machine code: {', '.join(others).replace(chr(9), ' ')}")
    problems = [f"{key}: not in {TABLE.name} (--write)" for key in said if key not in known]
    problems += [f"{key}: no such kernel or shape any more (--write)" for key in known if key not in said]
    problems += [f"{key}: {us:.2f} us predicted, {known[key]:.2f} in {TABLE.name}: {100 * (us / known[key] - 1):.0f}% worse"
                 for key, us in said.items() if key in known and us > known[key] * WORSE]
    better = [f"{key.replace(chr(9), ' ')}: {known[key]:.2f} -> {us:.2f}" for key, us in said.items() if key in known and us < known[key] / WORSE]
    print(f"\n{len(said)} times held against {TABLE.name}" + "".join(f"\nbetter, {line}" for line in better))
    longer = [f"{key.replace(chr(9), ' ')}: {first[key]:.2f} -> {us:.2f}, +{100 * (us / first[key] - 1):.0f}%" for key, us in said.items()
              if key in first and us > first[key] * WORSE]
    print(f"{len(longer)} longer than when they were first predicted" + "".join(f"\n  {line}" for line in longer))
    return problems


def main():
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    build = Path(folders[0] if folders else os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
    tool = disassembler()
    archs = [CARDS[name]["arch"] for name in DECODES] + [86]
    arch = next((a for a in archs if (build / f"cuda/linear.sm_{a}.cubin").exists()), None)
    if not tool or not arch:
        print("skipped: no", "kernels in this build" if tool else "cuobjdump")
        return 77
    problems, said = [], {}
    for name in DECODES:
        card = CARDS[name]
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
                say(kernel, f"{o} x {i} g{group}", tile_gemv(kernels, card, kernel, bits, o, i, group, kernel == "gemv_u6", kernel == "gemv_e4m3"))
        bytes_of = 2 * (32 * (6144 * 4096 + 4096 * 4096 + 28672 * 4096 + 4096 * 14336) + 128256 * 4096)
        print()
        for depth in (512, 4096, 32768, 131072):
            for form in ("f16", "i8", "k4v4", "k4v2"):
                attention = say(f"attn_decode_{form}_d128", f"{depth} positions", decode_attention(kernels, card, form, depth))
                _, terms = decode_attention(kernels, card, form, depth)
                token = 32 * (layer + attention + 2.0) + head + card["launch"] * (32 * 7 + 5)  # 2: rope and combine
                bound = bytes_of / card["gbps"] / 1e3 + 32 * terms["memory"]
                print(f"{'':24} {'a token':>18} {token:8.0f} {100 * bound / token:8.0f}%  {1e6 / token:.1f} tokens per second")
        print("\nthe same model in Q4_0, its head in Q6_K: a token, and the share of the time that its bytes alone would take")
        matrices = [(32, "gemv_u4", 4, o, i, 32) for o, i in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))]
        matrices.append((1, "gemv_u6", 6, 128256, 4096, 16))
        products = [(n, tile_gemv(kernels, card, kernel, bits, o, i, group, bits == 6)) for n, kernel, bits, o, i, group in matrices]
        for depth in (2048, 4096, 32768, 131072):
            tokens = []
            for form in ("f16", "k4v4"):
                us, terms = decode_attention(kernels, card, form, depth)
                token = sum(n * t for n, (t, _) in products) + 32 * (us + 2.0) + card["launch"] * (32 * 7 + 5)
                bound = sum(n * t["memory"] for n, (_, t) in products) + 32 * terms["memory"]
                tokens.append(f"{form} {token:6.0f} us {100 * bound / token:3.0f}%, attention {100 * 32 * us / token:2.0f}%")
            print(f"{depth:24} positions  " + ";  ".join(tokens))
        print("\nverification, attention of 2, 4 and 8 rows against one (GQA 4), warps of a block meeting in L1")
        for depth in (4096, 32768):
            for form in ("f16", "i8", "k4v4", "k4v2"):
                one = decode_attention(kernels, card, form, depth)[0]
                ratios = [say(f"attn_decode_{form}_d128", f"{depth}, {rows} rows",
                              decode_attention(kernels, card, form, depth, rows=rows)) / one for rows in (2, 4, 8)]
                print(f"{'':24} {'against one row':>18} " + ", ".join(f"{r:.2f}" for r in ratios))
    problems += compare(build, said) + calibrate.check()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
