#!/usr/bin/env python3
"""The model of model.py over what kernels executed, instead of over their loops: a trace of the interpreter of machine code (test/sass) has, for each
launch, how often every instruction ran, the sectors of memory it touched, and the way of the longest warp.

    KVRT_SASS_TRACE=t.tsv KVRT_EMU_SMS=82 KVRT_EMU_MEMORY_MIB=9000 test/sass/run_sass.py build/kvrt bench --shape llama-3.1-8b:1 --backend cuda \\
        --cuda-driver build/test/sass/libkvrt-emu-cuda.so --kv k4v4 --depth 4096 --prompt 0 --gen 1 --reps 1
    test/gpu/timing/dynamic.py t.tsv [CARD [FOLDER]]   FOLDER: of disassemblies, default build/test/sass/cache/sm_86 (the interpreter keeps them)

What it is worth stands in calibration.tsv: of published kernels, executed and weighed likewise. As the tables stand they are 24 to 30% short for
llama.cpp's product of 1.125 bits on a 3090, so cycles of all pipes but the tensor cores' count PIPE times (card.py); why is not known: the
clock, or what the tables say of the integer pipe. Tensor cores do not: Marlin on an A10 is within 1% where they are the larger half of the
time, with PIPE 37% off."""
import os
import sys
from pathlib import Path

import card
import model

BUILD = Path(os.environ.get("KVRT_BUILD_DIR", model.ROOT / "build"))


def disassemblies(folder):
    """kernel -> address -> instruction, of every text of the folder; of two images with one kernel the newer counts"""
    kernels = {}
    for path in sorted(Path(folder).glob("*.sass"), key=lambda p: p.stat().st_mtime):
        name = None
        for line in path.read_text().splitlines():
            if "Function : " in line:
                name = line.split("Function : ")[1].strip()
                kernels[name] = {}
            elif match := card.LINE.match(line):
                last = card.Instruction(int(match[1], 16), match[2], match[3])
                kernels[name][last.at] = last
            elif (match := card.SECOND.match(line)) and name and kernels[name]:
                last.control(int(match[1], 16))
    return kernels


def launches(path):
    for line in Path(path).read_text().splitlines():
        name, grid, blocks, threads, registers, shared, counts, way = line.split("\t")
        rows = [tuple(int(v, 16 if i == 0 else 10) for i, v in enumerate(row.split(":"))) for row in counts.split()]
        runs = [tuple(int(v, 16) for v in run.split("-")) for run in way.split()]
        yield name, grid, int(blocks), int(threads), int(registers), int(shared), rows, [at for a, b in runs for at in range(a, b + 16, 16)]


def predict(on, code, blocks, threads, registers, shared, rows, way):
    pipes, streamed = {"issue": 0.0}, 0
    for at, times, sectors in rows:
        i = code[at]
        pipe, cost = i.pipe(on)
        pipes["issue"] += times
        pipes[pipe] = pipes.get(pipe, 0.0) + times * cost
        if i.base == "LDGSTS" or (i.base == "LDG" and ("NA" in i.mods or "CONSTANT" in i.mods)):
            streamed += sectors * 32
    warps = -(-threads // 32)
    each = card.executed({pipe: n / blocks / warps for pipe, n in pipes.items()})  # of a mean warp
    alone, _ = card.walk([code[at] for at in way], on)
    return card.estimate(on, alone, each, blocks, warps, card.resident(threads, registers, shared), streamed)


def main():
    trace, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "rtx3090"
    kernels, on, seen = disassemblies(sys.argv[3] if len(sys.argv) > 3 else BUILD / "test/sass/cache/sm_86"), card.CARDS[name], {}
    for kernel, grid, *rest in launches(trace):
        us, terms = predict(on, kernels[kernel], *rest)
        row = seen.setdefault((kernel, grid), [0, 0.0, {}])
        row[0] += 1
        row[1] = max(row[1], us)
        row[2] = terms
    print(f"{name}: launches as they ran\n\n{'kernel':26} {'grid':>16} {'launches':>8} {'us':>9} {'of bytes':>9}  largest terms (us)")
    for (kernel, grid), (n, us, terms) in seen.items():
        first = sorted(terms.items(), key=lambda t: -t[1])[:3]
        print(f"{kernel:26} {grid:>16} {n:8} {us:9.2f} {100 * terms['memory'] / us:8.0f}%  " + ", ".join(f"{k} {v:.2f}" for k, v in first))
    return 0 if seen and all(0 < row[1] < 1e7 for row in seen.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
