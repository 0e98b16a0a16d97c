#!/usr/bin/env python3
"""Writes a Python wheel: the one file of the binding and the shared library beside it, so that `pip install` is all that a user does. Needs nothing but
Python; the wheel is for this machine's kind and any Python 3.

    python3 tools/packaging/wheel.py LIBRARY [FOLDER]     the built libkvrt.so; where the wheel goes (.)
"""
import base64
import hashlib
import pathlib
import re
import sys
import sysconfig
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def platform_tag():
    """manylinux names the C library that is needed at least; without one the wheel is for this machine only."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip())
    library, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2] if len(sys.argv) == 3 else ".")
    header = (ROOT / "runtime/kvrt.h").read_text()
    version = ".".join(re.search(rf"KVRT_VERSION_{part} (\d+)", header).group(1) for part in ("MAJOR", "MINOR", "PATCH"))
    tag, info = f"py3-none-{platform_tag()}", f"kvrt-{version}.dist-info"
    files = {
        "kvrt/__init__.py": (ROOT / "examples/bindings/kvrt.py").read_bytes(),
        "kvrt/py.typed": b"",
        "kvrt/libkvrt.so": library.read_bytes(),
        f"{info}/METADATA": (f"Metadata-Version: 2.1\nName: kvrt\nVersion: {version}\nSummary: Embeddable language model runtime with a quantized KV cache\n"
                             "License: Apache-2.0\nRequires-Python: >=3.9\n").encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: kvrt\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        f"{info}/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = ("\n".join([*rows, f"{info}/RECORD,,"]) + "\n").encode()
    wheel = folder / f"kvrt-{version}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    print(wheel)


main()
