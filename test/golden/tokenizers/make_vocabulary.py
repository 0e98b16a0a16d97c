#!/usr/bin/env python3
"""Trains a small BPE model with SentencePiece (0.2.3) and writes its pieces with scores and types, as GGUF files carry them, and the ids and
texts that SentencePiece gives: scored_bpe.json."""
import io
import json
from pathlib import Path

import sentencepiece as spm

HERE = Path(__file__).resolve().parent


def main():
    texts = [case["text"] for case in json.loads((HERE / "spm_bpe_normalizer.cases.json").read_text())["cases"]]
    texts = [t for t in texts if "<" not in t and "\0" not in t and "\ufffd" not in t]
    lines = [line for t in texts for line in t.splitlines() if line.strip()] + ["the quick brown fox jumps over the lazy dog"] * 20
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
                                   normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["[tool]"],
                                   character_coverage=0.98, minloglevel=2)
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if sp.id_to_piece(i) == "[tool]" else 1
    pieces = [[sp.id_to_piece(i), sp.get_score(i), kind(i)] for i in range(sp.get_piece_size())]
    cases = [{"text": t, "ids": sp.encode(t), "ids_special": [sp.bos_id()] + sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in texts]
    out = {"pieces": pieces, "cases": cases}
    (HERE / "scored_bpe.json").write_text(json.dumps(out, ensure_ascii=False, indent=0).replace("\n", "") + "\n")
    print(len(pieces), "pieces", len(cases), "cases")


main()
