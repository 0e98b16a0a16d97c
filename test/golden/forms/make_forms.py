#!/usr/bin/env python3
"""Writes forms.bin: small weights of every form that keeps its scales beside its codes, and their values by the libraries that define them:
compressed-tensors 0.20.1, transformers 5.24 (MXFP4), torch 2.15 (the 8-bit floats), bitsandbytes 0.50.2, mlx 0.32.4. Scales are widened to f32
first: the libraries compute in the dtype of the scales, kvrt in f32.

Per case: name of the form (16 bytes), u32 n_out, n_in, group, group_rows, type of scales (0 F32, 1 F16, 2 BF16), global divides, bytes of
CODES, SCALES, GLOBAL, MINS; these parts; the values as f32."""
import struct
from pathlib import Path

import bitsandbytes.functional as bnb
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

HERE = Path(__file__).resolve().parent
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
out = []


def raw(t):
    return b"" if t is None else t.contiguous().view(torch.uint8).numpy().tobytes()


def case(form, values, codes, scales, group=0, group_rows=1, scale_type=torch.float32, mins=None, glob=None, divides=0):
    n_out, n_in = values.shape
    parts = [raw(codes), raw(scales), raw(glob), raw(mins)]
    out.append(struct.pack("<16s10I", form.encode(), n_out, n_in, group, group_rows, TYPES[scale_type], divides, *map(len, parts)))
    out.extend(parts)
    out.append(raw(values.float()))


def random_scales(shape, dtype=torch.float32):
    return ((torch.rand(shape) + 0.5) * 0.01 * torch.where(torch.rand(shape) < 0.5, -1, 1)).to(dtype)


def floats8():
    for form, kind in (("f8_e4m3", torch.float8_e4m3fn), ("f8_e5m2", torch.float8_e5m2)):
        every = torch.arange(256, dtype=torch.uint8).view(1, 256)
        codes = torch.cat([every, every.flip(1)])
        for shape, dtype in (((1, 1), torch.float32), ((2, 1), torch.bfloat16), ((2, 4), torch.float16)):
            scales = random_scales(shape, dtype)
            values = codes.view(kind).float() * scales.float().repeat_interleave(256 // shape[1], 1)
            case(form, values, codes, scales, 0 if shape[1] == 1 else 64, 2 if shape[0] == 1 else 1, dtype)
    # Blocks of 8 x 16 that neither rows nor columns fill: 20 of 24 rows, 40 of 48 columns.
    codes = torch.randint(0, 127, (20, 40), dtype=torch.uint8)
    scales = random_scales((3, 3))
    args = QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[8, 16])
    case("f8_e4m3", dequantize(codes.view(torch.float8_e4m3fn), scales, args=args, dtype=torch.float32), codes, scales, 16, 8)
    scales = torch.arange(256, dtype=torch.uint8).view(2, 128)  # every exponent
    codes = torch.randint(0, 127, (2, 256), dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn).float() * scales.view(torch.float8_e8m0fnu).float().repeat_interleave(2, 1)
    case("mxfp8", values, codes, scales, 2)
    args = QuantizationArgs(num_bits=8, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)
    codes, scales = torch.randint(0, 127, (3, 64), dtype=torch.uint8), torch.randint(110, 130, (3, 2), dtype=torch.uint8)
    values = BaseCompressor.get_value_from_registry("mxfp8-quantized").decompress(
        {"weight": codes.view(torch.float8_e4m3fn), "weight_scale": scales}, QuantizationScheme(targets=["Linear"], weights=args))["weight"]
    case("mxfp8", values, codes, scales, 32)


def floats4():
    # Every exponent that is a number, by transformers: blocks (experts, rows, groups, bytes).
    scales = torch.arange(256, dtype=torch.uint8).clamp(max=254).view(1, 2, 128)
    codes = torch.randint(0, 256, (1, 2, 128, 4), dtype=torch.uint8)
    values = convert_moe_packed_tensors(codes, scales, dtype=torch.float32)[0].T.contiguous()
    case("mxfp4", values, codes, scales, 8)
    codes, scales = torch.randint(0, 256, (3, 32), dtype=torch.uint8), torch.randint(110, 130, (3, 2), dtype=torch.uint8)
    args = QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)
    values = BaseCompressor.get_value_from_registry("mxfp4-pack-quantized").decompress(
        {"weight_packed": codes, "weight_scale": scales}, QuantizationScheme(targets=["Linear"], weights=args))["weight"]
    case("mxfp4", values, codes, scales, 32)  # bf16 holds these products exactly
    # Every scale: compressed-tensors divides by the global one, ModelOpt multiplies (NVFP4QTensor.dequantize).
    every = torch.arange(256, dtype=torch.uint8).view(2, 128)
    codes = torch.randint(0, 256, (2, 128 * 8), dtype=torch.uint8)
    number = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
    unpacked = number[torch.stack([codes & 15, codes >> 4], -1).long()].view(2, -1)
    glob = torch.tensor([1234.567])
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    values = dequantize(unpacked, every.view(torch.float8_e4m3fn).float(), args=args, global_scale=glob, dtype=torch.float32)
    case("nvfp4", values, codes, every, 16, glob=glob, divides=1)
    glob = torch.tensor([0.00123])
    scales = every.view(torch.float8_e4m3fn).float() * glob
    case("nvfp4", unpacked * scales.repeat_interleave(16, 1), codes, every, 16, glob=glob)


def bitsandbytes():
    for form, kind in (("nf4", "nf4"), ("bnb_fp4", "fp4")):
        codes, absmax = torch.randint(0, 256, (4 * 64, 1), dtype=torch.uint8), torch.rand(8) * 0.1
        state = bnb.QuantState(absmax, torch.Size([4, 128]), bnb.get_4bit_type(kind, "cpu"), 64, kind, torch.float32)
        case(form, bnb.dequantize_4bit(codes, state), codes, absmax, 64)
    codes, scales = torch.arange(-128, 128).to(torch.int8).view(4, 64), torch.rand(4) * 3
    case("bnb_i8", bnb.int8_vectorwise_dequant(codes, scales), codes, scales)


def mlx():
    rng = np.random.default_rng(6)
    for i, bits in enumerate((2, 3, 4, 5, 6, 8)):
        group, dtype = (32, 64, 128)[i % 3], (torch.bfloat16, torch.float16)[i % 2]
        words = rng.integers(0, 1 << 32, (3, 128 * 2 * bits // 32), dtype=np.uint32)
        scales, mins = random_scales((3, 256 // group), dtype), random_scales((3, 256 // group), dtype)
        values = mx.dequantize(mx.array(words), mx.array(scales.float().numpy()), mx.array(mins.float().numpy()), group_size=group, bits=bits)
        case(f"a{bits}", torch.from_numpy(np.array(values)), torch.from_numpy(words.view(np.uint8)), scales, group, 1, dtype, mins)


if __name__ == "__main__":
    torch.manual_seed(3)
    floats8()
    floats4()
    bitsandbytes()
    mlx()
    (HERE / "forms.bin").write_bytes(b"".join(out))
