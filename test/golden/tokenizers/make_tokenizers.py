#!/usr/bin/env python3
"""Goldens of the tokenizer: small tokenizers made here, and what the reference library says about a list of texts.

    pip install tokenizers==0.23.3
    python3 test/golden/tokenizers/make_tokenizers.py [SHARED_DATA]

Writes NAME.json (the tokenizer) and NAME.cases.json beside this script. With the folder of shared vectors as argument it also writes
t5_small_exceptions.json: the cases of a JavaScript-made vector file in which that library departs from the reference.
"""
import base64
import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# As the files of Qwen3.5, gpt-oss (o200k) and Mistral (tekken) spell them.
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# DeepSeek splits by one after the other: V3 and R1, V2 and the LLMs, the first coders.
DEEPSEEK3 = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
             r"\s*[\r\n]+|\s+(?!\S)|\s+"]
DEEPSEEK_LLM = ["[\r\n]",
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-"
                r"ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
                r"",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"]
DEEPSEEK_CODER = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"]

CORPUS = [
    "The quick brown fox jumps over the lazy dog. She said that it wasn't hers, and they're going home.",
    "Once upon a time there was a little girl who lived in a house near the forest with her mother and father.",
    "int main(void) { for (int i = 0; i < 100; i++) printf(\"%d\\n\", i); return 0; }",
    "El niño comió una manzana; la niña bebió café. Über die Brücke ging der große Mann, ça va très bien.",
    "Быстрая коричневая лиса прыгает через ленивую собаку. Это было давно и неправда.",
    "今日は天気がいいですね。東京に行きました。你好，世界。我想在苹果工作。한국어 문장입니다.",
    "In 1984 there were 365 days, 12 months and 7 cats; 3.14159 is pi, 2.71828 is e.",
    "the cat sat on the mat and the dog sat on the log and the bird sang in the tree and then they were all happy",
] * 12

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "a", " a", "a ", "Hello", " Hello", "Hello world", "  Hello   world  ",
    "hello\nworld", "hello \n world", "line\r\nbreak\r\n\r\nend", "it's they're I'll we've I'M YOU'D don't", "123456789", "1 22 333 4444 55555",
    "3.14159", "$12,345.67", "!!!???...", "---===---", "a_b_c snake_case camelCase", "https://example.com/a?b=c&d=e#f",
    "café naïve", "cafe\u0301 nai\u0308ve", "Ångström A\u030angstro\u0308m", "ẛ̣", "ﬁ ﬂ ½ ² ①", "ＦＵＬＬ　ｗｉｄｔｈ",
    "Straße STRASSE İstanbul", "привет мир", "Ёлка ёлка", "你好，世界！", "今日は", "한국어 문장", "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "ไทย ລາວ ខ្មែរ", "😀", "😀😃", "👨‍👩‍👧‍👦 family", "🏳️‍🌈 flag", "👍🏽", "✨🤗",
    "a\u0300\u0301\u0302\u0316b", "\u0301 leading mark", "zero\u200bwidth \u200d joiner \ufeff bom", "non\u00a0breaking\u202fspaces\u3000here",
    "\u180emongolian", "nul\x00byte", "ctrl \x01\x1f\x7f\x85", "tab\tsep\ttext", "▁under▁score", "a▁b ▁", "Ġspace Ċ", "<0x41> <0xE2>",
    "<unk>", "<s>hello</s>", "<|begin|>user text<|end|>", "<|begin|> <|end|> ", "x<|end|>y", " <tool> ", "<tool>x</tool>", "<mask> a <mask>b",
    "a  <mask>  b", "word sub subword words wordy", "WORD word", "Word! (word) [word]", "Ŵord Wörd",
    "the the the cat sat on the mat", "Once upon a time there was a little girl", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab", "ａｂｃ",
    "x" * 200, "ab " * 60, "é" * 50, "\n" * 30, " " * 33 + "x", "a" + " " * 33, "\u0301" * 40, "漢字" * 30,
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n", "{\"a\": [1, 2.5, null], \"b\": \"c\\n\"}", "\U000f0000 private \U0010fffd",
    "mixed 中文 and English和русский", "e=mc² ∑∞ ≠ ≈", "‘quotes’ “double” «guillemets»", "…—–", "\u2028line\u2029sep",
]


def random_texts(n, seed):
    rng = random.Random(seed)
    pools = ["abcdefgh  ", "ABC xyz ", "0123456789 ", " \n\t\r", ".,!?'\"-", "éüñçßœ", "абвгд ", "中文字日本", "😀🎉🏳️👍🏽‍", "\u0301\u0308\u0323\u200d", "ﬁ½①Ａ",
             "▁ <>|"]
    words = ["<|begin|>", "<|end|>", "<mask>", "<tool>", "word", "the", "<s>", "</s>", "<unk>", "'s", "'LL"]
    out = []
    for _ in range(n):
        text = ""
        for _ in range(rng.randint(1, 14)):
            text += rng.choice(words) if rng.random() < 0.15 else "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 4)))
        out.append(text)
    return out


def special(text, **kw):
    return AddedToken(text, special=True, normalized=kw.pop("normalized", False), **kw)


def add_common(tok):
    tok.add_special_tokens([special("<|begin|>"), special("<|end|>", rstrip=True)])
    tok.add_tokens([AddedToken("<tool>", normalized=False, special=False), AddedToken("<mask>", lstrip=True, normalized=True),
                    AddedToken("word", single_word=True, normalized=True)])


def byte_level(regex, normalizer, ignore_merges, n_vocab):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tok.normalizer = normalizer
    splits = [pre_tokenizers.Split(Regex(r), behavior="isolated") for r in (regex if isinstance(regex, list) else [regex])]
    tok.pre_tokenizer = pre_tokenizers.Sequence(splits + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=n_vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        show_progress=False))
    add_common(tok)
    begin = tok.token_to_id("<|begin|>")
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", begin)])])
    return tok


