#!/usr/bin/env python3
"""How fast pages of an idle session leave the pool and come back (kv.spill), beside what the medium does sequentially with as many bytes, in rounds that
take turns. For a directory every file is brought to the disk and dropped from the system's cache before it is read again, on both sides; what
is left in the cache tells the cost of everything but the disk.

  KVRT_LIBRARY=libkvrt.so spill_speed.py [DIRECTORY=/tmp] [TOKENS=16384] [ROUNDS=3] [SHAPE=llama-3.2-1b:4] [KV=f16]

The goal is 80% of the sequential speed."""
import ctypes as c
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "bindings"))
import kvrt  # noqa: E402

WHERE, TOKENS, ROUNDS, SHAPE, KV = [a or b for a, b in zip(sys.argv[1:6] + [""] * 5, ["/tmp", "16384", "3", "llama-3.2-1b:4", "f16"])]
TOKENS, ROUNDS = int(TOKENS), int(ROUNDS)
BLOCK = 4 << 20
lib, call = kvrt._lib, kvrt._call
lib.kvrt_measure_fill.argtypes = [c.c_void_p, c.c_uint64, c.c_uint64, c.c_void_p]
lib.kvrt_session_spill.argtypes = [c.c_void_p, c.POINTER(c.c_uint64), c.c_void_p]


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def drop(paths):
    """To the disk, and out of the system's cache."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def files_in(folder):
    return [p for p in Path(folder).rglob("*") if p.is_file()]


class Sequential:
    """One file of n bytes, in blocks."""

    def __init__(self, folder, n):
        self.path, self.n, self.block = os.path.join(folder, "sequential"), n, os.urandom(BLOCK)

    def write(self):
        with open(self.path, "wb", buffering=0) as f:
            for at in range(0, self.n, BLOCK):
                f.write(self.block[:min(BLOCK, self.n - at)])

    def read(self):
        block = bytearray(BLOCK)
        with open(self.path, "rb", buffering=0) as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while f.readinto(block):
                pass


class Pages:
    """One session of an engine whose pages go there and back."""

    def __init__(self, where):
        options = kvrt._Options({"model_shape": SHAPE, "kv_format": KV, "ctx_size": TOKENS + 256, "kv_spill": where, "cpu_threads": os.cpu_count() or 1})
        self.engine, self.session = c.c_void_p(), c.c_void_p()
        call("engine_open", options.handle, None, None, c.byref(self.engine))
        call("session_create", self.engine, options.handle, c.byref(self.session))
        call("measure_fill", self.session, TOKENS, 1)

    def leave(self):
        moved = c.c_uint64()
        call("session_spill", self.session, c.byref(moved))
        self.n = moved.value

    def return_(self):
        call("session_rewind", self.session, TOKENS)  # to where it is: its pages come back, nothing else

    def close(self):
        call("engine_close", self.engine)


def tell(name, ours, theirs, n):
    ratios = [b / a for a, b in zip(ours, theirs)]
    gbps = lambda s: n / statistics.median(s) / 1e9  # noqa: E731
    print(f"{name:34} {gbps(ours):7.2f} GB/s   sequential {gbps(theirs):7.2f} GB/s   {100 * statistics.median(ratios):5.0f}%"
          f" ({100 * min(ratios):.0f} to {100 * max(ratios):.0f})")


def directory():
    with tempfile.TemporaryDirectory(dir=WHERE) as folder:
        pages = Pages(folder)
        pages.leave()
        sequential, n_files = Sequential(WHERE, pages.n), len(files_in(folder))
        times = {k: ([], []) for k in ("written", "read, cold", "read, in the system's cache")}
        pages.return_()
        print(f"{pages.n / 1e6:.0f} MB in {n_files} files of {SHAPE}, {KV}")
        try:
            for _ in range(ROUNDS):
                def out(put, paths):
                    return seconds(lambda: (put(), drop(paths())))
                times["written"][0].append(out(pages.leave, lambda: files_in(folder)))
                times["written"][1].append(out(sequential.write, lambda: [sequential.path]))
                times["read, cold"][0].append(seconds(pages.return_))
                times["read, cold"][1].append(seconds(sequential.read))
                pages.leave()
                times["read, in the system's cache"][0].append(seconds(pages.return_))
                times["read, in the system's cache"][1].append(seconds(sequential.read))
        finally:
            if os.path.exists(sequential.path):
                os.remove(sequential.path)
        for name, (ours, theirs) in times.items():
            tell("directory, " + name, ours, theirs, pages.n)
        pages.close()


def memory():
    pages = Pages("memory")
    pages.leave()
    away, back, copies = [], [], []
    source = bytes(pages.n)
    for _ in range(ROUNDS):
        back.append(seconds(pages.return_))
        away.append(seconds(pages.leave))
        copies.append(seconds(lambda: bytearray(source)))
    tell("memory, out", away, copies, pages.n)
    tell("memory, in", back, copies, pages.n)
    pages.close()


directory()
memory()
