#!/usr/bin/env python3
"""What transformers makes of Gemma 3 270M from GGUF: make_gemma3.py MODEL.gguf TEXT writes gemma3.bin beside it.

MODEL is the base model in Q4_K_M (examples/models/fetch.sh gemma3), TEXT any prose; the golden was made from fiction of before 1929. More than two
windows of 512 are run in float32. gemma3.bin: positions as in smollm2.bin, then a text to tokenize: its bytes as a list, its ids, and how the model
goes on after it (greedy). Made with transformers 5.24.0 and torch in float32, which dequantizes the file's weights."""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from make_smollm2 import lists, positions

POSITIONS = 1200
PROMPT = ("1984 was a year:  two spaces,\n\nthree  newlines\n\n\nand a\ttab. Caf\u00e9, \u4f60\u597d, \u043f\u0440\u0438\u0432\u0435\u0442, "
          "\U0001f600!    if (x) {\n    return 3.14159;\n}\nThe capital of France is")


def main():
    path, text = Path(sys.argv[1]), Path(sys.argv[2]).read_text()[:20000]
    tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = tok(text).input_ids[:POSITIONS]
    prompt = tok(PROMPT).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
        new = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0].tolist()[len(prompt):]
    out = positions(ids, logits) + lists(list(PROMPT.encode()), prompt, new)
    (Path(__file__).resolve().parent / "gemma3.bin").write_bytes(out)
    print(len(ids), "positions, std", logits.std(), ids[:8], prompt, [tok.decode([i]) for i in prompt], repr(tok.decode(new)))


if __name__ == "__main__":
    main()
