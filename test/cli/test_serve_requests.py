#!/usr/bin/env python3
"""What `kvrt serve` makes of requests that are wrong, odd or none at all, and of those that coding agents send."""
import copy
import json
import socket
import sys
import tempfile
from pathlib import Path

from harness import main, test
from server import HANGS, STORY, STORY_MESSAGES, Server, has_http, text_of


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
                             ({"audio": {"voice": "x"}}, "audio"), ({"tools": [{"type": "x"}]}, "tools"), ({"tools": 5}, "tools"),
                             ({"response_format": {"type": "xml"}}, "response_format"), ({"response_format": {"type": "json_schema"}}, "without a schema"),
                             ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$dynamicRef": "#x"}}}}, "$dynamicRef"), ({"max_tokens": -5}, "max_tokens"), ({"messages": [{"role": "user", "content": 5}]}, "")):
            error = s.post(path, {"messages": STORY_MESSAGES, **change}, expect=400)["error"]
            assert part in error["message"] and error["type"] == "invalid_request_error", (change, error)
        for change in ({"echo": True}, {"suffix": "x"}, {"logprobs": 6}, {"best_of": 3}, {"prompt": []}, {"prompt": {}}, {"prompt": [1 << 40]}, {"prompt": ""}):
            s.post("/v1/completions", {"prompt": "x", **change}, expect=400)
        error = s.post(path, {"messages": [{"role": "user", "content": "word " * 3000}]}, expect=400)["error"]
        assert error["code"] == "context_length_exceeded", error
        for size in (20001, 100000):
            s.post(path, b" " * size, expect=413)
        s.post(path, b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1}'.ljust(20000), expect=200)
        assert s.metric("sessions") <= 4 and s.metric("requests_running") == 0 and s.metric("requests_failed_total") == 0


LOOK = {"type": "object", "properties": {"where": {"enum": ["den", "hill"]}}, "required": ["where"]}
SHAPES = [  # bodies with the members that clients send
    ("/v1/chat/completions", {
        "messages": [{"role": "system", "content": "Be brief.", "name": "s"}, {"role": "user", "content": [{"type": "text", "text": "Look."}]},
                     {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [
                         {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"where":"den"}'}}]},
                     {"role": "tool", "tool_call_id": "c1", "content": "a fox"}],
        "max_tokens": 1, "temperature": 1, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3, "n": 1, "stop": ["zzz"],
        "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "stream": True, "stream_options": {"include_usage": True}, "modalities": ["text"],
        "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": LOOK, "strict": True}}], "tool_choice": "auto",
        "parallel_tool_calls": True, "reasoning_effort": "low", "chat_template_kwargs": {"a": 1}}),
    ("/v1/chat/completions", {"messages": STORY_MESSAGES, "max_tokens": 1, "response_format": {"type": "json_schema", "json_schema": {"schema": LOOK}}}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 1, "logprobs": 2, "best_of": 1, "stop": "zzz", "stream": False, "grammar": 'root ::= "a"', "ignore_eos": True}),
    ("/v1/responses", {
        "instructions": "Be brief.", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}]},
                                               {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
                                               {"type": "function_call_output", "call_id": "c1", "output": "a fox"}],
        "max_output_tokens": 1, "tools": [{"type": "function", "name": "look", "parameters": LOOK}], "tool_choice": "auto", "parallel_tool_calls": False,
        "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "metadata": {"a": "b"}, "service_tier": "auto", "user": "u", "stream": True}),
    ("/v1/messages", {
        "max_tokens": 1, "system": [{"type": "text", "text": "Be brief."}], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look."}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "tool_use", "id": "t1", "name": "look", "input": {"where": "den"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a fox"}]}]}],
        "tools": [{"name": "look", "description": "d", "input_schema": LOOK}], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled"}, "stop_sequences": ["zzz"], "output_config": {"effort": "low"}, "stream": True}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "float", "pooling": "mean", "normalize": True}),
    ("/tokenize", {"content": "a", "with_pieces": True}), ("/detokenize", {"tokens": [5]})]


def places(value, path=()):
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], path + (key,))


def changed(body, path, value):
    body = copy.deepcopy(body)
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return body


