#!/usr/bin/env python3
"""What transformers makes of a real GGUF file: make_smollm2.py MODEL.gguf TEXT writes smollm2.bin beside it.

MODEL is SmolLM2-135M-Instruct in Q4_1 (examples/models/fetch.sh smollm2), TEXT any prose; the golden was made from fiction of before 1929. The
first 2,000 tokens are run in float32, and of each position kept: the id, the largest logit and where it stands, log(sum(exp)), and 16
logits at places that move with the position. smollm2.bin: u32 positions, u32 vocabulary, f32 standard deviation of all logits; then per position
i32 id, i32 best, f32 best logit, f32 log-sum-exp, 16 f32. Then a greedy continuation of a chat: u32 prompt ids, the ids, u32 new ids, the ids.
Made with transformers 5.24.0 and torch in float32."""
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from gguf import GGUFReader

POSITIONS, SAMPLES = 2000, 16


def tokenizer_of(reader):
    """The tokenizer.json of the model, from the file's tokens and merges: digits apart, then ByteLevel."""
    field = lambda key: reader.fields[key].contents()
    vocab = {t: i for i, t in enumerate(field("tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([t for t, k in zip(field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")) if k == 3])
    return tok


def positions(ids, logits):
    vocab = logits.shape[1]
    out = bytearray(struct.pack("<2If", len(ids), vocab, float(logits.std(dtype=np.float64))))
    for p, row in enumerate(logits):
        best = int(row.argmax())
        top = float(row[best])
        lse = top + float(np.log(np.exp((row - top).astype(np.float64)).sum()))
        at = [(p * 7919 + k * 104729) % vocab for k in range(SAMPLES)]
        out += struct.pack("<2i2f", ids[p], best, top, lse) + row[at].astype("<f4").tobytes()
    return bytes(out)


def lists(*parts):
    return b"".join(struct.pack(f"<I{len(part)}i", len(part), *part) for part in parts)


def main():
    path, text = Path(sys.argv[1]), Path(sys.argv[2]).read_text()[:20000]
    tok = tokenizer_of(GGUFReader(str(path)))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = tok.encode(text).ids[:POSITIONS]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
        chat = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
        prompt = tok.encode(chat).ids
        new = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=2)[0].tolist()[len(prompt):]
    (Path(__file__).resolve().parent / "smollm2.bin").write_bytes(positions(ids, logits) + lists(prompt, new))
    print(len(ids), "positions, std", logits.std(), tok.decode(new))


if __name__ == "__main__":
    main()
