"""Makes test/golden/odd/: config.json files and checkpoints that are right but unusual, with what transformers computes for them (versions in
requirements.txt).  Usage: make_odd.py
    cases.json   prompt: ids, of which a case uses the first n
                 cases[] = {name, config (text of config.json), files {name in the folder: file of odd/}, and either
                            refused: a part of the message, or n, rows, std and the place of their logits in logits.bin, in floats}
    *.safetensors, *.json   the files, shared between cases
A case whose logits would be the same without its oddity proves nothing, so each is compared here with the plain model of its family and
has to differ, unless it says that it does not."""
import json
import os
import shutil
import tempfile

import numpy as np
import torch
import transformers

from odd_models import ABSENT, base_config, build, prompt, reference, write_config, write_weights

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "odd")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}
ALL_ROWS, N = [0, 1, 6, 7, 8, 23, 31, 40, 47], 48
LONG_ROWS, LONG = [0, 4094, 4095, 4096, 4097, 4111], 4112
INDEX = {"model.safetensors.index.json": "index.json", "model-00001-of-00001.safetensors": "mistral.safetensors"}
SAME = "same"  # the oddity changes no logit

# name: (family, weights, changes to the config, flags: refused, long, same, text, files)
CASES = {
    "tied_with_a_head_of_its_own": ("llama", "llama", dict(tie_word_embeddings=True), {SAME: True}),
    "tied_with_an_equal_head": ("llama", "llama_tied_twice", dict(tie_word_embeddings=True), {}),
    "head_without_prefix": ("llama", "llama_bare", dict(architectures=["LlamaModel"], tie_word_embeddings=True), {}),
    "f64_tensors": ("llama", "llama_f64", {}, {}),
    "single_file_and_index": ("llama", "llama", {}, {"files": INDEX, SAME: True}),
    "no_architectures": ("qwen3", "qwen3", dict(architectures=ABSENT), {SAME: True}),
    "rope_parameters_over_rope_theta": ("llama", "llama", dict(rope_theta=77777.0, rope_parameters={"rope_theta": 222.0}), {}),
    "rope_scaling_replaces_rope_parameters": ("llama", "llama", dict(rope_theta=ABSENT, rope_scaling=LINEAR,
                                                                     rope_parameters={"rope_type": "default", "rope_theta": 222.0}), {}),
    "rope_scaling_with_rope_theta_beside": ("qwen2", "qwen2", dict(rope_theta=333.0, rope_scaling=LINEAR,
                                                                   rope_parameters={"rope_theta": 222.0}), {}),
    "empty_rope_scaling": ("llama", "llama", dict(rope_scaling={}, rope_parameters={"rope_theta": 222.0}), {}),
    "rope_type_over_type": ("llama", "llama", dict(rope_scaling={"rope_type": "linear", "type": "default", "factor": 4.0}), {}),
    "llama3_without_original_length": ("llama", "llama", dict(rope_scaling=LLAMA3), {}),
    "llama3_original_length_outside_wins": ("llama", "llama", dict(rope_scaling={**LLAMA3, "original_max_position_embeddings": 16},
                                                                   original_max_position_embeddings=32), {}),
    "rope_theta_infinite": ("llama", "llama", dict(rope_theta=float("inf"), attention_dropout=float("nan")), {}),
    "keys_twice": ("llama", "llama", {}, {"text": ', "rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5.0}, '
                                                  '"rope_scaling": {"type": "linear", "factor": 2.0, "factor": 8.0}, "is_causal": false, '
                                                  '"is_causal": true}'}),
    "mistral_window_absent": ("mistral", "mistral", dict(sliding_window=ABSENT, max_position_embeddings=8192), {"long": True}),
    "qwen2_window_absent": ("qwen2", "qwen2", dict(use_sliding_window=True, max_window_layers=0, max_position_embeddings=8192), {"long": True}),
    "mistral_layer_types": ("mistral", "mistral", dict(sliding_window=7, layer_types=["full_attention", "sliding_attention"]), {}),
    "llama_full_layers_beside_a_window": ("llama", "llama", dict(sliding_window=7, layer_types=["full_attention"] * 2), {SAME: True}),
    "qwen2_layer_types": ("qwen2", "qwen2", dict(use_sliding_window=True, sliding_window=7, max_window_layers=28,
                                                 layer_types=["full_attention", "sliding_attention"]), {}),
    "qwen3_bias": ("qwen3", "qwen3_bias", dict(attention_bias=True), {}),
    "qwen3_head_dim_absent": ("qwen3", "qwen3_wide", dict(head_dim=ABSENT, num_attention_heads=1, num_key_value_heads=1), {}),
    "qwen2_stray_biases": ("qwen2", "qwen2", dict(mlp_bias=True, attention_bias=False), {SAME: True}),
    "mistral_stray_biases": ("mistral", "mistral", dict(mlp_bias=True, attention_bias=True), {SAME: True}),
    "not_causal": ("llama", "llama", dict(is_causal=False), {"refused": "is_causal is false"}),
    "llama_window": ("llama", "llama", dict(sliding_window=7), {"refused": "sliding_window is 7"}),
    "chunked": ("qwen3", "qwen3", dict(attention_chunk_size=8), {"refused": "attention_chunk_size is 8"}),
    "heterogeneous": ("llama", "llama", dict(per_layer_config={"1": {"num_key_value_heads": 4}}), {"refused": "per_layer_config"}),
    "head_absent_and_not_tied": ("llama", "llama_bare", {}, {"refused": "tie_word_embeddings"}),
}


