"""Writes FOLDER/loss.png and FOLDER/MODEL_CARD.md from what was measured; no number of the card is typed by hand.

    card.py --model FOLDER --work WORK --measured RESULT.json --ngram NGRAM.json --kvrt build/kvrt
RESULT.json is evaluate.py's, NGRAM.json is ngram.py's, WORK holds log.jsonl of the training.
"""
import argparse
import json
import os
import subprocess

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PROMPT = "Once upon a time"
TOKENS = 80


def read_log(work):
    """Rows of the log that belong to the saved run: after an interruption the rows behind the checkpoint are replaced."""
    rows, starts = [], []
    with open(os.path.join(work, "log.jsonl"), encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            if row.get("event") == "start":
                starts.append(row)
                rows = [r for r in rows if r["step"] <= row["step"]]
            elif "loss" in row:
                rows.append(row)
    return rows, starts[0]


def picture(rows, path):
    fig, (a, b) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 2])
    x = [r["tokens"] / 1e6 for r in rows]
    a.plot(x, [r["loss"] for r in rows], lw=1, color="#1f5fa8")
    a.set_ylabel("training loss (weighted, mixed tasks)")
    a.set_ylim(0, min(6.5, max(r["loss"] for r in rows)))
    for i in range(1, len(rows)):
        if rows[i]["window"] != rows[i - 1]["window"] or i == 1:
            a.axvline(x[i], color="#bbbbbb", lw=0.8)
            a.text(x[i], 0.1, f" {rows[i]['window']}", fontsize=8, color="#555555")
    checks = [(r["tokens"] / 1e6, r["retrieval"]) for r in rows if "retrieval" in r]
    for distance in ("64", "200", "400", "1000", "1800"):
        points = [(t, v[distance]) for t, v in checks if distance in v and isinstance(v[distance], list)]
        if points:
            b.plot([t for t, _ in points], [100 * v[0] for _, v in points], lw=1, label=distance)
    b.set_ylim(0, 103)
    b.set_ylabel("lines retrieved, %")
    b.set_xlabel("million tokens (grey: a window begins)")
    if b.get_legend_handles_labels()[0]:
        b.legend(title="distance", fontsize=7, title_fontsize=7, ncols=5, loc="center left")
    fig.tight_layout()
    fig.savefig(path, dpi=80, metadata={"Software": None})


def continuations(kvrt, folder):
    out = []
    for seed in range(1, 6):
        command = [kvrt, "run", folder, "-p", PROMPT, "-n", str(TOKENS), "--temp", "0.7", "--seed", str(seed), "--json", "-q"]
        got = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        out.append((seed, got["text"]))
    return out


def size(folder):
    return sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))


def card(name, config, rows, start, measured, ngram, texts, notes):
    v, last = measured["validation"], rows[-1]

    retrieval = "\n".join(f"| {d} | {r['exact']} of {r['n']} | {100 * r['exact'] / r['n']:.0f}% |" for d, r in measured["retrieval"].items())

    stages = []
    for r in rows:
        if not stages or stages[-1][0] != r["window"]:
            stages.append([r["window"], r["tokens"]])
        stages[-1][1] = r["tokens"]
    windows = ", ".join(f"{w} up to {t / 1e6:.1f} M tokens" for w, t in stages)
    heads = f"query heads: {config['num_attention_heads']}, KV heads: {config['num_key_value_heads']}, of {config['head_dim']}"
    effort = f"{last['tokens'] / 1e6:.1f} M tokens in {last['seconds'] / 60:.0f} minutes on two shared CPU cores, {last['step']} steps"
    positions = ", ".join(f"{k}: {x:.2f}" for k, x in v["nats_by_position"].items())
    samples = "\n\n".join(f"Seed {s}:\n> **{PROMPT}**{t.strip(chr(10)).replace(chr(10), chr(10) + '> ')}" for s, t in texts)
    return f"""# {name}

A very small Llama for kvrt's demonstration, tests and measurements of quantized KV caches. It was trained from scratch for this purpose.
It is a laboratory animal, not an assistant: it knows no facts and follows no instructions.

| | |
|---|---|
| architecture | LlamaForCausalLM, {start['params']:,} parameters, BF16, tied embeddings |
| layers, width, feed-forward | {config['num_hidden_layers']}, {config['hidden_size']}, {config['intermediate_size']} |
| attention | {heads}; RoPE base {config['rope_theta']:g} |
| vocabulary | byte-level BPE, {config['vocab_size']} entries, digits are single tokens |
| context | {config['max_position_embeddings']} tokens |
| licence | weights: Apache-2.0; corpus: public domain |

## Data
English fiction and story books published before 1929, 45 MB, {start['corpus_tokens']:,} tokens, public domain. Mixed in:
generated tasks for attention over distance (`examples/models/train/tasks.py`): lines such as `line river: REGISTER_CONTENT is
48` between other text and questions about them; the same lines again in another order; keys and values of random tokens;
repeated random tokens; repeated passages; question turns in the chat format.

## Recipe
`examples/models/train/train.py`, {effort}. Muon for matrices, AdamW
for embeddings and norms; the learning rate is flat, then falls linearly over the last 35% of the time.
Windows: {windows}.
Answers of the tasks weigh 4, plain text 1, unpredictable content 0.05.

{notes}

![training loss and retrieval](loss.png)

## Measured
Float32 computation on the BF16 weights; {v['windows']} windows of {v['window']} tokens of books that are not in the corpus.

| on the same tokens | nats per token | perplexity |
|---|---|---|
| this model | {v['nats_per_token']:.3f} | {v['perplexity']:.1f} |
| 5-gram, modified Kneser-Ney, whole corpus | {ngram['nats_per_token']:.3f} | {ngram['perplexity']:.1f} |

{v['bits_per_byte']:.3f} bits per byte. Nats per token by position in the window: {positions}.

Line retrieval (`retrieval.jsonl`, seed and text apart from training), greedy decoding, all digits right:

| distance in tokens | exact | |
|---|---|---|
{retrieval}

## What it writes
Prompt "{PROMPT}", `kvrt run -n {TOKENS} --temp 0.7`, the first five seeds as they came:

{samples}

## Limits
English of a century ago with its opinions; no facts, no arithmetic, no instructions, no safety training. Numbers above are of float32
computation; other cache formats change them, and measuring by how much is what this model is for.
"""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--model", "--work", "--measured", "--ngram", "--kvrt"):
        p.add_argument(flag, required=True)
    p.add_argument("--notes", help="a text file: what was learned in training, copied into the card")
    args = p.parse_args()

    def load(path):
        with open(path, encoding="utf-8") as f:
            return json.load(f)

    rows, start = read_log(args.work)
    picture(rows, os.path.join(args.model, "loss.png"))
    notes = ""
    if args.notes:
        with open(args.notes, encoding="utf-8") as f:
            notes = f.read().strip()
    text = card(os.path.basename(os.path.normpath(args.model)), load(os.path.join(args.model, "config.json")), rows, start,
                load(args.measured), load(args.ngram), continuations(args.kvrt, args.model), notes)
    with open(os.path.join(args.model, "MODEL_CARD.md"), "w", encoding="utf-8") as f:
        f.write(text)
    print(f"{args.model}: {size(args.model):,} bytes in all")


if __name__ == "__main__":
    main()
