#!/usr/bin/env python3
"""Clients that applications use, as their documentation has them: the SDKs of OpenAI and Anthropic, LiteLLM, curl. Each is skipped where it is not installed;
KVRT_CLIENT_PYTHON names a Python that has them."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import main, test
from server import STORY_MESSAGES, Server, has_http, run_chat, text_of

PYTHON = os.environ.get("KVRT_CLIENT_PYTHON", sys.executable)
SCHEMA = {"type": "object", "properties": {"where": {"enum": ["den", "hill"]}, "n": {"type": "integer", "minimum": 1, "maximum": 3}}, "required": ["where", "n"],
          "additionalProperties": False}


def has(module):
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0


def client(s, text):
    """What a script of a client says, as JSON lines."""
    head = f"import json\nPORT = {s.port}\nBASE = 'http://127.0.0.1:{s.port}'\nMESSAGES = {STORY_MESSAGES!r}\nSCHEMA = {SCHEMA!r}\n"
    done = subprocess.run([PYTHON, "-c", head + text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


OPENAI = """
from openai import OpenAI, BadRequestError, NotFoundError
c = OpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0)
def say(x): print(json.dumps(x))
say([m.id for m in c.models.list()])
say(c.chat.completions.create(model="any", messages=MESSAGES, seed=1, max_completion_tokens=20).choices[0].message.content)
stream = c.chat.completions.create(model="any", messages=MESSAGES, seed=1, max_tokens=20, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
say("".join(k.choices[0].delta.content or "" for k in chunks if k.choices))
say(chunks[-1].usage.completion_tokens)
say(c.completions.create(model="any", prompt="Once upon", seed=1, max_tokens=8).choices[0].text)
r = c.responses.create(model="any", input="Tell me a story about a fox.", max_output_tokens=20, temperature=0)
say(r.output_text)
with c.responses.stream(model="any", input="Tell me a story about a fox.", max_output_tokens=20, temperature=0) as s:
    say("".join(event.delta for event in s if event.type == "response.output_text.delta"))
tools = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA, "strict": True}}]
a = c.chat.completions.create(model="any", messages=MESSAGES, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=400)
call = a.choices[0].message.tool_calls[0]
say([call.function.name, json.loads(call.function.arguments), a.choices[0].finish_reason])
a = c.chat.completions.create(model="any", max_tokens=20, messages=[*MESSAGES, a.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "a fox"}])
say(a.usage.prompt_tokens > 0)
form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
say(json.loads(c.chat.completions.create(model="any", messages=MESSAGES, response_format=form, max_tokens=400).choices[0].message.content))
lp = c.chat.completions.create(model="any", messages=MESSAGES, seed=1, max_tokens=4, logprobs=True).choices[0].logprobs.content
say([all(t.logprob <= 0 for t in lp), "".join(t.token for t in lp)])
e = c.embeddings.create(model="any", input=["a fox", "a hill"])
f = c.embeddings.create(model="any", input="a hill", encoding_format="float")
say([len(e.data), e.usage.prompt_tokens > 2, max(abs(x - y) for x, y in zip(e.data[1].embedding, f.data[0].embedding)) < 1e-6])
try: c.chat.completions.create(model="any", messages=MESSAGES, temperature=-1)
except BadRequestError as e: say(e.param)
try: say([c.models.retrieve(c.models.list().data[0].id).object, c.models.retrieve("other")])
except NotFoundError as e: say(e.code)
r = c.responses.create(model="any", input="Hi.", max_output_tokens=2, text={"verbosity": "low"}, reasoning={"effort": "low"})
say([r.text.format.type, r.reasoning.effort])
"""

ANTHROPIC = """
import anthropic
GREEDY = {"temperature": 0}
c = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0)
def say(x): print(json.dumps(x))
m = c.messages.create(model="any", max_tokens=20, messages=MESSAGES, extra_body=GREEDY)
say([m.content[0].text, m.stop_reason, m.usage.output_tokens])
with c.messages.stream(model="any", max_tokens=20, messages=MESSAGES, extra_body=GREEDY) as s:
    say("".join(s.text_stream))
    say(s.get_final_message().stop_reason)
