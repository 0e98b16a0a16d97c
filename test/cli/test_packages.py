#!/usr/bin/env python3
"""What users install: Debian packages, a Python wheel; and bindings of languages whose tools a machine may lack, which are then skipped by name."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ.get("KVRT_BUILD_DIR", "build")).resolve()
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "examples/models/storyteller-tiny")
LIBRARY = BUILD / "libkvrt.so"


class Skip(Exception):
    pass


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Skip(f"no {tool} here")


def run(*command, code=0, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=600, **more)
    assert done.returncode == code, (command, done.returncode, done.stdout[-800:], done.stderr[-2000:])
    return done.stdout.decode(errors="replace")


def test_deb():
    """Three packages; unpacked beside each other a program builds against them and runs, and the command runs alone."""
    need("cpack", "dpkg-deb", "dpkg-shlibdeps", "cc")
    with tempfile.TemporaryDirectory() as folder:
        run("cpack", "-G", "DEB", "-B", folder, cwd=BUILD)
        debs = {path.name.split("_")[0]: path for path in pathlib.Path(folder).glob("*.deb")}
        assert sorted(debs) == ["kvrt", "libkvrt-dev", "libkvrt0"], debs
        files = {name: run("dpkg-deb", "-c", path) for name, path in debs.items()}
        assert "/usr/bin/kvrt" in files["kvrt"] and "/usr/share/man/man1/kvrt.1" in files["kvrt"] and "libkvrt" not in files["kvrt"]
        assert "kvrt.h" in files["libkvrt-dev"] and "kvrt.pc" in files["libkvrt-dev"] and "libkvrt.so.0.1.0" not in files["libkvrt-dev"].replace("-> ", "\n")
        assert "libkvrt.so.0" in files["libkvrt0"] and "kvrt.h" not in files["libkvrt0"]
        assert "libc6" in run("dpkg-deb", "-f", debs["libkvrt0"], "Depends"), "what it links is named"
        assert "libkvrt0 (= 0.1.0)" in run("dpkg-deb", "-f", debs["libkvrt-dev"], "Depends")
        root = pathlib.Path(folder) / "root"
        for path in debs.values():
            run("dpkg-deb", "-x", path, root)
        libdir = next(root.glob("usr/lib*/**/libkvrt.so.0")).parent
        run("cc", f"-I{root}/usr/include", ROOT / "examples/hello.c", "-o", f"{folder}/hello", f"-L{libdir}", "-lkvrt", f"-Wl,-rpath,{libdir}")
        assert run(f"{folder}/hello", MODEL, "Hello")
        assert run(root / "usr/bin/kvrt", "run", MODEL, "-p", "Hello", "-n", "5")


def test_wheel():
    with tempfile.TemporaryDirectory() as folder:
        wheel = run(sys.executable, ROOT / "tools/packaging/wheel.py", LIBRARY, folder).strip()
        again = pathlib.Path(run(sys.executable, ROOT / "tools/packaging/wheel.py", LIBRARY, f"{folder}/again").strip())
        assert pathlib.Path(wheel).read_bytes() == again.read_bytes(), "the same build gives the same bytes"
        program = ("import kvrt, sys\nassert kvrt.__file__.startswith(sys.argv[2]), kvrt.__file__\nwith kvrt.Engine(sys.argv[1], device_backend='cpu') as e:\n"
                   " s = e.session(temperature=0)\n s.sync(e.tokenize('Once upon'))\n assert ''.join(s.generate(max_tokens=8))\n")
        env = {key: value for key, value in os.environ.items() if key not in ("KVRT_LIBRARY", "LD_LIBRARY_PATH", "PYTHONPATH")}
        pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
        if pip.returncode == 0:
            run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", f"{folder}/site", wheel)
        else:  # a wheel is a zip that is unpacked
            run(sys.executable, "-m", "zipfile", "-e", wheel, f"{folder}/site")
        run(sys.executable, "-c", program, MODEL, f"{folder}/site", env={**env, "PYTHONPATH": f"{folder}/site"})


def test_csharp():
    need("mcs", "mono")
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted((ROOT / "examples/bindings/csharp").glob("*.cs"))
        run("mcs", "-warnaserror", f"-out:{folder}/Frames.exe", *sources)
        env = {**os.environ, "LD_LIBRARY_PATH": str(BUILD)}
        out = run("mono", f"{folder}/Frames.exe", MODEL, "Once upon a time", env=env).splitlines()
        assert out[0] and out[1:4] == ["the fork says the same", "saved and loaded: the same", "cancelled: Cancelled"], out
        run("mono", f"{folder}/Frames.exe", "/nonexistent", "x", env=env, code=1)


def test_node():
    need("node", "cc")
    include = run("node", "-p", "require('path').resolve(process.execPath, '../../include/node')").strip()
    if not os.path.exists(f"{include}/node_api.h"):
        raise Skip(f"no node_api.h in {include}")
    with tempfile.TemporaryDirectory() as folder:
        run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{include}", f"-I{ROOT}/runtime",
            ROOT / "examples/bindings/node/kvrt_node.c", "-o", f"{folder}/kvrt.node", LIBRARY, f"-Wl,-rpath,{BUILD}")
        script = ROOT / "examples/bindings/node/stream.js"
        out = run("node", script, f"{folder}/kvrt.node", MODEL, "Once upon a time", "1").splitlines()  # one piece of work a step, on any machine
        steps, others = map(int, re.fullmatch(r"the fork says the same; 33 tokens; (\d+) steps, (\d+) turns of others", out[1]).groups())
        assert out[0] and steps > 24 and others >= steps - 1 and out[2] == "KVRT_HANDLE", out
        run("node", script, f"{folder}/kvrt.node", "/nonexistent", "x", code=1)


def test_godot():
    """Against the header of Godot, where KVRT_GODOT_HEADER names its folder: no package of Debian or PyPI has it."""
    need("cc")
    include = os.environ.get("KVRT_GODOT_HEADER", "/usr/include/godot")
    if not os.path.exists(f"{include}/gdextension_interface.h"):
        raise Skip(f"no gdextension_interface.h in {include} (KVRT_GODOT_HEADER)")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wno-cast-function-type", "-Werror", f"-I{include}"]
    with tempfile.TemporaryDirectory() as folder:
        run("cc", *flags, "-shared", "-fPIC", f"-I{ROOT}/runtime", ROOT / "examples/bindings/godot/kvrt_godot.c", "-o", f"{folder}/libkvrt_godot.so",
            LIBRARY, f"-Wl,-rpath,{BUILD}")
        run("cc", *flags, ROOT / "test/cli/play_godot.c", "-o", f"{folder}/play_godot", "-ldl")
        out = run(f"{folder}/play_godot", f"{folder}/libkvrt_godot.so", MODEL).splitlines()
        assert out[0] and out[-3].endswith("frames of 2 ms") and out[-2:] == ["cancelled", "nothing is left"], out


if __name__ == "__main__":
    sanitized = subprocess.run(["sh", "-c", f"ldd '{LIBRARY}' | grep -q san"], capture_output=True).returncode == 0
    if sanitized:
        print("skipped: a sanitizer build is not for installing")
        sys.exit(77)
    for name in sys.argv[1:] or [n for n in globals() if n.startswith("test_")]:
        try:
            globals()[name]()
            print(f"ok      {name}", flush=True)
        except Skip as why:
            print(f"skipped {name}: {why}", flush=True)
