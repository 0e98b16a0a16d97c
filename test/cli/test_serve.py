#!/usr/bin/env python3
"""`kvrt serve` over real connections: answers equal to `kvrt run`, streams, conversations found again, many clients at once, what is refused, clients
that leave, and the end."""
import base64
import gzip
import http.client
import json
import math
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import ENVIRONMENT, KVRT, MODEL, ROOT, kvrt, main, test
from server import ENDLESS, HANGS, STORY, STORY_MESSAGES, Server, endless, has_http, run_chat, text_of


SAMPLING = (0.7, 0.9, 0, 0)  # temperature and top_p of the model's generation_config.json, penalties of kvrt


def families(text):
    """The samples of Prometheus' text format, each family one block with HELP and TYPE in front, as {family: {(name, labels): value}}."""
    assert text.endswith("\n")
    found, name, kind = {}, None, None
    for line in text.splitlines():
        if head := re.fullmatch(r"# HELP (kvrt_[a-z_]+) (.+)", line):
            name = head[1]
            assert name not in found, f"{name} stands twice"
            found[name] = {}
        elif head := re.fullmatch(r"# TYPE (kvrt_[a-z_]+) (counter|gauge|histogram)", line):
            kind = head[2]
            assert head[1] == name and not found[name] and (kind == "counter") == name.endswith("_total"), line
        else:
            sample = re.fullmatch(r'(kvrt_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\d+(?:\.\d+)?(?:e[-+]\d+)?)', line)
            assert sample and re.fullmatch(name + (r"_(bucket|sum|count)" if kind == "histogram" else ""), sample[1]), line
            key = (sample[1], sample[2] or "")
            assert key not in found[name], f"{key} stands twice"
            found[name][key] = float(sample[3])
    for name, samples in found.items():
        buckets = [(labels, value) for (sample, labels), value in samples.items() if sample == name + "_bucket"]
        if buckets:
            assert [v for _, v in buckets] == sorted(v for _, v in buckets) and buckets[-1] == ('le="+Inf"', samples[name + "_count", ""]), buckets
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        return found
    theirs = {f.name: {(s.name, s.value) for s in f.samples} for f in text_string_to_metric_families(text)}
    assert theirs == {name.removesuffix("_total"): {(sample, value) for (sample, _), value in samples.items()} for name, samples in found.items()}
    return found


@test
def figures_are_those_of_the_answers():
    with Server(*ENDLESS, "--sessions", 2, "--draft", "lookup", "--alias", 'a "fox"\\') as s:
        usage = [s.chat(STORY_MESSAGES, seed=seed, max_tokens=20)["usage"] for seed in (1, 2)]
        usage.append(s.stream("/v1/chat/completions", {"messages": STORY_MESSAGES, "max_tokens": 30, "stream_options": {"include_usage": True}})[-2][1]["usage"])
        s.post("/v1/completions", {"prompt": "a b a b a b a b a b a b", "max_tokens": 60, "temperature": 0, "ignore_eos": True})
        s.post("/v1/embeddings", {"input": [[1, 2, 3], [4]]})
        s.post("/v1/chat/completions", {"messages": 5}, expect=400)
        s.post("/tokenize", {"content": "x"})
        s.ask("GET", "/nothing", expect=404)
        f = families(s.get("/metrics"))

        def value(name, labels="", sample=None):
            return f["kvrt_" + name]["kvrt_" + (sample or name), labels]

        assert value("generated_tokens_total") == sum(u["completion_tokens"] for u in usage) + 60
        assert value("prompt_tokens_cached_total") == sum(u["prompt_tokens_details"]["cached_tokens"] for u in usage)
        assert value("embedded_tokens_total") == 4 and value("requests_total") == 6
        assert value("drafted_tokens_total") >= value("drafted_tokens_accepted_total") > 0
        for route, status, n in (("/v1/chat/completions", 200, 3), ("/v1/chat/completions", 400, 1), ("/v1/completions", 200, 1), ("/v1/embeddings", 200, 1),
                                 ("/tokenize", 200, 1), ("other", 404, 1)):
            assert value("http_requests_total", f'route="{route}",status="{status}"') == n, f["kvrt_http_requests_total"]
        assert sum(f["kvrt_answers_total"].values()) == 4 and value("answers_total", 'reason="length"') >= 1
        for name, n in (("time_to_first_token_seconds", 4), ("answer_seconds", 4), ("queue_seconds", 5),
                        ("time_per_output_token_seconds", value("generated_tokens_total") - 4)):
            assert value(name, "", name + "_count") == n, (name, f["kvrt_" + name])
            assert 0 <= value(name, "", name + "_sum") < 600
        assert value("answer_seconds", "", "answer_seconds_sum") >= value("time_to_first_token_seconds", "", "time_to_first_token_seconds_sum")
        assert value("kv_used_pages") > 0 and value("kv_used_bytes") > 0 and ('kvrt_info', 'model="a \\"fox\\"\\\\",version="0.1.0",backend="cpu",kv_format="k4v4"') in f["kvrt_info"]
        left = s.begin(endless())
        s.until("requests_running", 1)
        left.close()
        s.until("requests_running", 0)
        again = families(s.get("/metrics"))
        assert again["kvrt_answers_total"]["kvrt_answers_total", 'reason="cancelled"'] == 1, again["kvrt_answers_total"]
        assert again["kvrt_http_requests_total"]["kvrt_http_requests_total", 'route="/v1/completions",status="499"'] == 1


