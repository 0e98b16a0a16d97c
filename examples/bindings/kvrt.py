"""kvrt for Python: one file over ctypes, no build step.

    from kvrt import Engine
    with Engine("path/of/a/model", ctx_sessions=2) as engine:
        session = engine.session()
        session.sync(engine.tokenize("Once upon a time"))
        for text in session.generate(max_tokens=40, temperature=0.0):
            print(text, end="", flush=True)

Options are keyword arguments: sample_temperature or temperature, ctx_size, kv_format and so on; `kvrt --help` has all of them. The library is
looked for in $KVRT_LIBRARY, beside this file (as in a wheel), then as libkvrt.so.0. Text comes from a worker thread of the library; breaking out of the loop cancels the request.
Methods of an engine and its sessions may be called from any thread, one at a time.
"""
from __future__ import annotations

import ctypes as c
import os
import threading
from types import TracebackType
from typing import Any, Iterator, Optional, Sequence, Type

OK, MORE, DONE, PAUSED, PARTIAL = range(5)
STATUS_CANCELLED, STATUS_IO = -6, -7
EVENT_TEXT, EVENT_REASONING, EVENT_DONE, EVENT_ERROR = 3, 4, 7, 8
ADD_SPECIAL, PARSE_SPECIAL, SNAPSHOT_TOKENS = 1, 2, 1
ABI = 2
FINISH = {0: "none", 1: "eos", 2: "stop", 3: "length", 4: "ctx_full", 5: "cancelled", 6: "callback", 7: "paused"}


class _Error(c.Structure):
    _fields_ = [("size", c.c_uint32), ("code", c.c_int32), ("extended", c.c_int32), ("system_code", c.c_int32), ("needed_bytes", c.c_uint64),
                ("available_bytes", c.c_uint64), ("message", c.c_char * 512)]


class _Event(c.Structure):
    _fields_ = [("size", c.c_uint32), ("type", c.c_int32), ("request", c.c_uint64), ("text", c.c_void_p), ("text_len", c.c_uint64),
                ("done", c.c_uint64), ("total", c.c_uint64), ("token", c.c_int32), ("finish", c.c_int32), ("status", c.c_int32),
                ("logprob", c.c_float)]


class _SessionInfo(c.Structure):
    _fields_ = [("size", c.c_uint32), ("ctx_size", c.c_uint32), ("n_tokens", c.c_uint32), ("n_cached", c.c_uint32), ("kv_bytes", c.c_uint64),
                ("n_pages", c.c_uint32), ("n_packed_pages", c.c_uint32), ("n_shared_pages", c.c_uint32), ("n_computed", c.c_uint64),
                ("n_found", c.c_uint64)]


class _ChatInput(c.Structure):
    _fields_ = [("size", c.c_uint32), ("add_generation_prompt", c.c_int32), ("messages", c.c_char_p), ("messages_len", c.c_int64),
                ("tools", c.c_char_p), ("tools_len", c.c_int64), ("variables", c.c_char_p), ("variables_len", c.c_int64),
                ("local_time", c.c_int64), ("text_from", c.c_uint64)]


