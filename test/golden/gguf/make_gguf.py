#!/usr/bin/env python3
"""Writes what the GGUF tests compare with, by the package `gguf` (0.19.0): blocks of every type that kvrt computes with and their values
(blocks.bin), and seeds of the fuzz target.

blocks.bin: per type a header of 4 u32 (number in the file, blocks, bytes of a block, weights of a block), the blocks, the values as f32."""
import struct
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[1] / "fuzz/corpus/gguf"
# Where the f16 scales of a block stand.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [], T.NVFP4: []}
# f16: zero, -0, the smallest and the largest subnormal, the smallest normal, the largest, infinity, a NaN.
EDGES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0x7C00, 0x7E01]


def blocks_of(kind, rng):
    weights, size = GGML_QUANT_SIZES[kind]
    n = 4 + (len(EDGES) if SCALES[kind] else 0)
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for row in range(n):
        for i, at in enumerate(SCALES[kind]):
            value = np.float16(rng.normal() * 0.05).view(np.uint16) if row < 4 else EDGES[(row - 4 + 3 * i) % len(EDGES)]
            blocks[row, at:at + 2] = np.frombuffer(struct.pack("<H", int(value)), np.uint8)
    if kind == T.MXFP4:  # every exponent, with every nibble in each half
        blocks = np.concatenate([blocks, np.zeros((256, size), np.uint8)])
        blocks[4:, 0] = np.arange(256)
        blocks[4:, 1:] = np.arange(16, dtype=np.uint8) * 16 + np.arange(15, -1, -1, dtype=np.uint8)
    if kind == T.NVFP4:  # every scale
        blocks = np.concatenate([blocks, rng.integers(0, 256, (64, size), dtype=np.uint8)])
        blocks[4:, :4] = np.arange(256, dtype=np.uint8).reshape(64, 4)
    return blocks


def write_blocks():
    rng = np.random.default_rng(4)
    with (HERE / "blocks.bin").open("wb") as out:
        for kind in SCALES:
            weights, size = GGML_QUANT_SIZES[kind]
            blocks = blocks_of(kind, rng)
            with np.errstate(all="ignore"):
                values = gguf.quants.dequantize(blocks, kind).astype("<f4")
            out.write(struct.pack("<4I", int(kind), len(blocks), size, weights))
            out.write(blocks.tobytes())
            out.write(values.tobytes())


def write_seeds():
    CORPUS.mkdir(parents=True, exist_ok=True)
    seed = gguf.GGUFWriter(CORPUS / "kinds", "llama")
    seed.add_array("words", ["a", "bc", ""])
    seed.add_array("numbers", [1, 2, 3])
    seed.add_bool("yes", True)
    seed.add_float32("real", 0.5)
    seed.add_uint64("large", 1 << 40)
    seed.add_tensor("vector", np.arange(8, dtype=np.float32))
    seed.add_tensor("matrix", np.zeros((2, 34), np.uint8), raw_dtype=T.Q8_0)
    finish(seed)
    finish(gguf.GGUFWriter(CORPUS / "bare", "x"))
    model = gguf.GGUFWriter(CORPUS / "model", "llama")
    for add, value in ((model.add_block_count, 1), (model.add_embedding_length, 16), (model.add_feed_forward_length, 32), (model.add_context_length, 64),
                       (model.add_head_count, 2), (model.add_head_count_kv, 1), (model.add_layer_norm_rms_eps, 1e-5), (model.add_rope_freq_base, 1e4)):
        add(value)
    model.add_tokenizer_model("gpt2")
    model.add_token_list(["a", "b", "<|im_end|>"])
    model.add_token_types([1, 1, 3])
    model.add_eos_token_id(2)
    for name, shape in (("token_embd.weight", (3, 16)), ("output_norm.weight", (16,)), ("blk.0.attn_q.weight", (16, 16)), ("rope_freqs.weight", (4,))):
        model.add_tensor(name, np.ones(shape, np.float32))
    finish(model)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write_blocks()
write_seeds()
