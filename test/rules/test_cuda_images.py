#!/usr/bin/env python3
"""Which drivers load the kernels of this build, read from the machine code itself: the ELF header of every <build>/cuda/*.cubin names its architecture
and the version of its binary interface. What CUDA 12 makes for cards up to 9.0 has interface 7 and loads on drivers from 525 on; interface 8 (CUDA 13,
and every compiler for 12.x cards) needs 580, or 570 for those cards. The library must ask for no less and no more than that, and its table must
hold every kernel source for every architecture. With KVRT_TEST_RELEASE set, a build that needs 580 fails. Skipped in a build without kernels."""
import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
OLD, NEW = (0x33, 7), (0x41, 8)


def header(path):
    """(architecture, (OS ABI, its version)) of a cubin."""
    data = path.read_bytes()[:64]
    if data[:5] != b"\x7fELF\x02" or int.from_bytes(data[18:20], "little") != 190:
        raise ValueError(f"{path.name}: no 64-bit ELF file of machine 190 (CUDA)")
    return data[49 if data[8] >= 8 else 48], (data[7], data[8])


def main():
    images = sorted((BUILD / "cuda").glob("*.cubin"))
    listed = BUILD / "cuda/images.c"
    if not images or not listed.exists():
        print("skipped: this build compiled no kernels")
        return 77
    table = re.findall(r'^\s*\{"(\w+)", kvi_cuda_image_\w+, (\d+)\}', listed.read_text(), re.M)
    ninja = (BUILD / "build.ninja").read_text() if (BUILD / "build.ninja").exists() else ""
    toolkit = int((re.search(r"KVRT_CUDA_TOOLKIT=(\d+)", ninja) or re.search(r"(0)", "0"))[1])
    problems, seen = [], {}
    for path in images:
        name, arch = re.fullmatch(r"(\w+)\.sm_(\d+)\.cubin", path.name).groups()
        if (name, arch) not in table:
            continue  # of an earlier configuration
        try:
            found, abi = header(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        seen[name, arch] = abi
        if found != int(arch):
            problems.append(f"{path.name}: machine code for sm_{found}")
        if abi not in (OLD, NEW):
            problems.append(f"{path.name}: unknown interface {abi[0]:#x} / {abi[1]}; which driver loads it?")
        if int(arch) < 100 and abi == NEW and (os.environ.get("KVRT_TEST_RELEASE") or 0 < toolkit < 13000):
            problems.append(f"{path.name}: interface {abi[0]:#x} / {abi[1]} needs driver 580; a release must load on 525 (NVRTC 12 makes that)")
    sources = {path.stem for path in (ROOT / "kernels/cuda").glob("*.cu")}
    archs = {arch for _, arch in table}
    for missing in sorted({(s, a) for s in sources for a in archs} - set(table)):
        problems.append(f"{missing[0]} for {missing[1]}: not in the table of images")
    for missing in sorted({(s, a) for s, a in table if a != "0"} - set(seen)):
        problems.append(f"{missing[0]} for sm_{missing[1]}: in the table, but not compiled")
    for path in sorted((BUILD / "cuda").glob("*.ptx")):
        version = re.search(r"^\.version (\d+\.\d+)", path.read_text(), re.M)
        if not version:
            problems.append(f"{path.name}: no PTX")
    old = sum(abi == OLD for abi in seen.values())
    print(f"{len(sources)} sources, architectures {' '.join(sorted(archs))} (0: PTX); {old} images load on drivers from 525 on, {len(seen) - old} need a newer one")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