_Wakeup = c.CFUNCTYPE(None, c.c_void_p)
_beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libkvrt.so")
_lib = c.CDLL(os.environ.get("KVRT_LIBRARY") or (_beside if os.path.exists(_beside) else "libkvrt.so.0"))
_lib.kvrt_status_name.restype = c.c_char_p
_lib.kvrt_options_destroy.argtypes = [c.c_void_p]
_lib.kvrt_options_destroy.restype = None
_lib.kvrt_cancel_id.argtypes = [c.c_uint64]
_lib.kvrt_cancel_id.restype = None
_ARGUMENTS: dict[str, list[Any]] = {
    "options_create": [c.POINTER(c.c_void_p)],
    "options_set_text": [c.c_void_p, c.c_char_p, c.c_char_p],
    "engine_open": [c.c_void_p, c.c_void_p, c.c_void_p, c.POINTER(c.c_void_p)],
    "engine_close": [c.c_void_p],
    "worker_start": [c.c_void_p, _Wakeup, c.c_void_p],
    "tokenize": [c.c_void_p, c.c_char_p, c.c_int64, c.c_uint32, c.POINTER(c.c_int32), c.c_uint64, c.POINTER(c.c_uint64)],
    "detokenize": [c.c_void_p, c.POINTER(c.c_int32), c.c_uint64, c.c_uint32, c.c_char_p, c.c_uint64, c.POINTER(c.c_uint64)],
    "chat_render": [c.c_void_p, c.POINTER(_ChatInput), c.POINTER(c.c_int32), c.c_uint64, c.POINTER(c.c_uint64), c.c_char_p, c.c_uint64,
                    c.POINTER(c.c_uint64)],
    "session_create": [c.c_void_p, c.c_void_p, c.POINTER(c.c_void_p)],
    "session_close": [c.c_void_p],
    "session_fork": [c.c_void_p, c.POINTER(c.c_void_p)],
    "session_sync": [c.c_void_p, c.POINTER(c.c_int32), c.c_uint64, c.POINTER(c.c_uint64)],
    "session_rewind": [c.c_void_p, c.c_uint64],
    "session_tokens": [c.c_void_p, c.POINTER(c.c_int32), c.c_uint64, c.POINTER(c.c_uint64)],
    "session_get_info": [c.c_void_p, c.POINTER(_SessionInfo)],
    "session_save": [c.c_void_p, c.c_char_p, c.c_uint32],
    "session_load": [c.c_void_p, c.c_char_p, c.c_uint32],
    "submit": [c.c_void_p, c.c_void_p, c.POINTER(c.c_uint64)],
    "poll": [c.c_void_p, c.POINTER(_Event)],
}
for _name, _arguments in _ARGUMENTS.items():
    getattr(_lib, "kvrt_" + _name).argtypes = _arguments + [c.POINTER(_Error)]
if _lib.kvrt_abi_check(ABI) < 0:
    raise ImportError("libkvrt is of another ABI than this file")