@test
def every_member_may_be_of_any_type():
    free = ("chat_template_kwargs.a", "metadata.a", ".properties", ".required", ".enum", "schema.type", "parameters.type", "output_config.effort", ".input.")
    with Server() as s:
        connection = s.connect()
        for path, base in SHAPES:
            for place in [(), *places(base)]:
                name = ".".join(map(str, place))
                for value in (5, "x", [], {}, [5], True, -1e30, "\0") if place else (None,):
                    connection.request("POST", path, json.dumps(changed(base, place, value) if place else base))
                    answer = connection.getresponse()
                    text = answer.read().decode()
                    assert answer.status == 200 or (place and answer.status == 400 and json.loads(text)["error"]["message"]), (path, name, value, answer.status, text)
                    assert not (answer.status == 200 and ('"error":{' in text or "response.failed" in text)), (path, name, value, text)
                    at = base
                    for key in place:
                        at = at[key]
                    if value == 5 and isinstance(at, (str, list, dict, bool)) and not any(f in name for f in free):
                        assert answer.status == 400, (path, name, text)
        assert s.metric("requests_failed_total") == 0 and s.metric("requests_running") == 0


CODEX = {  # what Codex sends at the second step of a turn
    "model": "any", "instructions": "You are a coding agent.", "stream": True, "store": False, "tool_choice": "auto", "parallel_tool_calls": False,
    "include": ["reasoning.encrypted_content"], "prompt_cache_key": "0199", "client_metadata": {"x-codex-installation-id": "0"}, "service_tier": "priority",
    "reasoning": {"effort": "medium", "summary": "auto"}, "text": {"verbosity": "medium"},
    "input": [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
              {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
              {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "content": None, "encrypted_content": None},
              {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "call_1"},
              {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "a.c"}]},
              {"type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin Patch"},
              {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done."}],
    "tools": [{"type": "function", "name": "shell", "description": "Runs a command.", "strict": False, "parameters": {
                  "type": "object", "properties": {"command": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 2},
                                                     "timeout_ms": {"type": "number", "maximum": 9}}, "required": ["command"], "additionalProperties": False}},
              {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}},
              {"type": "web_search", "external_web_access": False}, {"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "f"}]}]}
CLAUDE_CODE = {  # and Claude Code
    "model": "any", "max_tokens": 20, "stream": True, "temperature": 1, "metadata": {"user_id": "user_0"}, "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"}, "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "system": [{"type": "text", "text": "You are a coding agent."}, {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "<system-reminder>"}, {"type": "text", "text": "List the files.", "cache_control": {"type": "ephemeral"}}]},
                 {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "redacted_thinking", "data": "x"},
                                                   {"type": "text", "text": "Yes."}, {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}]},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": False, "content": "a.c"}]},
                 {"role": "system", "content": "A file has changed."}],
    "tools": [{"name": "Bash", "description": "Runs a command.", "eager_input_streaming": True, "cache_control": {"type": "ephemeral"}, "input_schema": {
                  "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["command"], "additionalProperties": False,
                  "properties": {"command": {"type": "string", "maxLength": 40}, "timeout": {"type": "number", "maximum": 600000}}}},
              {"name": "mcp__x__y", "input_schema": {"type": "object", "properties": {"a": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}}}}}]}


@test
def requests_of_coding_agents():
    with Server() as s:
        names = [n.removeprefix("response.") for n, _ in s.stream("/v1/responses", {**CODEX, "max_output_tokens": 20})]
        assert names[:2] == ["created", "in_progress"] and names[-2:] == ["output_item.done", "incomplete"], names
        call = s.stream("/v1/responses", {**CODEX, "tool_choice": "required"})
        done = [d["item"] for n, d in call if n == "response.output_item.done"]
        assert [i["type"] for i in done] == ["function_call"] and isinstance(json.loads(done[0]["arguments"])["command"], list), done
        assert call[-1][0] == "response.completed" and call[-1][1]["response"]["output"] == done, call[-1]
        path = "/v1/messages?beta=true"
        events = s.stream(path, CLAUDE_CODE)
        assert events[0][0] == "message_start" and events[-2][1]["delta"]["stop_reason"] == "max_tokens" and events[-1][0] == "message_stop", events
        events = s.stream(path, {**CLAUDE_CODE, "max_tokens": 900, "tool_choice": {"type": "tool", "name": "Bash"}})
        told = "".join(d["delta"]["partial_json"] for n, d in events if n == "content_block_delta")
        assert isinstance(json.loads(told)["command"], str) and events[-2][1]["delta"]["stop_reason"] == "tool_use", events
        count = {k: CLAUDE_CODE[k] for k in ("model", "system", "messages", "tools", "thinking")}
        assert s.post("/v1/messages/count_tokens?beta=true", count)["input_tokens"] > 20
        s.ask("HEAD", "/")
        picture = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "image", "source": {}}]}
        error = s.post(path, {**CLAUDE_CODE, "messages": [{"role": "user", "content": [picture]}]}, expect=400)["error"]
        assert "image" in error["message"], error


