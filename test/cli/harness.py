"""What the command-line tests share: running kvrt, a model folder to damage, and a small test loop."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
KVRT = os.environ.get("KVRT", str(ROOT / "build/kvrt"))
MODEL = str(ROOT / "test/golden/models/llama_gqa2")

# A user's KVRT_* settings and terminal must not reach the tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("KVRT_") and k not in ("NO_COLOR", "TERM")}

tests = []


def test(function):
    tests.append(function)
    return function


class Result:
    def __init__(self, args, process):
        self.args, self.code, self.out, self.err = args, process.returncode, process.stdout, process.stderr.decode()

    def expect(self, code, err=None, out=None):
        """Checks the exit code, parts of stderr and the whole of stdout."""
        shown = f"kvrt {' '.join(map(str, self.args))[:300]}\nexit {self.code}\nstdout: {self.out[:400]!r}\nstderr: {self.err[:800]}"
        assert self.code == code, f"expected exit {code}\n{shown}"
        for part in [err] if isinstance(err, str) else err or []:
            assert part in self.err, f"expected '{part}' on stderr\n{shown}"
        assert out is None or self.out == out, f"expected stdout {out!r}\n{shown}"
        # One message line, beginning with the command's name, when it fails before any output.
        if code and err:
            assert self.err.startswith("kvrt"), f"a message begins with the command's name\n{shown}"
        assert "\x1b" not in self.err and b"\x1b" not in self.out, f"no escape sequences away from a terminal\n{shown}"
        return self

    def json(self):
        return json.loads(self.out)


def kvrt(*args, stdin=b"", env=None, timeout=300, **more):
    args = [str(a) for a in args]
    process = subprocess.run([KVRT, *args], input=stdin, stdout=more.get("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                             env={**ENVIRONMENT, **(env or {})}, timeout=timeout, cwd=more.get("cwd"))
    if process.stdout is None:
        process.stdout = b""
    return Result(args, process)


class Folder:
    """A private copy of the model, to be damaged."""

    def __enter__(self):
        self.top = tempfile.mkdtemp(prefix="kvrt-cli-")
        self.path = Path(self.top) / "model"
        self.path.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{MODEL}/{name}", self.path / name)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.top)

    def __fspath__(self):
        return str(self.path)

    __str__ = __fspath__

    def config(self, **changes):
        file = self.path / "config.json"
        config = json.loads(file.read_text())
        config.update(changes)
        file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    def weights(self):
        """The safetensors file as (header, data)."""
        raw = (self.path / "model.safetensors").read_bytes()
        n = struct.unpack("<Q", raw[:8])[0]
        return json.loads(raw[8:8 + n]), raw[8 + n:]

    def write_weights(self, header, data):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (self.path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    failed = 0
    if not Path(MODEL, "config.json").exists():
        print(f"no model in {MODEL}")
        sys.exit(1)
    for function in tests:
        try:
            function()
            print(f"ok    {function.__name__}")
        except Exception as problem:  # a failing case must not hide the others
            failed += 1
            print(f"FAIL  {function.__name__}: {problem}")
            if not isinstance(problem, AssertionError):
                traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failed} ok, {failed} failed")
    sys.exit(1 if failed else 0)
