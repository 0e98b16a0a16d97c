#!/usr/bin/env python3
"""Writes tekken.json and tekken.cases.json: the tokens of byte_level_tekken.json as Mistral's files hold them, and the ids that tiktoken (0.14.0),
which mistral-common encodes with, gives; its ids begin behind the special tokens."""
import base64
import json
from pathlib import Path

import tiktoken

from make_tokenizers import TEKKEN, TEXTS, random_texts

HERE = Path(__file__).resolve().parent
N_SPECIAL = 24  # more than mistral-common names
N = 440         # the file holds more tokens than are used


def byte_alphabet():
    """GPT-2's letters of bytes, back to bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in plain}
    rest = [b for b in range(256) if b not in plain]
    return {**letters, **{chr(256 + i): b for i, b in enumerate(rest)}}


def main():
    back = byte_alphabet()
    merges = json.loads((HERE / "byte_level_tekken.json").read_text())["model"]["merges"]
    joined = ["".join(m) if isinstance(m, list) else m.replace(" ", "") for m in merges]
    tokens = [bytes([b]) for b in range(256)]
    for text in joined:
        token = bytes(back[c] for c in text)
        if token not in tokens:
            tokens.append(token)
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(tokens)]
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(tokens), "default_vocab_size": N, "default_num_special_tokens": N_SPECIAL, "version": "v3"}
    (HERE / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab}, separators=(",", ":")) + "\n")
    ranks = {t: i for i, t in enumerate(tokens[:N - N_SPECIAL])}
    encoding = tiktoken.Encoding("tekken", pat_str=TEKKEN, mergeable_ranks=ranks, special_tokens={})
    rows = []
    for text in TEXTS + random_texts(60, 77):
        ids = [i + N_SPECIAL for i in encoding.encode(text, allowed_special=set(), disallowed_special=())]
        rows.append(json.dumps({"text": text, "ids": ids, "ids_special": [1] + ids, "decoded": text}))
    (HERE / "tekken.cases.json").write_text('{"cases": [\n' + ",\n".join(rows) + "\n]}\n")
    print(len(tokens), "tokens", len(rows), "cases")


if __name__ == "__main__":
    main()
