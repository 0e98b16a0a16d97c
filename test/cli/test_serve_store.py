#!/usr/bin/env python3
"""Conversations in a store (`kvrt serve --store`): another server goes on with them, from a directory and from Redis; prompts computed by one server and
answered by another; stores that are damaged, lie, hang, die or belong to another model cost time alone."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import main, test
from server import HANGS, STORY, STORY_MESSAGES, Server, has_http, text_of

REDIS = shutil.which("redis-server") or shutil.which("valkey-server")


def turns(s, seed=4, n=40):
    """A conversation's first answer, and the messages of its second turn."""
    first = s.chat(STORY_MESSAGES, seed=seed, max_tokens=n)
    return first, [*STORY_MESSAGES, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "And then?"}]


def expected():
    """Both turns of a server without a store."""
    with Server() as s:
        first, messages = turns(s)
        return first, messages, s.chat(messages, seed=4, max_tokens=40)


def written(s, n=1):
    end = time.monotonic() + HANGS
    while s.metric("store_written_total") < n:
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.02)


def files(folder):
    return [f for f in Path(folder).glob("*/*") if f.is_file()]


FIRST, MESSAGES, SECOND = expected() if has_http() else (None, None, None)


def goes_on(s, hits=1):
    """The second turn, of a server that has not seen the first: the same text, and what is cached of it."""
    answer = s.chat(MESSAGES, seed=4, max_tokens=40)
    assert text_of(answer) == text_of(SECOND), (text_of(answer), text_of(SECOND))
    assert s.metric("store_hits_total") == hits, s.get("/metrics")
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@test
def a_directory_outlives_the_server():
    cached = SECOND["usage"]["prompt_tokens_details"]["cached_tokens"]
    with tempfile.TemporaryDirectory() as folder:
        with Server("--store", folder) as s:
            turns(s)
        with Server("--store", folder) as s:
            assert goes_on(s) == cached, "as many as if the server had gone on"
            assert s.metric("store_tokens_total") >= FIRST["usage"]["total_tokens"] - 1 and s.metric("store_read_bytes_total") > 0
            # The third turn finds the second's session in the server itself.
            lookups = s.metric("store_lookups_total")
            s.chat([*MESSAGES, {"role": "assistant", "content": text_of(SECOND)}, {"role": "user", "content": "Go on."}], max_tokens=5)
            assert s.metric("store_lookups_total") == lookups
        before = sum(f.stat().st_size for f in files(folder))
        with Server("--store", folder) as s:  # an answer in another way takes the same prompt
            again = s.chat(STORY_MESSAGES, seed=4, max_tokens=40)
            assert text_of(again) == text_of(FIRST) and again["usage"]["prompt_tokens_details"]["cached_tokens"] == FIRST["usage"]["prompt_tokens"] - 1, again["usage"]
            written(s)
            assert s.metric("store_written_bytes_total") < before / 2, "pages that are there are not written again"
        with Server("--store", folder, "--kv", "f16") as s:
            s.chat(MESSAGES, max_tokens=5)
            assert s.metric("store_hits_total") == 0 and s.metric("store_lookups_total") == 1, "another cache has its own objects"
        with Server("--store", folder, "--role", "decode") as s:
            n = len(files(folder))
            s.chat([{"role": "user", "content": "Tell me about a whale."}], max_tokens=5)
            assert s.metric("store_written_total") == 0
        assert len(files(folder)) == n


