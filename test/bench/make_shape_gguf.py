#!/usr/bin/env python3
"""A GGUF file of a well-known shape with random weights: make_shape_gguf.py SHAPE[:LAYERS] TYPE OUT.gguf, for measurements of speed by any runtime.

SHAPE is one of the table below, of which the first LAYERS may do; TYPE of the matrices f16, bf16, q8_0, q4_0 or q4_k_m (Q4_K, with the head in Q6_K, as
the usual mixtures have it). Blocks hold random codes under scales that keep activations in range; speed depends on no more than that. The vocabulary is
made up: bytes, and words without a meaning. Needs PyPI's gguf and numpy."""
import argparse
from pathlib import Path

import gguf
import numpy as np

SHAPES = {  # layers, hidden, ffn, heads, kv heads, head size, vocabulary, rope base, tied, what else
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256, 500000.0, True, {}),
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256, 500000.0, False, {}),
    "smollm2-135m": (30, 576, 1536, 9, 3, 64, 49152, 100000.0, True, {}),
    "qwen3-30b-a3b": (48, 2048, 6144, 32, 4, 128, 151936, 1e6, False, {"experts": 128, "used": 8, "width": 768}),
    "qwen3.8-27b": (64, 5120, 17408, 24, 4, 256, 248320, 1e7, False, {"keys": 16, "values": 48, "dim": 128, "taps": 4, "interval": 4}),
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
    parser.add_argument("shape", metavar="SHAPE[:LAYERS]", help=", ".join(SHAPES))
    parser.add_argument("type", choices=["f16", "bf16", "q8_0", "q4_0", "q4_k_m"])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    name, _, cut = args.shape.partition(":")
    if name not in SHAPES or (cut and not cut.isdigit()):
        parser.error(f"SHAPE: found {args.shape}, need one of {', '.join(SHAPES)}, and a number of layers behind a colon")
    layers, hidden, ffn, heads, kv_heads, d, vocab, theta, tied, more = SHAPES[name]
    layers = int(cut) if cut else layers
    kind = "q4_k" if args.type == "q4_k_m" else args.type
    head_kind = {"q4_k_m": "q6_k", "q4_0": "q6_k"}.get(args.type, kind)
    if hidden % 256:  # no block of 256 fits into a row
        head_kind = "q8_0" if head_kind == "q6_k" else head_kind
    random = np.random.default_rng(1)
    architecture = "qwen3moe" if "experts" in more else "qwen35" if "keys" in more else "llama"
    w = gguf.GGUFWriter(str(args.out), architecture)
    w.add_name(f"{args.shape}, random {args.type}")
    w.add_context_length(8192)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_freq_base(theta)
    w.add_rope_dimension_count(64 if architecture == "qwen35" else d)
    w.add_key_length(d)
    w.add_value_length(d)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    if architecture == "qwen3moe":
        w.add_expert_count(more["experts"])
        w.add_expert_used_count(more["used"])
        w.add_expert_feed_forward_length(more["width"])
    if architecture == "qwen35":
        w.add_rope_dimension_sections([11, 11, 10, 0])
        w.add_ssm_conv_kernel(more["taps"])
        w.add_ssm_inner_size(more["values"] * more["dim"])
        w.add_ssm_state_size(more["dim"])
        w.add_ssm_time_step_rank(more["values"])
        w.add_ssm_group_count(more["keys"])
        w.add_uint32("qwen35.full_attention_interval", more["interval"])
    vocabulary(w, vocab)

    def add(name, rows, cols, kind, experts=0):
        raw = BLOCKS[kind][0]
        data = matrix(kind, rows * max(1, experts), cols, random)
        w.add_tensor(name, data.reshape(experts, rows, -1) if experts else data, raw_dtype=None if kind == "f16" else raw)

    def gain(name, n=hidden):
        w.add_tensor(name, np.ones(n, np.float32))

    def attention(at):
        add(at + "attn_q.weight", heads * d * (2 if architecture == "qwen35" else 1), hidden, kind)
        add(at + "attn_k.weight", kv_heads * d, hidden, kind)
        add(at + "attn_v.weight", kv_heads * d, hidden, kind)
        add(at + "attn_output.weight", hidden, heads * d, kind)
        if architecture != "llama":
            gain(at + "attn_q_norm.weight", d)
            gain(at + "attn_k_norm.weight", d)

    def delta(at):
        values, heads_of, dim, taps = more["values"] * more["dim"], more["values"], more["dim"], more["taps"]
        qkv = 2 * more["keys"] * dim + values
        add(at + "attn_qkv.weight", qkv, hidden, kind)
        add(at + "attn_gate.weight", values, hidden, kind)
        for name in ("ssm_beta.weight", "ssm_alpha.weight"):
            add(at + name, heads_of, hidden, "f16" if kind == "f16" else "bf16")
        w.add_tensor(at + "ssm_conv1d.weight", random.standard_normal((qkv, taps), dtype=np.float32))
        w.add_tensor(at + "ssm_a", -np.exp(np.linspace(-4, 2, heads_of)).astype(np.float32))
        w.add_tensor(at + "ssm_dt.bias", np.zeros(heads_of, np.float32))
        gain(at + "ssm_norm.weight", dim)
        add(at + "ssm_out.weight", hidden, values, kind)

    def dense(at):
        add(at + "ffn_gate.weight", ffn, hidden, kind)
        add(at + "ffn_up.weight", ffn, hidden, kind)
        add(at + "ffn_down.weight", hidden, ffn, kind)

    def mixture(at):
        w.add_tensor(at + "ffn_gate_inp.weight", random.standard_normal((more["experts"], hidden), dtype=np.float32) / 16)
        for name, rows, cols in (("gate", more["width"], hidden), ("up", more["width"], hidden), ("down", hidden, more["width"])):
            add(f"{at}ffn_{name}_exps.weight", rows, cols, kind, more["experts"])

    add("token_embd.weight", vocab, hidden, head_kind if tied else kind)
    gain("output_norm.weight")
    if not tied:
        add("output.weight", vocab, hidden, head_kind)
    for layer in range(layers):
        at = f"blk.{layer}."
        gain(at + "attn_norm.weight")
        if "keys" in more and (layer + 1) % more["interval"]:
            delta(at)
        else:
            attention(at)
        gain(at + ("post_attention_norm.weight" if architecture == "qwen35" else "ffn_norm.weight"))
        if "experts" in more:
            mixture(at)
        else:
            dense(at)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
