"""What rounding the saved states of gated DeltaNet layers costs: python test/study/kv/state_checkpoints.py [FOLDER]

A session of a hybrid keeps a live state and four checkpoints (kv/states.h), in f32. A checkpoint of 16 or 8 bits would be a half or a quarter as large, and
what is computed from it no longer the bits of a session that never left. Two answers to "by how much":
  rule    one head of 128 x 128 in double, with keys that come back as they do in text (a few directions, noisy) and decays of 2 to 2,000 tokens: relative
          error of the results so many tokens after a return.
  model   logits of a folder behind a return at its middle, by transformers; without FOLDER the tiny random golden.
int8 has a scale for each row of a state, (dk) of them for a head."""
import os
import sys

import numpy as np

ROUND = {
    "bf16": lambda s: (((s.astype(np.float32).view(np.uint32) + 0x8000) >> 16) << 16).view(np.float32).astype(s.dtype),
    "f16": lambda s: s.astype(np.float16).astype(s.dtype),
    "int8": lambda s: (lambda a: np.round(s / a) * a)(np.abs(s).max(-1, keepdims=True).clip(1e-30) / 127),
}


def rule():
    n, dk, dv, after = 4096, 128, 128, [1, 16, 128, 1024]
    random = np.random.default_rng(1)
    print("rule: relative error of results (L2 over 32 tokens) after a return at 2,048 tokens")
    for life in (2, 32, 2000):
        themes = random.standard_normal((24, dk))
        k, q = (themes[random.integers(0, 24, n)] + 0.7 * random.standard_normal((n, dk)) for _ in range(2))
        k, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (k, q))
        v, beta, decay = random.standard_normal((n, dv)), 1 / (1 + np.exp(-random.standard_normal(n))), np.exp(-np.exp(random.standard_normal(n) / 2) / life)

        def walk(s, first):
            out = np.empty((n - first, dv))
            for t in range(first, n):
                s = s * decay[t]
                s = s + np.outer(k[t], beta[t] * (v[t] - k[t] @ s))
                out[t - first] = q[t] @ s
                if t == 2047:
                    return s
            return out

        middle = walk(np.zeros((dk, dv)), 0)
        exact = walk(middle, 2048)
        for name, rounded in ROUND.items():
            out = walk(rounded(middle), 2048)
            errors = [np.linalg.norm((out - exact)[a - 1:a + 31]) / np.linalg.norm(exact[a - 1:a + 31]) for a in after]
            print(f"  decay over {life:5} tokens, {name:5}" + "".join(f"  +{a}: {e:.1e}" for a, e in zip(after, errors)))


def model(folder):
    import copy

    import torch
    import transformers

    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(2, min(net.config.vocab_size, 30000), (1, 400), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        cache = net(ids[:, :200], use_cache=True).past_key_values
        exact = net(ids[:, 200:], cache=copy.deepcopy(cache)).logits[0].log_softmax(-1).double()
        print(f"model {os.path.basename(folder)}: logits of 200 tokens after a return at 200")
        for name, rounded in ROUND.items():
            other = copy.deepcopy(cache)
            for layer in other.layers:
                for state in (getattr(layer, "recurrent_states", None) or {}).values():
                    state.copy_(torch.from_numpy(rounded(state.numpy())))
            got = net(ids[:, 200:], cache=other).logits[0].log_softmax(-1).double()
            kl = (exact.exp() * (exact - got)).sum(-1)
            same = (exact.argmax(-1) == got.argmax(-1)).double().mean()
            print(f"  {name:5} mean KL {kl.mean():.1e} nats, first token {kl[0]:.1e}, same best token {100 * same:.1f}%")


def main():
    rule()
    here = os.path.dirname(os.path.abspath(__file__))
    model(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../golden/models/qwen3_5"))


main()