def gpt2_like():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        show_progress=False))
    tok.add_special_tokens([special("<|begin|>", normalized=True)])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return tok


def spm_bpe(metaspace):
    """Llama 2 and Phi-3 (normalizers) or Mistral's newer form (Metaspace, first only), with byte fallback."""
    trainer_tok = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer_tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer_tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                                                max_token_length=8, limit_alphabet=120))
    state = json.loads(trainer_tok.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for token in sorted(state["vocab"], key=state["vocab"].get):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    add_common(tok)
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok


def gemma_bpe():
    """Gemma: characters and merges without a space in front, spaces as marks, byte fallback, runs of newlines as tokens."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁+[^▁\n]*|\n+"), behavior="isolated")
    trained.train_from_iterator(CORPUS + ["a\n\nb\n\n\nc\n\n\n\nd   e    f"] * 20,
                                trainers.BpeTrainer(vocab_size=600, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], show_progress=False,
                                                    limit_alphabet=120))
    state = json.loads(trained.to_str())["model"]
    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    # Merged tokens in the order of their merging, the alphabet behind them, as SentencePiece numbers its pieces.
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    for token in [a + b for a, b in merges] + sorted(state["vocab"], key=state["vocab"].get):
        vocab.setdefault(token, len(vocab))
    # As in the files of the family, every way to make a token is a merge.
    rank = {token: i for i, token in enumerate(vocab)}
    every = [(rank[t], t[:i], t[i:]) for t in [a + b for a, b in merges] for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[(a, b) for _, a, b in sorted(every, key=lambda m: m[0])], unk_token="<unk>",
                               fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tok.add_special_tokens([special(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>")])
    add_common(tok)
    tok.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)])
    return tok


def unigram(byte_fallback):
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "),
                                           normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tok.decoder = decoders.Metaspace()
    tok.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                                            show_progress=False))
    if byte_fallback:
        state = json.loads(tok.to_str())
        for b in range(256):
            state["model"]["vocab"].append([f"<0x{b:02X}>", -20.0])
        state["model"]["byte_fallback"] = True
        state["decoder"] = json.loads(json.dumps({"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}))
        tok = Tokenizer.from_str(json.dumps(state))
    add_common(tok)
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tok


def mixed_parts():
    """Components that the well-known tokenizers above leave out."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Punctuation("merged_with_previous"),
        pre_tokenizers.Split("-", behavior="merged_with_next"), pre_tokenizers.Split(Regex("ab|ba"), behavior="contiguous", invert=True)])
    tok.decoder = decoders.Sequence([decoders.Replace(Regex("e+"), "E"), decoders.Strip("a", 1, 0)])
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False, limit_alphabet=60))
    add_common(tok)
    return tok