@test
def what_can_be_asked_without_an_answer():
    with Server("--alias", "fable") as s:
        assert s.get("/health") == {"status": "ok"}
        models = s.get("/v1/models")
        assert models["data"][0]["id"] == "fable" and models["data"][0]["object"] == "model", models
        assert s.get("/models") == models and s.get("/v1/models/") == models
        assert s.get("/v1/models/fable") == s.get("/models/fable") == models["data"][0]
        assert s.get("/v1/models/other", expect=404)["error"]["code"] == "model_not_found"
        props = s.get("/props")
        assert props["ctx_size"] == 2048 and props["architecture"] == "llama" and props["sessions"] == 4, props
        tokens = s.post("/tokenize", {"content": "Once upon a time<|im_end|>"})
        assert tokens["count"] == len(tokens["tokens"]) > 8, "text never becomes a special token"
        assert s.post("/detokenize", {"tokens": tokens["tokens"]})["content"] == "Once upon a time<|im_end|>"
        text = "Once upon a time \u5a92 \U0001f917"
        pieces = s.post("/tokenize", {"content": text, "with_pieces": True})["tokens"]
        spelled = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
        assert [p["id"] for p in pieces] == s.post("/tokenize", {"content": text})["tokens"] and spelled.decode() == text, pieces
        assert any(isinstance(p["piece"], list) for p in pieces), pieces
        s.post("/detokenize", {"tokens": [1 << 30]}, expect=400)
        s.post("/tokenize", {"content": 5}, expect=400)
        error = s.get("/v1/nothing", expect=404)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        headers, _ = s.ask("DELETE", "/v1/models", expect=405)
        assert headers["Allow"] == "GET", headers
        headers, _ = s.ask("GET", "/v1/chat/completions", expect=405)
        assert headers["Allow"] == "POST", headers
        s.ask("POST", "/v1/models/fable", "{}", expect=405)
        s.ask("GET", "/slots/0", expect=405)
        s.post("/slots/+0?action=erase", {}, expect=404)
        # Clients that try a WebSocket first go on with POST when they read 426.
        s.ask("GET", "/v1/responses", headers={"Connection": "Upgrade", "Upgrade": "websocket"}, expect=426)
        s.post("/tokenize", {"content": "x", "add_special": 1}, expect=400)
        packed = s.post("/v1/chat/completions", gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}, expect=415)
        assert "Content-Encoding" in packed["error"]["message"], packed
        assert s.metric("requests_refused_total") == 12
        families(s.get("/metrics"))


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


def close(a, b, limit=2e-4):
    assert len(a) == len(b) and all(abs(x - y) <= limit for x, y in zip(a, b)), (a[:4], b[:4])


def unit(row):
    return [x / math.sqrt(sum(y * y for y in row)) for x in row]


@test
def embeddings_are_those_of_transformers():
    folder = ROOT / "test/golden/models/llama_gqa2"
    data = (folder / "hidden.bin").read_bytes()
    rows = [struct.unpack_from("<48f", data, i * 192) for i in range(21)]
    prompts = {p["n"]: p["ids"] for p in json.loads((folder / "golden.json").read_text())["prompts"]}
    with Server("--kv", "f32", "--exact", "--pooling", "mean", "--sessions", 2, model=str(folder)) as s:
        answer = s.post("/v1/embeddings", {"model": "any", "input": [prompts[130], prompts[300], prompts[17]], "normalize": False})
        assert answer["object"] == "list" and [d["index"] for d in answer["data"]] == [0, 1, 2] and {d["object"] for d in answer["data"]} == {"embedding"}
        assert answer["usage"] == {"prompt_tokens": 447, "total_tokens": 447}, answer["usage"]
        close(answer["data"][0]["embedding"], rows[17])
        close(answer["data"][1]["embedding"], rows[19])
        close(answer["data"][2]["embedding"], [sum(r[i] for r in rows[:17]) / 17 for i in range(48)])
        last = s.post("/embeddings", {"input": prompts[300], "pooling": "last"})["data"][0]["embedding"]
        close(last, unit(rows[20]))
        packed = s.post("/v1/embeddings", {"input": prompts[300], "pooling": "last", "encoding_format": "base64", "dimensions": 48})["data"][0]["embedding"]
        assert list(struct.unpack("<48f", base64.b64decode(packed))) == [struct.unpack("<f", struct.pack("<f", x))[0] for x in last]
        texts = s.post("/v1/embeddings", {"input": ["hello,", "world"], "encoding_format": "float"})
        lines = kvrt("embed", folder, "--kv", "f32", "--exact", "--pooling", "mean", stdin=b"hello,\nworld\n").expect(0).out.splitlines()
        assert [json.loads(line)["embedding"] for line in lines] == [d["embedding"] for d in texts["data"]]
        assert s.post("/v1/embeddings", {"input": "world"})["data"][0]["embedding"] == json.loads(lines[1])["embedding"]
        for body in ({}, {"input": []}, {"input": ""}, {"input": [[]]}, {"input": [5, "a"]}, {"input": [99]}, {"input": {}}, {"input": "a", "dimensions": 12},
                     {"input": "a", "encoding_format": "int8"}, {"input": "a", "pooling": "max"}, {"input": "a", "normalize": 1}, {"input": "a" * 600},
                     {"input": "a", "stream": True}, {"input": ["a"] * 2049}):
            assert s.post("/v1/embeddings", body, expect=400)["error"]["message"], body
        assert s.post("/v1/embeddings", {"input": "a" * 512})["usage"]["prompt_tokens"] == 512, "no room for an answer is needed"
        assert s.metric("sessions") == 0, "an input is no conversation"


