"""Conversations in which a model calls tools, for `kvrt eval --calls` and `--text`: text that is made from a seed, through a model's chat template.

    python test/study/kv/tool_traces.py examples/models/smollm2-folder --calls calls.jsonl --text tools.txt [--conversations 8] [--seed 1]

Each conversation is long (--bytes) and repeats what agents do: the user names a tool and its arguments, or refers to an earlier result; the model calls it with
JSON; the tool answers with JSON, listings or code; the model says what it found. So a call's tokens have to be found again in the text before it, hundreds or
thousands of tokens back, and one wrong digit makes it another call. The file of calls has one line for each call, {"start", "text", "call"}: what stands between
two calls, and the call. The text file is the same without marks. Needs jinja2."""
import argparse
import json
import os
import random

from jinja2.sandbox import ImmutableSandboxedEnvironment

WORDS = "timeout cache parser token page index buffer retry queue socket header schema budget invoice ledger shard".split()
CITIES = "Zurich Oslo Lisbon Toronto Nairobi Kyoto Hanoi Quito Perth Malmo".split()
TOOLS = {
    "search_flights": ("origin", "destination", "date", "max_price"),
    "read_file": ("path", "offset", "limit"),
    "run_sql": ("query", "database"),
    "get_weather": ("city", "unit", "days"),
    "create_issue": ("title", "labels", "body"),
    "grep": ("pattern", "path", "context"),
}
CALL, END = "<tool_call>\n", "\n</tool_call>"


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def word(self):
        return self.r.choice(WORDS)

    def argument(self, name):
        r, word = self.r, self.word
        if name in ("origin", "destination", "city"):
            return r.choice(CITIES)
        return {
            "date": lambda: f"2026-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}",
            "max_price": lambda: r.randint(90, 1900),
            "unit": lambda: r.choice(["C", "F"]),
            "days": lambda: r.randint(1, 9),
            "path": lambda: f"src/{word()}/{word()}_{r.randint(1, 40)}.c",
            "offset": lambda: r.randint(0, 4000),
            "limit": lambda: r.choice([50, 100, 200]),
            "context": lambda: r.randint(0, 5),
            "pattern": lambda: f"{word()}_{word()}",
            "database": lambda: r.choice(["prod", "stage"]),
            "query": lambda: f"SELECT id, {word()} FROM {word()}s WHERE {word()}_id = {r.randint(1, 9999)} LIMIT {r.randint(1, 50)}",
            "title": lambda: f"{word().title()} fails after {r.randint(2, 99)} retries",
            "labels": lambda: r.sample(WORDS, 2),
            "body": lambda: f"The {word()} of {word()} returns {r.randint(400, 599)} when the {word()} is full.",
        }[name]()

    def result(self, tool):
        r, word = self.r, self.word
        if tool == "search_flights":
            return [{"flight": f"{r.choice(['LX', 'SK', 'TP', 'AC'])}{r.randint(100, 999)}", "price": r.randint(90, 1900),
                     "departs": f"{r.randint(0, 23):02d}:{r.choice(['05', '20', '45'])}"} for _ in range(r.randint(2, 3))]
        if tool == "read_file":
            return "\n".join(f"{i}: static int {word()}_{word()}(struct {word()} *p) {{ return p->{word()} + {r.randint(2, 64)}; }}"
                             for i in range(r.randint(2, 4)))
        if tool == "run_sql":
            return [{"id": r.randint(1, 9999), "value": word(), "total": round(r.random() * 900, 2)} for _ in range(r.randint(2, 4))]
        if tool == "get_weather":
            return [{"day": i, "high": r.randint(-5, 38), "sky": r.choice(["clear", "rain", "snow"])} for i in range(r.randint(2, 4))]
        if tool == "create_issue":
            return {"number": r.randint(100, 4000), "state": "open"}
        return "\n".join(f"src/{word()}.c:{r.randint(1, 900)}: {word()}_{word()}(ctx, {r.randint(0, 9)});" for _ in range(r.randint(2, 4)))

    def conversation(self, render, n_bytes):
        """Messages, as long as their rendering is shorter than n_bytes."""
        specification = "\n".join(json.dumps({"name": name, "parameters": parameters}) for name, parameters in TOOLS.items())
        messages = [{"role": "system", "content": f"You are an agent. You call one of these tools by a JSON object:\n{specification}"}]
        past = []
        while len(render(messages)) < n_bytes:
            tool = self.r.choice(list(TOOLS))
            call = {name: self.argument(name) for name in TOOLS[tool]}
            again = past and self.r.random() < 0.3  # an earlier call, by its number
            if again:
                number = self.r.randrange(len(past))
                tool, call = past[number]
                ask = f"Repeat call {number + 1}, {tool}."
            else:
                ask = f"Call {tool} with " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in call.items()) + "."
            past.append((tool, call))
            said = json.dumps({"name": tool, "arguments": call})
            result = self.result(tool)
            messages += [{"role": "user", "content": ask},
                         {"role": "assistant", "content": f"Call {len(past)}.\n{CALL}{said}{END}"},
                         {"role": "user", "content": f"<tool_response>\n{result if isinstance(result, str) else json.dumps(result)}\n</tool_response>"},
                         {"role": "assistant", "content": f"Call {len(past)}, {tool}, is done."}]
        return messages


def pieces(text):
    """(what stands before a call, the call) of a rendered conversation; what follows the last one is left out."""
    out, at = [], 0
    while True:
        begin = text.find(CALL, at)
        if begin < 0:
            return out
        begin += len(CALL)
        end = text.index(END, begin) + len(END)
        out.append((text[at:begin], text[begin:end]))
        at = end


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder with chat_template.jinja, or with it in tokenizer_config.json")
    parser.add_argument("--calls", required=True)
    parser.add_argument("--text")
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=9000, help="of a conversation; about 2.4 of them are a token")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    file = os.path.join(args.model, "chat_template.jinja")
    config = json.load(open(os.path.join(args.model, "tokenizer_config.json"), encoding="utf-8"))
    template = open(file, encoding="utf-8").read() if os.path.exists(file) else config["chat_template"]
    compiled = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    special = {name: config.get(name) or "" for name in ("bos_token", "eos_token")}
    render = lambda messages: compiled.render(messages=messages, add_generation_prompt=False, **special)
    maker, lines, text = Maker(args.seed), [], []
    for _ in range(args.conversations):
        whole = render(maker.conversation(render, args.bytes))
        text.append(whole)
        lines += [json.dumps(dict(start=i == 0, text=before, call=call)) for i, (before, call) in enumerate(pieces(whole))]
    open(args.calls, "w", encoding="utf-8").write("\n".join(lines) + "\n")
    if args.text:
        open(args.text, "w", encoding="utf-8").write("".join(text))
    print(f"{len(lines)} calls in {args.conversations} conversations, {sum(map(len, text))} characters")