def make_cases(tok, texts):
    cases = []
    added = {t["id"]: t["content"] for t in json.loads(tok.to_str())["added_tokens"]}
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids}
        # This version of the library decodes a normalized added token to its normalized spelling ("\u2581<mask>") instead of its own.
        if not any(tok.id_to_token(i) != added[i] for i in ids if i in added):
            case["decoded"] = tok.decode(ids, skip_special_tokens=False)
        skipped, with_special = tok.decode(ids, skip_special_tokens=True), tok.encode(text).ids
        if "decoded" in case and skipped != case["decoded"]:
            case["decoded_skip"] = skipped
        if len(cases) % 8 == 0 or len(text) < 4:
            case["ids_special"] = with_special
        cases.append(case)
    return cases


def write_cases(path, cases):
    rows = ",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases)
    path.write_text('{"oracle": "tokenizers 0.23.3", "cases": [\n' + rows + "\n]}\n")


def write_exceptions(shared):
    tok = Tokenizer.from_file(str(shared / "tokenizers/t5-small/tokenizer.json"))
    given = json.loads((shared / "tokenizers/encodings/t5-small.json").read_text())["cases"]
    texts = [c["text"] for c in given if tok.encode(c["text"]).ids != c["ids_special"]]
    write_cases(HERE / "t5_small_exceptions.json", make_cases(tok, texts))


def normalizer_cases():
    """Unicode forms of single code points, of random runs of marks, Hangul and compatibility characters."""
    rng = random.Random(5)
    marks = [chr(c) for c in (0x300, 0x301, 0x302, 0x308, 0x30A, 0x316, 0x323, 0x327, 0x328, 0x345, 0x591, 0x5B0, 0x64B, 0x651, 0x93C, 0x9BC,
                              0x9BE, 0x9D7, 0xBBE, 0xBC6, 0xDCF, 0xDDF, 0x1039, 0x102E, 0x1B35, 0x20D0, 0x3099, 0x309A, 0xFF9E, 0x1D165)]
    bases = list("aeoAEOcsd ") + [chr(c) for c in (0xC5, 0xE9, 0x1E9B, 0x1E69, 0x1EA5, 0x1F71, 0x3A9, 0x2126, 0x212B, 0x9C7, 0xBC6, 0xDD9, 0x1025,
                                                   0x1100, 0x1112, 0x1161, 0x1175, 0x11A8, 0x11C2, 0xAC00, 0xAC01, 0xD55C, 0xFB01, 0xBD, 0x2460,
                                                   0xFF21, 0xFF76, 0x304B, 0x2F00, 0x3400, 0x4E2D, 0xF900, 0xFDFA, 0x1D15E, 0x2F800, 0x130, 0x10400)]
    texts = [b + m for b in bases for m in marks[1:10:2]] + bases + marks
    texts += ["".join(rng.choice(marks if rng.random() < 0.6 else bases) for _ in range(rng.randint(1, 12))) for _ in range(200)]
    kinds = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD(),
             "Lowercase": normalizers.Lowercase(), "StripAccents": normalizers.StripAccents()}
    return [{"text": t, **{k: n.normalize_str(t) for k, n in kinds.items()}} for t in texts]