@test
def embeddings_beside_answers():
    with Server(*ENDLESS, "--sessions", 2) as s:
        going = s.begin(endless(stream=True))
        s.until("requests_running", 1)
        rows = [s.post("/v1/embeddings", {"input": "Once upon a time, " * n})["data"][0]["embedding"] for n in (1, 40, 1)]
        assert rows[0] == rows[2] != rows[1] and abs(sum(x * x for x in rows[0]) - 1) < 1e-4
        left = s.begin({"input": ["Once upon a time, " * 4000] * 40}, path="/v1/embeddings")
        s.until("requests_running", 2)
        left.close()
        s.until("requests_running", 1)
        going.close()
        s.until("requests_running", 0)


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
def tokens_stay_as_they_were_generated():
    with Server() as s:
        def tokens(text):
            return s.post("/tokenize", {"content": text})["tokens"]

        # A letter whose pairs are tokens of their own: the tokenizer would never write what is forced here.
        letter = next(c for c in "estolpfn" if len(tokens(c * 8)) < 8)
        bias = {str(tokens(letter)[0]): 100}
        usage = s.chat(STORY_MESSAGES, max_tokens=8, logit_bias=bias)["usage"]
        assert usage["completion_tokens"] == 8, usage
        messages = [*STORY_MESSAGES, {"role": "assistant", "content": letter * 8}, {"role": "user", "content": "More."}]
        again = s.chat(messages, max_tokens=1)["usage"]
        assert again["prompt_tokens_details"]["cached_tokens"] >= usage["total_tokens"] - 1, (usage, again)
        # A stop string is in the session and not in what the client sends back.
        whole = text_of(s.chat(STORY_MESSAGES, seed=3, max_tokens=60))
        stop = next(whole[i:i + 4] for i in range(30, len(whole)) if whole.index(whole[i:i + 4]) == i)
        answer = s.chat(STORY_MESSAGES, seed=3, max_tokens=60, stop=stop)
        kept = answer["usage"]["prompt_tokens"] + len(tokens(text_of(answer))) // 2
        messages = [*STORY_MESSAGES, {"role": "assistant", "content": text_of(answer)}, {"role": "user", "content": "More."}]
        again = s.chat(messages, max_tokens=1)["usage"]
        assert answer["choices"][0]["finish_reason"] == "stop" and len(text_of(answer)) > 20, answer
        assert again["prompt_tokens_details"]["cached_tokens"] >= kept, (answer["usage"], again)


@test
def a_conversation_outlives_the_server():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "kept"
        with Server("--keep", folder) as s:
            answer = s.chat(STORY_MESSAGES, seed=9, max_tokens=40)
            s.chat([{"role": "user", "content": "Other."}], max_tokens=5)
            messages = [*STORY_MESSAGES, {"role": "assistant", "content": text_of(answer)}, {"role": "user", "content": "And then?"}]
            held = answer["usage"]["total_tokens"]
        assert "kept 2 conversations" in s.said, s.said
        with Server("--keep", folder) as s:
            assert "2 conversations are back" in s.said, s.said
            after = s.chat(messages, seed=1, max_tokens=30)
            assert after["usage"]["prompt_tokens_details"]["cached_tokens"] >= held - 1, (after["usage"], held)
        with Server() as s:  # the same without a restart
            s.chat(STORY_MESSAGES, seed=9, max_tokens=40)
            assert text_of(s.chat(messages, seed=1, max_tokens=30)) == text_of(after)
        for damage in (lambda b: b[:-1], lambda b: b[:8] + b"x" + b[9:], lambda b: b[:16] + b"\xff" * 8 + b[24:], lambda b: b""):
            file = folder / "seat-0.text"
            whole = file.read_bytes()
            file.write_bytes(damage(whole))
            with Server("--keep", folder) as s:
                assert "not what belongs" in s.said and "1 conversations are back" in s.said, s.said
                assert s.chat(messages, max_tokens=1)["usage"]["completion_tokens"] == 1
        session = folder / "seat-0.session"
        session.write_bytes(session.read_bytes()[:-100])
        with Server("--keep", folder) as s:
            assert "--keep: " in s.said and s.get("/health") == {"status": "ok"}
        kvrt("serve", STORY, "--keep", "/dev/null/x").expect(1, err="--keep")


