#!/usr/bin/env python3
"""Whether wrong machine code is noticed: single bits of instructions that ran are turned over in the image, before it is disassembled, and the
operation
tests must fail. Which ones is drawn from a fixed seed.

    test/sass/test_mutants.py [N]      N mutants of each kernel, default 4"""
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from run_sass import BUILD, environment
from test_kernels import counted

# Kernels, and the tests that run them: short ones.
SUBJECTS = [("gemv_u4", "ops/test_ops_cuda", "test_mixed_forms"), ("gemm_u4_m32", "ops/test_ops_cuda", "test_mixed_forms"),
            ("norm_rows", "ops/test_ops_cuda", "test_norm_linear"), ("attn_decode_k4v4_d64", "ops/test_ops_cuda", "test_tail"),
            ("attn_combine_d64", "ops/test_ops_cuda", "test_tail"), ("gemv_bf16_n1", "ops/test_ops_cuda", "test_linear_add")]
# Damage is done where a value is made or moved: another destination, or another first source. Elsewhere a bit may mean nothing (a field that is
# not used, a bound that no lane reaches); so may a guarded instruction, which counts as run where its guard is false. Operations and bits: 16 is the
# lowest of the destination's number, 24 and 25 of the first source's.
VALUES = re.compile(r"(FFMA|FMUL|FADD|HFMA2|HMUL2|HADD2|HMMA|PRMT|LOP3|SHF|LDS|LDSM|F2FP|MUFU|SHFL|LDG|IMAD)\b[\w.]* R\d+, \[?[-|]?R\d+")
BITS = (16, 24, 25)
LEAST = 0.75


def values(kernel, cache):
    """Addresses of such instructions, by the disassembly that the interpreter kept."""
    for path in sorted(Path(cache).glob("*.sass")):
        text = path.read_text()
        begin = text.find(f"Function : {kernel}\n")
        if begin >= 0:
            end = text.find("Function : ", begin + 10)
            lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?) ?;", text[begin:end if end > 0 else None], re.M)
            return {int(at, 16) for at, what in lines if VALUES.match(what)}
    return set()


def run(program, only, env):
    command = [str(BUILD / "test" / program)] + ([only] if only else [])
    try:
        return subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600, check=False).returncode
    except subprocess.TimeoutExpired:
        return 124


def main():
    found = environment()
    if isinstance(found, str):
        print("skipped:", found)
        return 77
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    draw, noticed, missed = random.Random(15), 0, []
    for kernel, program, only in SUBJECTS:
        with tempfile.TemporaryDirectory() as folder:
            counts = str(Path(folder) / "counts")
            if code := run(program, only, {**found, "KVRT_SASS_COUNTS": counts}):
                print(f"{kernel}: {program} {only} fails as it is ({code})")
                return 1
            ran = counted(counts).get(kernel)
        places = sorted(set(ran[3]) & values(kernel, found["KVRT_SASS_CACHE"])) if ran else []
        if not places:
            print(f"{kernel}: {program} {only} does not run it, or no disassembly of it is kept")
            return 1
        for _ in range(n):
            at, bit = draw.choice(places), draw.choice(BITS)
            code = run(program, only, {**found, "KVRT_SASS_FLIP": f"{kernel}:{at:x}:{bit}"})
            print(f"{kernel} 0x{at:x} bit {bit}: {'noticed' if code else 'passed'}", flush=True)
            noticed += code != 0
            if not code:
                missed.append(f"{kernel}:{at:x}:{bit}")
    share = noticed / (noticed + len(missed))
    print(f"{noticed} of {noticed + len(missed)} noticed; not: {' '.join(missed) or 'none'}")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
