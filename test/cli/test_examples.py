#!/usr/bin/env python3
"""The example programs and bindings, each built and run: what they print is what they promise."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ.get("KVRT_BUILD_DIR", "build"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "examples/models/storyteller-tiny")
LIBRARY = str(BUILD / "libkvrt.so")


def run(*command, text="", code=0, **more):
    done = subprocess.run([str(c) for c in command], input=text.encode(), capture_output=True, timeout=300, **more)
    assert done.returncode == code, (command, done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout.decode(errors="replace")


def example(name, *args, **more):
    return run(BUILD / "examples" / name, *args, **more)


def test_two_sessions():
    found = re.findall(r"\((\d+) tokens computed, (\d+) taken from the other", example("two_sessions", MODEL))
    assert len(found) == 2 and sum(int(n) for _, n in found) > 50, found


def test_game_loop():
    out = example("game_loop", MODEL, "3000")
    frames = int(re.search(r"(\d+) frames of 3000 us", out).group(1))
    counts = [int(n) for n in re.findall(r"over by .*: (\d+)", out)]
    assert len(counts) == 7 and sum(counts) == frames > 0, out  # how many are over is for a quiet machine to say


def test_save_game():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/save"
        apart = "".join(example("save_game", MODEL, path) for _ in range(3))
        assert os.listdir(folder) == ["save"]
        pathlib.Path(path).write_bytes(pathlib.Path(path).read_bytes()[:-1])
        example("save_game", MODEL, path, code=1)
    assert len(apart) > 60


def test_plan():
    out = example("plan_memory", MODEL, "64MiB")
    assert [line.split()[0] for line in out.splitlines()] == ["f16", "i8", "k4v4", "k4v2"], out
    example("plan_memory", MODEL, "1KiB")
    example("plan_memory", "/nonexistent", code=1)


def test_worker():
    assert len(example("worker", MODEL, text="Once upon a time\n")) > 30
    for name in ("two_sessions", "game_loop", "worker"):
        example(name, "/nonexistent", code=1)
        example(name, code=2)


def test_cpp():
    with tempfile.TemporaryDirectory() as folder:
        for compiler in ("g++", "clang++"):
            if subprocess.run(["sh", "-c", f"command -v {compiler}"], capture_output=True).returncode:
                continue
            run(compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT}/runtime", ROOT / "examples/bindings/stream.cpp",
                "-o", folder + "/stream", LIBRARY, f"-Wl,-rpath,{BUILD.resolve()}")
            one, _, two = run(folder + "/stream", MODEL, "Once upon a time").partition("\n--\n")
            assert one.strip() and one.strip() == two.strip(), (one, two)
            run(folder + "/stream", "/nonexistent", "x", code=1)


PYTHON = '''
import sys, threading
from kvrt import Engine, KvrtError
with Engine(sys.argv[1], ctx_sessions=4, device_backend="cpu") as engine:
    a = engine.session(max_tokens=20, temperature=0)
    ids = engine.tokenize("Once upon a time")
    assert engine.detokenize(ids).strip().startswith("Once"), engine.detokenize(ids)
    a.sync(ids)
    b = a.fork()
    first = "".join(a.generate())
    assert first and a.finish == "length", (first, a.finish)
    assert "".join(b.generate()) == first
    assert a.info()["n_tokens"] == len(a.tokens()) == len(ids) + 20
    a.save(sys.argv[2])
    more = "".join(a.generate(max_tokens=10))
    b.load(sys.argv[2])
    assert "".join(b.generate(max_tokens=10)) == more
    a.sync(ids)
    for text in a.generate(max_tokens=400, ignore_eos=True):
        break                     # cancels
    assert "".join(a.generate(max_tokens=1)) is not None
    texts = {}
    def talk(i):
        s = engine.session(temperature=0)
        s.sync(ids)
        texts[i] = "".join(s.generate(max_tokens=20))
    threads = [threading.Thread(target=talk, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert set(texts.values()) == {first}, texts
    assert engine.chat('[{"role": "user", "content": "Hello"}]')
    for bad in (lambda: a.rewind(1 << 30), lambda: engine.session(no_such_option=1), lambda: Engine("/nonexistent"), lambda: b.load("/nonexistent")):
        try:
            bad()
        except KvrtError as error:
            assert error.name.startswith("KVRT_"), error
        else:
            raise AssertionError("no error")
'''


def test_python():
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "KVRT_LIBRARY": LIBRARY, "PYTHONPATH": str(ROOT / "examples/bindings"), "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("LD_PRELOAD", None)
        run(sys.executable, "-c", PYTHON, MODEL, folder + "/save", env=env)


if __name__ == "__main__":
    built = subprocess.run(["sh", "-c", f"ldd '{LIBRARY}' | grep -c san"], capture_output=True, text=True)
    sanitized = built.stdout.strip() not in ("", "0")
    for name in sys.argv[1:] or [n for n in globals() if n.startswith("test_")]:
        if sanitized and name in ("test_cpp", "test_python"):
            continue  # the host program would have to be built with the sanitizers too
        globals()[name]()
        print(name, flush=True)