def weights():
    """Name: tensors. BF16 to be small; the float32 model computes with the same values."""
    small = lambda tensors: {n: t.to(torch.bfloat16) for n, t in tensors.items()}
    sets = {family: small(build(family, seed=7 + i)) for i, family in enumerate(("llama", "mistral", "qwen2", "qwen3"))}
    llama = sets["llama"]
    sets["llama_tied_twice"] = {**llama, "lm_head.weight": llama["model.embed_tokens.weight"].clone()}
    sets["llama_bare"] = {n.removeprefix("model."): t for n, t in llama.items() if n != "lm_head.weight"}
    sets["llama_f64"] = {n: t.double() * (1 + 2 ** -20) if "layers.0" in n or n == "model.norm.weight" else t for n, t in llama.items()}
    for name in sets["llama_f64"]:
        if "layers.1.mlp.up" in name:
            sets["llama_f64"][name] = -sets["llama_f64"][name].double()  # so that the case differs from the plain model
    sets["qwen3_bias"] = small(build("qwen3", {"attention_bias": True}, 11))
    sets["qwen3_wide"] = small(build("qwen3", {"head_dim": 128, "num_attention_heads": 1, "num_key_value_heads": 1}, 12))
    return sets


def main():
    transformers.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    for name, tensors in weights().items():
        write_weights(OUT, tensors, name + ".safetensors")
    names = list(weights()["mistral"])
    with open(os.path.join(OUT, "index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": {n: "model-00001-of-00001.safetensors" for n in names}}, f, indent=1)
    ids = prompt(LONG)
    plain, cases, blob = {}, [], np.zeros(0, dtype=np.float32)
    for name, (family, weight, changes, flags) in CASES.items():
        files = {"model.safetensors": weight + ".safetensors", **flags.get("files", {})}
        with tempfile.TemporaryDirectory() as folder:
            for target, source in files.items():
                shutil.copy(os.path.join(OUT, source), os.path.join(folder, target))
            write_config(folder, {**base_config(family), **changes})
            with open(os.path.join(folder, "config.json")) as f:
                config = f.read()
            config = config[:config.rindex("}")] + flags["text"] if "text" in flags else config
            write_config(folder, None, config)
            case = {"name": name, "config": config, "files": files}
            n, rows = (LONG, LONG_ROWS) if flags.get("long") else (N, ALL_ROWS)
            if "refused" in flags:
                case["refused"] = flags["refused"]
            else:
                logits = reference(folder, ids[:n], rows).numpy()
                if family not in plain:
                    for target in files:
                        os.remove(os.path.join(folder, target))
                    shutil.copy(os.path.join(OUT, family + ".safetensors"), os.path.join(folder, "model.safetensors"))
                    write_config(folder, {**base_config(family), "max_position_embeddings": 8192})
                    plain[family] = reference(folder, ids).numpy()
                distance = np.abs(logits - plain[family][rows]).max() / logits.std()
                if (distance < 0.01) != bool(flags.get(SAME)):
                    raise SystemExit(f"{name}: {distance:.3g} standard deviations from the plain model")
                case.update(n=n, rows=rows, std=float(logits.std()), at=len(blob))
                blob = np.concatenate([blob, logits.astype(np.float32).reshape(-1)])
        cases.append(case)
        print(name)
    blob.tofile(os.path.join(OUT, "logits.bin"))
    with open(os.path.join(OUT, "cases.json"), "w") as f:
        json.dump({"prompt": ids.tolist(), "cases": cases}, f, indent=None, separators=(",", ":"))


if __name__ == "__main__":
    main()
