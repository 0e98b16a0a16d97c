"""What quantized weights cost, by transformers: perplexity of each folder on a text, and KL divergence and top-1 agreement with the first folder.
Usage: quality.py TEXT OFFSET TOKENS BASE FOLDER...   (OFFSET: bytes of the text to pass over; parts of 512 tokens)

Weights are those that compressed-tensors makes of a folder, everything else is computed in float32."""
import sys

import torch
import transformers


@torch.no_grad()
def logits_of(folder, parts):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return [torch.log_softmax(model(ids[None]).logits[0].double(), -1).float() for ids in parts]


def main():
    text, offset, tokens, folders = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    words = open(text, "rb").read()[offset:offset + 8 * tokens].decode(errors="ignore")
    ids = torch.tensor(transformers.AutoTokenizer.from_pretrained(folders[0])(words, add_special_tokens=False)["input_ids"][:tokens])
    parts = ids.split(512)
    base = logits_of(folders[0], parts)
    for folder in folders:
        ours = base if folder == folders[0] else logits_of(folder, parts)
        nll = sum(-p[:-1].gather(1, t[1:, None]).double().sum().item() for p, t in zip(ours, parts)) / sum(len(t) - 1 for t in parts)
        kl = sum((b.exp() * (b - p)).sum().double().item() for b, p in zip(base, ours)) / len(ids)
        same = sum((b.argmax(-1) == p.argmax(-1)).sum().item() for b, p in zip(base, ours)) / len(ids)
        print(f"{folder}: perplexity {torch.tensor(nll).exp():.3f}, KL {kl:.5f}, top-1 {100 * same:.1f}%", flush=True)


main()
