#!/usr/bin/env python3
"""How fast pages of an idle session leave the pool and come back (kv.spill), beside what the medium does sequentially with as many bytes, in rounds that
take turns, each beginning with the other one. For a directory: one file of as many bytes in the same folder, written over as the tier's is, in blocks of
4 MiB. "Written" ends when all is on the disk (fsync), "read, cold" begins when nothing is in the system's cache; what is left in the cache tells the
cost of everything but the disk. For memory: a copy of as many bytes, out into memory that is
new (as malloc has it), in to memory that was used before.

  KVRT_LIBRARY=libkvrt.so spill_speed.py [DIRECTORY=/tmp] [TOKENS=16384] [ROUNDS=3] [SHAPE=llama-3.2-1b:4] [KV=f16]

The goal is 80% of the sequential speed."""
import ctypes as c
import mmap
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


def to_disk(paths):
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def drop(paths):
    """Out of the system's cache; to_disk first."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def files_in(folder):
    return [p for p in Path(folder).rglob("*") if p.is_file()]


class Sequential:
    """One file of n bytes, in blocks."""

    def __init__(self, folder, n):
        self.path, self.n, self.block = os.path.join(folder, "sequential"), n, os.urandom(BLOCK)

    def write(self):
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        for at in range(0, self.n, BLOCK):
            os.write(fd, self.block[:min(BLOCK, self.n - at)])
        os.close(fd)

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
        sequential = Sequential(WHERE, pages.n)
        sequential.write()
        ours, theirs = files_in(folder), [sequential.path]
        times = {k: ([], []) for k in ("written", "read, cold", "read, in the system's cache")}
        print(f"{pages.n / 1e6:.0f} MB of {SHAPE}, {KV}; {WHERE}, {ROUNDS} rounds")
        pages.return_()

        def written(put, paths):
            return seconds(lambda: (put(), to_disk(paths)))

        sides = [(0, pages.leave, pages.return_, ours), (1, sequential.write, sequential.read, theirs)]
        try:
            for i in range(ROUNDS):
                turn = sides if i % 2 else sides[::-1]
                for side, write, _, paths in turn:
                    times["written"][side].append(written(write, paths))
                    drop(paths)
                for side, _, read, _ in turn:
                    times["read, cold"][side].append(seconds(read))
                pages.leave()
                sequential.read()
                for side, _, read, _ in turn:
                    times["read, in the system's cache"][side].append(seconds(read))
        finally:
            os.remove(sequential.path)
        for name, (mine, medium) in times.items():
            tell("directory, " + name, mine, medium, pages.n)
        pages.close()


def memory():
    pages = Pages("memory")
    pages.leave()
    n = pages.n
    source, known = (mmap.mmap(-1, n) for _ in range(2))
    for m in (source, known):
        m.madvise(mmap.MADV_HUGEPAGE)
        m.write(os.urandom(n))
    at = [c.addressof(c.c_char.from_buffer(m)) for m in (source, known)]

    everything = source[:]  # bytes, for a copy into memory that the C library takes anew

    times = {k: ([], []) for k in ("out", "in")}
    for i in range(ROUNDS):
        steps = [("in", 0, pages.return_), ("in", 1, lambda: c.memmove(at[1], at[0], n)), ("out", 0, pages.leave), ("out", 1, lambda: bytearray(everything))]
        for name, side, work in (steps if i % 2 else [steps[k] for k in (1, 0, 3, 2)]):
            times[name][side].append(seconds(work))
    for name, (mine, medium) in times.items():
        tell("memory, " + name, mine, medium, n)
    pages.close()


directory()
memory()
