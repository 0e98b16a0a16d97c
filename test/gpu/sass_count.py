#!/usr/bin/env python3
"""Counts what decode attention spends per stored value, from its machine code.

    python3 test/gpu/sass_count.py CUOBJDUMP IMAGE [ARCH]

CUOBJDUMP is of the CUDA toolkit (PyPI's triton has one, too), IMAGE a cubin of kernels/cuda/attention_decode.cu. For every
attn_decode kernel: instructions of a warp for one page (the page loop as it stands, masks of the newest page included, its inner loop over the keys
as often as it runs), divided by the values of K and V that a lane takes from the page. A card at full bandwidth has so many lane-instructions per 4-bit
value: 3090 9.5, 4090 20.5, H200 3.9 (twice that for 8 bits, four times for 16). Exit code 1 when a kernel exceeds its limit.
"""
import re
import subprocess
import sys

LIMITS = {"f16": 2.5, "i8": 2.75, "k4v4": 2.85, "k4v2": 2.85}  # at head dimension 128 and 256; softcaps are counted although most models have none
SMALL = 4.25  # at 64, where the softmax, and sums that lanes add for tensor cores, are shared by half as many values
PAGE = 128


def instructions(cuobjdump, image, arch, kernel):
    command = [cuobjdump, "-sass", "-fun", kernel] + (["-arch", arch] if arch else []) + [image]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.*?);", text, re.M)
    return [(int(at, 16), what) for at, what in found]


def loops(code):
    """(first, last) addresses of every backward branch that encloses tensor-core products, smallest first."""
    out = []
    for at, what in code:
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", what)
        if target and int(target.group(1), 16) < at:
            first = int(target.group(1), 16)
            if any(first <= a <= at and "HMMA" in w for a, w in code):
                out.append((first, at))
    return sorted(out, key=lambda loop: loop[1] - loop[0])


def count(code, loop):
    return sum(loop[0] <= at <= loop[1] for at, _ in code)


def main():
    cuobjdump, image = sys.argv[1:3]
    arch = sys.argv[3] if len(sys.argv) > 3 else None
    failed = False
    print(f"{'kernel':26} {'instructions':>12} {'keys/step':>10} {'page':>6} {'per value':>10} {'limit':>6}")
    for form, limit in LIMITS.items():
        for dim in (64, 128, 256):
            code = instructions(cuobjdump, image, arch, f"attn_decode_{form}_d{dim}")
            found = loops(code)
            # Innermost loops: over the keys (32 channels a time), and where sums rest in shared memory over the values (64 channels).
            inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in found)]
            outer = next((a for a in found if inner and a not in inner and a[0] <= min(inner)[0] and min(inner)[1] <= a[1]), None)
            inner = sorted(a for a in inner if outer and outer[0] <= a[0] and a[1] <= outer[1])
            if not outer:
                print(f"attn_decode_{form}_d{dim}: no loop over keys within a loop over pages; the count does not hold")
                failed = True
                continue
            step = count(code, inner[0])
            page = count(code, outer) + (dim // 32 - 1) * step + sum((dim // 64 - 1) * count(code, a) for a in inner[1:])
            each = page / (2 * PAGE * dim / 32)
            most = limit if dim > 64 else SMALL
            failed |= not each <= most
            print(f"{f'attn_decode_{form}_d{dim}':26} {len(code):12} {step / (PAGE * 32 / 32):10.2f} {page:6} {each:10.2f} {most:6.1f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
