#!/usr/bin/env python3
"""Counts machine instructions per byte that a kernel streams from memory, in the loop that streams it, for sm_86. An RTX 3090 moves 6.7 bytes
a clock and multiprocessor at full bandwidth and issues 128 lane-instructions, so 19 per byte are the most that bandwidth leaves room for
(9.5 per 4-bit code); fewer leave room for latency. Static counts: both sides of a branch are in them.
Then test/gpu/sass_count.py counts what decode attention spends per cached value against its own, closer limits.
Needs the build's machine code and cuobjdump (CUDA toolkit, or PyPI's triton); skipped without either."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
ARCH, BUDGET = "sm_86", 19.0
# Kernels that stream weights or packed records once; gemv for several rows shares a pass and does the work of each row.
HELD = re.compile(r"(gemv_(f16|bf16)_n[12]|attn_decode_(f16|i8|k4v4|k4v2)_d(64|128|256))$")
SEEN = re.compile(r"(gemv|attn_decode|attn_prefill|gemm)_")
LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")


def disassembler():
    if found := shutil.which("cuobjdump"):
        return found
    for package in ("triton",):
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations if spec else []:
            path = Path(place) / "backends/nvidia/bin/cuobjdump"
            if path.exists():
                return str(path)
    return None


def functions(text):
    name, body = None, []
    for line in text.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            if name:
                yield name, body
            name, body = match[1], []
        elif match := LINE.match(line):
            body.append((int(match[1], 16), match[2], match[3]))
    if name:
        yield name, body


def streamed(opcode):
    """Bytes a lane brings from global memory that nobody writes: streaming loads, copies to shared memory."""
    if opcode.startswith("LDGSTS"):
        return 16 if ".128" in opcode else 8 if ".64" in opcode else 4
    if opcode.startswith("LDG") and (".NA" in opcode or ".CONSTANT" in opcode):
        return 16 if ".128" in opcode else 8 if ".64" in opcode else 4
    return 0


def busiest_loop(body):
    """(instructions, bytes) of the loop that streams most per turn."""
    best = (0, 0)
    for address, opcode, operands in body:
        if opcode != "BRA":
            continue
        target = re.search(r"0x([0-9a-f]+)", operands)
        if not target or int(target[1], 16) >= address:
            continue
        inside = [op for at, op, _ in body if int(target[1], 16) <= at <= address]
        size = sum(streamed(op) for op in inside)
        if size > best[1] or (size == best[1] and size and len(inside) < best[0]):
            best = (len(inside), size)
    return best


def main():
    tool, images = disassembler(), sorted((BUILD / "cuda").glob(f"*.{ARCH}.cubin"))
    if not tool or not images:
        print("skipped: no", "cuobjdump" if images else "kernels in this build")
        return 77
    problems = []
    for image in images:
        run = subprocess.run([tool, "-sass", str(image)], capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"skipped {image.name}: {run.stderr.strip()[:200]}")
            continue
        for name, body in functions(run.stdout):
            if not SEEN.match(name):
                continue
            count, size = busiest_loop(body)
            ratio = count / size if size else 0.0
            print(f"{name:26} {len(body):6} instructions, loop {count:5} for {size:4} bytes a lane: {ratio:6.2f} per byte", flush=True)
            if HELD.match(name) and not 0 < ratio <= BUDGET:
                problems.append(f"{name}: {ratio:.1f} instructions per byte, the budget is {BUDGET}")
        if image.name.startswith("attention_decode."):
            count = [sys.executable, "-B", str(ROOT / "test/gpu/sass_count.py"), tool, str(image)]
            if subprocess.run(count, check=False).returncode:
                problems.append("decode attention: instructions per cached value, above")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
