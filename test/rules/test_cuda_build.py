#!/usr/bin/env python3
"""Who compiles the CUDA kernels, and what becomes of what it makes: the build is configured beside stand-ins for nvcc and NVRTC of several versions,
and one of them compiles. So this holds on machines with any toolkit, or none. What a real NVRTC makes is read by test_cuda_images.py."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
problems = []

# An NVRTC that "compiles" to the header of a cubin: it wants the options and headers that a real one needs, or reports a failure.
FAKE_NVRTC = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static unsigned char cubin[64] = {0x7f, 'E', 'L', 'F', 2, 1, 1, 0x33, 7};
static char said[400];
static int ptx;
int nvrtcVersion(int *major, int *minor) { *major = MAJOR, *minor = MINOR; return 0; }
int nvrtcGetNumSupportedArchs(int *n) { *n = 3; return 0; }
int nvrtcGetSupportedArchs(int *a) { a[0] = 80, a[1] = 86, a[2] = 90; return 0; }
int nvrtcCreateProgram(void **p, const char *text, const char *name, int n, const char *const *headers, const char *const *names)
{
    *p = cubin;
    return !(text && name && n == 2 && strcmp(names[0], "stdint.h") == 0 && strstr(headers[0], "uint64_t") && strcmp(names[1], "stdbool.h") == 0);
}
int nvrtcCompileProgram(void *p, int n, const char *const *options)
{
    int folder = 0, standard = 0;
    (void)p;
    for (int i = 0; i < n; i++) {
        folder |= strncmp(options[i], "-I", 2) == 0 && strstr(options[i], "kernels/cuda");
        standard |= strcmp(options[i], "--std=c++17") == 0;
        if (strncmp(options[i], "--gpu-architecture=", 19) == 0) {
            ptx = options[i][19] == 'c';
            cubin[18] = 190, cubin[48] = (unsigned char)atoi(strchr(options[i], '_') + 1);
        }
    }
    snprintf(said, sizeof said, "%d options", n);
    return !folder || !standard || getenv("FAKE_FAILS");
}
int nvrtcGetProgramLogSize(void *p, size_t *n) { (void)p; *n = strlen(said) + 1; return 0; }
int nvrtcGetProgramLog(void *p, char *to) { (void)p; strcpy(to, said); return 0; }
int nvrtcGetCUBINSize(void *p, size_t *n) { (void)p; *n = sizeof cubin; return 0; }
int nvrtcGetCUBIN(void *p, char *to) { (void)p; memcpy(to, cubin, sizeof cubin); return 0; }
int nvrtcGetPTXSize(void *p, size_t *n) { (void)p; *n = 18; return 0; }
int nvrtcGetPTX(void *p, char *to) { (void)p; strcpy(to, ".version 8.4 // \n"); return !ptx; }
const char *nvrtcGetErrorString(int code) { return code ? "NVRTC_ERROR_FAKE" : "NVRTC_SUCCESS"; }
"""


def nvrtc(folder, major, minor):
    library = folder / f"libnvrtc-{major}.{minor}.so.12"
    source = folder / "nvrtc.c"
    source.write_text(FAKE_NVRTC)
    subprocess.run([os.environ.get("CC", "cc").split()[0], "-shared", "-fPIC", f"-DMAJOR={major}", f"-DMINOR={minor}", "-o", str(library), str(source)], check=True)
    return library


def nvcc(folder, release):
    path = folder / f"nvcc-{release}"
    path.write_text("#!/bin/sh\ncase $1 in\n--version) echo 'Cuda compilation tools, release " + release + ", V" + release + ".1' ;;\n"
                    "--list-gpu-arch) echo compute_80; echo compute_86; echo compute_90 ;;\nesac\n" if release else "#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def configure(build, *options):
    if build.exists():
        shutil.rmtree(build)
    run = subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), "-DKVRT_TOOLS=OFF", "-DKVRT_EXAMPLES=OFF", "-DKVRT_INSTALL=OFF",
                          "-DKVRT_NVRTC_FOUND=OFF", *options], capture_output=True, text=True, check=False)
    run.stderr = " ".join(run.stderr.split())  # CMake breaks lines
    cache = build / "CMakeCache.txt"
    note = re.search(r"^KVRT_BACKENDS:INTERNAL=(.*)", cache.read_text(), re.M) if cache.exists() else None
    return run, note[1] if note and run.returncode == 0 else ""


def expect(what, condition, run):
    if not condition:
        problems.append(f"{what}\n{run.stdout[-600:]}\n{run.stderr[-1500:]}")


