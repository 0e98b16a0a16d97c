"""Makes the folders of test/golden/quantized/ whose weights are small floats, table codes or MLX's integers, as make_quantized.py makes those of
integers; the values are those of the libraries (compressed-tensors, transformers, bitsandbytes 0.50.2, mlx 0.32.4) with scales in float32.
Usage: make_quantized_floats.py [NAME ...]

ModelOpt's are unpacked here, after modelopt/torch/quantization/qtensor (NVFP4QTensor.dequantize: e4m3 scale times weight_scale_2 in float32, then
the code); the codes by compressed-tensors."""
import json
import os

import bitsandbytes.functional as bnb
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import make_quantized
from make_quantized import Weight, each, groups_of

F8 = torch.float8_e4m3fn


def f8_codes(r, n_out, n_in):
    """All codes but NaN, with sizes of a normal distribution."""
    w = torch.tensor(r.rng.normal(0, 60, (n_out, n_in)), dtype=torch.float32).clamp(-448, 448).to(F8)
    w.view(torch.uint8).view(-1)[:256] = torch.tensor([c if c & 127 != 127 else 0 for c in range(256)], dtype=torch.uint8)
    return w


def scales(r, shape, size, dtype=torch.float32):
    return torch.tensor(size * r.rng.uniform(0.5, 1.5, shape)).to(dtype)


def weight(tensors, w32):
    return Weight({k: v for k, v in tensors.items()}, np.ascontiguousarray(w32.float().numpy()), torch.float32)


