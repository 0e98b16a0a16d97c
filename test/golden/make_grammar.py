#!/usr/bin/env python3
"""Writes test/golden/grammar/suite.json: the JSON-Schema-Test-Suite (draft 2020-12 and its formats; MIT, Julian Berman) as texts for test_grammar_schema.

  make_grammar.py SUITE PROBE     SUITE: the folder `json` of PyPI's jsonschema source distribution; PROBE: build/grammar_probe

What must hold comes from the suite: whether a text is valid. A case says "refused" where the schema is an error by name, and a text "open" where it is
valid and the grammar leaves it out (order of properties, numbers written otherwise: runtime/grammar/README.md). Both are to be read before they are
committed; an invalid text that is accepted ends the script."""
import json
import subprocess
import sys
from pathlib import Path

LICENSE = ("JSON-Schema-Test-Suite, Copyright (c) 2012 Julian Berman. Permission is hereby granted, free of charge, to any person obtaining a copy of "
           "this software and associated documentation files (the \"Software\"), to deal in the Software without restriction, including without "
           "limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit "
           "persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and this permission "
           "notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF "
           "ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND "
           "NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN "
           "ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE "
           "SOFTWARE.")


def main():
    suite, probe = Path(sys.argv[1]) / "tests" / "draft2020-12", sys.argv[2]
    cases = []
    for path in sorted(suite.glob("*.json")) + sorted(suite.glob("optional/format/*.json")):
        for case in json.loads(path.read_text()):
            if isinstance(case["schema"], dict):
                case["schema"].pop("$schema", None)
            # format.json says that formats are notes; here they hold, as its neighbours in optional/ have it.
            if path.name == "format.json" and path.parent == suite:
                continue
            cases.append({"of": path.stem, "schema": case["schema"],
                          "texts": [[json.dumps(t["data"], ensure_ascii=False), t["valid"]] for t in case["tests"]]})
    lines = "".join(json.dumps({"kind": "schema", "text": json.dumps(c["schema"]), "texts": [t[0] for t in c["texts"]]}) + "\n" for c in cases)
    answers = subprocess.run([probe], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    n_open = n_refused = n_texts = 0
    for case, answer in zip(cases, map(json.loads, answers)):
        if "error" in answer:
            case["refused"] = answer["error"].split(": ", 1)[1]
            case["texts"] = [t for t in case["texts"] if t[1]][:1]
            n_refused += 1
            continue
        for text, got in zip(case["texts"], answer["texts"]):
            n_texts += 1
            if got["accepts"] and not text[1]:
                sys.exit(f"{case['of']}: {json.dumps(case['schema'])} accepts {text[0]}")
            if text[1] and not got["accepts"]:
                text.append("open")
                n_open += 1
    out = Path(__file__).parent / "grammar" / "suite.json"
    body = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    out.write_text('{"license": ' + json.dumps(LICENSE) + ',\n"cases": [\n' + body + "\n]}\n")
    print(f"{len(cases)} schemas, {n_refused} refused, {n_texts} texts, {n_open} open")


main()
