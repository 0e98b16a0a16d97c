#!/usr/bin/env python3
"""test/gpu/owner.sh, which the owner of a card runs: from a release folder, on the emulated device with a stand-in for nvidia-smi; one archive comes out
of it with the card, the same text on CPU and CUDA, and a bench; without a card it says so; a text that differs is a failure."""
import os
import subprocess
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))
KVRT = Path(os.environ.get("KVRT", BUILD / "kvrt"))
EMULATED = BUILD / "libkvrt-emu-cuda.so"
problems = []


def run(folder, path, **env):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KVRT")}
    environment.update(PATH=f"{path}:{environment['PATH']}", KVRT_CUDA_DRIVER=str(EMULATED), KVRT_CHUNK="64", **env)
    return subprocess.run(["bash", str(folder / "owner.sh"), str(folder / "report")], capture_output=True, text=True, env=environment, check=False, timeout=900)


def expect(what, condition, done):
    if not condition:
        problems.append(f"{what}\nexit {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-1000:]}")


def main():
    if not EMULATED.exists():
        print("skipped: no emulated device in this build")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder, tools, empty = Path(name) / "release folder", Path(name) / "tools", Path(name) / "none"
        for path in (folder, tools, empty):
            path.mkdir()
        shutil.copy(ROOT / "test/gpu/owner.sh", folder)
        (folder / "bin").mkdir()
        shutil.copy(KVRT, folder / "bin/kvrt")
        shutil.copytree(ROOT / "examples/models/storyteller-tiny", folder / "storyteller-tiny")
        smi = tools / "nvidia-smi"
        smi.write_text("#!/bin/sh\nexit 9\n")
        smi.chmod(0o755)
        done = run(folder, tools)
        expect("without a card exit code 77 and a reason", done.returncode == 77 and "no NVIDIA card" in done.stderr, done)
        smi.write_text("#!/bin/sh\necho 'name, driver_version'\necho 'Emulated, 525.60'\n")
        done = run(folder, tools, SHAPES="", TOKENS="6")
        expect("everything passes", done.returncode == 0 and "send back" in done.stdout, done)
        archive = folder / "report.tar.gz"
        if archive.exists():
            with tarfile.open(archive) as tar:
                names = {Path(n).name for n in tar.getnames()}
                card = tar.extractfile("report/card.txt").read().decode()
            expect(f"the archive holds all steps, not {sorted(names)}", {"card.txt", "devices.txt", "text_cuda_k4v4.txt", "text_cpu_f16.txt"} <= names, done)
            expect("the card is named", "Emulated, 525.60" in card, done)
        liar = folder / "bin/kvrt"  # another text on the device
        liar.unlink()
        liar.write_text(f'#!/bin/sh\ncase "$*" in *"--backend cuda"*) echo Elsewhere ;; *) exec "{KVRT}" "$@" ;; esac\n')
        liar.chmod(0o755)
        done = run(folder, tools, SHAPES="", TOKENS="3")
        expect("another text is a failure", done.returncode == 1 and "not the text of the CPU" in done.stdout, done)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
