"""Makes test/golden/models/qwen3_5_mtp and qwen3_5_moe_mtp: a tiny Qwen3.5, dense and with experts, with the layer that predicts the token after the
next one, and what it predicts.  Usage: make_golden_mtp.py [NAME ...]          (versions in requirements.txt; the rest of a folder: make_golden.py)

transformers skips these tensors (mtp.*), so the layer is read here as the checkpoints and vLLM's qwen3_5_mtp have it, from parts of transformers: for
position i, with h_i what the head of the model is given and t the tokens,
    x_i = fc (norm(E[t_{i+1}]) | norm(h_i));  x = a decoder layer with full attention;  logits_i = lm_head(norm(x_i)), of token i+2.
Further on the layer is given norm(x) of itself for h, one position on.
mtp.json: ids, and positions whose logits stand in mtp.bin, float32; then `chain` greedy tokens from the last position, with the logits of each.
"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen3_5 import modeling_qwen3_5 as dense
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as sparse

import make_golden
import make_golden_experts
from make_golden import DELTA, HERE, VOCAB, golden, rows_of, tokenizer

N, CHAIN = 300, 4
# name: script that makes such models, family, changes to its BASE, layer, norm
VARIANTS = {
    "qwen3_5_mtp": (make_golden, "Qwen3_5", DELTA, dense.Qwen3_5DecoderLayer, dense.Qwen3_5RMSNorm),
    "qwen3_5_moe_mtp": (make_golden_experts, "Qwen3_5Moe", make_golden_experts.HYBRID, sparse.Qwen3_5MoeDecoderLayer, sparse.Qwen3_5MoeRMSNorm),
}
NORMS = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")


class Ahead(torch.nn.Module):
    def __init__(self, config, layer, norm):
        super().__init__()
        h = config.hidden_size
        self.fc = torch.nn.Linear(2 * h, h, bias=False)
        self.layers = torch.nn.ModuleList([layer(config, config.layer_types.index("full_attention"))])
        for name in NORMS:
            setattr(self, name, norm(h, eps=config.rms_norm_eps))

    def forward(self, model, hidden, ids):
        """hidden (n, h) of positions 0.., ids (n) the tokens behind them; returns what goes to the head (n, h)."""
        n = len(ids)
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(model.model.embed_tokens(ids)), self.pre_fc_norm_hidden(hidden)], -1))[None]
        positions = torch.arange(n)[None]
        mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
        turns = model.model.rotary_emb(x, positions[None].expand(3, 1, n))
        return self.norm(self.layers[0](x, position_embeddings=turns, attention_mask=mask, position_ids=positions))[0]


def expert_by_expert(tensors):
    """As checkpoints have experts: every matrix is a tensor."""
    out = {}
    for name, w in tensors.items():
        head, _, last = name.rpartition(".")
        for e in range(len(w) if last in ("gate_up_proj", "down_proj") else 0):
            parts = zip(("gate_proj", "up_proj"), w[e].chunk(2)) if last == "gate_up_proj" else [(last, w[e])]
            out.update({f"{head}.{e}.{part}.weight": m.contiguous().clone() for part, m in parts})
        if last not in ("gate_up_proj", "down_proj"):
            out[name] = w
    return out


@torch.no_grad()
def write(name, make, family, overrides, layer, norm):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    model = make.build(family, overrides, 4711)
    ahead = Ahead(model.config, layer, norm).float().eval()
    for n, p in ahead.named_parameters():
        wide = 0.4 if "mlp.gate." in n else 0.15  # so that a token's experts differ clearly
        p.copy_(0.2 * torch.randn_like(p) if "norm" in n else wide * torch.randn_like(p))
    for p in list(model.parameters()) + list(ahead.parameters()):
        p.copy_(p.to(torch.bfloat16).float())
    make.save_weights(model, folder, torch.bfloat16, {})
    path = os.path.join(folder, "model.safetensors")
    tensors = load_file(path)
    mtp = {"mtp." + n: p.to(torch.bfloat16).contiguous().clone() for n, p in ahead.state_dict().items()}
    tensors.update(expert_by_expert(mtp))
    save_file(tensors, path, metadata={"format": "pt"})
    model.config.dtype, model.config.architectures = torch.bfloat16, [family + "ForCausalLM"]
    model.config.save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):  # save_pretrained's; nothing is in it
        os.remove(os.path.join(folder, "generation_config.json"))
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


def main():
    torch.set_num_threads(1)
    for name, of in VARIANTS.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            write(name, *of)


if __name__ == "__main__":
    main()
