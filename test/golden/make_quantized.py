"""Makes test/golden/quantized/: tiny random models whose weights are integers, one folder for each method and variant that kvrt reads from the
Hub, with what the weights are as numbers and the logits of the model that has them.  Usage: make_quantized.py [NAME ...]

Each folder is a Hugging Face folder plus golden.json and golden.bin as make_golden.py writes them, and in golden.json
    values   {module: [f32, half]}: 64-bit FNV-1a of the dequantized weight, row by row, in float32 (codes and zeros and scales as they are,
             one product) and in the type of the scales, in which the libraries hold it
GPTQ and AWQ are packed and unpacked here, after the layouts in GPTQModel (nn_modules/qlinear/__init__.py, utils/model.py) and AutoAWQ
(utils/packing_utils.py, modules/linear/gemv.py); where the sources of these two are (both packages in the folder $QUANTIZED_SOURCES), their own
functions must give the same numbers. compressed-tensors packs and dequantizes its folders itself, and transformers loads them.
"""
import importlib.util
import json
import os
import re
import shutil
import sys
import textwrap
import types

import numpy as np
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file

from make_golden import tokenizer

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantized")
VOCAB = 96
BASE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0, bos_token_id=0, eos_token_id=1,
            tie_word_embeddings=True)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


class Random:
    """Codes, zeros and scales of a weight (n_out, n_in): all codes occur, and so do the least and the greatest zero."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def codes(self, n_out, n_in, bits):
        return self.rng.integers(0, 1 << bits, (n_out, n_in))

    def zeros(self, rows, groups, bits):
        middle, spread = 1 << (bits - 1), 1 << (bits - 1)
        z = np.clip(np.rint(self.rng.normal(middle, spread / 3, (rows, groups))), 0, (1 << bits) - 1).astype(np.int64)
        z.reshape(-1)[:2] = 0, (1 << bits) - 1
        return z

    def scales(self, rows, groups, bits, dtype):
        size = 0.15 / (0.29 * (1 << bits))
        return torch.tensor(size * self.rng.uniform(0.5, 1.5, (rows, groups))).to(dtype)


def fnv(array):
    h = 14695981039346656037
    for b in array.tobytes():
        h = (h ^ b) * 1099511628211 % (1 << 64)
    return "%016x" % h


def words(fields, bits):
    """(..., 32 / bits) integers, lowest bits first, to int32."""
    out = np.zeros(fields.shape[:-1], dtype=np.uint64)
    for i in range(fields.shape[-1]):
        out |= fields[..., i].astype(np.uint64) << np.uint64(i * bits)
    return torch.tensor(out.astype(np.uint32).view(np.int32))


def fields(word, bits):
    u = word.numpy().view(np.uint32).astype(np.int64)
    return np.stack([(u >> (i * bits)) & ((1 << bits) - 1) for i in range(32 // bits)], axis=-1)


class Weight:
    """tensors of a module, and the weight as it is: w32 (n_out, n_in), and rounded once to the type of the scales."""

    def __init__(self, tensors, w32, dtype):
        self.tensors, self.w32, self.half = tensors, w32, torch.tensor(w32).to(dtype)


# ------------------------------------------------------------------------------------------------------------------ GPTQ ---
def gptq(r, n_out, n_in, bits=4, group=32, sym=False, v1=True, scattered=False, dtype=torch.float16):
    per, group = 32 // bits, n_in if group == -1 else group
    groups = n_in // group
    q, s = r.codes(n_out, n_in, bits), r.scales(n_out, groups, bits, dtype)
    z = np.full((n_out, groups), 1 << (bits - 1)) if sym else r.zeros(n_out, groups, bits)
    g = np.arange(n_in) // group
    if scattered:
        g = r.rng.permutation(g)
    ones = sum(1 << (i * bits) for i in range(per))
    qzeros = words(z.T.reshape(groups, n_out // per, per), bits)
    if v1:  # GPTQModel subtracts one from all fields of a word at once
        qzeros = torch.tensor((qzeros.numpy().view(np.uint32) - np.uint32(ones)).view(np.int32))
    t = {"qweight": words(q.T.reshape(n_in // per, per, n_out).transpose(0, 2, 1), bits), "qzeros": qzeros,
         "scales": s.T.contiguous(), "g_idx": torch.tensor(g, dtype=torch.int32)}
    w = Weight(t, ungptq(t, bits, v1, n_out, n_in), dtype)
    theirs = theirs_of_gptqmodel(t, bits, v1)
    assert theirs is None or torch.equal(theirs, w.half), "GPTQModel's own numbers"
    return w


def theirs_of_gptqmodel(t, bits, v1):
    """What GPTQModel's layer makes of the tensors, by the two methods that do it; None without its sources."""
    path = os.path.join(os.environ.get("QUANTIZED_SOURCES", ""), "gptqmodel/nn_modules/qlinear/__init__.py")
    if not os.path.exists(path):
        return None
    source, names = open(path).read(), {"t": torch, "torch": torch, "_torch_right_shift": torch.bitwise_right_shift}
    for name in ("dequantize_weight", "_dequantize_from_codes"):
        exec(textwrap.dedent(re.search(r"    def %s\(.*?(?=\n    def |\n    @|\nclass )" % name, source, re.S).group(0)), names)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    zeros = t["qzeros"] + (sum(1 << i for i in range(0, 32, bits)) if v1 else 0)  # convert_gptq_v1_to_v2_format_module
    layer = types.SimpleNamespace(planar=False, bits=bits, qzeros=zeros, qweight=t["qweight"], scales=t["scales"], g_idx=t["g_idx"],
                                  maxq=(1 << bits) - 1, pack_factor=32 // bits, dequant_dtype=torch.int16, in_features=len(t["g_idx"]),
                                  wf_unsqueeze_zero=shifts.view(1, 1, -1), wf_unsqueeze_neg_one=shifts.view(1, -1, 1),
                                  _init_wf_unsqueeze_buffers=lambda: None)
    layer._dequantize_from_codes = types.MethodType(names["_dequantize_from_codes"], layer)
    return names["dequantize_weight"](layer).T.contiguous()


