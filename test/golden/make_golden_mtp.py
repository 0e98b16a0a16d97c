"""Makes test/golden/models/qwen3_5_mtp: a tiny Qwen3.5 with the layer that predicts the token after the next one, and what it predicts.
Usage: make_golden_mtp.py          (versions in requirements.txt; the rest of the folder: make_golden.py)

transformers skips these tensors (mtp.*), so the layer is read here as the checkpoints and vLLM's qwen3_5_mtp have it, from parts of transformers: for
position i, with h_i what the head of the model is given and t the tokens,
    x_i = fc (norm(E[t_{i+1}]) | norm(h_i));  x = a decoder layer with full attention;  logits_i = lm_head(norm(x_i)), of token i+2.
Further on the layer is given norm(x) of itself for h, one position on.
mtp.json: ids, and positions whose logits stand in mtp.bin, float32; then `chain` greedy tokens from the last position, with the logits of each.
"""
import json
import os

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

from make_golden import DELTA, HERE, VOCAB, build, golden, rows_of, save_weights, tokenizer

N, CHAIN = 300, 4
NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")


class Ahead(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        h = config.hidden_size
        self.fc = torch.nn.Linear(2 * h, h, bias=False)
        self.layers = torch.nn.ModuleList([qwen.Qwen3_5DecoderLayer(config, config.layer_types.index("full_attention"))])
        for name in NORMS:
            setattr(self, name, qwen.Qwen3_5RMSNorm(h, eps=config.rms_norm_eps))

    def forward(self, model, hidden, ids):
        """hidden (n, h) of positions 0.., ids (n) the tokens behind them; returns what goes to the head (n, h)."""
        n = len(ids)
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(model.model.embed_tokens(ids)), self.pre_fc_norm_hidden(hidden)], -1))[None]
        positions = torch.arange(n)[None]
        mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
        turns = model.model.rotary_emb(x, positions[None].expand(3, 1, n))
        return self.norm(self.layers[0](x, position_embeddings=turns, attention_mask=mask, position_ids=positions))[0]


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    folder = os.path.join(HERE, "qwen3_5_mtp")
    os.makedirs(folder, exist_ok=True)
    model = build("Qwen3_5", DELTA, 4711)
    ahead = Ahead(model.config).float().eval()
    for name, p in ahead.named_parameters():
        p.copy_(0.2 * torch.randn_like(p) if "norm" in name else 0.15 * torch.randn_like(p))
    for p in list(model.parameters()) + list(ahead.parameters()):
        p.copy_(p.to(torch.bfloat16).float())
    save_weights(model, folder, torch.bfloat16, {})
    path = os.path.join(folder, "model.safetensors")
    tensors = load_file(path)
    tensors.update({"mtp." + n: p.to(torch.bfloat16).contiguous().clone() for n, p in ahead.state_dict().items()})
    save_file(tensors, path, metadata={"format": "pt"})
    model.config.dtype, model.config.architectures = torch.bfloat16, ["Qwen3_5ForCausalLM"]
    model.config.save_pretrained(folder)
    config = json.load(open(os.path.join(folder, "config.json")))
    config["mtp_num_hidden_layers"] = 1
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=2)
    tokenizer().save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}, f)
    golden(model, folder)

    ids = torch.randint(2, VOCAB, (N + 1,), generator=torch.Generator().manual_seed(7))
    hidden = model.model(ids[None, :N]).last_hidden_state[0]
    out = ahead(model, hidden, ids[1:])
    blob, rows = [model.lm_head(out)], [r for r in rows_of(N) if r]
    blob = [blob[0][rows].numpy()]
    chain, given = [], ids[1:]
    for _ in range(CHAIN):  # the hidden state of the position behind the last is what the layer gave
        token = model.lm_head(out[-1]).argmax()[None]
        chain.append(int(token))
        hidden, given = torch.cat([hidden, out[-1:]]), torch.cat([given, token])
        out = ahead(model, hidden, given)
        blob.append(model.lm_head(out[-1:]).numpy())
    blob = np.concatenate(blob).astype(np.float32)
    blob.tofile(os.path.join(folder, "mtp.bin"))
    with open(os.path.join(folder, "mtp.json"), "w") as f:
        json.dump({"ids": ids.tolist(), "rows": rows, "chain": chain, "std": float(blob.std())}, f, separators=(",", ":"))


if __name__ == "__main__":
    main()
