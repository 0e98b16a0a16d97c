"""Trains the demo model: curriculum over window lengths, Muon for matrices, AdamW for the rest, warmup-stable-decay in wall-clock
time, resumable.  The same script serves ten minutes on a GPU and hours on a CPU: everything is scheduled against --minutes.

    train.py --preset 8m --tokenizer DIR --corpus FILE --work DIR --minutes 95
Checkpoints and log.jsonl go to --work; running again continues from the last checkpoint.
"""
import argparse
import json
import math
import os
import signal
import time

import numpy as np
import torch
from tokenizers import Tokenizer

from model import PRESETS, DemoModel
from tasks import EOT, W_ANSWER, Tasks, evaluation_set

# (share of the time, window, mix of kinds); the batch is a fixed number of tokens. Windows of `lines` are text for the most part.
STAGES = [
    (0.13, 256, {"text": 0.30, "repeat": 0.08, "bind": 0.17, "echo": 0.35, "dense": 0.10}),
    (0.565, 512, {"text": 0.36, "repeat": 0.07, "bind": 0.04, "echo": 0.06, "dense": 0.09, "lines": 0.34, "copy": 0.02, "chat": 0.02}),
    (0.205, 2048, {"text": 0.58, "repeat": 0.03, "echo": 0.02, "dense": 0.02, "lines": 0.30, "copy": 0.02, "chat": 0.03}),
    (0.10, 4096, {"text": 0.60, "repeat": 0.02, "dense": 0.01, "lines": 0.32, "copy": 0.02, "chat": 0.03}),
]