def ungptq(t, bits, v1, n_out, n_in):
    per = 32 // bits
    q = fields(t["qweight"], bits).transpose(0, 2, 1).reshape(n_in, n_out)
    stored = t["qzeros"].numpy().view(np.uint32)
    if v1:
        stored = stored + np.uint32(sum(1 << (i * bits) for i in range(per)))
    z = fields(torch.tensor(stored.view(np.int32)), bits).reshape(-1, n_out)
    g = t["g_idx"].numpy()
    w = (q - z[g]).astype(np.float32) * t["scales"].float().numpy()[g]
    return np.ascontiguousarray(w.T)


# ------------------------------------------------------------------------------------------------------------------- AWQ ---
def awq(r, n_out, n_in, group=32, gemv=False, dtype=torch.float16):
    groups = n_in // group
    q, s, z = r.codes(n_out, n_in, 4), r.scales(n_out, groups, 4, dtype), r.zeros(n_out, groups, 4)
    w32 = (q - np.repeat(z, group, 1)).astype(np.float32) * np.repeat(s.float().numpy(), group, 1)
    if gemv:
        width = (groups + 7) // 8
        multiple = 1 if group >= 128 else 2 if group == 64 else 4
        width = (width + multiple - 1) // multiple * multiple
        padded = np.zeros((n_out, width * 8), dtype=np.int64)
        padded[:, :groups] = z
        scales = torch.zeros(n_out, width * 8, dtype=dtype)
        scales[:, :groups] = s
        t = {"qweight": words(q.reshape(n_out, n_in // 8, 8), 4), "qzeros": words(padded.reshape(n_out, width, 8), 4), "scales": scales}
    else:
        t = {"qweight": words(q.T.reshape(n_in, n_out // 8, 8)[..., AWQ_ORDER], 4),
             "qzeros": words(z.T.reshape(groups, n_out // 8, 8)[..., AWQ_ORDER], 4), "scales": s.T.contiguous()}
        source = os.path.join(os.environ.get("QUANTIZED_SOURCES", ""), "awq/utils/packing_utils.py")
        if os.path.exists(source):
            spec = importlib.util.spec_from_file_location("packing_utils", source)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            theirs = module.dequantize_gemm(t["qweight"], t["qzeros"], t["scales"], 4, group).T.contiguous()
            assert theirs.dtype == dtype and torch.equal(theirs, torch.tensor(w32).to(dtype)), "AutoAWQ's own numbers"
    return Weight(t, w32, dtype)


# ---------------------------------------------------------------------------------------------------- compressed-tensors ---
def packed(r, n_out, n_in, weights, form="pack-quantized", dtype=torch.bfloat16, g_idx=False, old_zeros=False):
    bits, strategy = weights["num_bits"], weights["strategy"]
    group = weights.get("group_size") or n_in
    rows, columns = {"tensor": (1, 1), "channel": (n_out, 1), "group": (n_out, n_in // group)}.get(strategy, (0, 0))
    if strategy == "block":
        h, wd = weights["block_structure"]
        rows, columns = -(-n_out // h), -(-n_in // wd)
    low = -(1 << (bits - 1))
    q = torch.tensor(r.codes(n_out, n_in, bits) + low).to(torch.int8)
    s = r.scales(rows, columns, bits, dtype)
    z = None if weights["symmetric"] else torch.tensor(r.zeros(rows, columns, bits) + low).to(torch.int8)
    if strategy == "tensor":
        s, z = s.reshape(1), z if z is None else z.reshape(1)
    t = {"weight_scale": s}
    if form == "pack-quantized":
        t["weight_packed"], t["weight_shape"] = pack_to_int32(q, bits), torch.tensor([n_out, n_in])
    else:
        t["weight"] = q
    if z is not None:
        t["weight_zero_point"] = pack_to_int32(z, bits, packed_dim=0).contiguous() if form == "pack-quantized" else z
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    if g_idx:  # the library has dropped it; a column of group g stands for itself with that group's scale
        g = torch.tensor(r.rng.permutation(np.arange(n_in) // group), dtype=torch.int32)
        order = torch.argsort(g, stable=True)
        inner = dict(t, weight_packed=pack_to_int32(q[:, order].contiguous(), bits))
        back = torch.argsort(order)
        half = BaseCompressor.get_value_from_registry(form).decompress(inner, scheme)["weight"][:, back]
        full = BaseCompressor.get_value_from_registry(form).decompress(dict(inner, weight_scale=s.float()), scheme)["weight"][:, back]
        t["weight_g_idx"] = g
    else:
        half = BaseCompressor.get_value_from_registry(form).decompress(dict(t), scheme)["weight"]
        full = BaseCompressor.get_value_from_registry(form).decompress(dict(t, weight_scale=s.float()), scheme)["weight"]
    if old_zeros:
        t["weight_zero_point"] = z
    w = Weight(t, np.ascontiguousarray(full.float().numpy()), dtype)
    assert torch.equal(w.half, half), "the library's own type"
    return w


def args(bits=4, symmetric=True, strategy="group", group_size=None, **more):
    return dict(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, group_size=group_size, **more)


def groups_of(form, *pairs, ignore=("lm_head",)):
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed", "kv_cache_scheme": None,
            "config_groups": {f"group_{i}": dict(targets=targets, weights=weights, **more) for i, (targets, weights, more) in enumerate(pairs)},
            "ignore": list(ignore)}


# --------------------------------------------------------------------------------------------------------------- variants ---
def each(make):
    """The same for all projections."""
    return lambda r, module, n_out, n_in: make(r, n_out, n_in) if module.rsplit(".", 1)[-1].endswith("_proj") else None


def gptq_config(bits=4, group=32, sym=False, form="gptq", **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "checkpoint_format": form, "lm_head": False,
            "pack_dtype": "int32", **more}


def dynamic(r, module, n_out, n_in):
    if module == "lm_head":
        return gptq(r, n_out, n_in, v1=False)
    if not module.endswith("_proj") or ".layers.1.mlp." in module:
        return None
    return gptq(r, n_out, n_in, v1=False, bits=8, group=48) if module.endswith("down_proj") else gptq(r, n_out, n_in, v1=False)


def auto_round(r, module, n_out, n_in):
    if not module.endswith("_proj"):
        return None
    return gptq(r, n_out, n_in, bits=8, group=-1, sym=True) if module == "model.layers.1.self_attn.v_proj" else gptq(r, n_out, n_in, sym=True)


G32 = args(group_size=32)
ASYM = args(symmetric=False, group_size=32)
BLOCK = args(8, strategy="block", block_structure=[48, 40])
MIXED = [(["re:.*self_attn.*"], args(8, strategy="channel"), {"format": "int-quantized"}),
         (["re:.*mlp\\.(gate|up)_proj$", "model.layers.0.mlp.down_proj"], G32, {"format": "pack-quantized"}),
         (["Embedding"], args(8, symmetric=False, strategy="channel"), {"format": "pack-quantized"})]


def mixed(r, module, n_out, n_in):
    if "self_attn" in module:
        return packed(r, n_out, n_in, MIXED[0][1], "int-quantized")
    if module.endswith(("gate_proj", "up_proj", "layers.0.mlp.down_proj")):
        return packed(r, n_out, n_in, MIXED[1][1])
    return packed(r, n_out, n_in, MIXED[2][1]) if module.endswith("embed_tokens") else None


W8A8 = {"input_activations": dict(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)}

# name: (changes to BASE, quantization_config, weight of a module)
VARIANTS = {
    "gptq_sym": ({}, gptq_config(sym=True), each(lambda r, o, i: gptq(r, o, i, sym=True))),
    "gptq_desc_act": ({}, gptq_config(desc_act=True), each(lambda r, o, i: gptq(r, o, i, scattered=True, dtype=torch.bfloat16))),
    "gptq_v2_8bit": ({}, gptq_config(8, -1, form="gptq_v2"), each(lambda r, o, i: gptq(r, o, i, bits=8, group=-1, v1=False))),
    "gptq_dynamic": (dict(tie_word_embeddings=False),
                     gptq_config(form="gptq_v2", lm_head=True,
                                 dynamic={"-:.*\\.layers\\.1\\.mlp\\..*": {}, "+:.*\\.down_proj$": {"bits": 8, "group_size": 48}}), dynamic),
    "gptq_group64": (dict(intermediate_size=128), gptq_config(group=64), each(lambda r, o, i: gptq(r, o, i, group=64))),
    "gptq_group128": (dict(hidden_size=128, num_attention_heads=8, intermediate_size=128, num_hidden_layers=1), gptq_config(group=128),
                      each(lambda r, o, i: gptq(r, o, i, group=128))),
    "auto_round_gptq": ({}, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32, "sym": True,
                             "data_type": "int", "extra_config": {"model.layers.1.self_attn.v_proj": {"bits": 8, "group_size": -1},
                                                                  "lm_head": {"bits": 16, "data_type": "float"}}}, auto_round),
    "auto_round_awq": ({}, {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32, "sym": False},
                       each(awq)),
    "awq_gemm": ({}, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
                      "modules_to_not_convert": None}, each(awq)),
    "awq_gemv": ({}, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemv"},
                 each(lambda r, o, i: awq(r, o, i, gemv=True))),
    "packed_sym": ({}, groups_of("pack-quantized", (["Linear"], G32, {})), each(lambda r, o, i: packed(r, o, i, G32))),
    "packed_asym": ({}, groups_of("pack-quantized", (["Linear"], ASYM, {})),
                    each(lambda r, o, i: packed(r, o, i, ASYM, dtype=torch.float16))),
    "packed_old_zeros": ({}, groups_of("pack-quantized", (["Linear"], ASYM, {})),
                         each(lambda r, o, i: packed(r, o, i, ASYM, old_zeros=True))),
    "packed_g_idx": ({}, groups_of("pack-quantized", (["Linear"], dict(G32, actorder="group"), {})),
                     each(lambda r, o, i: packed(r, o, i, G32, g_idx=True))),
    "packed_8bit": ({}, groups_of("pack-quantized", (["re:.*_proj"], args(8, False, "channel"), {})),
                    each(lambda r, o, i: packed(r, o, i, args(8, False, "channel")))),
    "packed_tensor": ({}, groups_of("pack-quantized", (["Linear"], args(8, strategy="tensor"), {})),
                      each(lambda r, o, i: packed(r, o, i, args(8, strategy="tensor"), dtype=torch.float32))),
    "int_channel": ({}, groups_of("int-quantized", (["Linear"], args(8, strategy="channel"), W8A8)),
                    each(lambda r, o, i: packed(r, o, i, args(8, strategy="channel"), "int-quantized"))),
    "naive_group_asym": ({}, groups_of("naive-quantized", (["Linear"], args(8, False, group_size=32), {})),
                         each(lambda r, o, i: packed(r, o, i, args(8, False, group_size=32), "naive-quantized"))),
    "naive_block": ({}, groups_of("naive-quantized", (["Linear"], BLOCK, {})),
                    each(lambda r, o, i: packed(r, o, i, BLOCK, "naive-quantized"))),
    "mixed_precision": ({}, groups_of("mixed-precision", *MIXED, ignore=["lm_head", "re:.*layers\\.1\\.mlp\\.down_proj"]), mixed),
    "compression_config": ({}, {"compression_config": {"quantization_config": groups_of("pack-quantized", (["Linear"], G32, {})),
                                                       "sparsity_config": {"format": "dense"}}}, each(lambda r, o, i: packed(r, o, i, G32))),
}
# What transformers loads itself, and then must hold the same weights.
LOADED = ["packed_sym", "packed_asym", "packed_8bit", "packed_tensor", "int_channel", "naive_group_asym"]


def build(overrides, seed):
    config = transformers.LlamaConfig(**{**BASE, **overrides})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_((1 + 0.2 * torch.randn_like(p) if "norm" in name else 0.15 * torch.randn_like(p)).bfloat16().float())
    return model


@torch.no_grad()
def write(name, seed):
    overrides, quantization, weight_of = VARIANTS[name]
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model, r = build(overrides, seed), Random(seed)
    tensors, values = {}, {}
    for module, layer in model.named_modules():
        if not hasattr(layer, "weight") or (module == "lm_head" and model.config.tie_word_embeddings):
            continue
        w = weight_of(r, module, *layer.weight.shape) if layer.weight.dim() == 2 else None
        if w is None:
            tensors[module + ".weight"] = layer.weight.bfloat16()
            continue
        layer.weight.copy_(torch.tensor(w.w32))
        tensors.update({f"{module}.{k}": v.contiguous() for k, v in w.tensors.items()})
        half = w.half.view(torch.int16 if w.half.element_size() == 2 else torch.int32)
        values[module] = [fnv(w.w32), fnv(half.numpy())]
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    model.config.architectures, model.config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    model.config.save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    config.update(quantization if "compression_config" in quantization else {"quantization_config": quantization})
    json.dump(config, open(path, "w"), indent=1)
    tokenizer().save(os.path.join(folder, "tokenizer.json"))
    ids = torch.randint(2, VOCAB, (20,), generator=torch.Generator().manual_seed(seed))
    rows = [0, 1, 7, 8, 19]
    logits = model(ids[None]).logits[0][rows].numpy().astype(np.float32)
    logits.tofile(os.path.join(folder, "golden.bin"))
    prompt = {"n": len(ids), "ids": ids.tolist(), "rows": rows, "greedy": [], "margin": []}
    json.dump({"vocab": VOCAB, "std": float(logits.std()), "prompts": [prompt], "values": values},
              open(os.path.join(folder, "golden.json"), "w"), indent=0)
    if name in LOADED:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                                   quantization_config=transformers.CompressedTensorsConfig(run_compressed=False))
        for module in values:
                theirs = loaded.get_submodule(module)
                assert fnv(theirs.weight.to(tensors[module + ".weight_scale"].dtype).contiguous().view(
                    torch.int16 if name != "packed_tensor" else torch.int32).numpy()) == values[module][1], (name, module)


def main():
    torch.set_num_threads(1)
    for i, name in enumerate(VARIANTS):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        write(name, 4000 + i)
        print(name, sum(os.path.getsize(os.path.join(HERE, name, f)) for f in os.listdir(os.path.join(HERE, name))))


if __name__ == "__main__":
    main()
