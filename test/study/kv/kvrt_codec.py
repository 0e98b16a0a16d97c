"""The cache's own encoder (runtime/kv) for studies in PyTorch: compiled on first use, with what stands in runtime/kv now."""
import ctypes
import os
import subprocess
import tempfile

import torch

from encoders import PAGE, hadamard

HERE = os.path.dirname(os.path.abspath(__file__))
CODES = {"4": 5, "3": 6, "2": 7, "t3": 8, "t2": 9, "8": 4}


def build(kv=os.path.join(HERE, "..", "..", "..", "runtime", "kv"), flags=()):
    """A library of study_codec.c and the encoders in the folder kv; floating point as the library is built."""
    out = os.path.join(tempfile.mkdtemp(prefix="kvrt_study_"), "codec.so")
    common = ["cc", "-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-Wno-psabi", *flags]
    objects = []
    for name, isa in (("encode", ()), ("encode_avx2", ("-mavx2", "-mfma", "-mf16c")),
                      ("encode_avx512", ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd", "-mfma", "-mf16c"))):
        objects.append(out + name + ".o")
        subprocess.run([*common, *isa, "-c", os.path.join(kv, name + ".c"), "-o", objects[-1]], check=True)
    subprocess.run([*common, "-shared", os.path.join(HERE, "study_codec.c"), *objects, "-lm", "-o", out], check=True)
    return ctypes.CDLL(out)


_library = []


def library():
    if not _library:
        _library.append(build())
    return _library[0]


def pointer(t, kind=ctypes.c_float):
    return ctypes.cast(t.data_ptr(), ctypes.POINTER(kind))


def viterbi(x, bits, history, table):
    """Rows (..., n) to their windows (study_codec.c), whose levels are in table."""
    x, out = x.contiguous(), torch.empty(x.shape, dtype=torch.int16)
    if not library().study_viterbi(pointer(x), x.numel() // x.shape[-1], x.shape[-1], bits, history, pointer(table), pointer(out, ctypes.c_int16)):
        raise MemoryError("codec")
    return out.long()


def kept_queries(lib, q, n_kv, n_rows):
    """(n_kv, pages, n_rows, D) int8 of q (heads, n, D), rotated: row r is of head r mod heads per KV head, n_rows spread over a page's positions."""
    heads, n, d = q.shape
    group, pages = heads // n_kv, n // PAGE
    y = q[:, :pages * PAGE].reshape(n_kv, group, pages, PAGE, d)
    row = torch.arange(n_rows)
    at = (row * PAGE + PAGE - 1) // n_rows if n_rows <= PAGE else row * PAGE // n_rows
    picked = y[:, row % group, :, at].permute(1, 2, 0, 3).contiguous()
    out = torch.empty(picked.shape, dtype=torch.int8)
    lib.study_queries(pointer(picked), out.numel() // d, d, pointer(out, ctypes.c_int8))
    return out


class Side:
    """K or V in one of CODES as kvrt stores it. queries: rows that a plain page keeps of each KV head, 0: rounded plainly. key: of V."""

    def __init__(self, code, is_v, queries=0, lib=None):
        self.code, self.is_v, self.queries, self.lib = CODES[code], is_v, queries, lib

    def __call__(self, x, q, key=None, **_):
        lib = self.lib or library()
        heads, n, d = x.shape
        pages, turn = n // PAGE, hadamard(d)
        tiles = (x @ turn).reshape(heads * pages, PAGE, d).contiguous()
        out, rows, has_next, keys = torch.empty_like(tiles), None, None, None
        if self.is_v and self.queries:
            keys = (key @ turn).reshape(heads * pages, PAGE, d).contiguous()
        if self.queries:
            kept = kept_queries(lib, q @ turn, heads, self.queries)
            rows = torch.stack([kept, torch.cat([kept[:, 1:], kept[:, -1:]], 1)], 2).contiguous()
            has_next = torch.ones(heads, pages, dtype=torch.uint8)
            has_next[:, -1] = 0
        done = lib.study_encode(self.code, int(self.is_v), pointer(tiles), heads * pages, d, pointer(rows, ctypes.c_int8) if self.queries else None,
                                rows.shape[3] if self.queries else 0, pointer(has_next, ctypes.c_uint8) if self.queries else None, None if keys is None else pointer(keys), pointer(out))
        if not done:
            raise MemoryError("codec")
        return (out.reshape(heads, n, d)) @ turn.T