PATTERNS = [
    r"[\p{Han}]+", r"\p{Han}+", r"\p{^Han}+", r"[^\p{Han}\s]+", r"\p{Hiragana}|\p{Katakana}", r"\p{script_extensions}", r"[一-龥぀-ゟ゠-ヿ]+", r"\w+", r"[\w]+", r"\W+",
    r"[\W_]+", r"[^\W_]+", r"\d+", r"[^\d]+", r"\h+", r"[\H]", r"\s+", r"\S+", r"[[:alpha:]]+", r"[[:^alpha:]]+", r"[[:punct:]]+", r"\p{Punct}+", r"[[:word:]]+",
    r"[[:space:][:digit:]]+", r"[[:upper:]]+", r"[[:lower:]]+", r"[[:alnum:]_]+", r"[[:graph:]]+", r"[[:print:]]+", r"[[:cntrl:]]+", r"[[:blank:]]", r"[[:xdigit:]]+",
    r"[:alpha:]+", r"[a-z&&[^aeiou]]+", r"[\p{L}&&[^\p{Lu}]]+", r"[\w&&[^\d]]+", r"[^a-c&&b-d]+", r"[a-c&&b-d&&c]", r"[a-z&&]", r"[\p{^Han}&&\w]+", r"[a[^b]]+",
    r"[[^b]&&a-d]+", r"[^\s[.,]]+", r" ?[^(\s|[.,!?…。，、।۔،])]+", r"(?i:s+)", r"(?i:k|\u00e5)", r"(?i:[a-f]+)", r"(?i:[^a])", r"(?i:\p{Lu})", r"(?i)a|b",
    r"b(?i)a|c", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"a(?m:.)b", r"a.b", r"^.", r".$", r"\A.", r".\z", r".\Z", r"\G\d", r"\ba", r"a\B", r"\R", r"(?<=a)b", r"(?<!a)b",
    r"(?<=a|中)b", r"(?=a)\w+", r"(?!a)\w+", r"(?>a+)b", r"(?>a|ab)c", r"a++b", r"a*+", r"a?+a", r"a{2}+", r"a{2}?", r"a{1,2}?", r"a{,2}", r"a{2,}", r"a{", r"x{,}", r"(a|b)\1",
    r"(?<n>a)b", r"(a*)*b", r"(a*?)+", r"(?:a|ab)(?:c|bcd)", r"(?:\p{L}\p{M}*)+", r"[]a]+", r"[^]a]+", r"[a\]b]+", r"[!--]+", r"[a-]+", r"[a-c-e]+", r"[\-a]+", r"\x41|\x{62}|\u0063",
    r"\p{Cn}+", r"\p{Lm}+", r"\p{S}+", r"\p{Emoji}+", r"\p{Letter_Number}", r"\p{ l u }+", r"(?#comment)a", r"", r"|a", r"()a", r"(?:)*", r"\p{Nd}{3}+", r"\N+", r"\O",
    # (?i) and classes: closed once, after intersections and inner negations, before the outermost negation; properties alone are not
    r"(?i)[[a-z]&&[A-D]]+", r"(?i)[^\p{Lu}&&a]+", r"(?i)[^[^a-d]]+", r"(?i)[^[:upper:]]+", r"(?i)\p{Lu}+", r"(?i)\P{Lu}+", r"(?i)[a-d&&[^A]]+",
    r"(?i)[^a-c[^\p{L}]]+", r"(?i)[^\p{^Lu}K]+", r"(?i)[^A-D&&[^b]]+", r"(?i:[a[b&&B]])+",
]
REGEX_TEXTS = [
    "", "a", "ab", "aab", "aaab abc", "abcd ABCD a-b", "你好。\n", "日本語のテスト、カタカナー・ひらがな。", "A\u0300e\u0301 naïve Ünï", "x² ½ Ⅷ ٣٤ 123", "ſs Kk Åå", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "a\nb\r\nc\n", "\t \u00a0\u3000\u0085", "I'm YOU'LL can't", "😀👍🏽 ©", "\u200d\u200b\ufeff", "\U00031350\U0002ebf0\u0870\ua7cb", "中b ab cb", "aa{x{,}", "abab aabb",
]


def regex_cases():
    """What each pattern matches in each text; null where the library refuses the pattern."""
    rows = []
    for pattern in PATTERNS:
        try:
            split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        except Exception:
            rows.append({"pattern": pattern, "matches": None})
            continue
        rows.append({"pattern": pattern, "matches": [[piece for piece, _ in split.pre_tokenize_str(text)] for text in REGEX_TEXTS]})
    return rows


def charsmap(pairs):
    """SentencePiece's character map: a double array (units: offset << 10 | has a value << 8 | byte) and the replacements."""
    root, values = {}, bytearray()
    for key, to in pairs.items():
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(values)
        values += to.encode() + b"\0"
    units, used = {}, {0}
    todo = [(0, root, 0)]
    while todo:
        at, node, label = todo.pop()
        base = next(b for b in range(1, 1 << 20) if all((b ^ byte) not in used for byte in node))
        used.update(base ^ byte for byte in node)
        units[at] = ((base if at == 0 else at ^ base) << 10) | ((0 in node) << 8) | label
        for byte, child in node.items():
            if byte == 0:
                units[base] = child | 1 << 31
            else:
                todo.append((base ^ byte, child, byte))
    raw = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(max(units) + 256))
    return base64.b64encode(len(raw).to_bytes(4, "little") + raw + bytes(values)).decode()


CHARSMAP = {"\ufb01": "fi", "\uff21": "A", "e\u0301": "\u00e9", "e": "E", "\u2460": "1", "\u00a0": " ", "\u200b": "", "ab": "X", "abc": "Y", "\u1100\u1161": "\uac00",
            "\U0001f600": ":)", "\r\n": "\n", "\u3000": " ", "\u0301": "", "\ufdfa": "long text of a ligature", "z\u0308\u0323": "!", "\u304b\u3099": "\u304c"} # the last grapheme has six bytes, as many as are looked up letter by letter


