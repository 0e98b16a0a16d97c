#!/usr/bin/env python3
"""Holds every CUDA kernel to its line of kernels/cuda/kernel_list.h: no spills, no local memory, no more registers than it may use.
Reads what ptxas said when the build compiled the kernels (<build>/cuda/*.ptxas); skipped in a build that compiled none."""
import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
# ptxas wants more registers for consumer Blackwell than the shapes of these kernels leave. Until such a card has shown what that costs, this much is let
# pass, in registers and bytes.
LENIENT = {"sm_120": (8, 224), "sm_121": (8, 224)}
USED = re.compile(r"Used (\d+) registers")


def reports():
    """(kernel, architecture) -> (registers, stack frame, spills)"""
    found = {}
    for path in sorted((BUILD / "cuda").glob("*.ptxas")):
        kernel = frame = None
        for line in path.read_text().splitlines():
            if match := ENTRY.search(line):
                kernel = match.groups()
            elif match := FRAME.search(line):
                frame = (int(match[1]), int(match[2]) + int(match[3]))
            elif (match := USED.search(line)) and kernel and frame:
                found[kernel] = (int(match[1]), *frame)
                kernel = frame = None
    return found


def main():
    listed = dict(re.findall(r"^KERNEL\((\w+), (\d+)\)", (ROOT / "kernels/cuda/kernel_list.h").read_text(), re.M))
    found = reports()
    if not found:
        print("skipped: this build compiled no kernels")
        return 77
    problems = [f"{name}: listed, but not compiled" for name in listed if not any(kernel == name for kernel, _ in found)]
    for (kernel, arch), (registers, frame, spills) in sorted(found.items()):
        if kernel not in listed:
            problems.append(f"{kernel}: compiled, but not in kernel_list.h")
            continue
        more, spilled = LENIENT.get(arch, (0, 0))
        if registers > int(listed[kernel]) + more:
            problems.append(f"{kernel} for {arch}: {registers} registers, its budget is {listed[kernel]}")
        if frame > spilled or spills > 2 * spilled:
            problems.append(f"{kernel} for {arch}: {frame} bytes of stack, {spills} bytes of spills, need none")
    for problem in problems:
        print(problem)
    print(f"{len(listed)} kernels, {len(found)} compilations, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