def choices(folder):
    build = folder / "build"
    none, old, middle, new = (nvcc(folder, r) for r in ("", "11.8", "12.6", "13.0"))
    run, note = configure(build, f"-DKVRT_NVCC={middle}")
    expect("nvcc 12.6 compiles for every driver from 525 on", "kernels by nvcc 12.6" in note and "driver" not in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={new}")
    expect("nvcc 13 alone compiles, with a warning", "kernels by nvcc 13.0, which need driver 580" in note and "CMake Warning" in run.stderr, run)
    run, note = configure(build, f"-DKVRT_NVCC={old}")
    expect("nvcc 11.8 is refused by name", "nvcc 11.8 is too old" in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={none}")
    expect("without a compiler the build says so", "neither nvcc nor NVRTC found" in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={middle}", "-DKVRT_CUDA=OFF")
    expect("CUDA can be left out", "off (KVRT_CUDA=OFF)" in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={none}", f"-DKVRT_NVRTC={nvrtc(folder, 12, 3)}")
    expect("NVRTC 12.3 is refused by name", run.returncode != 0 and "is NVRTC 12.3, need 12.4" in run.stderr, run)
    run, note = configure(build, f"-DKVRT_NVCC={none}", f"-DKVRT_NVRTC={folder / 'nvrtc.c'}")
    expect("a file that is no library is refused by name", run.returncode != 0 and "nvrtc.c is no NVRTC" in run.stderr, run)
    library = nvrtc(folder, 12, 9)
    run, note = configure(build, f"-DKVRT_NVCC={new}", f"-DKVRT_NVRTC_FOUND={library}")
    expect("an NVRTC 12 that is found goes before nvcc 13", "kernels by NVRTC 12.9" in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={middle}", f"-DKVRT_NVRTC_FOUND={library}")
    expect("nvcc 12 goes before an NVRTC that is found", "kernels by nvcc 12.6" in note, run)
    run, note = configure(build, f"-DKVRT_NVCC={none}", f"-DKVRT_NVRTC={library}", "-DKVRT_CUDA_ARCH=75")
    expect("an architecture that the compiler lacks is refused by name", run.returncode != 0 and "knows no architecture 75" in run.stderr, run)
    run, note = configure(build, f"-DKVRT_NVCC={new}", f"-DKVRT_NVRTC={nvrtc(folder, 13, 2)}")
    expect("an NVRTC 13 that is asked for warns, too", "kernels by NVRTC 13.2, which need driver 580" in note and "CMake Warning" in run.stderr, run)


def compilation(folder):
    """A wheel with the stand-in, every architecture: images, reports, dependencies, failure."""
    wheel, build = folder / "nvidia_cuda_nvrtc_cu12-12.9-py3-none-any.whl", folder / "build with a space"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(nvrtc(folder, 12, 9), "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    run, note = configure(build, f"-DKVRT_NVCC={nvcc(folder, '')}", f"-DKVRT_NVRTC={wheel}")
    expect("a wheel is enough", "kernels by NVRTC 12.9" in note, run)
    make = ["cmake", "--build", str(build), "--target", "kvrt_cuda_images"]
    run = subprocess.run(make, capture_output=True, text=True, check=False, env={**os.environ, "FAKE_FAILS": "1"})
    expect("a compilation that fails stops the build and shows the log", run.returncode != 0 and "NVRTC_ERROR_FAKE" in run.stdout + run.stderr, run)
    run = subprocess.run(make, capture_output=True, text=True, check=False)
    sources = {path.stem for path in (ROOT / "kernels/cuda").glob("*.cu")}
    made = {path.name for path in (build / "cuda").glob("*.cubin")} | {path.name for path in (build / "cuda").glob("*.ptx")}
    wanted = {f"{s}.sm_{a}.cubin" for s in sources for a in (86, 90)} | {f"{s}.ptx" for s in sources}
    if os.uname().machine in ("aarch64", "arm64"):
        wanted = {f"{s}.sm_90.cubin" for s in sources} | {f"{s}.ptx" for s in sources}
    expect(f"every source for every architecture, not {sorted(made ^ wanted)}", run.returncode == 0 and made == wanted, run)
    for depending, on in (("linear", "weights.cuh"), ("encode", "kv/codec.h"), ("attention_decode", "attention_decode.cuh")):
        text = (build / f"cuda/{depending}.ptx.d").read_text() if run.returncode == 0 else ""
        expect(f"{depending} is compiled anew when {on} changes: {text}", on in text, run)
    run = subprocess.run(make, capture_output=True, text=True, check=False)
    expect("a second build has nothing to do", run.returncode == 0 and "Compiling kernels" not in run.stdout, run)


def main():
    with tempfile.TemporaryDirectory() as name:
        choices(Path(name))
        compilation(Path(name))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
