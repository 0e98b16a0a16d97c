#!/usr/bin/env python3
"""Random schemas, answered by a tiny model at temperature 1 (`kvrt run --schema`; every fourth as the arguments of a tool, which is to be called): what is
finished satisfies the schema, what is cut is the beginning of such a text. The judge is a validator of its own, and Python's jsonschema where that is
installed.

  KVRT_SCHEMAS=500 KVRT_SCHEMA_MODEL=MODEL KVRT_SCHEMA_RUNS=20     more of it, by hand"""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = Path(os.environ["KVRT_SOURCE_DIR"])
MODEL = os.environ.get("KVRT_SCHEMA_MODEL", str(ROOT / "examples/models/storyteller-tiny"))
N, RUNS = int(os.environ.get("KVRT_SCHEMAS", "60")), int(os.environ.get("KVRT_SCHEMA_RUNS", "1"))
NAMES = ["name", "age", "city", "tags", "it is", "x", "a_b", "größe", "quote\"d", "id"]
PATTERNS = ["^[a-z]{2,6}$", "^(yes|no|maybe)$", "^[A-Z][a-z]+ [0-9]{1,3}$", "^\\d{4}-\\d{2}$", "^[^a-z]{1,5}$"]


def make(r, depth):
    kind = r.choice(["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format"] + ["object", "array", "anyOf"] * (3 if depth < 3 else 0))
    if kind == "string":
        s = {"type": "string", "maxLength": r.randint(2, 12)}
        if r.random() < 0.4:
            s["minLength"] = r.randint(0, s["maxLength"])
        return s
    if kind in ("integer", "number"):
        low = r.randint(-200, 200)
        s = {"type": kind, "minimum": low, "maximum": low + r.randint(0, 500)}
        if r.random() < 0.2:
            s["multipleOf"], s["maximum"] = 5, low + 50
        return s
    if kind == "enum":
        return {"enum": r.sample(["red", "a \"b\"", 1, 2.5, None, True, [1, "x"], {"k": "v"}], r.randint(1, 4))}
    if kind == "const":
        return {"const": r.choice(["only", 7, False, {"a": [1]}])}
    if kind == "pattern":
        return {"type": "string", "pattern": r.choice(PATTERNS)}
    if kind == "format":
        return {"type": "string", "format": r.choice(["date", "ipv4", "uuid", "time"])}
    if kind == "array":
        least = r.randint(0, 2)
        return {"type": "array", "items": make(r, depth + 1), "minItems": least, "maxItems": least + r.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [make(r, depth + 1) for _ in range(r.randint(2, 3))]}
    if kind == "object":
        names = r.sample(NAMES, r.randint(1, 4))
        return {"type": "object", "properties": {n: make(r, depth + 1) for n in names}, "required": [n for n in names if r.random() < 0.6],
                "additionalProperties": False}
    return {"type": kind}


FORMATS = {"date": r"\d{4}-\d\d-\d\d", "ipv4": r"\d{1,3}(\.\d{1,3}){3}", "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
           "time": r"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"}


def same(a, b):
    return type(a) is type(b) and a == b or (isinstance(a, (int, float)) and isinstance(b, (int, float)) and not isinstance(a, bool) and
                                             not isinstance(b, bool) and a == b)


def valid(s, v):
    if "anyOf" in s:
        return any(valid(one, v) for one in s["anyOf"])
    if "enum" in s:
        return any(same(v, one) for one in s["enum"])
    if "const" in s:
        return same(v, s["const"])
    kind = s["type"]
    if kind == "null" or kind == "boolean":
        return v is None if kind == "null" else isinstance(v, bool)
    if kind in ("integer", "number"):
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and (kind == "number" or v == int(v))
        return number and s["minimum"] <= v <= s["maximum"] and (v % s["multipleOf"] == 0 if "multipleOf" in s else True)
    if kind == "string":
        return (isinstance(v, str) and s.get("minLength", 0) <= len(v) <= s.get("maxLength", 10**9) and
                (re.search(s["pattern"], v) is not None if "pattern" in s else True) and
                (re.fullmatch(FORMATS[s["format"]], v) is not None if "format" in s else True))
    if kind == "array":
        return isinstance(v, list) and s["minItems"] <= len(v) <= s["maxItems"] and all(valid(s["items"], one) for one in v)
    return (isinstance(v, dict) and all(n in v for n in s["required"]) and all(n in s["properties"] and valid(s["properties"][n], one) for n, one in v.items()))


OPEN = object()  # a value that a text ends within


class Cut(Exception):
    """The text ends here; what there is of the value."""