@test
def slots_are_saved_and_restored():
    with tempfile.TemporaryDirectory() as folder, Server("--sessions", 2, "--slot-save-path", folder) as s:
        first = s.chat(STORY_MESSAGES, seed=4, max_tokens=30)
        messages = [*STORY_MESSAGES, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "And then?"}]
        slots = s.get("/slots")
        at = next(i for i, slot in enumerate(slots) if slot["n_tokens"])
        saved = s.post(f"/slots/{at}?action=save", {"filename": "fox"})
        assert saved["n_saved"] == slots[at]["n_tokens"] and saved["n_written"] == sum(f.stat().st_size for f in Path(folder).iterdir()), saved
        expected = s.chat(messages, seed=4, max_tokens=30)
        for i in range(2):
            s.post(f"/slots/{i}?action=erase", {})
        assert all(slot["n_tokens"] == 0 for slot in s.get("/slots"))
        assert s.post("/slots/1?action=restore", {"filename": "fox"})["n_restored"] == saved["n_saved"]
        again = s.chat(messages, seed=4, max_tokens=30)
        assert text_of(again) == text_of(expected) and again["usage"] == expected["usage"], (again, expected)
        for path, body, code in (("/slots/2?action=save", {"filename": "x"}, 404), ("/slots/x?action=save", {"filename": "x"}, 404), ("/slots/0", {"filename": "x"}, 400),
                                 ("/slots/0?action=save", {"filename": "../x"}, 400), ("/slots/0?action=save", {"filename": ".x"}, 400), ("/slots/0?action=save", {}, 400),
                                 ("/slots/0?action=restore", {"filename": "none"}, 400), ("/slots/0?action=save", {"filename": "x"}, 400)):
            s.post(path, body, expect=code)
        (Path(folder) / "fox.text").write_bytes(b"x" * 100)
        s.post("/slots/0?action=restore", {"filename": "fox"}, expect=400)
        assert s.get("/slots")[0]["n_tokens"] == 0
    with Server() as s:
        s.post("/slots/0?action=save", {"filename": "x"}, expect=501)


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
def the_likeliest_tokens_are_told():
    with Server() as s:
        body = {"messages": STORY_MESSAGES, "seed": 1, "max_tokens": 12, "logprobs": True, "top_logprobs": 5}
        whole = s.post("/v1/chat/completions", body)["choices"][0]
        tokens = whole["logprobs"]["content"]
        assert "".join(t["token"] for t in tokens) == text_of(s.chat(STORY_MESSAGES, seed=1, max_tokens=12)), "and change nothing"
        for t in tokens:
            top = [o["logprob"] for o in t["top_logprobs"]]
            assert len(top) == 5 and top == sorted(top, reverse=True) and sum(map(math.exp, top)) <= 1.0001, t
            same = [o["logprob"] for o in t["top_logprobs"] if o["token"] == t["token"]]
            assert abs(same[0] - t["logprob"]) < 1e-4 if same else t["logprob"] <= top[-1] + 1e-4, t
            assert all(bytes(o["bytes"]).decode(errors="replace") == o["token"] for o in t["top_logprobs"]), t
        chunks = [d["choices"][0] for _, d in s.stream("/v1/chat/completions", body)[:-1]]
        streamed = [t for c in chunks if c["logprobs"] for t in c["logprobs"]["content"]]
        assert streamed == tokens, "a stream tells the same"
        greedy = s.post("/v1/completions", {"prompt": "Once upon", "temperature": 0, "max_tokens": 6, "logprobs": 3})["choices"][0]["logprobs"]
        for token, logprob, top in zip(greedy["tokens"], greedy["token_logprobs"], greedy["top_logprobs"], strict=True):
            assert len(top) == 3 and max(top, key=top.get) == token and abs(top[token] - logprob) < 1e-4, greedy
        s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "top_logprobs": 2}, expect=400)
        s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "logprobs": True, "top_logprobs": 21}, expect=400)


