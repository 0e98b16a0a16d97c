#!/usr/bin/env python3
"""A GGUF file of a well-known shape with random weights: make_shape_gguf.py SHAPE TYPE OUT.gguf, for measurements of speed by any runtime.

SHAPE is one of the table below, TYPE of the matrices f16, bf16, q8_0, q4_0 or q4_k_m (Q4_K, with the head in Q6_K, as the usual mixtures
have it). Blocks hold random codes under scales that keep activations in range; speed depends on no more than that. The vocabulary is made up: bytes, and
words without a meaning. Needs PyPI's gguf and numpy."""
import argparse
from pathlib import Path

import gguf
import numpy as np

SHAPES = {  # layers, hidden, ffn, heads, kv heads, head size, vocabulary, rope base, tied
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256, 500000.0, True),
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256, 500000.0, False),
    "smollm2-135m": (30, 576, 1536, 9, 3, 64, 49152, 100000.0, True),
}
TYPES = gguf.GGMLQuantizationType
# type: elements and bytes of a block, offset of the fp16 numbers in it, their size
BLOCKS = {"q8_0": (TYPES.Q8_0, 32, 34, {0: 2e-4}), "q4_0": (TYPES.Q4_0, 32, 18, {0: 3e-3}), "q4_k": (TYPES.Q4_K, 256, 144, {0: 6e-5, 2: 4e-4}),
          "q6_k": (TYPES.Q6_K, 256, 210, {208: 2e-5}), "f16": (TYPES.F16, 1, 2, None), "bf16": (TYPES.BF16, 1, 2, None)}


def matrix(kind, rows, cols, random):
    """Bytes of a matrix, (rows, bytes of a row)."""
    _, block, size, scales = BLOCKS[kind]
    n = rows * cols // block
    if scales is None:
        value = (random.standard_normal((rows, cols), dtype=np.float32) / 64).astype("<f4")
        return value.astype(np.float16) if kind == "f16" else (value.view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(rows, cols * 2)
    data = random.integers(0, 256, (n, size), dtype=np.uint8)
    for offset, size_of_scale in scales.items():
        data[:, offset : offset + 2] = np.full(n, size_of_scale, "<f2").view(np.uint8).reshape(n, 2)
    return data.reshape(rows, -1)


def vocabulary(writer, n):
    """Bytes of the gpt2 alphabet first, then tokens nobody writes."""
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in visible]
    alphabet = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(rest))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(alphabet + ["!!"] + [f"<unused{i}>" for i in range(n - 257)])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * (n - 257))
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=["f16", "bf16", "q8_0", "q4_0", "q4_k_m"])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    layers, hidden, ffn, heads, kv_heads, d, vocab, theta, tied = SHAPES[args.shape]
    kind = "q4_k" if args.type == "q4_k_m" else args.type
    head_kind = {"q4_k_m": "q6_k", "q4_0": "q6_k"}.get(args.type, kind)
    if hidden % 256:  # no block of 256 fits into a row
        head_kind = "q8_0" if head_kind == "q6_k" else head_kind
    random = np.random.default_rng(1)
    w = gguf.GGUFWriter(str(args.out), "llama")
    w.add_name(f"{args.shape}, random {args.type}")
    w.add_context_length(8192)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_freq_base(theta)
    w.add_rope_dimension_count(d)
    w.add_key_length(d)
    w.add_value_length(d)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    vocabulary(w, vocab)

    def add(name, rows, cols, kind):
        raw = BLOCKS[kind][0]
        w.add_tensor(name, matrix(kind, rows, cols, random), raw_dtype=None if kind == "f16" else raw)

    def gain(name):
        w.add_tensor(name, np.ones(hidden, np.float32))

    add("token_embd.weight", vocab, hidden, head_kind if tied else kind)
    gain("output_norm.weight")
    if not tied:
        add("output.weight", vocab, hidden, head_kind)
    for layer in range(layers):
        gain(f"blk.{layer}.attn_norm.weight")
        add(f"blk.{layer}.attn_q.weight", heads * d, hidden, kind)
        add(f"blk.{layer}.attn_k.weight", kv_heads * d, hidden, kind)
        add(f"blk.{layer}.attn_v.weight", kv_heads * d, hidden, kind)
        add(f"blk.{layer}.attn_output.weight", hidden, heads * d, kind)
        gain(f"blk.{layer}.ffn_norm.weight")
        add(f"blk.{layer}.ffn_gate.weight", ffn, hidden, kind)
        add(f"blk.{layer}.ffn_up.weight", ffn, hidden, kind)
        add(f"blk.{layer}.ffn_down.weight", hidden, ffn, kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