say(c.messages.count_tokens(model="any", messages=MESSAGES).input_tokens)
tools = [{"name": "look", "description": "Looks.", "input_schema": SCHEMA}]
m = c.messages.create(model="any", max_tokens=400, messages=MESSAGES, tools=tools, tool_choice={"type": "tool", "name": "look"})
use = m.content[-1]
say([m.stop_reason, use.name, use.input])
m = c.messages.create(model="any", max_tokens=20, tools=tools, messages=[*MESSAGES, {"role": "assistant", "content": m.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "a fox"}]}])
say(m.usage.input_tokens + (m.usage.cache_read_input_tokens or 0) > 0)
try: c.messages.create(model="any", max_tokens=20, messages=[])
except anthropic.BadRequestError as e: say("messages" in str(e))
name = c.models.list().data[0].id
say(c.models.retrieve(name).id == name)
"""

LITELLM = """
import litellm
def say(x): print(json.dumps(x))
a = litellm.completion(model="openai/any", api_base=BASE + "/v1", api_key="none", messages=MESSAGES, seed=1, max_tokens=20)
say(a.choices[0].message.content)
say("".join(k.choices[0].delta.content or "" for k in litellm.completion(model="openai/any", api_base=BASE + "/v1", api_key="none", messages=MESSAGES, seed=1,
    max_tokens=20, stream=True)))
"""


def right(value):
    return set(value) == {"where", "n"} and value["where"] in ("den", "hill") and value["n"] in (1, 2, 3)


@test
def the_sdk_of_openai():
    if not has("openai"):
        return print("openai is not installed: not tested")
    with Server() as s:
        expected = run_chat(STORY_MESSAGES, 1, 20)["text"]
        greedy = text_of(s.chat(STORY_MESSAGES, temperature=0, max_tokens=20))
        said = client(s, OPENAI)
        assert said[0] == [s.get("/v1/models")["data"][0]["id"]] and said[1] == said[2] == expected and said[3] == 20, said
        assert said[4] and said[5] == said[6] == greedy, said
        assert said[7][0] == "look" and right(said[7][1]) and said[7][2] == "tool_calls" and said[8] is True and right(said[9]), said
        assert said[10][0] and expected.startswith(said[10][1]) and said[11] == [2, True, True] and said[12] == "temperature", said
        assert said[13] == "model_not_found" and said[14] == ["text", "low"], said


@test
def the_sdk_of_anthropic():
    if not has("anthropic"):
        return print("anthropic is not installed: not tested")
    with Server() as s:
        greedy = text_of(s.chat(STORY_MESSAGES, temperature=0, max_tokens=20))
        said = client(s, ANTHROPIC)
        assert said[0] == [greedy, "max_tokens", 20] and said[1] == greedy and said[2] == "max_tokens", said
        assert said[3] == s.post("/v1/messages/count_tokens", {"messages": STORY_MESSAGES})["input_tokens"]
        assert said[4][:2] == ["tool_use", "look"] and right(said[4][2]) and said[5:] == [True, True, True], said


@test
def litellm():
    if not has("litellm"):
        return print("litellm is not installed: not tested")
    with Server() as s:
        assert client(s, LITELLM) == [run_chat(STORY_MESSAGES, 1, 20)["text"]] * 2


@test
def curl():
    if not shutil.which("curl"):
        return print("curl is not installed: not tested")
    with Server("--api-key", "sesame") as s, tempfile.TemporaryDirectory() as folder:
        def ask(path, *args):
            done = subprocess.run(["curl", "-sS", "--fail-with-body", "-H", "Authorization: Bearer sesame", f"http://127.0.0.1:{s.port}{path}", *args],
                                  capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done
            return done.stdout

        body = Path(folder) / "body.json"
        body.write_text(json.dumps({"messages": STORY_MESSAGES, "seed": 1, "max_tokens": 20}))
        assert text_of(json.loads(ask("/v1/chat/completions", "-d", f"@{body}"))) == run_chat(STORY_MESSAGES, 1, 20)["text"]
        stream = ask("/v1/chat/completions", "-N", "-d", json.dumps({"messages": STORY_MESSAGES, "stream": True, "max_tokens": 5}))
        assert stream.count("data: ") >= 3 and stream.endswith("data: [DONE]\n\n"), stream
        body.write_text("x" * 100000)  # curl asks first (Expect: 100-continue)
        done = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Authorization: Bearer sesame", "-H", "Expect: 100-continue",
                               f"http://127.0.0.1:{s.port}/v1/chat/completions", "-d", f"@{body}"], capture_output=True, text=True, timeout=120)
        assert done.stdout == "400", done
        assert "kvrt_requests_total" in ask("/metrics") and "<title>kvrt</title>" in ask("/")


if __name__ == "__main__":
    if not has_http():
        print("skipped: this kvrt was built without libmicrohttpd")
        sys.exit(77)
    main()