@test
def the_shape_of_messages():
    with Server() as s:
        path = "/v1/messages"
        body = {"max_tokens": 30, "messages": STORY_MESSAGES, "seed": 2, "unknown_member": 1}
        answer = s.post(path, body)
        assert answer["type"] == "message" and answer["role"] == "assistant" and answer["stop_reason"] == "max_tokens", answer
        assert answer["content"] == [{"type": "text", "text": run_chat(STORY_MESSAGES, 2, 30)["text"]}], answer
        usage = answer["usage"]
        count = s.post(path + "/count_tokens", {"messages": STORY_MESSAGES})["input_tokens"]
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count and usage["output_tokens"] == 30, usage
        events = s.stream(path, body)
        assert all(name == data["type"] for name, data in events)
        kinds = [name for name, _ in events]
        assert kinds[:2] == ["message_start", "content_block_start"] and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
        assert set(kinds[2:-3]) == {"content_block_delta"}
        assert "".join(d["delta"]["text"] for n, d in events if n == "content_block_delta") == answer["content"][0]["text"]
        assert events[-2][1]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
        assert events[-2][1]["usage"]["cache_read_input_tokens"] == count - 1, events[-2]
        text = answer["content"][0]["text"]
        stopped = s.post(path, {**body, "stop_sequences": ["~~~", text[8:11], text[20:24]]})
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", text[8:11]), stopped
        assert stopped["content"][0]["text"] == text[:text.index(text[8:11])]
        blocks = [{"role": "user", "content": [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a story about a fox."}]}]
        assert s.post(path, {**body, "messages": blocks})["content"] == answer["content"]
        system = {**body, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}
        expected = run_chat([{"role": "system", "content": "Be brief."}, *STORY_MESSAGES], 2, 30)["text"]
        assert s.post(path, system)["content"][0]["text"] == expected
        for change, part in (({"max_tokens": None}, "max_tokens"), ({"messages": []}, "messages"), ({"tools": [{"type": "web_search_20250305", "name": "x"}]}, "tools"),
                             ({"tools": [{"description": "x"}]}, "name"), ({"tools": [{"name": "x"}], "tool_choice": {"type": "tool"}}, "tool_choice"),
                             ({"tools": [{"name": "x"}], "tool_choice": {"type": "tool", "name": "y"}}, "no tool is named y"), ({"tool_choice": {"type": "any"}}, "no tools"),
                             ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
                             ({"messages": [*STORY_MESSAGES, {"role": "assistant", "content": "{"}]}, "begun for the model"), ({"system": 5}, "system"),
                             ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"), ({"top_p": 7}, "top_p")):
            error = s.post(path, {**body, **change}, expect=400)
            assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error" and part in error["error"]["message"], error
        s.post(path + "/count_tokens", {"messages": 5}, expect=400)


@test
def the_shape_of_responses():
    with Server() as s:
        path = "/v1/responses"
        prompt = STORY_MESSAGES[0]["content"]
        body = {"input": prompt, "max_output_tokens": 30, "seed": 2, "store": True, "include": [], "client_metadata": {}}
        answer = s.post(path, body)
        expected = run_chat(STORY_MESSAGES, 2, 30)["text"]
        assert answer["object"] == "response" and answer["status"] == "incomplete", answer
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"} and answer["store"] is False and answer["error"] is None
        # What Open Responses' schema requires, with the values that hold.
        assert answer["completed_at"] is None and (answer["temperature"], answer["top_p"], answer["presence_penalty"], answer["frequency_penalty"]) == SAMPLING
        assert answer["service_tier"] == "default" and answer["top_logprobs"] == 0 and all(
            answer[k] is None for k in ("max_tool_calls", "safety_identifier", "prompt_cache_key", "previous_response_id", "instructions")), answer
        filled = s.post(path, {"input": "x", "max_output_tokens": 1, "text": {"verbosity": "low"}, "reasoning": {"effort": "low"}})
        assert filled["text"] == {"verbosity": "low", "format": {"type": "text"}} and filled["reasoning"] == {"effort": "low", "summary": None}, filled
        again = s.post(path, {"input": "x", "max_output_tokens": 4, "temperature": 0.25, "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]})
        assert again["temperature"] == 0.25 and again["tools"] == [
            {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}], "those that the model has"
        assert [c["text"] for item in answer["output"] for c in item["content"]] == [expected], answer
        events = s.stream(path, body)
        assert [d["sequence_number"] for _, d in events] == list(range(len(events))) and all(n == d["type"] for n, d in events)
        kinds = [n.removeprefix("response.") for n, _ in events]
        assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"], kinds
        assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"], kinds
        assert "".join(d["delta"] for n, d in events if n.endswith("output_text.delta")) == expected == events[-4][1]["text"]
        last = events[-1][1]["response"]
        assert last["output"] == [events[-2][1]["item"]] and last["usage"]["output_tokens"] == 30
        assert last["usage"]["input_tokens_details"]["cached_tokens"] == last["usage"]["input_tokens"] - 1
        assert answer["max_output_tokens"] == 30 and answer["instructions"] is None and answer["tools"] == [] and answer["metadata"] == {}
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}]
        assert s.post(path, {**body, "input": items, "tools": [{"type": "web_search"}]})["output"][0]["content"][0]["text"] == expected
        expected = run_chat([{"role": "system", "content": "Be brief."}, *STORY_MESSAGES], 2, 30)["text"]
        for instructed in ({"instructions": "Be brief."}, {"input": [{"role": "developer", "content": "Be brief."}, *items]}):
            answer = s.post(path, {**body, **instructed, "metadata": {"a": "é"}})
            assert answer["output"][0]["content"][0]["text"] == expected and answer["metadata"] == {"a": "é"}
            assert answer["instructions"] == instructed.get("instructions")
        answered = [*items, {"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": last["output"][0]["content"][0]["text"]}]}, {"role": "user", "content": "Go on."}]
        usage = s.post(path, {**body, "input": answered})["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= last["usage"]["input_tokens"], usage
        for change, part in (({"previous_response_id": "x"}, "previous_response_id"), ({"input": []}, "input"), ({"input": None}, "input"),
                             ({"tools": [{"type": "function"}]}, "name"), ({"text": {"format": {"type": "xml"}}}, "text.format"),
                             ({"input": [{"type": "item_reference"}]}, "item_reference"), ({"background": True}, "background"), ({"top_logprobs": 3}, "top_logprobs"),
                             ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image")):
            error = s.post(path, {**body, **change}, expect=400)["error"]
            assert part in error["message"], (change, error)
        assert s.post(path, {**body, "background": True}, expect=400)["error"]["code"] == "unsupported_parameter"


@test
def a_conversation_is_compacted():
    with Server() as s:
        told = [*STORY_MESSAGES, {"role": "assistant", "content": "A fox ran."}]
        answer = s.post("/v1/responses/compact", {"model": "any", "input": told, "instructions": "Be brief.", "seed": 3, "max_output_tokens": 25})
        item, = answer["output"]
        assert answer["object"] == "response.compaction" and item["type"] == "compaction" and answer["usage"]["output_tokens"] == 25, answer
        source = (ROOT / "tools" / "serve" / "serve_responses.c").read_text()
        asked = "".join(re.findall(r'"([^"]*)"', source[source.index("summarize[] ="):].split(";")[0]))
        asked = {"role": "user", "content": asked}
        expected = run_chat([{"role": "system", "content": "Be brief."}, *told, asked], 3, 25)["text"]
        assert item["encrypted_content"] == expected, (item, expected)
        # The item stands for all that was before it.
        on = {"role": "user", "content": "Go on."}
        more = s.post("/v1/responses", {"input": [item, on], "seed": 4, "max_output_tokens": 20})["output"][0]["content"][0]["text"]
        assert more == run_chat([asked, {"role": "assistant", "content": expected}, on], 4, 20)["text"]
        for change, part in (({"stream": True}, "stream"), ({"input": None}, "input"), ({"previous_response_id": "x"}, "previous_response_id")):
            assert part in s.post("/v1/responses/compact", {"input": "x", **change}, expect=400)["error"]["message"], change


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
          "required": ["name", "age"], "additionalProperties": False}


@test
def the_form_of_an_answer_is_kept():
    with Server() as s:
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
        for seed in range(5):
            body = {"messages": STORY_MESSAGES, "seed": seed, "temperature": 1, "max_tokens": 200}
            choice = s.chat(**body, response_format=wanted)["choices"][0]
            person = json.loads(choice["message"]["content"])
            assert choice["finish_reason"] == "stop" and set(person) == {"name", "age"} and 0 <= person["age"] <= 99, choice
            expected = run_chat(STORY_MESSAGES, seed, 200, "--temp", 1, "--set", "grammar.schema=" + json.dumps(SCHEMA))["text"]
            assert json.loads(expected) == person, (expected, person)
        answer = s.post("/v1/responses", {"input": "Who?", "text": {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA}}})
        assert answer["status"] == "completed" and set(json.loads(answer["output"][0]["content"][0]["text"])) == {"name", "age"}, answer
        answer = s.post("/v1/messages", {"messages": STORY_MESSAGES, "max_tokens": 200, "output_format": {"type": "json_schema", "schema": SCHEMA}})
        assert answer["stop_reason"] == "end_turn" and set(json.loads(answer["content"][0]["text"])) == {"name", "age"}, answer
        other = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": False}
        for more in ({"response_format": {"type": "json_object", "schema": other}}, {"json_schema": other},
                     {"grammar": 'root ::= "{\\"n\\":" [0-9] "}"'}):  # as other servers have it
            assert 0 <= json.loads(text_of(s.chat(STORY_MESSAGES, max_tokens=200, **more)))["n"] <= 9, more
        for more in ({"response_format": {"type": "json_object", "schema": 5}}, {"json_schema": {"type": "hiccup"}}, {"grammar": "root ::= ("}, {"grammar": 5},
                     {"grammar": 'root ::= "a"', "json_schema": other}):
            s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, **more}, expect=400)
        assert s.post("/v1/completions", {"prompt": "a", "grammar": 'root ::= "xy"'})["choices"][0]["text"] == "xy"
        plain = s.chat(STORY_MESSAGES, seed=1, max_tokens=20, response_format={"type": "text"})
        assert plain["system_fingerprint"].startswith("kvrt-")
        assert text_of(plain) == run_chat(STORY_MESSAGES, 1, 20)["text"]


