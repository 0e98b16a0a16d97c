"""A GGUF model as a Hugging Face folder of f32 weights, for studies in PyTorch and for kernels that are fast with plain weights only.

    python test/study/kv/dequantize.py examples/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf FOLDER [--dtype bfloat16]

transformers reads the GGUF file; its numbers are those of the quantized model, not of the original one."""
import argparse
import os

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    where, name = os.path.split(os.path.abspath(args.gguf))
    config = AutoConfig.from_pretrained(where, gguf_file=name)
    model = AutoModelForCausalLM.from_config(config).float()  # from_pretrained would ask for the package accelerate
    weights = load_gguf_checkpoint(args.gguf, return_tensors=True, model_to_load=model)["tensors"]
    missing, unknown = model.load_state_dict({k: torch.as_tensor(v).float() for k, v in weights.items()}, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{args.gguf}: tensors missing {missing}, not understood {unknown}")
    model.tie_weights()
    model.to(getattr(torch, args.dtype)).save_pretrained(args.folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(args.folder)