class KvrtError(RuntimeError):
    """What a call answered: its status by number and name, and the message."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.name: str = _lib.kvrt_status_name(status).decode()
        super().__init__(f"{self.name}: {message}")


def _call(name: str, *arguments: Any) -> int:
    error = _Error(size=c.sizeof(_Error))
    status: int = getattr(_lib, "kvrt_" + name)(*arguments, c.byref(error))
    if status < 0:
        raise KvrtError(status, error.message.decode(errors="replace"))
    return status


class _Options:
    def __init__(self, values: dict[str, Any]) -> None:
        self.handle = c.c_void_p()
        _call("options_create", c.byref(self.handle))
        for key, value in values.items():
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        group, _, rest = key.partition("_")
        names = [f"{group}.{rest}"] if group in ("model", "device", "cpu", "ctx", "kv", "mem", "sched", "gen", "sample", "log", "debug") else [
            f"sample.{key}", f"gen.{key}"]
        for item in value if isinstance(value, (list, tuple)) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            for i, name in enumerate(names):
                try:
                    _call("options_set_text", self.handle, name.encode(), text.encode())
                    break
                except KvrtError:
                    if i + 1 == len(names):
                        raise

    def __del__(self) -> None:
        _lib.kvrt_options_destroy(self.handle)


class Session:
    """One timeline of tokens. Made by Engine.session or Session.fork."""

    def __init__(self, engine: "Engine", handle: c.c_void_p) -> None:
        self._engine, self._handle = engine, handle
        self.finish = "none"  # of the last generation

    def sync(self, ids: Sequence[int]) -> int:
        """Makes it equal to these tokens; returns how many need not be computed."""
        reused = c.c_uint64()
        _call("session_sync", self._handle, (c.c_int32 * len(ids))(*ids), len(ids), c.byref(reused))
        return reused.value

    def generate(self, **options: Any) -> Iterator[str]:
        """Text as it comes."""
        request = c.c_uint64()
        chosen = _Options(options)
        queue: list[tuple[int, Any]] = []
        with self._engine._changed:
            _call("submit", self._handle, chosen.handle, c.byref(request))
            self._engine._queues[request.value] = queue
        over = False
        try:
            while True:
                kind, payload = self._engine._next(queue)
                if kind == EVENT_TEXT and payload:
                    yield payload
                elif kind == EVENT_DONE:
                    text, self.finish = payload
                    over = True
                    if text:
                        yield text
                    return
                elif kind == EVENT_ERROR:
                    over = True
                    raise KvrtError(*payload)
        finally:
            if not over:
                _lib.kvrt_cancel_id(request.value)
                while self._engine._next(queue)[0] not in (EVENT_DONE, EVENT_ERROR):
                    pass
            self._engine._queues.pop(request.value, None)

    def tokens(self) -> list[int]:
        n = c.c_uint64()
        _call("session_tokens", self._handle, None, 0, c.byref(n))
        ids = (c.c_int32 * max(n.value, 1))()
        _call("session_tokens", self._handle, ids, n.value, c.byref(n))
        return list(ids[: n.value])

    def info(self) -> dict[str, int]:
        info = _SessionInfo(size=c.sizeof(_SessionInfo))
        _call("session_get_info", self._handle, c.byref(info))
        return {name: getattr(info, name) for name, _ in _SessionInfo._fields_ if name != "size"}

    def rewind(self, n: int) -> None:
        _call("session_rewind", self._handle, n)

    def fork(self) -> "Session":
        handle = c.c_void_p()
        _call("session_fork", self._handle, c.byref(handle))
        return Session(self._engine, handle)

    def save(self, path: str, tokens_only: bool = False) -> None:
        _call("session_save", self._handle, os.fsencode(path), SNAPSHOT_TOKENS if tokens_only else 0)

    def load(self, path: str, tokens_only: bool = False) -> None:
        _call("session_load", self._handle, os.fsencode(path), SNAPSHOT_TOKENS if tokens_only else 0)

    def close(self) -> None:
        _call("session_close", self._handle)


class Engine:
    """A loaded model, with a thread of its own that computes for all sessions."""

    def __init__(self, path: str, **options: Any) -> None:
        self._handle = c.c_void_p()
        self._queues: dict[int, list[tuple[int, Any]]] = {}
        self._changed = threading.Condition()
        self._woken = threading.Event()
        chosen = _Options({"model_path": path, **options})
        _call("engine_open", chosen.handle, None, None, c.byref(self._handle))
        self._wakeup = _Wakeup(lambda _user: self._woken.set())  # it may only signal
        _call("worker_start", self._handle, self._wakeup, None)

    def _next(self, queue: list[tuple[int, Any]]) -> tuple[int, Any]:
        """The next event of one request; whoever waits hands the others theirs."""
        while True:
            with self._changed:
                if queue:
                    return queue.pop(0)
                self._woken.clear()
                self._drain()
                if queue:
                    return queue.pop(0)
            self._woken.wait(0.1)

    def _drain(self) -> None:
        event = _Event(size=c.sizeof(_Event))
        while _call("poll", self._handle, c.byref(event)) == OK:
            text = c.string_at(event.text, event.text_len).decode(errors="replace") if event.text else ""
            queue = self._queues.get(event.request)
            if queue is None:
                continue
            if event.type == EVENT_DONE:
                queue.append((EVENT_DONE, (text, FINISH.get(event.finish, "none"))))
            elif event.type == EVENT_ERROR:
                queue.append((EVENT_ERROR, (event.status, text)))
            elif event.type == EVENT_TEXT:
                queue.append((EVENT_TEXT, text))

    def session(self, **options: Any) -> Session:
        handle, chosen = c.c_void_p(), _Options(options)
        _call("session_create", self._handle, chosen.handle, c.byref(handle))
        return Session(self, handle)

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        data, n = text.encode(), c.c_uint64()
        cap = len(data) + 16
        ids = (c.c_int32 * cap)()
        _call("tokenize", self._handle, data, len(data), ADD_SPECIAL if special else 0, ids, cap, c.byref(n))
        return list(ids[: n.value])

    def detokenize(self, ids: Sequence[int]) -> str:
        array, n = (c.c_int32 * max(len(ids), 1))(*ids), c.c_uint64()
        _call("detokenize", self._handle, array, len(ids), 0, None, 0, c.byref(n))
        text = c.create_string_buffer(n.value + 1)
        _call("detokenize", self._handle, array, len(ids), 0, text, n.value, c.byref(n))
        return text.raw[: n.value].decode(errors="replace")

    def chat(self, messages: str) -> list[int]:
        """Tokens of messages (JSON) by the model's chat template, ready to be answered."""
        data = messages.encode()
        chat = _ChatInput(size=c.sizeof(_ChatInput), add_generation_prompt=1, messages=data, messages_len=len(data))
        n = c.c_uint64()
        _call("chat_render", self._handle, c.byref(chat), None, 0, c.byref(n), None, 0, None)
        ids = (c.c_int32 * max(n.value, 1))()
        _call("chat_render", self._handle, c.byref(chat), ids, n.value, c.byref(n), None, 0, None)
        return list(ids[: n.value])

    def close(self) -> None:
        if self._handle:
            _call("engine_close", self._handle)
            self._handle = c.c_void_p()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()