@test
def calls_of_tools_are_told_apart():
    # A model that says what it is told to, by a grammar of the one call; the template is one of Hermes' kind.
    call = '<tool_call>\n{"name": "look", "arguments": {"where": "den"}}\n</tool_call>'
    template = ("{% if tools %}{{ tools | tojson }}<tool_call>{\"name\": x, \"arguments\": y}</tool_call>{% endif %}{% for m in messages %}<|im_start|>"
                "{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
                "{% endfor %}<|im_start|>assistant\n")
    schema = {"type": "object", "properties": {"where": {"type": "string"}}}
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(STORY).iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        twice = "root ::= " + json.dumps(call + "\n" + call)
        with Server("--set", "grammar.gbnf=" + twice, model=folder) as s:
            tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
            for several in (True, False, True):
                choice = s.chat(STORY_MESSAGES, tools=tools, parallel_tool_calls=several)["choices"][0]
                assert len(choice["message"]["tool_calls"]) == 1 + several and choice["finish_reason"] == "tool_calls", choice
            use = {"tools": [{"name": "look", "input_schema": schema}], "max_tokens": 200, "messages": STORY_MESSAGES}
            assert len([b for b in s.post("/v1/messages", use)["content"] if b["type"] == "tool_use"]) == 2
            use["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
            answer = s.post("/v1/messages", use)
            assert [b["type"] for b in answer["content"]] == ["tool_use"] and answer["stop_reason"] == "tool_use", answer
        gbnf = "root ::= " + json.dumps(call)
        with Server("--set", "grammar.gbnf=" + gbnf, model=folder) as s:
            tools = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema}}]
            choice = s.chat(STORY_MESSAGES, tools=tools)["choices"][0]
            said = choice["message"]["tool_calls"][0]
            assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
            assert said["type"] == "function" and said["function"]["name"] == "look" and json.loads(said["function"]["arguments"]) == {"where": "den"}, said
            chunks = [d["choices"][0] for _, d in s.stream("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": tools})[:-1]]
            deltas = [c for chunk in chunks for c in chunk["delta"].get("tool_calls", [])]
            assert deltas[0]["function"]["name"] == "look" and deltas[0]["id"] and {d["index"] for d in deltas} == {0}, deltas
            assert "".join(d["function"]["arguments"] for d in deltas) == said["function"]["arguments"] and chunks[-1]["finish_reason"] == "tool_calls"
            assert text_of(s.chat(STORY_MESSAGES)) == call, "without tools it is text"
            assert text_of(s.chat(STORY_MESSAGES, tools=tools, tool_choice="none")) == call
            s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": tools, "tool_choice": "required"}, expect=400)
            use = {"tools": [{"name": "look", "input_schema": schema}], "max_tokens": 100, "messages": STORY_MESSAGES}
            answer = s.post("/v1/messages", use)
            assert answer["stop_reason"] == "tool_use" and answer["content"][0]["input"] == {"where": "den"}, answer
            events = s.stream("/v1/messages", use)
            assert events[1][1]["content_block"]["type"] == "tool_use" and events[1][1]["content_block"]["input"] == {}, events[1]
            assert json.loads("".join(d["delta"]["partial_json"] for n, d in events if n == "content_block_delta")) == {"where": "den"}
            use["messages"] = [*STORY_MESSAGES, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": answer["content"][0]["id"], "content": "a fox"}]}]
            assert s.post("/v1/messages", use)["usage"]["output_tokens"] > 0
            ask = {"input": "Look.", "tools": [{"type": "function", "name": "look", "parameters": schema}, {"type": "web_search"}]}
            item = s.post("/v1/responses", ask)["output"][0]
            assert item["type"] == "function_call" and item["name"] == "look" and json.loads(item["arguments"]) == {"where": "den"}, item
            events = s.stream("/v1/responses", ask)
            names = [n.removeprefix("response.") for n, _ in events]
            assert names[2] == "output_item.added" and names[-3:] == ["function_call_arguments.done", "output_item.done", "completed"], names
            assert events[-3][1]["arguments"] == item["arguments"] == "".join(d["delta"] for n, d in events if n.endswith("arguments.delta"))
            ask["input"] = [{"role": "user", "content": "Look."}, item, {"type": "function_call_output", "call_id": item["call_id"], "output": "a fox"}]
            assert s.post("/v1/responses", ask)["status"] == "completed"
            # What stands between calls and behind them is format, not text; in front of text it is text.
            ask = {"input": "Look.", "tools": ask["tools"]}
            tail = json.dumps(f"{call}\n{call}\n")
            text = json.dumps(f"{call}\n\nNow.")
            for gbnf, kinds in ((tail, ["function_call", "function_call"]), (text, ["function_call", "message"])):
                answer = s.post("/v1/responses", {**ask, "grammar": "root ::= " + gbnf})
                assert [o["type"] for o in answer["output"]] == kinds, answer["output"]
                last = s.stream("/v1/responses", {**ask, "grammar": "root ::= " + gbnf})[-1][1]["response"]
                assert [o["type"] for o in last["output"]] == kinds, last["output"]
            assert answer["output"][1]["content"][0]["text"] == "\n\nNow." == last["output"][1]["content"][0]["text"]


@test
def a_call_can_be_demanded():
    """Whatever this model would say: one of the tools, and arguments of its schema."""
    schema = {"type": "object", "properties": {"where": {"enum": ["den", "hill"]}, "n": {"type": "integer", "minimum": 1, "maximum": 3}}, "required": ["where", "n"],
              "additionalProperties": False}
    functions = [{"name": "look", "parameters": schema}, {"name": "rest"}]
    tools = [{"type": "function", "function": f} for f in functions]

    def right(name, arguments):
        return arguments == {} if name == "rest" else name == "look" and arguments["where"] in ("den", "hill") and arguments["n"] in (1, 2, 3) and len(arguments) == 2

    with Server() as s:
        custom = {"input": "Look.", "tools": [{"type": "custom", "name": "shell"}], "max_output_tokens": 4}
        s.post("/v1/responses", custom)  # of the service: passed over
        assert "only type function" in s.post("/v1/responses", {**custom, "tool_choice": "required"}, expect=400)["error"]["message"]
        names = set()
        for seed in range(8):
            choice = s.chat(STORY_MESSAGES, tools=tools, tool_choice="required", temperature=2, seed=seed, max_tokens=500, parallel_tool_calls=False)["choices"][0]
            call, = choice["message"]["tool_calls"]
            names.add(call["function"]["name"])
            assert right(call["function"]["name"], json.loads(call["function"]["arguments"])) and choice["finish_reason"] == "tool_calls", choice
        assert len(names) == 2, "both tools were called"
        named = {"type": "function", "function": {"name": "look"}}
        call, = s.chat(STORY_MESSAGES, tools=tools, tool_choice=named, temperature=2)["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "look" and right("look", json.loads(call["function"]["arguments"])), call
        deltas = [d["choices"][0] for _, d in s.stream("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": tools, "tool_choice": named})[:-1]]
        told = "".join(c["function"]["arguments"] for d in deltas for c in d["delta"].get("tool_calls", []))
        assert right("look", json.loads(told)) and deltas[-1]["finish_reason"] == "tool_calls", deltas
        use = [{"name": f["name"], "input_schema": f.get("parameters", {"type": "object", "properties": {}, "additionalProperties": False})} for f in functions]
        answer = s.post("/v1/messages", {"messages": STORY_MESSAGES, "tools": use, "max_tokens": 500, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}})
        block, = answer["content"]
        assert answer["stop_reason"] == "tool_use" and right(block["name"], block["input"]), answer
        block, = s.post("/v1/messages", {"messages": STORY_MESSAGES, "tools": use, "max_tokens": 500, "tool_choice": {"type": "tool", "name": "rest"}})["content"]
        assert (block["name"], block["input"]) == ("rest", {}), block
        ask = {"input": "Look.", "tools": [{"type": "function", **f} for f in functions], "tool_choice": {"type": "function", "name": "look"}}
        item, = s.post("/v1/responses", ask)["output"]
        assert item["type"] == "function_call" and right(item["name"], json.loads(item["arguments"])), item
        only = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "rest"}}]}}
        for seed in range(4):
            call, = s.chat(STORY_MESSAGES, tools=tools, tool_choice=only, temperature=2, seed=seed, parallel_tool_calls=False)["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == "rest", call
        ask["tool_choice"] = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}
        assert s.post("/v1/responses", {**ask, "parallel_tool_calls": False})["output"][0]["name"] == "look"
        only["allowed_tools"]["tools"][0]["function"]["name"] = "none"
        assert "allowed" in s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": tools, "tool_choice": only}, expect=400)["error"]["message"]
        # Text is free where no call is demanded, and its tokens are those of a request without tools.
        plain = s.chat(STORY_MESSAGES, seed=3, max_tokens=20)
        assert text_of(s.chat(STORY_MESSAGES, tools=tools, seed=3, max_tokens=20)) == text_of(plain)
        assert s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": [], "tool_choice": "required"}, expect=400)["error"]["param"] == "tool_choice"
        strict = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"a": {"type": "array", "contains": {}}}}}}]
        error = s.post("/v1/chat/completions", {"messages": STORY_MESSAGES, "tools": strict}, expect=400)["error"]
        assert "/properties/a/contains" in error["message"], error
        strict[0]["function"]["strict"] = False
        call, = s.chat(STORY_MESSAGES, tools=strict, tool_choice=named | {"function": {"name": "f"}}, max_tokens=900)["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "f", call


@test
def reasoning_stands_apart():
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n"
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(STORY).iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template + "{# </think> #}"}))
        with Server(model=folder) as s:
            body = {"messages": STORY_MESSAGES, "max_tokens": 20, "seed": 1, "logit_bias": {}}
            message = s.chat(**body)["choices"][0]["message"]
            assert message["content"] == "" and len(message["reasoning_content"]) > 5, message
            usage = s.chat(**body)["usage"]
            assert usage["completion_tokens_details"]["reasoning_tokens"] >= 18, usage
            deltas = [d["choices"][0]["delta"] for _, d in s.stream("/v1/chat/completions", body)[:-1]]
            assert "".join(d.get("reasoning_content", "") for d in deltas) == message["reasoning_content"]
            blocks = s.post("/v1/messages", body)["content"]
            assert blocks[0]["type"] == "thinking" and blocks[0]["thinking"] == message["reasoning_content"], blocks
            items = s.post("/v1/responses", {"input": STORY_MESSAGES[0]["content"], "seed": 1, "max_output_tokens": 20})["output"]
            assert items[0]["type"] == "reasoning" and items[0]["content"][0]["text"] == message["reasoning_content"], items
            names = [n for n, _ in s.stream("/v1/messages", body)]
            assert names[1] == "content_block_start" and names[-3] == "content_block_stop", names


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
        for host in ("evil.example", "127.evil.example", "127.0.0.1.evil.example", "127", "localhost.evil.example", "[::1].evil.example", "127.0.0.1 x"):
            s.get("/v1/models", headers={"Host": host}, expect=403)
        s.get("/v1/models", headers={"Host": "[::1]:80"})
        s.get("/v1/models", headers={"Host": f"127.0.0.9:{s.port}"})
        s.get("/v1/models", headers={"Origin": "http://evil.example"}, expect=403)
        s.get("/v1/models", headers={"Origin": f"http://127.0.0.1:{s.port}"})
        headers, _ = s.ask("GET", "/v1/models", headers={"Host": "localhost"})
        assert headers["Access-Control-Allow-Origin"] is None
        s.ask("OPTIONS", "/v1/models", expect=405)
    with Server("--cors", "http://page.example") as s:
        asked = {"Origin": "http://page.example", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
        headers, _ = s.ask("OPTIONS", "/v1/chat/completions", headers=asked, expect=204)
        assert headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os", headers
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
        assert s.post("/v1/completions", {"prompt": "abc", "max_tokens": 3, "ignore_eos": True})["usage"]["completion_tokens"] == 3


@test
def who_does_not_read_is_given_up():
    with Server("--timeout", 1, *ENDLESS, model=MODEL) as s:
        client = s.connect()
        client.sock = socket.socket()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.connect(("127.0.0.1", s.port))
        client.request("POST", "/v1/completions", json.dumps(endless(stream=True)))
        s.until('answers_total{reason="cancelled"}', 1)
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
        assert s.process.wait(HANGS) == 0


@test
def the_end_waits_for_who_reads_slowly():
    for stream in (False, True):
        with Server("--sessions", 1) as s:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", s.port))
            body = json.dumps({"messages": STORY_MESSAGES, "max_tokens": 1500, "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "stream": stream}).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert select.select([client], [], [], HANGS)[0]  # its beginning is there: a whole answer is computed, and most of it still to be sent
            s.process.send_signal(signal.SIGTERM)
            said = b""
            while part := client.recv(16384):
                said += part
                time.sleep(0.005)
            assert said.rstrip().endswith(b"data: [DONE]\n\n\r\n0" if stream else b"}}}"), said[-200:]
            assert len(said) > 1 << 20, "more than the system holds"
            assert s.process.wait(HANGS) == 0


@test
def a_terminal_that_is_closed():
    with tempfile.TemporaryDirectory() as top:
        with Server("--keep", top) as s:
            s.chat(STORY_MESSAGES, max_tokens=3)
            shutil.rmtree(top)  # and somebody tidied up
            s.process.send_signal(signal.SIGHUP)
            assert s.process.wait(HANGS) == 0
        assert "kept 1 conversations" in s.said, s.said
        with Server(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as s:  # nohup
            s.process.send_signal(signal.SIGHUP)
            time.sleep(0.2)
            assert s.get("/health") == {"status": "ok"}


@test
def few_files_are_no_reason_to_spin():
    with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))) as s:
        def cpu():
            return sum(map(int, Path(f"/proc/{s.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))

        clients = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(80)]
        time.sleep(0.2)
        before = cpu()
        time.sleep(1)
        assert cpu() - before < 20, "of a hundred"
        for client in clients:
            client.close()
        for _ in range(1000):
            try:
                assert s.get("/health") == {"status": "ok"}
                break
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.05)
        s.get("/health")


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
            s.connect().connect()
            raise AssertionError("a server that ends takes no connection")
        except ConnectionError:
            pass
        s.process.send_signal(signal.SIGINT)
        said = whole.getresponse()
        assert said.status == 503 and said.getheader("Retry-After"), said.read()
        assert b'"error"' in answer.read().splitlines()[-4], "a stream says why it ends"
        assert s.process.wait(HANGS) == 0


@test
def what_cannot_begin():
    with Server() as s:
        kvrt("serve", STORY, "--port", s.port).expect(1, err=["kvrt serve: 127.0.0.1", "in use"])
    kvrt("serve", STORY, "--port", "70000").expect(2, err="--port")
    kvrt("serve", STORY, "--host", "256.1.1.1").expect(1, err="--host 256.1.1.1")
    kvrt("serve").expect(2, err="need a model folder")
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        for text, part in ((b"", "need a key"), (b"a\0b\n", "line of text")):
            key.write_bytes(text)
            kvrt("serve", STORY, "--api-key-file", key).expect(2, err=part)
        kvrt("serve", STORY, "--api-key", "a", "--api-key-file", key).expect(2, err="need one")


if __name__ == "__main__":
    if not has_http():
        print("skipped: this kvrt was built without libmicrohttpd")
        sys.exit(77)
    main()