# ------------------------------------------------------------------------------------------------------------------- FP8 ---
def fp8(r, n_out, n_in, block=None, rows=False, name="weight_scale_inv", dtype=torch.float32):
    codes = f8_codes(r, n_out, n_in)
    if block:
        h, w = block
        s = scales(r, (-(-n_out // h), -(-n_in // w)), 0.002, dtype)
        padded = torch.zeros(s.shape[0] * h, s.shape[1] * w, dtype=F8)  # transformers wants whole blocks
        padded[:n_out, :n_in] = codes
        full = Fp8Dequantize(None)._dequantize_one(padded, s.float(), torch.float32)[:n_out, :n_in]
    else:
        s = scales(r, (n_out, 1) if rows else (), 0.002, dtype)
        full = codes.float() * s.float()
    return weight({"weight": codes, name: s, "input_scale": torch.tensor(1.5)} if not rows else {"weight": codes, name: s}, full)


def ue8m0(r, n_out, n_in):
    codes, s = f8_codes(r, n_out, n_in), torch.tensor(r.rng.integers(116, 121, (-(-n_out // 32), -(-n_in // 32))), dtype=torch.uint8)
    padded = torch.zeros(s.shape[0] * 32, s.shape[1] * 32, dtype=F8)
    padded[:n_out, :n_in] = codes
    return weight({"weight": codes, "weight_scale_inv": s}, Fp8Dequantize(None)._dequantize_one(padded, s, torch.float32)[:n_out, :n_in])


# ---------------------------------------------------------------------------------------------------- compressed-tensors ---
def args(**more):
    return dict(num_bits=8, type="float", symmetric=True, **more)


def floats(r, n_out, n_in, a, dtype=torch.bfloat16):
    codes = f8_codes(r, n_out, n_in)
    shape = {"tensor": (1,), "channel": (n_out, 1), "group": (n_out, n_in // (a.get("group_size") or n_in))}.get(a["strategy"])
    if not shape:
        h, w = a["block_structure"]
        shape = (-(-n_out // h), -(-n_in // w))
    s = scales(r, shape, 0.002, dtype)
    full = dequantize(codes, s.float(), args=QuantizationArgs(**a), dtype=torch.float32)
    return weight({"weight": codes, "weight_scale": s}, full)


def compressed(form, r, tensors, a):
    scheme = QuantizationScheme(targets=["Linear"], weights=a)
    return weight(tensors, BaseCompressor.get_value_from_registry(form).decompress(dict(tensors), scheme)["weight"])


def mxfp8(r, n_out, n_in):
    t = {"weight": f8_codes(r, n_out, n_in), "weight_scale": torch.tensor(r.rng.integers(116, 121, (n_out, n_in // 32)), dtype=torch.uint8)}
    return compressed("mxfp8-quantized", r, t, MXFP8)


def fp4_codes(r, n_out, n_in):
    return torch.tensor(r.rng.integers(0, 256, (n_out, n_in // 2)), dtype=torch.uint8)


def mxfp4(r, n_out, n_in):
    t = {"weight_packed": fp4_codes(r, n_out, n_in), "weight_scale": torch.tensor(r.rng.integers(120, 125, (n_out, n_in // 32)), dtype=torch.uint8)}
    return compressed("mxfp4-pack-quantized", r, t, MXFP4)


def nvfp4(r, n_out, n_in, divides=True):
    codes, s = fp4_codes(r, n_out, n_in), scales(r, (n_out, n_in // 16), 100).to(F8)
    numbers = unpack_fp4_from_uint8(codes, n_out, n_in, torch.float32)
    if divides:
        g = torch.tensor([2000 * r.rng.uniform(0.9, 1.1)], dtype=torch.float32)
        full = dequantize(numbers, s.float(), args=QuantizationArgs(**NVFP4), global_scale=g, dtype=torch.float32)
        return weight({"weight_packed": codes, "weight_scale": s, "weight_global_scale": g}, full)
    g = torch.tensor(0.0005 * r.rng.uniform(0.9, 1.1), dtype=torch.float32)
    full = numbers * (s.float() * g).repeat_interleave(16, 1)
    return weight({"weight": codes, "weight_scale": s, "weight_scale_2": g, "input_scale": torch.tensor(0.5)}, full)


BLOCK = args(strategy="block", block_structure=[48, 40])
MXFP8 = args(strategy="group", group_size=32, scale_dtype="torch.uint8")
MXFP4 = dict(MXFP8, num_bits=4)
NVFP4 = dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)


def float_mixed(r, module, n_out, n_in):
    if "self_attn" in module:
        return floats(r, n_out, n_in, args(strategy="channel"))
    return nvfp4(r, n_out, n_in) if module.endswith("_proj") else None


# -------------------------------------------------------------------------------------------------------------- ModelOpt ---
def modelopt(r, module, n_out, n_in):
    if not module.endswith("_proj"):
        return None
    return fp8(r, n_out, n_in, name="weight_scale") if module.endswith("o_proj") else nvfp4(r, n_out, n_in, divides=False)


# ---------------------------------------------------------------------------------------------------------- bitsandbytes ---
def four(r, n_out, n_in, kind="nf4", nested=False, block=32):
    w = torch.tensor(r.rng.normal(0, 0.15, (n_out, n_in)), dtype=torch.float32)
    codes, state = bnb.quantize_4bit(w, blocksize=block, compress_statistics=nested, quant_type=kind)
    t = {"weight": codes}
    t.update({f"weight.{k}": v for k, v in state.as_dict(packed=True).items()})
    return weight(t, bnb.dequantize_4bit(codes, bnb.QuantState.from_dict({f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}, "cpu")))


def eight(r, n_out, n_in):
    codes, s = torch.tensor(r.codes(n_out, n_in, 8) - 128).to(torch.int8), scales(r, (n_out,), 0.3)
    return weight({"weight": codes, "SCB": s, "weight_format": torch.tensor(0, dtype=torch.uint8)}, bnb.int8_vectorwise_dequant(codes, s))


def bnb_config(**more):
    return dict({"quant_method": "bitsandbytes", "_load_in_4bit": False, "_load_in_8bit": False, "llm_int8_skip_modules": None,
                 "bnb_4bit_quant_storage": "uint8"}, **more)


# ------------------------------------------------------------------------------------------------------------------- MLX ---
def mlx(r, n_out, n_in, bits=4, group=32, dtype=torch.bfloat16, mode="affine"):
    words = torch.tensor(r.rng.integers(0, 1 << 32, (n_out, n_in * bits // 32), dtype=np.uint32).view(np.int32)).view(torch.uint32)
    if mode != "affine":
        low = 116 if bits == 8 else 120
        if bits == 8:
            words = f8_codes(r, n_out, n_in).view(torch.uint8).view(torch.int32).view(torch.uint32)
        s = torch.tensor(r.rng.integers(low, low + 5, (n_out, n_in // 32)), dtype=torch.uint8)
        full = mx.dequantize(mx.array(words.numpy()), mx.array(s.numpy()), group_size=32, bits=bits, mode=mode, dtype=mx.float32)
        return weight({"weight": words, "scales": s}, torch.from_numpy(np.array(full)))
    s = scales(r, (n_out, n_in // group), 0.5 / (1 << bits), dtype)
    b = scales(r, (n_out, n_in // group), -0.25, dtype)
    full = mx.dequantize(mx.array(words.numpy()), mx.array(s.float().numpy()), mx.array(b.float().numpy()), group_size=group, bits=bits)
    return weight({"weight": words, "scales": s, "biases": b}, torch.from_numpy(np.array(full)))


def mlx_mixed(r, module, n_out, n_in):
    if module.endswith("v_proj"):
        return None
    return mlx(r, n_out, n_in, bits=6, group=32) if module.endswith("down_proj") else mlx(r, n_out, n_in, bits=8, group=64) if "embed" in module else mlx(
        r, n_out, n_in, group=32)


def mlx_overrides():
    out = {"group_size": 32, "bits": 4, "mode": "affine", "model.embed_tokens": {"group_size": 64, "bits": 8}}
    for i in range(2):
        out[f"model.layers.{i}.self_attn.v_proj"] = False
        out[f"model.layers.{i}.mlp.down_proj"] = {"group_size": 32, "bits": 6}
    return out


def both(r):
    """In MLX folders embeddings are quantized, too; norms are not matrices."""
    return lambda rng, module, n_out, n_in: r(rng, n_out, n_in)


make_quantized.VARIANTS = {
    "fp8_block": ({}, {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [32, 48],
                       "modules_to_not_convert": ["lm_head"]}, each(lambda r, o, i: fp8(r, o, i, (32, 48)))),
    "fp8_tensor": ({}, {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
                   each(lambda r, o, i: fp8(r, o, i, name="weight_scale"))),
    "fp8_ue8m0": ({}, {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}, each(ue8m0)),
    "fbgemm_fp8": ({}, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
                   each(lambda r, o, i: fp8(r, o, i, rows=True, name="weight_scale"))),
    "float_channel": ({}, groups_of("float-quantized", (["Linear"], args(strategy="channel"), {})),
                      each(lambda r, o, i: floats(r, o, i, args(strategy="channel")))),
    "float_block": ({}, groups_of("float-quantized", (["Linear"], BLOCK, {})), each(lambda r, o, i: floats(r, o, i, BLOCK))),
    "float_tensor": ({}, groups_of("naive-quantized", (["Linear"], args(strategy="tensor"), {})),
                     each(lambda r, o, i: floats(r, o, i, args(strategy="tensor"), torch.float32))),
    "mxfp8": ({}, groups_of("mxfp8-quantized", (["Linear"], MXFP8, {})), each(mxfp8)),
    "mxfp4": ({}, groups_of("mxfp4-pack-quantized", (["Linear"], MXFP4, {})), each(mxfp4)),
    "nvfp4": ({}, groups_of("nvfp4-pack-quantized", (["Linear"], NVFP4, {})), each(nvfp4)),
    "float_mixed": ({}, groups_of("mixed-precision", (["re:.*self_attn.*"], args(strategy="channel"), {"format": "float-quantized"}),
                                  (["re:.*mlp.*"], NVFP4, {"format": "nvfp4-pack-quantized"})), float_mixed),
    "modelopt_mixed": ({}, {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "group_size": 16, "exclude_modules": ["lm_head"],
                            "producer": {"name": "modelopt", "version": "0.40.0"}}, modelopt),
    "modelopt_file": ({}, {"hf_quant_config": {"producer": {"name": "modelopt"}, "quantization": {
        "quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": ["lm_head"]}}},
        each(lambda r, o, i: nvfp4(r, o, i, divides=False))),
    "bnb_nf4": ({}, bnb_config(load_in_4bit=True, bnb_4bit_quant_type="nf4"), each(four)),
    "bnb_nf4_nested": ({}, bnb_config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
                       each(lambda r, o, i: four(r, o, i, nested=True))),
    "bnb_fp4": ({}, bnb_config(load_in_4bit=True, bnb_4bit_quant_type="fp4"), each(lambda r, o, i: four(r, o, i, "fp4"))),
    "bnb_int8": ({}, bnb_config(load_in_8bit=True), each(eight)),
    "mlx_4bit": ({}, {"mlx": {"group_size": 32, "bits": 4}}, both(mlx)),
    "mlx_mixed": ({}, {"mlx": mlx_overrides()}, mlx_mixed),
    "mlx_3bit": ({}, {"mlx": {"group_size": 32, "bits": 3}}, both(lambda r, o, i: mlx(r, o, i, 3, dtype=torch.float16))),
    "mlx_mxfp4": ({}, {"mlx": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, each(lambda r, o, i: mlx(r, o, i, mode="mxfp4"))),
    "mlx_mxfp8": ({}, {"mlx": {"group_size": 32, "bits": 8, "mode": "mxfp8"}}, each(lambda r, o, i: mlx(r, o, i, bits=8, mode="mxfp8"))),
}
make_quantized.LOADED = []
# Also what stands elsewhere than in quantization_config.
write_integers = make_quantized.write


def write(name, seed):
    write_integers(name, seed)
    folder = os.path.join(make_quantized.HERE, name)
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    quantization = config["quantization_config"]
    if "mlx" in quantization:
        config["quantization"] = config["quantization_config"] = quantization["mlx"]
    if "hf_quant_config" in quantization:
        del config["quantization_config"]
        json.dump(quantization["hf_quant_config"], open(os.path.join(folder, "hf_quant_config.json"), "w"), indent=1)
    json.dump(config, open(path, "w"), indent=1)
    golden = json.load(open(os.path.join(folder, "golden.json")))
    golden["values"] = {k: v[:1] for k, v in golden["values"].items()}  # in float32 alone
    json.dump(golden, open(os.path.join(folder, "golden.json"), "w"), indent=0)


make_quantized.write = write

if __name__ == "__main__":
    make_quantized.main()
