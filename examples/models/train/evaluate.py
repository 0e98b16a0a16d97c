"""Measures an exported folder: perplexity on validation text, retrieval by distance with free-running greedy decoding.

    evaluate.py retrieval-set --model FOLDER --valid fiction_valid.txt           writes FOLDER/retrieval.jsonl
    evaluate.py measure --model FOLDER --valid fiction_valid.txt --out RESULT.json
The computation is float32 on the BF16 weights of the folder. The retrieval sets have a seed that training and its checks never use, and
their filler is validation text.
"""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from model import DemoModel, Shape
from tasks import Tasks, evaluation_set

RETRIEVAL_SEED = 424242
# distance in tokens: number of items. The files must stay small, so the long ones are fewer.
ITEMS = {128: 40, 256: 40, 512: 40, 1000: 32, 1500: 20, 2000: 20, 3000: 12, 3800: 12}
ITEMS_TINY = {64: 12, 128: 12, 256: 12, 512: 12}
WINDOWS = 16  # of validation text, spread over the file


def load_folder(folder):
    """(trainer's model in float32, shape, tokenizer) of an exported folder."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    shape = Shape(vocab=c["vocab_size"], dim=c["hidden_size"], n_layers=c["num_hidden_layers"], n_heads=c["num_attention_heads"],
                  n_kv_heads=c["num_key_value_heads"], head_dim=c["head_dim"], ffn=c["intermediate_size"],
                  ctx=c["max_position_embeddings"], theta=c["rope_theta"] if "rope_theta" in c else c["rope_parameters"]["rope_theta"], eps=c["rms_norm_eps"])
    model = DemoModel(shape)
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, file)))
    model.load_state_dict({name: t.float() for name, t in tensors.items()})
    return model.eval(), shape, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def validation_ids(tokenizer, path):
    with open(path, encoding="utf-8") as f:
        return np.array(tokenizer.encode(f.read(), add_special_tokens=False).ids, np.uint16)


def windows_of(ids, length, count=WINDOWS):
    """Starts of `count` windows of `length` tokens, evenly spread."""
    return [int(i) for i in np.linspace(0, len(ids) - length - 1, count)]


@torch.no_grad()
def log_likelihoods(model, ids):
    """Natural-log likelihood of ids[1:], each given all before it."""
    logits = model(torch.tensor(np.asarray(ids, np.int64))[None])[0, :-1]
    return -F.cross_entropy(logits, torch.tensor(np.asarray(ids[1:], np.int64)), reduction="none").numpy()


def perplexity(model, shape, tokenizer, ids, count=WINDOWS):
    length = shape.ctx
    starts = windows_of(ids, length, count)
    ll = np.stack([log_likelihoods(model, ids[s:s + length]) for s in starts])
    n_bytes = sum(len(tokenizer.decode(ids[s + 1:s + length].tolist()).encode()) for s in starts)
    edges = [0, 64, 256, 1024, length - 1]
    by_position = {f"{a}-{b}": round(float(-ll[:, a:b].mean()), 4) for a, b in zip(edges, edges[1:]) if b > a}
    nats = float(-ll.mean())
    return {"windows": len(starts), "window": length, "tokens": ll.size, "nats_per_token": round(nats, 4),
            "perplexity": round(float(np.exp(nats)), 2), "bits_per_byte": round(-float(ll.sum()) / np.log(2) / n_bytes, 4),
            "nats_by_position": by_position}


@torch.no_grad()
def greedy(model, shape, prompt, n):
    """n greedy tokens after the prompt, each fed back: what a runtime does."""
    caches = [{} for _ in range(shape.n_layers)]
    h = model.hidden(torch.tensor([prompt]), 0, caches)[:, -1:]
    out = []
    for k in range(n):
        token = int(F.linear(h, model.model.embed_tokens.weight).argmax())
        out.append(token)
        if k + 1 < n:
            h = model.hidden(torch.tensor([[token]]), len(prompt) + k, caches)
    return out


def retrieval(model, shape, tokenizer, items):
    """{distance: {n, exact}}; exact: the answer's tokens, all of them, by greedy decoding."""
    result = {}
    for item in items:
        prompt = tokenizer.encode(item["context"] + item["question"], add_special_tokens=False).ids
        answer = tokenizer.encode(item["answer"], add_special_tokens=False).ids
        if len(prompt) + len(answer) > shape.ctx:
            raise SystemExit(f"an item of distance {item['distance']} needs {len(prompt) + len(answer)} tokens, the model has {shape.ctx}")
        row = result.setdefault(item["distance"], {"n": 0, "exact": 0})
        row["n"] += 1
        row["exact"] += greedy(model, shape, prompt, len(answer)) == answer
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["retrieval-set", "measure"])
    p.add_argument("--model", required=True)
    p.add_argument("--valid", required=True)
    p.add_argument("--out", help="for measure: a JSON file")
    args = p.parse_args()
    model, shape, tokenizer = load_folder(args.model)
    ids = validation_ids(tokenizer, args.valid)
    if args.what == "retrieval-set":
        large = shape.vocab > 1000  # words of one token; the small vocabulary has none
        items = [item for distance, n in (ITEMS if large else ITEMS_TINY).items() for item in
                 evaluation_set(tokenizer, ids, [distance], n, seed=RETRIEVAL_SEED + distance, n_lines=8 if large else 2)]
        write_items(args.model, "retrieval.jsonl", items)
        return
    result = {"validation": perplexity(model, shape, tokenizer, ids)}
    with open(os.path.join(args.model, "retrieval.jsonl"), encoding="utf-8") as f:
        result["retrieval"] = retrieval(model, shape, tokenizer, [json.loads(line) for line in f])
    print(json.dumps(result))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


def write_items(folder, name, items):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    print(f"{path}: {len(items)} items, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
