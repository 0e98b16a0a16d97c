#!/usr/bin/env python3
"""Writes models/NAME.gguf: golden models of ../models as llama.cpp's own converter writes them, so that names, orders and keys are its and not
ours.  Usage: make_models.py CONVERTER [NAME ...], CONVERTER being the path of llama.cpp's convert_hf_to_gguf.py. The logits to compare with are
golden.json and golden.bin of the folder."""
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
# What transformers writes in its own words, in those of the published configs, which the converter knows.
PUBLISHED = {"granite4": {"layer_types": ["attention"] * 2, "num_experts_per_tok": 0}, "glm4_moe_lite": {"first_k_dense_replace": 1}}
# Folders, and flags of the converter.
FILES = {
    "qwen3_5": ["--no-mtp"], "qwen3_5_nested": ["--no-mtp"], "qwen3_5_odd": ["--no-mtp"], "qwen3_5_moe": ["--no-mtp", "--fuse-gate-up-exps"],
    "qwen3_5_moe_fused": ["--no-mtp"], "qwen3_next_all": ["--no-mtp"], "qwen2_moe": [], "qwen3_moe_all": ["--fuse-qkv"], "mixtral": [],
    "gpt_oss_clamped": [], "gpt_oss_clamped_mxfp4": [], "gemma4": [], "gemma4_e": [], "gemma4_moe": [], "granitemoe": [],
    "granitemoe_shared": [], "granite4": [], "deepseek_v2": [], "deepseek_v2_groups": [], "deepseek_v3": [], "glm4_moe": [],
    "glm4_moe_plain": [], "glm4_moe_lite": [], "olmo3": [],
}


def read_config(folder, is_mistral_format=False):
    return json.loads((folder / "config.json").read_text())


def set_vocab(model):
    """The tiny models' own tokenizer; the converter looks for tokens of the family, which they have not."""
    vocab = json.loads((model.dir_model / "tokenizer.json").read_text())["model"]["vocab"]
    model.gguf_writer.add_tokenizer_model("gpt2")
    model.gguf_writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(vocab, key=vocab.get)
    tokens[-1] = tokens[2] + tokens[3]  # a list of merges may not be empty
    model.gguf_writer.add_token_list(tokens)
    model.gguf_writer.add_token_types([3 if i < 2 else 1 for i in range(len(vocab))])
    model.gguf_writer.add_token_merges([f"{tokens[2]} {tokens[3]}"])
    model.gguf_writer.add_bos_token_id(0)
    model.gguf_writer.add_eos_token_id(1)


def main():
    converter = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(converter.parent))
    import convert_hf_to_gguf
    convert_hf_to_gguf.ModelBase.load_hparams = staticmethod(read_config)
    model_class = convert_hf_to_gguf.get_model_class

    def with_our_tokenizer(architecture, mmproj=False):
        found = model_class(architecture, mmproj=mmproj)
        found.set_vocab = set_vocab
        return found
    convert_hf_to_gguf.get_model_class = with_our_tokenizer
    (HERE / "models").mkdir(exist_ok=True)
    for name, flags in FILES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        folder, out = HERE.parent / "models" / name, HERE / "models" / f"{name}.gguf"
        config = json.loads((folder / "config.json").read_text())
        dtype = config.get("text_config", config)["dtype"]
        outtype = {"float32": "f32", "float16": "f16"}.get(dtype, "bf16")
        with tempfile.TemporaryDirectory() as copy:
            copy = Path(copy) / name  # the name goes into the file
            shutil.copytree(folder, copy)
            (copy / "config.json").write_text(json.dumps({**config, **PUBLISHED.get(name, {})}))
            if dtype == "float16":  # in which the converter would compute
                weights = copy / "model.safetensors"
                save_file({n: t.float() for n, t in load_file(weights).items()}, weights)
            rest, sys.argv[1:] = sys.argv[1:], [str(copy), "--outfile", str(out), "--outtype", outtype] + flags
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                convert_hf_to_gguf.main()
        print(name, os.path.getsize(out), flush=True)
        sys.argv[1:] = rest


if __name__ == "__main__":
    main()
