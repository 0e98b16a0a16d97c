#!/usr/bin/env python3
"""The command and CUDA: exit code 8 and a reason where no driver is, no CUDA library among the dependencies, kernels by name in the log and in
`bench --ops` on the emulated device, the same greedy text as on the CPU."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
KVRT = os.environ.get("KVRT", str(BUILD / "kvrt"))
EMULATED = BUILD / "libkvrt-emu-cuda.so"
MODEL = str(ROOT / "examples/models/storyteller-tiny")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("KVRT_")}
KERNELS = re.findall(r"^KERNEL\((\w+),", (ROOT / "kernels/cuda/kernel_list.h").read_text(), re.M)
problems = []


def kvrt(*args, **env):
    return subprocess.run([KVRT, *map(str, args)], capture_output=True, text=True, env={**ENVIRONMENT, **env}, timeout=600, check=False)


def expect(what, condition, run=None):
    if not condition:
        shown = f"\nexit {run.returncode}\nstdout: {run.stdout[-600:]}\nstderr: {run.stderr[-1200:]}" if run else ""
        problems.append(what + shown)


def without_a_driver():
    run = kvrt("run", MODEL, "--backend", "cuda", "--cuda-driver", "/nonexistent/libcuda.so.1", "-p", "x", "-n", "1")
    expect("a missing driver is exit code 8 and named", run.returncode == 8 and "no driver: /nonexistent/libcuda.so.1" in run.stderr, run)
    run = kvrt("run", MODEL, "--backend", "cuda", "--cuda-driver", "libm.so.6", "-p", "x", "-n", "1")
    expect("a library that is no driver is exit code 8", run.returncode == 8 and "need a driver for CUDA" in run.stderr, run)
    run = kvrt("devices")
    line = next((x for x in run.stdout.splitlines() if x.startswith("cuda")), "")
    expect("`kvrt devices` says what CUDA is or why there is none", run.returncode == 0 and re.match(r"cuda +(yes|no) +\S+ \S+", line), run)
    if " no " in line:
        run = kvrt("run", MODEL, "--backend", "cuda", "-p", "x", "-n", "1")
        expect("exit code 8 here, with the reason of `kvrt devices`", run.returncode == 8 and line.split(None, 2)[2] in run.stderr, run)


def dependencies():
    library = BUILD / "libkvrt.so"
    if not shutil.which("ldd") or not library.exists():
        print("skipped: ldd")
        return
    run = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
    expect("no CUDA library among the dependencies", run.returncode == 0 and not re.search(r"cuda|cublas|nvidia|nvrtc|stdc\+\+", run.stdout), run)


def on_the_emulated_device():
    if not EMULATED.exists():
        print("skipped: no emulated device in this build")
        return
    cuda = ("--backend", "cuda", "--cuda-driver", EMULATED)
    # Long enough that its tokens but the last, which is computed alone, take the kernels of many rows.
    text = ("-p", "Once upon a time there was a house at the end of a long road", "-n", "12", "--temp", "0", "--kv", "f16")
    here, there = kvrt("run", MODEL, "--backend", "cpu", *text), kvrt("run", MODEL, *cuda, *text)
    expect("greedy text of cpu and cuda", there.returncode == 0 and here.stdout and here.stdout == there.stdout, there)
    run = kvrt("run", MODEL, *cuda, *text, "--log-level", "5")
    named = set(re.findall(r"layer \d+, (\w+): (\w+), \d+ rows", run.stderr)) | set(re.findall(r"(best_tokens): (\w+)", run.stderr))
    for op in ("embed", "norm_linear", "rope_append", "attention", "linear_add", "norm_gate_up", "head", "best_tokens"):
        expect(f"log level 5 names the kernel of {op}", any(o == op and k in KERNELS for o, k in named), run)
    launched = set(re.findall(r"launch (\w+): grid", run.stderr))
    expect("every launch by name", {"attn_combine_d64", "norm_rows", "best_merge"} <= launched and launched <= set(KERNELS), run)
    run = kvrt("bench", MODEL, *cuda, "--depth", "256", "--prompt", "64", "--gen", "4", "--reps", "1", "--kv", "k4v4", "--ops")
    for op in ("embed", "norm_linear", "rope_append", "attention", "linear_add", "norm_gate_up", "head"):
        row = re.search(rf"^ *{op} +(\w+)", run.stdout, re.M)
        expect(f"bench --ops names the kernel of {op}", run.returncode == 0 and row and row[1] in KERNELS, run)


def main():
    without_a_driver()
    dependencies()
    on_the_emulated_device()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
