#!/usr/bin/env python3
"""The shipped machine code, executed: the operation tests of CUDA with the interpreter behind the driver, so that every number comes out of the
cubins
of this build and is held against the same oracles. Every kernel of kernels/cuda/kernel_list.h must have run; the share of its instructions that did
is printed. An opcode that the interpreter lacks fails the test and is named.

    test/sass/test_kernels.py [PROGRAM[:FILTER] ...]      FILTER: the tests of a program, as cmocka takes them"""
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run_sass import BUILD, ROOT, environment

PROGRAMS = ["ops/test_ops_cuda", "ops/test_tiles_cuda", "ops/test_cuda_shapes"]
# Kernels that no operation of a test reaches, each with its reason.
ELSEWHERE = {"fill_words": "fills the weights of a made-up model: kvrt bench --shape alone"}


def counted(path):
    """kernel -> [launches, blocks, instructions, executed addresses -> warps]"""
    kernels = {}
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        name, launches, blocks, n, addresses = line.split("\t")
        row = kernels.setdefault(name, [0, 0, int(n), {}])
        row[0] += int(launches)
        row[1] += int(blocks)
        for pair in addresses.split():
            at, times = pair.split(":")
            row[3][int(at, 16)] = row[3].get(int(at, 16), 0) + int(times)
    return kernels


def main():
    found = environment()
    if isinstance(found, str):
        print("skipped:", found)
        return 77
    failed, total = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        counts = os.path.join(folder, "counts")
        for program in sys.argv[1:] or PROGRAMS:
            name, _, only = program.partition(":")
            command = [str(BUILD / "test" / name)] + ([only] if only else [])
            start = time.monotonic()
            run = subprocess.run(command, env={**found, "KVRT_SASS_COUNTS": counts}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 errors="replace", check=False)
            took = time.monotonic() - start
            total += took
            print(f"{program}: exit code {run.returncode}, {took:.1f} s", flush=True)
            if run.returncode:
                failed.append(program)
                print("\n".join(line for line in run.stdout.splitlines() if not re.search(r"^\[\s+(RUN|OK)\s", line))[-6000:])
        kernels = counted(counts)
    listed = re.findall(r"^KERNEL\((\w+),", (ROOT / "kernels/cuda/kernel_list.h").read_text(), re.M)
    print(f"\n{'kernel':26} {'launches':>8} {'blocks':>8} {'warp instructions':>18} {'of its code ran':>16}")
    for name in listed:
        if name in kernels:
            launches, blocks, n, at = kernels[name]
            print(f"{name:26} {launches:8} {blocks:8} {sum(at.values()):18} {100 * len(at) / n:15.0f}%")
        else:
            print(f"{name:26} {ELSEWHERE.get(name, 'never ran')}")
    lacks = [name for name in listed if name not in kernels and name not in ELSEWHERE] if len(sys.argv) == 1 else []
    if lacks:
        print("never ran:", *lacks)
    everything = sum(sum(row[3].values()) for row in kernels.values())
    print(f"{everything} warp instructions, {total:.0f} s")
    return 1 if failed or lacks else 0


if __name__ == "__main__":
    sys.exit(main())