@test
def names_and_numbers_at_their_edges():
    with Server() as s:
        path = "/v1/chat/completions"
        for seed in (-(1 << 63), -2, (1 << 63) - 1, 1 << 62):
            assert text_of(s.chat(STORY_MESSAGES, max_tokens=8, seed=seed)) == text_of(s.chat(STORY_MESSAGES, max_tokens=8, seed=seed)), seed
        s.post(path, {"messages": STORY_MESSAGES, "seed": 1 << 63}, expect=400)
        plain = s.chat(STORY_MESSAGES, max_tokens=8, seed=1)
        body = json.dumps({"messages": STORY_MESSAGES, "max_tokens": 8, "seed": 1}).replace('"messages"', '"m\\u0065ssages"').replace('"content"', '"\\u0063ontent"')
        assert text_of(s.post(path, body)) == text_of(plain) and "\\u" in body
        assert s.post("/tokenize", '{"content":"\\ud83e\\udd17"}') == s.post("/tokenize", '{"content":"\U0001f917"}'.encode())
        for name in ("", "a\nb", "a\0b"):
            error = s.post(path, {"messages": STORY_MESSAGES, "tools": [{"type": "function", "function": {"name": name}}]}, expect=400)["error"]
            assert "tools: name" in error["message"], error
        for name in ("look at", 'a"b', "a\\b", "\u00fcn\u00ef", "</tool_call>", "{", "a.b/c", "x" * 300):
            tool = {"type": "function", "function": {"name": name, "parameters": {**LOOK, "additionalProperties": False}}}
            call, = s.chat(STORY_MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=900)["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == name and json.loads(call["function"]["arguments"])["where"] in ("den", "hill"), call


@test
def calls_of_earlier_turns_reach_the_template():
    template = ("{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% for k, v in c.function.arguments.items() %}"
                "({{ k }}={{ v }}){% endfor %}{% endfor %};{% endfor %}")
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(STORY).iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))

        def chat(arguments):
            call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
            return {"messages": [*STORY_MESSAGES, {"role": "assistant", "content": "", "tool_calls": [call]}], "max_tokens": 1}

        def anthropic(given):
            return {"messages": [*STORY_MESSAGES, {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": given}]}], "max_tokens": 1}

        def responses(arguments):
            return {"input": [*STORY_MESSAGES, {"type": "function_call", "call_id": "c", "name": "look", "arguments": arguments}], "max_output_tokens": 1}

        with Server(model=folder) as s:
            def tokens(text):
                return s.post("/tokenize", {"content": "user:" + STORY_MESSAGES[0]["content"] + ";assistant:look" + text + ";"})["count"]

            custom = [*STORY_MESSAGES, {"type": "custom_tool_call", "call_id": "c", "name": "look", "input": "den"}]
            assert s.post("/v1/responses", {"input": custom, "max_output_tokens": 1})["usage"]["input_tokens"] == tokens("(input=den)")
            for given, text in (({"where": "den", "n": 3}, "(where=den)(n=3)"), ({}, "")):
                for arguments in (json.dumps(given), given) if given else (json.dumps(given), given, ""):
                    assert s.post("/v1/chat/completions", chat(arguments))["usage"]["prompt_tokens"] == tokens(text), arguments
                assert s.post("/v1/messages/count_tokens", anthropic(given))["input_tokens"] == tokens(text)
                assert s.post("/v1/responses", responses(json.dumps(given)))["usage"]["input_tokens"] == tokens(text)


@test
def raw_bytes_do_no_harm():
    with Server("--timeout", 1) as s:
        for data in (b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
                     b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200000 + b"\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 100\r\n\r\n{", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with socket.create_connection(("127.0.0.1", s.port)) as raw:
                try:
                    raw.sendall(data)
                    raw.settimeout(HANGS)
                    while raw.recv(4096):
                        pass
                except ConnectionError:
                    pass
        assert s.get("/health") == {"status": "ok"} and s.metric("requests_running") == 0


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


if __name__ == "__main__":
    if not has_http():
        print("skipped: this kvrt was built without libmicrohttpd")
        sys.exit(77)
    main()