def charsmap_cases():
    texts = TEXTS + random_texts(60, 77) + ["".join(random.Random(i).choices(list(CHARSMAP) + ["a", "b", "c", "x", "\u0308", "\u0323", "\U0001f468\u200d\U0001f469", "\U0001f3fd"],
                                                                          k=8)) for i in range(80)]
    encoded = charsmap(CHARSMAP)
    # The Python class takes the bytes, the file has them in base64.
    one = normalizers.Precompiled(base64.b64decode(encoded))
    return encoded, [{"text": t, "normalized": one.normalize_str(t)} for t in texts]


def small_tokenizers():
    """One small file for each part and setting that the tokenizers above leave out, as {name: tokenizer.json}."""
    letters = list("abcdeABC0123 .,-_'!?\u2581\u00e9\u4e2d\u3042\u30a2\ud55c\u042f\u0451\u03c9") + ["<unk>"]
    spelled = sorted(set(pre_tokenizers.ByteLevel.alphabet()))

    def bpe(units, merges=(), prefix=None, suffix=None, **kw):
        vocab = {u: i for i, u in enumerate(units)}
        for extra in [prefix + u for u in units if prefix and u != "<unk>"] + [u + suffix for u in units if suffix and u != "<unk>"]:
            vocab.setdefault(extra, len(vocab))
        for left, right in merges:
            vocab.setdefault(left + right[len(prefix or ""):], len(vocab))
        if kw.get("byte_fallback"):
            for b in range(256):
                vocab[f"<0x{b:02X}>"] = len(vocab)
        return {"type": "BPE", "dropout": None, "unk_token": "<unk>" if "<unk>" in vocab else None, "continuing_subword_prefix": prefix,
                "end_of_word_suffix": suffix, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab,
                "merges": [list(m) for m in merges], **kw}

    def unigram(byte_fallback):
        vocab = [["<unk>", 0.0]] + [[u, -2.0 - i % 7 / 4] for i, u in enumerate(letters[:-1])] + [["ab", -2.5], ["\u2581a", -2.75]]
        return {"type": "Unigram", "unk_id": 0, "vocab": vocab + [[f"<0x{b:02X}>", -20.0] for b in range(256) if byte_fallback], "byte_fallback": byte_fallback}

    def level(use_regex=False, **kw):
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex, **kw}

    def steps(*items):
        return {"type": "Sequence", "pretokenizers": list(items)}

    def metaspace(scheme, mark="\u2581"):
        return {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": True}

    digits = [("1", "2"), ("2", "3"), ("a", "b"), ("12", "3")]
    falcon = steps({"type": "Punctuation", "behavior": "Contiguous"}, level(True), {"type": "Digits", "individual_digits": False},
                   {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False})
    ws = {"type": "WhitespaceSplit"}
    parts = {
        "falcon": (None, falcon, level(), bpe(spelled, digits)),
        "falcon, each digit": (None, steps(level(True), {"type": "Digits", "individual_digits": True}), level(), bpe(spelled, digits)),
        "ByteLevel twice": (None, steps(level(True), level(False, add_prefix_space=True)), level(), bpe(spelled)),
        "ByteLevel, suffix": ({"type": "Lowercase"}, steps(ws, level()), None, bpe(spelled, [("a", "b</w>"), ("a", "b")], suffix="</w>")),
        "ByteLevel, byte fallback": (None, level(True), None, bpe(spelled[:120], byte_fallback=True)),
        "ByteLevel normalizer": ({"type": "ByteLevel"}, None, level(), bpe(spelled, digits)),
        "scripts": (None, {"type": "UnicodeScripts"}, None, bpe(letters, digits)),
        "scripts of bytes": (None, steps({"type": "UnicodeScripts"}, level()), level(), bpe(spelled, [("a", "\u0120"), ("1", "a")])),
        "fixed length": (None, {"type": "FixedLength", "length": 3}, None, bpe(letters, digits)),
        "delimiter": (None, {"type": "CharDelimiterSplit", "delimiter": "a"}, None, bpe(letters, digits)),
        "suffix": (None, ws, None, bpe(letters, [("a", "b</w>"), ("1", "2")], suffix="</w>")),
        "suffix, byte fallback": (None, ws, None, bpe(letters, [("a", "b</w>")], suffix="</w>", byte_fallback=True)),
        "prefix": (None, ws, None, bpe(letters, [("a", "##b"), ("##a", "##b"), ("##1", "##2")], prefix="##")),
        "prefix, byte fallback": (None, ws, None, bpe(letters, [("a", "##b")], prefix="##", byte_fallback=True)),
        "no unknown token": (None, ws, None, bpe(letters[:-1], digits)),
        "unigram": (None, None, metaspace("always"), unigram(False)),
        "unigram, byte fallback": (None, metaspace("first"), metaspace("first"), unigram(True)),
        "metaspace never": (None, metaspace("never"), metaspace("never"), bpe(letters, [("\u2581", "a"), ("a", "\u2581")])),
        "metaspace always": (None, metaspace("always"), metaspace("always"), bpe(letters, [("\u2581", "a"), ("a", "\u2581"), ("\u2581a", "\u2581")])),
        "metaspace underscore": (None, metaspace("first", "_"), {"type": "Sequence", "decoders": [metaspace("first", "_"), {"type": "Replace",
                                 "pattern": {"String": "\u2581"}, "content": "~"}]}, bpe(letters, [("a", "_")])),
    }
    return {name: {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": n, "pre_tokenizer": p,
                   "post_processor": None, "decoder": d, "model": m} for name, (n, p, d, m) in parts.items()}


def write_small():
    texts = ["", " ", "ab", "a b", "123 ab1234", "ab.,12--a!?", "abc\u4e2d\u3042\u30a2\u30fc, \u042f1", "<unk>", "z<unk>z", "a<unk><unk>ab", " ab", "  a\u2581b\u2581", "_a_b a",
             "\u0589.1\u0953\u0915", "q\u0301\U0001f600ab", "1\u00b223", "\n12\u066312", "a  \u3000b"]
    rows = []
    for name, whole in small_tokenizers().items():
        tok = Tokenizer.from_str(json.dumps(whole))
        rows.append(json.dumps({"name": name, "tokenizer": whole, "cases": make_cases(tok, texts)}, separators=(",", ":")))
    (HERE / "small.cases.json").write_text('{"oracle": "tokenizers 0.23.3", "tokenizers": [\n' + ",\n".join(rows) + "\n]}\n")


def made_or_kept(name, make):
    """Training is not deterministic (hash order), so an existing tokenizer stays; delete NAME.json to train it anew."""
    path = HERE / f"{name}.json"
    if not path.exists():
        path.write_text(make().to_str(pretty=False))
    return Tokenizer.from_file(str(path))


def main():
    write_cases(HERE / "normalizers.cases.json", normalizer_cases())
    write_small()
    encoded, cases = charsmap_cases()
    rows = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (HERE / "charsmap.cases.json").write_text('{"charsmap": "' + encoded + '",\n"cases": [\n' + rows + "\n]}\n")
    rows = ",\n".join(json.dumps(r, separators=(",", ":")) for r in regex_cases())
    (HERE / "regex.cases.json").write_text('{"texts": ' + json.dumps(REGEX_TEXTS) + ',\n"patterns": [\n' + rows + "\n]}\n")
    makers = {
        "byte_level_llama3": lambda: byte_level(LLAMA3, None, True, 500),
        "byte_level_qwen2": lambda: byte_level(QWEN2, normalizers.NFC(), False, 460),
        "byte_level_gpt2": gpt2_like,
        "spm_bpe_normalizer": lambda: spm_bpe(False),
        "spm_bpe_metaspace": lambda: spm_bpe(True),
        "unigram": lambda: unigram(False),
        "unigram_bytes": lambda: unigram(True),
        "mixed_parts": mixed_parts,
        "byte_level_qwen35": lambda: byte_level(QWEN35, normalizers.NFC(), False, 460),
        "byte_level_o200k": lambda: byte_level(O200K, None, False, 480),
        "byte_level_tekken": lambda: byte_level(TEKKEN, None, True, 480),
        "gemma_bpe": gemma_bpe,
        "byte_level_deepseek3": lambda: byte_level(DEEPSEEK3, None, False, 460),
        "byte_level_deepseek_llm": lambda: byte_level(DEEPSEEK_LLM, None, False, 460),
        "byte_level_deepseek_coder": lambda: byte_level(DEEPSEEK_CODER, None, False, 460),
    }
    for i, (name, make) in enumerate(makers.items()):
        write_cases(HERE / f"{name}.cases.json", make_cases(made_or_kept(name, make), TEXTS + random_texts(60, i)))
    if len(sys.argv) > 1:
        write_exceptions(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
