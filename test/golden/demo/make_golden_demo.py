"""Makes the goldens of the demo models: per-token log-likelihoods of validation text and greedy continuations, by transformers in float32
on the BF16 weights (versions in test/golden/requirements.txt).

    make_golden_demo.py --valid fiction_valid.txt [NAME ...]
NAME.json: ids of one window of text; prompts[] = {text, ids, greedy, margin}, margin = distance of the two highest logits.
NAME.bin:  float32, natural-log likelihood of ids[1], ids[2], ... each given all ids before it.
Run it again whenever the weights of a model change: the test compares with these files.
"""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "..", "..", "examples", "models")
TOKENS = {"storyteller-8m": 4096, "storyteller-tiny": 512}
GREEDY = 48
START = 20_000  # characters of the validation file to pass over: title pages
LINES = "line river: REGISTER_CONTENT is 48\nline morning: REGISTER_CONTENT is 19\n"
PROMPTS = [
    "Once upon a time",
    "The old man opened the door, and",
    LINES + "What is the REGISTER_CONTENT in line river?\nline river: REGISTER_CONTENT is",
    "<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n",
]


class ExactRotary(torch.nn.Module):
    """Angles in double, as kvrt computes them. transformers multiplies in float32: 2e-4 radians off at position 4,000, which attention that
    looks up one line out of many turns into hundredths of a logit."""

    def __init__(self, config):
        super().__init__()
        dim = config.head_dim
        self.inv_freq = config.rope_parameters["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    def forward(self, x, position_ids):
        angle = position_ids[..., None].double() * self.inv_freq
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


@torch.no_grad()
def golden(name, valid):
    folder = os.path.join(MODELS, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.model.rotary_emb = ExactRotary(model.config)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    with open(valid, encoding="utf-8") as f:
        text = f.read()[START:START + 40 * TOKENS[name]]
    ids = tokenizer.encode(text, add_special_tokens=False).ids[:TOKENS[name]]
    window = torch.tensor(ids)
    likelihoods = -F.cross_entropy(model(window[None]).logits[0, :-1], window[1:], reduction="none")
    prompts = []
    for text in PROMPTS:
        start = tokenizer.encode(text, add_special_tokens=False).ids
        seq, greedy, margin = list(start), [], []
        for _ in range(GREEDY):
            top = model(torch.tensor([seq])).logits[0, -1].topk(2)
            greedy.append(int(top.indices[0]))
            margin.append(round(float(top.values[0] - top.values[1]), 6))
            seq.append(greedy[-1])
        prompts.append({"text": text, "ids": start, "greedy": greedy, "margin": margin})
    likelihoods.numpy().astype("<f4").tofile(os.path.join(HERE, name + ".bin"))
    with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
        json.dump({"ids": ids, "prompts": prompts}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    print(f"{name}: {len(ids)} tokens, {-float(np.mean(likelihoods.numpy())):.4f} nats per token")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", required=True)
    parser.add_argument("names", nargs="*", default=list(TOKENS))
    arguments = parser.parse_args()
    for model_name in arguments.names or TOKENS:
        golden(model_name, arguments.valid)
