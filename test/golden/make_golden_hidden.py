"""Makes hidden.bin in some folders of test/golden/models: last_hidden_state by transformers of the prompts in golden.json, float32: of every token of the
one of 17 tokens, then mean and last token of those of 130 and 300.  Usage: make_golden_hidden.py    (versions in requirements.txt)

transformers reads the folder as it stands, in float32."""
import json
import os

import numpy as np
import torch
import transformers

from make_golden import HERE

NAMES = ["llama_gqa2", "llama_gqa8_d64", "mistral_window", "qwen2", "qwen3_bf16", "qwen3_5", "gemma2_plain", "granite", "olmo2", "mixtral_one", "gpt_oss", "deepseek_v3"]


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    for name in NAMES:
        folder = os.path.join(HERE, name)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with open(os.path.join(folder, "golden.json"), encoding="utf-8") as f:
            prompts = {p["n"]: p["ids"] for p in json.load(f)["prompts"]}
        rows = []
        for n in (17, 130, 300):
            states = model.model(torch.tensor([prompts[n]])).last_hidden_state[0].numpy()
            rows += list(states) if n == 17 else [states.astype(np.float64).mean(0), states[-1]]
            logits = model(torch.tensor([prompts[n]])).logits[0, -1].numpy()
        golden = np.fromfile(os.path.join(folder, "golden.bin"), np.float32)[-len(logits):]  # the last row of the last prompt
        assert np.abs(golden - logits).max() < 1e-3 * golden.std(), name
        np.stack(rows).astype(np.float32).tofile(os.path.join(folder, "hidden.bin"))
        print(name, np.stack(rows).shape)


if __name__ == "__main__":
    main()
