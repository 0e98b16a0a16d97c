#!/usr/bin/env python3
"""A server under thousands of requests of every kind: right and wrong ones, broken bodies, too large ones, clients that leave in the middle, read slowly or send
slowly. It must answer what it should, be idle and whole at the end, and end without a leak (build with KVRT_SANITIZE=address,undefined for that).

  KVRT=BINARY serve_storm.py [N=10000] [THREADS=12] [ARGUMENTS OF THE SERVER...]"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = os.environ.get("KVRT_STORM_MODEL", str(ROOT / "examples/models/storyteller-tiny"))
N, THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 10000, int(sys.argv[2]) if len(sys.argv) > 2 else 12
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
counts, lock = Counter(), threading.Lock()


def body(r):
    say = [{"role": "user", "content": r.choice(["Tell me about a fox.", "Hello.", "é" * r.randint(1, 40), "word " * r.randint(1, 200)])}]
    if r.random() < 0.3:
        say += [{"role": "assistant", "content": "It was."}, {"role": "user", "content": "And then?"}]
    n = r.choice([1, 3, 8, 30])
    kind = r.randrange(10)
    if kind < 4:
        b = {"messages": say, "max_tokens": n, "stream": r.random() < 0.5}
        if r.random() < 0.3:
            b.update(tools=TOOLS, tool_choice=r.choice(["auto", "required", {"type": "function", "function": {"name": "look"}}]))
        elif r.random() < 0.3:
            b.update(response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
        if r.random() < 0.3:
            b.update(logprobs=True, top_logprobs=r.randint(0, 20))
        if r.random() < 0.2:
            b.update(n=2, seed=r.randint(0, 5), stop=["the"])
        return "/v1/chat/completions", b
    if kind == 4:
        return "/v1/completions", {"prompt": r.choice(["Once upon", [5, 6, 7], ["a", "b"]]), "max_tokens": n, "logprobs": r.choice([None, 0, 3]) or 0}
    if kind == 5:
        return "/v1/messages", {"messages": say, "max_tokens": n, "stream": r.random() < 0.5, **({"tools": [{"name": "look", "input_schema": SCHEMA}],
                                                                                               "tool_choice": {"type": "any"}} if r.random() < 0.4 else {})}
    if kind == 6:
        return "/v1/responses", {"input": "Tell me.", "max_output_tokens": n, "stream": r.random() < 0.5}
    if kind == 7:
        return r.choice([("/tokenize", {"content": "a" * r.randint(0, 500)}), ("/detokenize", {"tokens": [1, 2, 3]}), ("/slots/0?action=erase", {}),
                         ("/v1/messages/count_tokens", {"messages": say})])
    wrong = r.choice([{"messages": 5}, {"messages": say, "temperature": 99}, {"messages": say, "tools": 7}, {"messages": [{"role": "user", "content": "x " * 5000}]},
                      {"messages": say, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, {}])
    return "/v1/chat/completions", wrong


def request(r, port):
    path, data = body(r)
    data = json.dumps(data).encode()
    if r.random() < 0.08:  # broken
        data = bytearray(data)
        for _ in range(r.randint(1, 5)):
            data[r.randrange(len(data))] = r.randrange(256)
        data = bytes(data)
    if r.random() < 0.01:
        data = b"[" * r.choice([10, 5000, 3000000])
    method = "POST" if r.random() < 0.97 else r.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    if r.random() < 0.05:
        method, path, data = "GET", r.choice(["/metrics", "/props", "/slots", "/", "/v1/models", "/health", "/nothing"]), b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    leaves, slow = r.random() < 0.35, r.random() < 0.03
    with socket.create_connection(("127.0.0.1", port), timeout=120) as s:
        if slow:
            for i in range(0, len(head), 7):
                s.sendall(head[i:i + 7])
                time.sleep(0.005)
        else:
            s.sendall(head)
        if leaves and r.random() < 0.3:
            s.sendall(data[:r.randrange(len(data) + 1)])
            return "left while sending"
        try:
            s.sendall(data)
        except OSError:
            pass  # too large: the answer is there already
        got = b""
        if leaves:
            time.sleep(r.random() * 0.05)
            if r.random() < 0.5:
                got = s.recv(1 << 12)
            return "left"
        while b"\r\n\r\n" not in got:
            more = s.recv(1 << 16)
            if not more:
                return "closed" if len(data) > 1 << 20 else "closed early"
            got += more
        status = int(got.split()[1])
        headers, rest = got.split(b"\r\n\r\n", 1)
        length = re.search(rb"Content-Length: (\d+)", headers)
        if method != "HEAD" and length:
            while len(rest) < int(length[1]):
                more = s.recv(1 << 16)
                if not more:
                    return "cut"
                rest += more
        elif method != "HEAD" and b"chunked" in headers:
            while not rest.endswith(b"0\r\n\r\n"):
                more = s.recv(r.choice([100, 1 << 16]))
                if not more:
                    return "cut"
                rest += more
                if slow:
                    time.sleep(0.01)
        return status


def client(seed, port, todo):
    r = random.Random(seed)
    for _ in range(todo):
        try:
            said = request(r, port)
        except OSError as problem:
            said = type(problem).__name__
        with lock:
            counts[said] += 1


def metrics(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.sendall(f"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        text = b""
        while more := s.recv(1 << 16):
            text += more
    return {k: int(v) for k, v in re.findall(r"^kvrt_(\w+) (\d+)\s*$", text.decode(), re.M)}


def main():
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([os.environ.get("KVRT", str(ROOT / "build/kvrt")), "serve", MODEL, "--port", "0", "--store", folder, "--max-body", "1000000",
                                   "--timeout", "20", *sys.argv[3:]], stderr=subprocess.PIPE, text=True)
        said = ""
        while "listening" not in said:
            line = server.stderr.readline()
            assert line, said
            said += line
        port = int(re.search(r":(\d+)\s*$", said)[1])
        drain = threading.Thread(target=lambda: said_more.append(server.stderr.read()))
        said_more = []
        drain.start()
        begun = time.time()
        threads = [threading.Thread(target=client, args=(i, port, N // THREADS)) for i in range(THREADS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for _ in range(300):
            m = metrics(port)
            if not m["requests_running"] and not m["requests_waiting"]:
                break
            time.sleep(0.1)
        for slot in range(m["sessions_max"]):  # pages: without sessions none is held
            with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
                s.sendall(f"POST /slots/{slot}?action=erase HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                while s.recv(1 << 16):
                    pass
        held = metrics(port)["kv_used_bytes"]
        server.send_signal(signal.SIGTERM)
        code = server.wait(120)
        drain.join()
    print(f"{sum(counts.values())} requests in {time.time() - begun:.0f} s: " + ", ".join(f"{k}: {v}" for k, v in sorted(counts.items(), key=str)))
    print({k: v for k, v in m.items() if v})
    bad = [k for k in counts if k in ("cut", "closed early", "ConnectionRefusedError", "TimeoutError", "timeout") or (isinstance(k, int) and k >= 500 and k != 503)]
    if code or bad or held or m["requests_running"] or m["requests_waiting"]:
        sys.exit(f"exit {code}; {bad}; {held} bytes of pages are held; {said_more[0][-4000:] if said_more else ''}")


main()