def begun(text, at):
    """The value that begins at `at`, and where it ends; Cut(value) where the text ends within it: a list or dict of what is whole, its last item
    perhaps a Cut, or OPEN."""
    while at < len(text) and text[at] in " \n\r\t":
        at += 1
    if at == len(text):
        raise Cut(OPEN)
    if text[at] not in "[{":
        if text[at] == '"':
            end = re.match(r'"(?:[^"\\]|\\.)*"', text[at:], re.S)
        else:
            end = re.match(r"[^][{},:\s]+", text[at:])
            assert end and (at + end.end() < len(text) or any(w.startswith(end[0]) for w in ("true", "false", "null")) or re.match("-|[0-9]", end[0]))
        if not end or (text[at] != '"' and at + end.end() == len(text)):
            raise Cut(OPEN)
        return json.loads(end[0]), at + end.end()
    is_list, close = text[at] == "[", "]" if text[at] == "[" else "}"
    items, at, first, wants = ([] if is_list else {}), at + 1, True, False
    while True:
        while at < len(text) and text[at] in " \n\r\t":
            at += 1
        if at == len(text):
            raise Cut(items)
        if text[at] == close and (first or not wants):
            return items, at + 1
        if not first and not wants:
            assert text[at] == ",", text[at:]
            at, wants = at + 1, True
            continue
        try:
            name, at = begun(text, at) if not is_list else (len(items), at)
        except Cut:
            raise Cut(items) from None
        if not is_list:
            assert isinstance(name, str) and name not in items, name
            while at < len(text) and text[at] in " \n\r\t":
                at += 1
            if at == len(text):
                raise Cut(items)
            assert text[at] == ":", text[at:]
            at += 1
        try:
            value, at = begun(text, at)
        except Cut as cut:
            if is_list:
                items.append(cut)
            else:
                items[name] = cut
            raise Cut(items) from None
        first = wants = False
        if is_list:
            items.append(value)
        else:
            items[name] = value


def may_become(s, v):
    """Whether a text that was cut could go on to satisfy the schema, as far as its whole parts tell."""
    if not isinstance(v, Cut):
        return valid(s, v)
    v = v.args[0]
    if "anyOf" in s:
        return any(may_become(one, Cut(v)) for one in s["anyOf"])
    if v is OPEN or "enum" in s or "const" in s:
        return True
    if isinstance(v, list):
        return s["type"] == "array" and len(v) <= s["maxItems"] and all(may_become(s["items"], one) for one in v)
    return s["type"] == "object" and all(n in s["properties"] and may_become(s["properties"][n], one) for n, one in v.items())


def check_cut(schema, text):
    try:
        value, end = begun(text, 0)
        assert not text[end:].strip(), text
    except Cut as cut:
        value = cut
    assert may_become(schema, value), f"{json.dumps(schema)}\nis not begun by\n{text}"


def main():
    r = random.Random(5)
    finished = cut = 0
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        for i in range(N):
            schema = {"type": "object", "properties": {"answer": make(r, 0), "more": make(r, 1)}, "required": ["answer"], "additionalProperties": False}
            tool = i % 4 == 3
            tools = [{"name": "other", "parameters": {"type": "null"}}, {"type": "function", "function": {"name": "tell", "strict": True, "parameters": schema}}]
            flags = ["--tools", file.name, "--tool-choice", "name:tell"] if tool else ["--schema", file.name]
            file.seek(0)
            file.truncate()
            json.dump(tools if tool else schema, file, ensure_ascii=False)
            file.flush()
            for run in range(RUNS):
                out = subprocess.run([os.environ["KVRT"], "run", MODEL, "-p", "Once upon a time", *flags, "--temp", "1", "--seed", str(run + 1), "-n",
                                      "700", "--ctx", "768", "--json"], capture_output=True, text=True)
                if out.returncode not in (0, 5):
                    sys.exit(f"{json.dumps(schema)}: {out.stderr}")
                answer = json.loads(out.stdout)
                if answer["finish_reason"] not in ("eos", "grammar"):
                    cut += 1
                    assert not tool or answer["tool_calls"][0].get("cut"), answer
                    check_cut(schema, answer["tool_calls"][0]["arguments"] if tool else answer["text"])
                    continue
                finished += 1
                if tool:
                    call, = answer["tool_calls"]
                    assert answer["text"] == "" and call["name"] == "tell" and set(call) == {"name", "arguments"}, answer
                value = answer["tool_calls"][0]["arguments"] if tool else json.loads(answer["text"])
                if not valid(schema, value):
                    sys.exit(f"{json.dumps(schema)}\nis not satisfied by\n{answer}")
                if jsonschema:
                    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)
    print(f"{N} schemas, {finished} answers finished and valid, {cut} cut; jsonschema {'looked too' if jsonschema else 'is not there'}")
    if finished < 0.95 * (finished + cut):
        sys.exit("fewer than 95% finished")


main()
