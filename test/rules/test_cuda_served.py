#!/usr/bin/env python3
"""The table of README.md that says what a card serves, made from the list of kernels (kernels/cuda/kernel_list.h) and of weight forms
(runtime/model/weight_form.h). Fails where the table is stale, where a kernel serves nothing that the table knows, and where a form has no kernel.

    test/rules/test_cuda_served.py [--write]"""
import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KVRT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
FIRST, LAST = "<!-- what a card serves: test/rules/test_cuda_served.py --write -->", "<!-- end -->"

# Forms of weight_form.h by the name of the gemv that multiplies them; "decoded" have none and become f16 at import.
FORMS = {"f32": "f32", "f16": "f16", "bf16": "bf16", "u2": "q2_k a2", "u3": "q3_k a3", "u4": "i4 q4_0 q4_1 q4_k a4", "u5": "q5_0 q5_1 q5_k a5",
         "u6": "q6_k a6", "u8": "i8 q8_0 a8", "table4": "iq4_nl iq4_xs", "e2m1": "mxfp4 mxfp4_block nvfp4 nvfp4_block", "numbers4": "nf4 bnb_fp4", "e4m3": "f8_e4m3 mxfp8",
         "e5m2": "f8_e5m2", "decoded": "f64 bnb_i8"}
# Kernels of layers; what is left serves all of them.
LAYERS = {"attention": ["rope_append_any", "norm_heads", "attn_any_d256"], "mixtures of experts": ["route", "sort_pairs", "add_pairs"],
          "experts with g_idx": ["gather_pairs"], "gated DeltaNet": ["conv_state", "delta_norm"],
          "latent attention": ["latent_append", "latent_absorb", "latent_attend", "latent_leave"],
          "latents in every cache": ["latent_attend_any"], "multi-token prediction": ["last_row"]}
COMMON = set("embed embed_tile norm_rows add_rows fill_words best_part best_merge kv_convert".split())
COMMON |= {f"rope_append_d{d}" for d in (64, 128, 256)}


def grouped(names, pattern):
    """values of the groups of a pattern, in the list's order, and the names it takes"""
    found = [(m.groups(), n) for n in names if (m := re.fullmatch(pattern, n))]
    return [g for g, _ in found], {n for _, n in found}


def table(names, forms):
    problems, known = [], set(COMMON)
    gemvs, taken = grouped(names, r"gemv_(\w+?)(?:_n\d)?")
    known |= taken
    codes = list(dict.fromkeys(g[0] for g in gemvs))
    gemms, taken = grouped(names, r"gemm_(\w+)_m\d+")
    known |= taken
    problems += [f"gemv_{c}: which weights it is for FORMS does not say" for c in codes if c not in FORMS]
    problems += [f"{c}: no gemv in the list" for c in FORMS if c not in codes and c != "decoded"]
    problems += [f"{c}: no gemm in the list" for c in codes if c not in ("f32", "e2m1") and (c,) not in gemms]  # e2m1: table4's
    said = " ".join(FORMS.values()).split()
    problems += [f"form {f}: FORMS has it {said.count(f)} times" for f in forms if said.count(f) != 1]
    problems += [f"form {f}: weight_form.h does not have it" for f in said if f not in forms]
    decode, taken = grouped(names, r"attn_decode_(\w+)_d(\d+)")
    known |= taken
    own, sizes = list(dict.fromkeys(g[0] for g in decode)), sorted({int(g[1]) for g in decode})
    problems += [f"attn_decode_{f}_d{d}: missing" for f in own for d in sizes if (f, str(d)) not in decode]
    for pattern in (r"attn_prefill_(?:any_)?d(\d+)", r"attn_any_d(\d+)", r"attn_combine_(?:d(\d+)|any)"):
        known |= grouped(names, pattern)[1]
    keys, taken = grouped(names, r"delta_k(\d+)")
    known |= taken
    layers = [layer for layer, needs in LAYERS.items() if all(n in names for n in needs)]
    known |= {n for needs in LAYERS.values() for n in needs}
    problems += [f"{n}: the table does not know what it serves" for n in names if n not in known]
    sizes_text = ", ".join(map(str, sizes))
    decoded = ", ".join(FORMS["decoded"].split())
    rows = [("weights", "; ".join(", ".join(FORMS.get(c, "").split()) for c in codes) + f"; {decoded} as f16"),
            ("layers", ", ".join(layers).replace("gated DeltaNet", f"gated DeltaNet (keys of up to {max(int(k[0]) for k in keys)})")),
            (f"caches, heads of {sizes_text}",
             ", ".join(own) + " by kernels of their own; every other pair of f16, bf16, f8, i8, 4, 3, 2 bits, t3, t2, and elastic"),
            ("heads", "any multiple of 16 up to 512"),
            ("refused by name", "f32 pages, heads that are no multiple of 16, latents of more than 512")]
    return problems, "\n".join([FIRST, "| on a card | served |", "|---|---|"] + [f"| {a} | {b} |" for a, b in rows] + [LAST])


def main():
    names = re.findall(r"^KERNEL\((\w+),", (ROOT / "kernels/cuda/kernel_list.h").read_text(), re.M)
    forms = re.findall(r'^\s+X\(\w+, "(\w+)",', (ROOT / "runtime/model/weight_form.h").read_text(), re.M)
    problems, text = table(names, forms)
    readme = ROOT / "README.md"
    whole = readme.read_text()
    place = re.search(re.escape(FIRST) + r".*?" + re.escape(LAST), whole, re.S)
    if not place:
        problems.append(f"README.md: the line '{FIRST}' is missing")
    elif sys.argv[1:] == ["--write"]:
        readme.write_text(whole[:place.start()] + text + whole[place.end():])
    elif place[0] != text:
        problems.append(f"README.md: the table is stale, {FIRST[5:-4]} makes it; need\n{text}")
    # The rule itself: a kernel that nobody knows, and one that is gone, are noticed.
    assert table(names + ["gemv_u7"], forms)[0] and table([n for n in names if not n.startswith("gemm_u4")], forms)[0]
    assert table(names, forms + ["q9_0"])[0] and table([n for n in names if n != "latent_attend_any"], forms)[1] != text
    for problem in problems:
        print(problem)
    print(f"{len(names)} kernels, {len(forms)} forms")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