@test
def damage_is_noticed():
    with tempfile.TemporaryDirectory() as folder:
        with Server("--store", folder) as s:
            turns(s)
        whole = {f: f.read_bytes() for f in files(folder)}
        assert len(whole) >= 2
        lists = [f for f, data in whole.items() if b"rvtseg1"[::-1] in data[:8] or data[:7] == b"rvtsges"[:7] or b"fox" in data]
        for n, change in enumerate((lambda d: d[:-1], lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: d[:len(d) // 2] + bytes([d[len(d) // 2] ^ 4]) + d[len(d) // 2 + 1:],
                                    lambda d: b"", lambda d: d + b"x", lambda d: d[::-1])):
            for only_pages in (False, True):
                for f, data in whole.items():
                    f.write_bytes(data if only_pages and f in lists else change(data))
                with Server("--store", folder, "--role", "decode") as s:
                    assert goes_on(s, hits=0) == 0
                    assert s.metric("store_damaged_total") >= 1, n
        for f, data in whole.items():
            f.write_bytes(data)
        with Server("--store", folder) as s:
            assert goes_on(s) > 0


@test
def a_directory_may_be_tidied_away():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "store"
        with Server("--store", folder) as s:
            turns(s)
            written(s)
            shutil.rmtree(folder)
            s.chat([{"role": "user", "content": "Tell me about a whale."}], max_tokens=5)
            written(s, 2)
            assert files(folder) and s.metric("store_errors_total") == 0


@test
def a_directory_has_a_limit():
    with tempfile.TemporaryDirectory() as folder:
        with Server("--store", folder) as s:
            turns(s)
        one = sum(f.stat().st_size for f in files(folder))
        with Server("--store", folder, "--store-limit", 2 * one) as s:
            for i in range(8):
                s.chat([{"role": "user", "content": f"Tell me about {i} foxes."}], max_tokens=30)
                written(s, i + 1)
        assert sum(f.stat().st_size for f in files(folder)) <= 3 * one
        time.sleep(2.1)
        with Server("--store", folder, "--store-ttl", 1) as s:
            assert not files(folder), "what is too old goes"


class Redis:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.url = "unix:" + self.folder.name + "/socket"
        self.begin()

    def begin(self):
        self.process = subprocess.Popen([REDIS, "--port", "0", "--unixsocket", self.url[5:], "--save", "", "--appendonly", "no", "--dir", self.folder.name],
                                        stdout=subprocess.DEVNULL)
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:  # until it listens
                probe.connect(self.url[5:])
                return
            time.sleep(0.01)

    def end(self):
        self.process.kill()
        self.process.wait()
        if os.path.exists(self.url[5:]):
            os.unlink(self.url[5:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self.folder.cleanup()


def has_redis():
    with tempfile.TemporaryDirectory() as folder:
        probe = subprocess.Popen([os.environ["KVRT"], "serve", STORY, "--port", "0", "--store", f"unix:{folder}/none"], stderr=subprocess.PIPE, text=True)
        said = ""
        for line in probe.stderr:
            said += line
            if "listening" in line:
                probe.terminate()
        probe.wait()
        return "without hiredis" not in said


@test
def one_computes_prompts_and_another_answers():
    if not REDIS or not has_redis():
        print("no redis-server or no hiredis: not tested")
        return
    with Redis() as r, Server("--store", r.url, "--role", "prefill") as prefill, Server("--store", r.url, "--role", "decode") as decode, \
            Server("--store", r.url) as both:
        for body, expect in (({"messages": STORY_MESSAGES}, FIRST), ({"messages": MESSAGES}, SECOND)):
            body = {**body, "seed": 4, "max_tokens": 40}
            n = prefill.post("/v1/chat/completions", body)["usage"]
            assert n["completion_tokens"] == 1, n
            answer = decode.post("/v1/chat/completions", body)
            assert text_of(answer) == text_of(expect), (text_of(answer), text_of(expect))
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == expect["usage"]["prompt_tokens"] - 1, answer["usage"]
        for words in (150, 330, 333, 400):  # prompts that end within, at and behind pages, some of them encoded
            body = {"messages": [{"role": "user", "content": "fox " * words}], "seed": 3, "max_tokens": 30}
            plain = both.post("/v1/chat/completions", body)
            prefill.post("/v1/chat/completions", body)
            answer = decode.post("/v1/chat/completions", body)
            assert text_of(answer) == text_of(plain), (words, text_of(answer), text_of(plain))
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > answer["usage"]["prompt_tokens"] - 300, answer["usage"]
        prompt = {"prompt": "Once upon a time there was a small fox who", "seed": 2, "max_tokens": 20}
        plain = both.post("/v1/completions", prompt)["choices"][0]["text"]
        prefill.post("/v1/completions", prompt)
        answer = decode.post("/v1/completions", prompt)
        assert answer["choices"][0]["text"] == plain and answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, answer
        assert decode.metric("store_hits_total") == 7 and decode.metric("store_written_total") == 0


@test
def a_store_may_die_at_any_time():
    if not REDIS or not has_redis():
        return
    with Redis() as r, Server("--store", r.url, "--sessions", 2) as a, Server("--store", r.url, "--sessions", 2) as b:
        turns(a)
        written(a)
        assert goes_on(b) > 0
        stop = threading.Event()

        def killer():
            while not stop.is_set():
                r.end()
                time.sleep(0.3)
                r.begin()
                time.sleep(0.3)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            plain, i, end = {}, 0, time.monotonic() + HANGS
            while i < 24 or (a.metric("store_errors_total") + b.metric("store_errors_total") == 0 and time.monotonic() < end):
                body = [{"role": "user", "content": f"Tell me about {i % 6} foxes."}]
                text = text_of((a, b)[i % 2].chat(body, seed=9, max_tokens=12))
                assert plain.setdefault(i % 6, text) == text, "whoever computed it"
                i += 1
        finally:
            stop.set()
            thread.join()
        assert a.metric("store_errors_total") + b.metric("store_errors_total") > 0
        time.sleep(2.1)
        turns(a, seed=5)
        for _ in range(100):
            if b.metric("store_hits_total") > 1:
                break
            text_of(b.chat([*MESSAGES, {"role": "user", "content": "x"}], max_tokens=1))
            time.sleep(0.05)


def liar(answer):
    """A server that says something else than Redis would; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(client):
        with client:
            data = b""
            while True:
                try:
                    more = client.recv(1 << 20)
                except OSError:
                    return
                if not more:
                    return
                data += more
                while data.startswith(b"*"):
                    lines, parts, rest = data.split(b"\r\n", 1), [], b""
                    if len(lines) < 2:
                        break
                    rest = lines[1]
                    for _ in range(int(lines[0][1:])):
                        size, _, body = rest.partition(b"\r\n")
                        if not size or len(body) < int(size[1:]) + 2:
                            parts = None
                            break
                        parts.append(body[:int(size[1:])])
                        rest = body[int(size[1:]) + 2:]
                    if parts is None:
                        break
                    data = rest
                    try:
                        client.sendall(answer(parts))
                    except OSError:
                        return

    def accept():
        while True:
            try:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return listener


@test
def a_store_may_say_anything():
    if not has_redis():
        return
    kept = {}

    def others(parts):  # every object is the one that was written last
        if parts[0] == b"SET":
            kept["x"] = parts[2]
        value = kept.get("x")
        return {b"SET": b"+OK\r\n", b"EXPIRE": b":0\r\n"}.get(parts[0]) or (b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))

    for answer in (others, lambda parts: b"$5\r\nhello\r\n", lambda parts: b"-ERR no\r\n", lambda parts: b"*-1\r\n", lambda parts: b"\x00garbage\r\n",
                   lambda parts: b":1\r\n", lambda parts: b"$99999999999\r\n", lambda parts: b""):
        with liar(answer) as listener, Server("--store", f"redis://127.0.0.1:{listener.getsockname()[1]}") as s:
            begun = time.monotonic()
            first, messages = turns(s)
            assert text_of(first) == text_of(FIRST)
            with Server("--store", f"redis://127.0.0.1:{listener.getsockname()[1]}") as other:
                assert text_of(other.chat(messages, seed=4, max_tokens=40)) == text_of(SECOND)
                assert other.metric("store_hits_total") == 0
            assert time.monotonic() - begun < 60, "a store that hangs costs its time limit and no more"


@test
def what_cannot_begin():
    for args, part in ((("--store", "/proc/nothing/here"), "--store"), (("--role", "decode"), "--store"), (("--store", "redis://", ), "--store"),
                       (("--store", "/tmp", "--role", "x"), "--role")):
        found = subprocess.run([os.environ["KVRT"], "serve", STORY, "--port", "0", *args], capture_output=True, text=True, timeout=HANGS)
        assert found.returncode != 0 and part in found.stderr, (args, found)


if __name__ == "__main__":
    if not has_http():
        print("skipped: this kvrt was built without libmicrohttpd")
        sys.exit(77)
    main()
