#!/usr/bin/env python3
"""Runs a program of the tests with the interpreter of machine code in place of the emulated driver.

    test/sass/run_sass.py PROGRAM [ARGUMENT ...]      exit code 77: no disassembler, or no cubins; else the program's

Environment: KVRT_BUILD_DIR; KVRT_SASS_ARCH, whose machine code (default 86); KVRT_SASS_CUBINS, a folder of *.sm_86.cubin for a build without kernels
of its own (default: cuda of the build folder)."""
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build"))


def disassembler():
    spec = importlib.util.spec_from_file_location("test_cuda_sass", ROOT / "test/rules/test_cuda_sass.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.disassembler()


def cache(arch):
    folder = BUILD / "test/sass/cache" / f"sm_{arch}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment():
    """What the interpreter needs, or a word that says what lacks."""
    tool, cubins, arch = disassembler(), Path(os.environ.get("KVRT_SASS_CUBINS") or BUILD / "cuda"), os.environ.get("KVRT_SASS_ARCH") or "86"
    if not tool:
        return "no cuobjdump (CUDA toolkit, or PyPI's triton)"
    if not any(cubins.glob(f"*.sm_{arch}.cubin")):
        return f"no machine code for sm_{arch} in {cubins}"
    own = {"KVRT_SASS_CUOBJDUMP": tool, "KVRT_SASS_CACHE": str(cache(arch)), "KVRT_SASS_CUBINS": str(cubins),
           "KVRT_BUILD_DIR": str(BUILD / "test/sass"), "KVRT_EMU_CAPABILITY": arch}
    return {**os.environ, **own}


def main():
    found = environment()
    if isinstance(found, str):
        print("skipped:", found)
        return 77
    os.execvpe(sys.argv[1], sys.argv[1:], found)


if __name__ == "__main__":
    sys.exit(main())
