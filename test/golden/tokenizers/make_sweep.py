#!/usr/bin/env python3
"""Every code point through the pipelines of well-known tokenizers: writes sweep.json, which test_tokenizer_sweep.c repeats.

    pip install tokenizers==0.23.3
    python3 test/golden/tokenizers/make_sweep.py

The vocabulary has the 256 letters of the byte-level alphabet and a token for each of them after, and before, some ASCII characters: so the
ids tell on both sides of a code point whether a piece ends there. Text of a block: each code point c as "a" c "b " c "1" c "." c newline,
beyond U+32000, where nothing is assigned but tags and private use, as "a" c "b". The golden holds a hash of the ids of each block of 4,096
code points. `parts` are the normalizer and pre_tokenizer as they stand in the models' files.
"""
import json
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
BLOCK, RICH_END, PAIRS_BEFORE, PAIRS_AFTER = 4096, 0x32000, "a 1.\n", "b 1.\n"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
HAN = r"[\p{Han}]+"


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def chain(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


PARTS = {
    "llama3": (None, sequence(split(LLAMA3), byte_level())),
    "qwen2": ({"type": "NFC"}, sequence(split(QWEN2), byte_level())),
    "qwen3.5": ({"type": "NFC"}, sequence(split(QWEN35), byte_level())),
    "deepseek-v3": (chain(), sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level())),
    "o200k": (None, sequence(split(O200K), byte_level())),
    "falcon3": (None, sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True), {"type": "Digits", "individual_digits": True},
                               split("[0-9][0-9][0-9]"))),
    "bloom": (None, sequence(split(BLOOM), byte_level())),
    "gpt2": (None, byte_level(True)),
    "han": (None, sequence(split(HAN), byte_level())),
    "marks": (chain({"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}), sequence({"type": "Whitespace"}, byte_level())),
    "nfkc": ({"type": "NFKC"}, sequence({"type": "UnicodeScripts"}, {"type": "Digits", "individual_digits": False}, byte_level())),
    "nfkd": ({"type": "NFKD"}, sequence({"type": "WhitespaceSplit"}, byte_level())),
    "posix": ({"type": "Nmt"}, sequence(split("[[:punct:]]+|[[:alpha:]&&[^a]]+|[[:^print:]]"), split(r"(?i:[b-eа-я])+"), split(r"\w"), byte_level())),
}


def alphabet():
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, extra = {}, 256
    for b in range(256):
        letters[b] = chr(b) if b in kept else chr(extra)
        extra += b not in kept
    return letters


def model():
    letters = alphabet()
    vocab = {letters[b]: b for b in range(256)}
    merges = []
    for before in PAIRS_BEFORE:
        merges += [(letters[ord(before)], letters[b]) for b in range(256)]
    for after in PAIRS_AFTER:
        merges += [(letters[b], letters[ord(after)]) for b in range(256)]
    unique = list(dict.fromkeys(merges))
    for left, right in unique:
        vocab[left + right] = len(vocab)
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [list(m) for m in unique]}


def block_text(first):
    out = []
    for c in range(first, first + BLOCK):
        if not 0xD800 <= c < 0xE000:
            out.append(f"a{chr(c)}b {chr(c)}1{chr(c)}.{chr(c)}\n" if c < RICH_END else f"a{chr(c)}b")
    return "".join(out)


def ids_hash(ids):
    value = 0x811C9DC5
    for i in ids:
        value = ((value ^ i) * 0x01000193) & 0xFFFFFFFF
    return value


def main():
    out = {"model": model(), "pipelines": {}}
    for name, (normalizer, pre_tokenizer) in PARTS.items():
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
                 "post_processor": None, "decoder": None, "model": out["model"]}
        tok = Tokenizer.from_str(json.dumps(whole))
        hashes = [f"{ids_hash(tok.encode(block_text(first)).ids):08x}" for first in range(0, 0x110000, BLOCK)]
        out["pipelines"][name] = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "hashes": "".join(hashes)}
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in out["pipelines"].items())
    (HERE / "sweep.json").write_text('{"oracle": "tokenizers 0.23.3", "model": ' + json.dumps(out["model"], separators=(",", ":"))
                                     + ',\n"pipelines": {\n' + rows + "\n}}\n")


if __name__ == "__main__":
    main()
