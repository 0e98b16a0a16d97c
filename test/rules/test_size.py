#!/usr/bin/env python3
"""Size is a promise: the stripped libkvrt.so stays below 2.75 MB without CUDA kernels, and below 44 MB with those of every architecture. Prints
the lines of C of each folder as well, so that growth is seen in the output of every run."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
LIMIT_HOST, LIMIT_ALL = 2_750_000, 44_000_000  # bytes
TOPS = ("runtime", "kernels", "tools", "examples", "test")


def lines_by_folder():
    count = Counter()
    for top in TOPS:
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".c", ".h", ".cu", ".cuh", ".cpp") and path.is_file():
                count["/".join(path.relative_to(ROOT).parts[:-1][:2])] += path.read_text(encoding="utf-8").count("\n")
    return count


def stripped_size(library):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / library.name
        shutil.copy(library, copy)
        subprocess.run(["strip", str(copy)], check=True)
        return copy.stat().st_size


def kernel_bytes(library):
    """Bytes of the images inside, by the symbols that the build gives them."""
    table = subprocess.run(["nm", "--print-size", "--radix=d", str(library)], capture_output=True, text=True, check=True).stdout
    return sum(int(size) for size in re.findall(r"^\d+ (\d+) [rR] kvi_cuda_image_\w+$", table, re.M))


def main():
    folders = lines_by_folder()
    for folder, lines in sorted(folders.items()):
        print(f"{lines:7,} lines  {folder}")
    for top in TOPS:
        print(f"{sum(n for f, n in folders.items() if f.split('/')[0] == top):7,} lines  {top}/ in all")
    library = BUILD / "libkvrt.so"
    cache = (BUILD / "CMakeCache.txt").read_text()
    if re.search(r"^KVRT_SANITIZE:STRING=.", cache, re.M):
        print("skipped: a sanitizer build has no size to promise")
        return 77
    size, kernels = stripped_size(library), kernel_bytes(library)
    print(f"libkvrt.so, stripped: {size:,} bytes, of them CUDA kernels {kernels:,}, the rest {size - kernels:,}")
    problems = []
    if (BUILD / "cuda/images.c").exists() and re.search(r"^KVRT_BACKENDS:INTERNAL=.*kernels by", cache, re.M) and kernels < 100_000:
        problems.append(f"this build has CUDA kernels, but only {kernels:,} bytes of them were found: the rule measures nothing")
    if not 100_000 < size - kernels < LIMIT_HOST:
        problems.append(f"{size - kernels:,} bytes without CUDA kernels, the limit is {LIMIT_HOST:,}")
    if size >= LIMIT_ALL:
        problems.append(f"{size:,} bytes with CUDA kernels, the limit is {LIMIT_ALL:,}")
    print("\n".join(problems))
    return 1 if problems else 0


sys.exit(main())