def orthogonalize(g, steps=5):
    """Newton-Schulz iteration towards the orthogonal factor of g (Jordan et al., Muon, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(steps):
        y = x @ x.T
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x.T if flip else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(list(params), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("buf", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(buf, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def schedule(done: float) -> float:
    """Share of the full learning rate at this share of the time: flat, then linear to 2% over the last 35%."""
    return 1.0 if done < 0.65 else max(0.02, 1 - (done - 0.65) / 0.35 * 0.98)


def load_corpus(path, tokenizer, cache):
    if not os.path.exists(cache):
        with open(path, encoding="utf-8") as f:
            text = f.read()
        pieces = [text[i:i + 1_000_000] for i in range(0, len(text), 1_000_000)]
        ids = [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(pieces, add_special_tokens=False)]
        np.save(cache, np.concatenate(ids))
    return np.load(cache, mmap_mode="r")


@torch.no_grad()
def retrieval(model, tokenizer, items, limit):
    """[exact match, first digit right] under teacher forcing (= greedy exact match), by distance."""
    hits = {}
    for item in items:
        prompt = tokenizer.encode(item["context"] + item["question"], add_special_tokens=False).ids
        answer = tokenizer.encode(item["answer"], add_special_tokens=False).ids
        ids = prompt + answer
        if len(ids) > limit:
            continue
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = model(torch.tensor([ids], device=DEVICE))[0, len(prompt) - 1:-1]
        ok = logits.argmax(-1).tolist() == answer
        first = int(logits[1].argmax()) == answer[1]  # answer[0] is the space
        hits.setdefault(item["distance"], []).append((ok, first))
    return {d: [round(sum(h[i] for h in v) / len(v), 3) for i in (0, 1)] for d, v in hits.items()}


@torch.no_grad()
def probe(model, tokenizer, corpus, window):
    """{kind: share of answer tokens that are predicted}, on fresh windows of a seed that training never uses."""
    tasks, result = Tasks(tokenizer, corpus, 777), {}
    for name in ("bind0", "bind2", "bind4", "echo words", "echo", "dense words", "dense", "lines words", "lines"):
        rows, tasks.word_share = [], float(name.endswith("words"))
        for _ in range(max(2, 2048 // window)):
            if name.startswith("bind"):
                ids, weights = tasks.bind(window - 2, int(name[4:]))
                rows.append((ids + [EOT] * (window - len(ids)), weights + [0.0] * (window - len(weights))))
            else:
                rows.append(tuple(x[:window] for x in tasks.window(window, name.split()[0])))
        ids, weights = (torch.tensor([r[i] for r in rows], device=DEVICE) for i in (0, 1))
        with torch.autocast(DEVICE, torch.bfloat16):
            right = model(ids)[:, :-1].argmax(-1) == ids[:, 1:]
        result[name] = round(float(right[weights[:, 1:] == W_ANSWER].float().mean()), 3)
    return result


def stage_at(done):
    edge = 0.0
    for share, window, mix in STAGES:
        edge += share
        if done < edge:
            return window, mix
    return STAGES[-1][1:]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", default="8m", choices=PRESETS)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--corpus", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--batch-tokens", type=int, default=8192)
    p.add_argument("--micro-tokens", type=int, default=8192)
    p.add_argument("--muon-lr", type=float, default=0.01)
    p.add_argument("--adam-lr", type=float, default=0.003)
    p.add_argument("--max-window", type=int, default=4096)
    p.add_argument("--compile", action="store_true", help="torch.compile: half as much time again on a CPU")
    p.add_argument("--init", help="state.pt of an earlier run to take the weights from, when --work has none")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()

    torch.manual_seed(args.seed)
    os.makedirs(args.work, exist_ok=True)
    tokenizer = Tokenizer.from_file(os.path.join(args.tokenizer, "tokenizer.json"))
    corpus = load_corpus(args.corpus, tokenizer, os.path.join(args.work, "corpus.npy"))
    tasks = Tasks(tokenizer, corpus, args.seed)
    items = evaluation_set(tokenizer, corpus, [64, 200, 400, 1000, 1800], 12, seed=900001)
    model = DemoModel(PRESETS[args.preset]).to(DEVICE)
    matrices = [q for n, q in model.named_parameters() if q.dim() == 2 and "embed" not in n]
    others = [q for n, q in model.named_parameters() if q.dim() != 2 or "embed" in n]
    compute_loss = torch.compile(model.loss, dynamic=False) if args.compile else model.loss
    muon = Muon(matrices, args.muon_lr)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    n_params = sum(q.numel() for q in model.parameters())

    state_path = os.path.join(args.work, "state.pt")
    step, seen, spent = 0, 0, 0.0
    if os.path.exists(state_path):
        state = torch.load(state_path, weights_only=False)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, seen, spent = state["step"], state["seen"], state["spent"]
        tasks.rng.setstate(state["rng"])
    elif args.init:
        model.load_state_dict(torch.load(args.init, weights_only=False)["model"])
    log = open(os.path.join(args.work, "log.jsonl"), "a", buffering=1)
    log.write(json.dumps({"event": "start", "params": n_params, "corpus_tokens": len(corpus), "step": step}) + "\n")

    budget, begun, saved, evaluated = args.minutes * 60, time.time() - spent, time.time(), 0
    losses = []
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))  # saves and ends
    while not stop:
        spent = time.time() - begun
        done = spent / budget
        if done >= 1:
            break
        window, mix = stage_at(done)
        window = min(window, args.max_window)
        tasks.word_share = 0.5 if window <= 256 else 0.1
        lr = schedule(done) * min(1.0, (step + 1) / 100)
        for opt, full in ((muon, args.muon_lr), (adam, args.adam_lr)):
            for g in opt.param_groups:
                g["lr"] = full * lr
        n_micro = max(1, args.batch_tokens // args.micro_tokens)
        per_micro = max(1, args.micro_tokens // window)
        loss_sum = 0.0
        for _ in range(n_micro):
            rows = [tasks.window(window, tasks.rng.choices(list(mix), mix.values())[0]) for _ in range(per_micro)]
            ids = torch.tensor([r[0] for r in rows], device=DEVICE)
            weights = torch.tensor([r[1] for r in rows], device=DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = compute_loss(ids[:, :-1], ids[:, 1:], weights[:, 1:])
            (loss / n_micro).backward()
            loss_sum += float(loss.detach()) / n_micro
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        seen += n_micro * per_micro * window
        losses.append(loss_sum)
        if not math.isfinite(loss_sum):
            raise SystemExit(f"loss is {loss_sum} at step {step}")
        if step % 10 == 0:
            row = {"step": step, "tokens": seen, "seconds": round(time.time() - begun), "window": window, "lr": round(lr, 4),
                   "loss": round(sum(losses) / len(losses), 4), "tok_s": round(seen / (time.time() - begun))}
            losses = []
            if time.time() - evaluated > 120:
                row["retrieval"] = retrieval(model, tokenizer, items, min(PRESETS[args.preset].ctx, max(1000, 2 * window)))
                row["probe"] = probe(model, tokenizer, corpus, min(window, 512))
                evaluated = time.time()
            log.write(json.dumps(row) + "\n")
        if time.time() - saved > 240:
            save(state_path, model, muon, adam, step, seen, time.time() - begun, tasks)
            saved = time.time()
    save(state_path, model, muon, adam, step, seen, time.time() - begun, tasks)
    log.write(json.dumps({"event": "end", "step": step, "tokens": seen, "seconds": round(spent)}) + "\n")


def save(path, model, muon, adam, step, seen, spent, tasks):
    torch.save({"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step, "seen": seen,
                "spent": spent, "rng": tasks.rng.getstate(), "shape": vars(model.shape)}, path + ".new")
    os.replace(path + ".new", path)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if __name__ == "__main__":
    main()
