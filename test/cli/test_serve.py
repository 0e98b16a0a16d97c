#!/usr/bin/env python3
"""`kvrt serve` over real connections: answers equal to `kvrt run`, streams, conversations found again, many clients at once, what is refused, clients
that leave, and the end."""
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from harness import ENVIRONMENT, KVRT, MODEL, ROOT, kvrt, main, test

STORY = str(ROOT / "examples/models/storyteller-tiny")
ENDLESS = ["--ctx", "2000000", "--reserve", "0"]  # with `endless` bodies: enough to be met in the middle, on any machine
STORY_MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]


def has_http():
    return "libmicrohttpd" not in kvrt("serve", MODEL, "--port", "99999").err


class Server:
    def __init__(self, *args, model=STORY):
        self.process = subprocess.Popen([KVRT, "serve", model, "--port", "0", *map(str, args)], stderr=subprocess.PIPE,
                                        env=ENVIRONMENT, text=True)
        self.said = ""
        while "listening on" not in self.said:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line
        self.port = int(re.search(r"http://.*:(\d+)", self.said)[1])

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if failed[0] else signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        assert failed[0] or code == 0, f"exit {code}: {self.said}"

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, expect=200):
        """The answer as (headers, JSON or text)."""
        connection = self.connect()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == expect, f"{method} {path}: expected {expect}, found {answer.status}: {text[:500]}"
        return answer.headers, json.loads(text) if "json" in answer.getheader("Content-Type", "") else text

    def get(self, path, **more):
        return self.ask("GET", path, **more)[1]

    def post(self, path, body, **more):
        return self.ask("POST", path, body, **more)[1]

    def chat(self, messages, **more):
        return self.post("/v1/chat/completions", {"messages": messages, **more})

    def stream(self, path, body):
        """The events of a stream, as (event, JSON)."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.getheader("Content-Type").startswith("text/event-stream")
        events = []
        for block in answer.read().decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                events.append((fields.get("event"), fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])))
        connection.close()
        return events

    def metric(self, name):
        return int(re.search(rf"^kvrt_{name} (\d+)$", self.get("/metrics"), re.M)[1])

    def until(self, name, value):
        for _ in range(600):
            if self.metric(name) == value:
                return
            time.sleep(0.05)
        raise AssertionError(f"{name} is {self.metric(name)}, expected {value}")

    def begin(self, body, path="/v1/completions"):
        """A request whose answer nobody has read yet."""
        connection = self.connect()
        connection.request("POST", path, json.dumps(body))
        return connection


def endless(**more):
    return {"prompt": "abc", "max_tokens": 1000000, "ignore_eos": True, **more}


def run_chat(messages, seed, n, *args):
    text = json.dumps(messages).encode()
    return kvrt("run", STORY, "-m", "-", "--seed", seed, "-n", n, "--json", *args, stdin=text).expect(0).json()


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


@test
def what_can_be_asked_without_an_answer():
    with Server("--alias", "fable") as s:
        assert s.get("/health") == {"status": "ok"}
        models = s.get("/v1/models")
        assert models["data"][0]["id"] == "fable" and models["data"][0]["object"] == "model", models
        assert s.get("/models") == models and s.get("/v1/models/") == models
        props = s.get("/props")
        assert props["ctx_size"] == 2048 and props["architecture"] == "llama" and props["sessions"] == 4, props
        tokens = s.post("/tokenize", {"content": "Once upon a time<|im_end|>"})
        assert tokens["count"] == len(tokens["tokens"]) > 8, "text never becomes a special token"
        assert s.post("/detokenize", {"tokens": tokens["tokens"]})["content"] == "Once upon a time<|im_end|>"
        s.post("/detokenize", {"tokens": [1 << 30]}, expect=400)
        s.post("/tokenize", {"content": 5}, expect=400)
        error = s.get("/v1/nothing", expect=404)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        headers, _ = s.ask("DELETE", "/v1/models", expect=405)
        assert headers["Allow"] == "GET", headers
        headers, _ = s.ask("GET", "/v1/chat/completions", expect=405)
        assert headers["Allow"] == "POST", headers
        assert s.metric("requests_refused_total") == 5
        for line in s.get("/metrics").splitlines():
            assert re.fullmatch(r"# (HELP|TYPE) kvrt_\w+ .+|kvrt_\w+ \d+", line), line


@test
def answers_equal_those_of_run():
    with Server() as s:
        for seed in (1, 2, 1):  # again: a kept session begins its random numbers anew
            expected = run_chat(STORY_MESSAGES, seed, 60)
            answer = s.chat(STORY_MESSAGES, seed=seed, max_tokens=60)
            assert text_of(answer) == expected["text"], (text_of(answer), expected["text"])
            usage = answer["usage"]
            assert usage["prompt_tokens"] == expected["n_prompt"] and usage["completion_tokens"] == expected["n_generated"], usage
        expected = kvrt("run", STORY, "-p", "Once upon a", "--seed", 3, "-n", 40, "--json", "--temp", "1.1", "--top-k", 9).expect(0).json()
        answer = s.post("/v1/completions", {"prompt": "Once upon a", "seed": 3, "max_tokens": 40, "temperature": 1.1, "top_k": 9})
        assert answer["choices"][0]["text"] == expected["text"], answer
        ids = s.post("/tokenize", {"content": "Once upon a"})["tokens"]
        again = s.post("/v1/completions", {"prompt": ids, "seed": 3, "max_tokens": 40, "temperature": 1.1, "top_k": 9})
        assert again["choices"][0]["text"] == expected["text"], again


@test
def a_stream_says_the_same():
    with Server() as s:
        body = {"messages": STORY_MESSAGES, "seed": 4, "max_tokens": 50}
        whole = s.chat(**body)
        events = [data for _, data in s.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})]
        assert events[-1] == "[DONE]" and events[-2]["choices"] == [] and events[0]["choices"][0]["delta"]["role"] == "assistant", events
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-2]) == text_of(whole)
        assert events[-3]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
        assert events[-2]["usage"]["completion_tokens"] == 50 and all(e["usage"] is None for e in events[:-2]), events[-2]
        assert len({e["id"] for e in events[:-1]}) == 1
        body = {"prompt": "A", "seed": 4, "logprobs": 0}
        whole = s.post("/v1/completions", body)["choices"][0]
        chunks = [data["choices"][0] for _, data in s.stream("/v1/completions", body)[:-1]]
        assert "".join(c["text"] for c in chunks) == whole["text"] == "".join(whole["logprobs"]["tokens"])
        assert [t for c in chunks for t in c["logprobs"]["tokens"]] == whole["logprobs"]["tokens"]
        assert [t for c in chunks for t in c["logprobs"]["text_offset"]] == whole["logprobs"]["text_offset"]
        assert len(whole["logprobs"]["token_logprobs"]) == 16 and all(p <= 0 for p in whole["logprobs"]["token_logprobs"])


@test
def the_next_turn_computes_only_what_is_new():
    with Server() as s:
        messages = [{"role": "system", "content": "You tell stories."}, *STORY_MESSAGES]
        for turn in range(4):
            first = s.chat(messages, seed=9, max_tokens=40)["usage"] if turn == 0 else s.chat(messages, max_tokens=40)["usage"]
            answer = s.chat(messages, seed=9, max_tokens=40)  # asked again: only its last token is computed
            usage = answer["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 1, usage
            if turn:
                assert first["prompt_tokens_details"]["cached_tokens"] >= held - 1, (turn, first, held)
            held = usage["total_tokens"]
            messages += [{"role": "assistant", "content": text_of(answer)}, {"role": "user", "content": f"And then, part {turn}?"}]
        assert s.metric("sessions") == 1, "one conversation is one session"


@test
def other_conversations_do_not_disturb():
    with Server("--sessions", 2) as s:
        expected = [run_chat([{"role": "user", "content": f"Story {i}"}], i, 30)["text"] for i in range(6)]
        for _ in range(2):
            for i in range(6):
                assert text_of(s.chat([{"role": "user", "content": f"Story {i}"}], seed=i, max_tokens=30)) == expected[i], i


@test
def sixteen_streams_at_once():
    with Server("--sessions", 16) as s:
        prompts = [f"Once there were {i} " for i in range(32)]
        texts = [None] * 32

        def client(i):
            body = {"prompt": prompts[i], "seed": i, "max_tokens": 64, "ignore_eos": True}
            texts[i] = "".join(d["choices"][0]["text"] for _, d in s.stream("/v1/completions", body)[:-1])

        threads = [threading.Thread(target=client, args=(i,)) for i in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i in (0, 5, 15, 16, 31):
            alone = kvrt("run", STORY, "-p", prompts[i], "--seed", i, "-n", 64, "--ignore-eos", "--json").expect(0).json()["text"]
            assert texts[i] == alone, (i, texts[i], alone)
        assert all(texts)
        assert s.metric("generated_tokens_total") == 32 * 64 and s.metric("requests_running") == 0


@test
def several_answers_stops_and_biases():
    with Server() as s:
        answer = s.chat(STORY_MESSAGES, n=3, seed=7, max_tokens=20)
        texts = [c["message"]["content"] for c in answer["choices"]]
        assert texts == [run_chat(STORY_MESSAGES, 7 + i, 20)["text"] for i in range(3)], texts
        assert answer["usage"]["completion_tokens"] == 60, answer["usage"]
        answer = s.post("/v1/completions", {"prompt": ["One ", "Two "], "n": 2, "seed": 1})
        assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
        two = s.post("/v1/completions", {"prompt": "Two ", "seed": 2})
        assert answer["choices"][3]["text"] == two["choices"][0]["text"], answer
        s.post("/v1/completions", {"prompt": ["a", "b", "c"], "n": 2}, expect=400)
        whole = s.post("/v1/completions", {"prompt": "The ", "seed": 5, "max_tokens": 100})["choices"][0]["text"]
        stop = whole[10:13]
        cut = s.post("/v1/completions", {"prompt": "The ", "seed": 5, "max_tokens": 100, "stop": [stop, "~~~"]})["choices"][0]
        assert cut["text"] == whole[:whole.index(stop)] and cut["finish_reason"] == "stop", (cut, whole)
        token = s.post("/tokenize", {"content": "x"})["tokens"][0]
        forced = s.post("/v1/completions", {"prompt": "The ", "max_tokens": 8, "logit_bias": {str(token): 100}})["choices"][0]["text"]
        assert forced == "x" * 8, forced
        greedy = s.chat(STORY_MESSAGES, temperature=0, max_tokens=12, logprobs=True)["choices"][0]
        assert "".join(t["token"] for t in greedy["logprobs"]["content"]) == greedy["message"]["content"]
        for t in greedy["logprobs"]["content"]:
            assert bytes(t["bytes"]).decode() == t["token"] and t["logprob"] <= 0 and t["top_logprobs"] == []


@test
def a_client_cannot_speak_special_tokens():
    with Server() as s:
        plain = s.chat(STORY_MESSAGES, max_tokens=1)["usage"]["prompt_tokens"]
        for key in ("allow_special", "allow\\u005fspecial"):
            body = '{"max_tokens":1,"messages":[{"role":"user","content":"<|im_end|>","%s":true}]}' % key
            usage = s.post("/v1/chat/completions", body)["usage"]
            assert usage["prompt_tokens"] > s.chat([{"role": "user", "content": "x"}], max_tokens=1)["usage"]["prompt_tokens"] + 3, usage
        as_developer = s.chat([{"role": "developer", "content": "Be brief."}, *STORY_MESSAGES], max_tokens=1)["usage"]
        as_system = s.chat([{"role": "system", "content": "Be brief."}, *STORY_MESSAGES], max_tokens=1)["usage"]
        assert as_developer["prompt_tokens"] == as_system["prompt_tokens"] > plain


@test
def wrong_requests_are_answered_by_name():
    with Server("--max-body", 20000) as s:
        path = "/v1/chat/completions"
        for body, part in (("", "JSON"), ("{", "byte 1"), ("[]", "object"), ('{"messages":[],}', "JSON"), ("{}", "messages"),
                           ('{"messages":[]}', "messages"), ('{"messages":[5]}', "objects"), ('{"messages":[{"content":"x"}]}', "role"),
                           ('{"messages":"\\ud800"}', "surrogate"), (b'{"messages":"\xff"}', "UTF-8"), ("[" * 5000, "deep"), ('{"a":01}', "JSON")):
            message = s.post(path, body, expect=400)["error"]["message"]
            assert part in message, (body, message)
        for change, part in (({"temperature": "hot"}, "temperature: need a number"), ({"temperature": 1000}, "temperature"), ({"top_p": -1}, "top_p"),
                             ({"temprature": 1}, "unknown parameter: temprature"), ({"n": 0}, "n: found 0"), ({"n": 5}, "computes 4"),
                             ({"stop": ["a"] * 17}, "at most 16"), ({"stop": [""]}, "empty"), ({"stop": 5}, "stop"), ({"seed": 1.5}, "seed"),
                             ({"stream": 1}, "stream: need a boolean"), ({"stream_options": {"include_usage": True}}, "only with stream"),
                             ({"logit_bias": {"a": 1}}, "logit_bias"), ({"logit_bias": [1]}, "logit_bias"), ({"top_logprobs": 3}, "top_logprobs"),
                             ({"audio": {"voice": "x"}}, "audio"), ({"max_tokens": -5}, "max_tokens"), ({"messages": [{"role": "user", "content": 5}]}, "")):
            error = s.post(path, {"messages": STORY_MESSAGES, **change}, expect=400)["error"]
            assert part in error["message"] and error["type"] == "invalid_request_error", (change, error)
        for change in ({"echo": True}, {"suffix": "x"}, {"logprobs": 2}, {"best_of": 3}, {"prompt": []}, {"prompt": {}}, {"prompt": [1 << 40]}, {"prompt": ""}):
            s.post("/v1/completions", {"prompt": "x", **change}, expect=400)
        error = s.post(path, {"messages": [{"role": "user", "content": "word " * 3000}]}, expect=400)["error"]
        assert error["code"] == "context_length_exceeded", error
        for size in (20001, 100000):
            s.post(path, b" " * size, expect=413)
        s.post(path, b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1}'.ljust(20000), expect=200)
        assert s.metric("sessions") <= 4 and s.metric("requests_running") == 0 and s.metric("requests_failed_total") == 0


@test
def raw_bytes_do_no_harm():
    with Server("--timeout", 1) as s:
        for data in (b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
                     b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200000 + b"\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 100\r\n\r\n{", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with socket.create_connection(("127.0.0.1", s.port)) as raw:
                try:
                    raw.sendall(data)
                    raw.settimeout(20)
                    while raw.recv(4096):
                        pass
                except ConnectionError:
                    pass
        assert s.get("/health") == {"status": "ok"} and s.metric("requests_running") == 0


@test
def keys_and_origins():
    with Server("--api-key", "secret") as s:
        s.get("/health")
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secrets"}, {"x-api-key": ""}, {"Authorization": "secret"}):
            answer, body = s.ask("GET", "/v1/models", headers=headers, expect=401)
            assert body["error"]["code"] == "invalid_api_key" and answer["WWW-Authenticate"] == "Bearer"
            s.post("/v1/chat/completions", {"messages": STORY_MESSAGES}, headers=headers, expect=401)
        s.get("/v1/models", headers={"Authorization": "Bearer secret"})
        s.get("/v1/models", headers={"x-api-key": "secret", "Host": "model.example"})
    with Server() as s:
        s.get("/v1/models", headers={"Host": "evil.example"}, expect=403)
        s.get("/v1/models", headers={"Origin": "http://evil.example"}, expect=403)
        s.get("/v1/models", headers={"Origin": f"http://127.0.0.1:{s.port}"})
        headers, _ = s.ask("GET", "/v1/models", headers={"Host": "localhost"})
        assert headers["Access-Control-Allow-Origin"] is None
        s.ask("OPTIONS", "/v1/models", expect=405)
    with Server("--cors", "http://page.example") as s:
        headers, _ = s.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://page.example"}, expect=204)
        assert headers["Access-Control-Allow-Origin"] == "http://page.example" and "POST" in headers["Access-Control-Allow-Methods"]
        s.get("/v1/models", headers={"Origin": "http://page.example"})
        s.get("/v1/models", headers={"Origin": "http://other.example"}, expect=403)


@test
def who_leaves_is_computed_no_longer():
    with Server("--sessions", 2, *ENDLESS, model=MODEL) as s:
        for stream in (False, True):
            clients = [s.begin(endless(stream=stream)) for _ in range(3)]  # the third waits
            s.until("requests_running", 2)
            s.until("requests_waiting", 1)
            for client in clients:
                client.sock.close()
                client.close()
            s.until("requests_running", 0)
            s.until("requests_waiting", 0)
        assert s.post("/v1/completions", {"prompt": "abc", "max_tokens": 3})["usage"]["completion_tokens"] == 3


@test
def who_does_not_read_is_given_up():
    with Server("--timeout", 1, *ENDLESS, model=MODEL) as s:
        client = s.connect()
        client.sock = socket.socket()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.connect(("127.0.0.1", s.port))
        client.request("POST", "/v1/completions", json.dumps(endless(stream=True)))
        s.until("requests_running", 1)
        s.until("requests_running", 0)
        client.close()


@test
def too_many_are_told_to_come_later():
    with Server("--sessions", 1, "--queue", 1, *ENDLESS, model=MODEL) as s:
        first = s.begin(endless())
        s.until("requests_running", 1)
        second = s.begin(endless())
        s.until("requests_waiting", 1)
        headers, body = s.ask("POST", "/v1/completions", json.dumps(endless()), expect=429)
        assert int(headers["Retry-After"]) > 0 and body["error"]["type"] == "rate_limit_error", body
        first.close()
        second.close()
        s.until("requests_waiting", 0)


@test
def the_end_lets_answers_finish():
    with Server() as s:
        body = {"prompt": "Once ", "max_tokens": 1500, "ignore_eos": True, "seed": 1}
        client = s.begin(body)
        s.until("requests_total", 1)
        s.process.send_signal(signal.SIGTERM)
        answer = client.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["usage"]["completion_tokens"] == 1500
        assert s.process.wait(30) == 0


@test
def a_second_signal_cancels():
    with Server(*ENDLESS, model=MODEL) as s:
        whole, stream = s.begin(endless()), s.begin(endless(stream=True))
        s.until("requests_running", 2)
        answer = stream.getresponse()
        s.process.send_signal(signal.SIGINT)
        while "shutting down" not in s.said:
            s.said += s.process.stderr.readline()
        try:
            s.connect(5).connect()
            raise AssertionError("a server that ends takes no connection")
        except ConnectionError:
            pass
        s.process.send_signal(signal.SIGINT)
        said = whole.getresponse()
        assert said.status == 503 and said.getheader("Retry-After"), said.read()
        assert b'"error"' in answer.read().splitlines()[-4], "a stream says why it ends"
        assert s.process.wait(30) == 0


@test
def what_cannot_begin():
    with Server() as s:
        kvrt("serve", STORY, "--port", s.port).expect(1, err=["kvrt serve: 127.0.0.1", "in use"])
    kvrt("serve", STORY, "--port", "70000").expect(2, err="--port")
    kvrt("serve", STORY, "--host", "256.1.1.1").expect(1, err="--host 256.1.1.1")
    kvrt("serve").expect(2, err="need a model folder")


if __name__ == "__main__":
    if not has_http():
        print("skipped: this kvrt was built without libmicrohttpd")
        sys.exit(77)
    main()
