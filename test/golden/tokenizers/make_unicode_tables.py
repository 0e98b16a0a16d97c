#!/usr/bin/env python3
"""Writes runtime/text/unicode_tables.c and unicode_mappings.c: what the reference library believes of every code point, found by asking it.

    pip install tokenizers==0.23.3 unicodedata2
    python3 test/golden/tokenizers/make_unicode_tables.py

Its parts carry different versions of Unicode: regular expressions (Oniguruma) 16, letter case and numbers (Rust) 17, the word characters
of Whitespace 16, the normalization forms and StripAccents 9, Punctuation 8. So nothing is taken from a version's files; each table is the
answer of the part that uses it. unicodedata2 only names the code points worth asking about.
"""
import textwrap
from pathlib import Path

import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parents[3]
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, ALL))

CATEGORIES = {
    "Lu": "Uppercase_Letter", "Ll": "Lowercase_Letter", "Lt": "Titlecase_Letter", "Lm": "Modifier_Letter", "Lo": "Other_Letter",
    "Mn": "Nonspacing_Mark", "Mc": "Spacing_Mark", "Me": "Enclosing_Mark", "Nd": "Decimal_Number", "Nl": "Letter_Number",
    "No": "Other_Number", "Pc": "Connector_Punctuation", "Pd": "Dash_Punctuation", "Ps": "Open_Punctuation", "Pe": "Close_Punctuation",
    "Pi": "Initial_Punctuation", "Pf": "Final_Punctuation", "Po": "Other_Punctuation", "Sm": "Math_Symbol", "Sc": "Currency_Symbol",
    "Sk": "Modifier_Symbol", "So": "Other_Symbol", "Zs": "Space_Separator", "Zl": "Line_Separator", "Zp": "Paragraph_Separator",
    "Cc": "Control", "Cf": "Format", "Cs": "Surrogate", "Co": "Private_Use", "Cn": "Unassigned"}
# Properties that are no union of categories: what they hold beyond such a union is stored.
BINARY = {"Alphabetic": "Lu Ll Lt Lm Lo Nl", "Uppercase": "Lu", "Lowercase": "Ll", "Emoji": "", "Emoji_Presentation": "",
          "Extended_Pictographic": "", "Ideographic": ""}
SCRIPTS = """Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi Braille
Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan
Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Garay Georgian Glagolitic Gothic Grantha
Greek Gujarati Gunjala_Gondi Gurmukhi Gurung_Khema Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited
Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki
Khudawadi Kirat_Rai Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen
Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean
Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Ol_Onal Old_Hungarian Old_Italic Old_North_Arabian
Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa
Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo
Sundanese Sunuwar Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh
Tirhuta Todhri Toto Tulu_Tigalari Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square""".split()


def regex_members(pattern, text=TEXT):
    kept = set(normalizers.Replace(Regex(pattern), "").normalize_str(text))
    return {ord(c) for c in text if c not in kept}


def removed_by(pre_tokenizer):
    kept = set()
    for piece, _ in pre_tokenizer.pre_tokenize_str(TEXT):
        kept.update(piece)
    return {c for c in ALL if chr(c) not in kept}


def ranges(members):
    out = []
    for c in sorted(members):
        if out and (out[-1][1] + 1 == c or (out[-1][1] == 0xD7FF and c == 0xE000)):
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def runs(value_of):
    """[(first code point, value)], a new run where the value changes; surrogates belong to the run before them."""
    out = []
    for c in ALL:
        if not out or out[-1][1] != value_of[c]:
            out.append((c, value_of[c]))
    return out


def mapping_runs(pairs):
    """[(first, last, step, difference)] of a mapping that is mostly a constant difference over every or every other code point."""
    out = []
    for c, to in sorted(pairs):
        if out and out[-1][3] == to - c:
            first, last, step, d = out[-1]
            gap = c - last
            if gap <= 2 and (first == last or gap == step):
                out[-1] = (first, c, gap, d)
                continue
        out.append((c, c, 1, to - c))
    return out


def case_folding():
    """Pairs (c, representative of the code points that (?i) takes for c); the representative is the lowest."""
    cased = [c for c in ALL if unicodedata2.category(chr(c)) in ("Lu", "Ll", "Lt") or chr(c).lower() != chr(c) or chr(c).upper() != chr(c)
             or chr(c).casefold() != chr(c) or c == 0x345]
    text, pairs, seen = "\n".join(map(chr, cased)), [], set()  # apart, so that none is part of a longer folding
    for c in cased:
        if c in seen:
            continue
        same = regex_members(f"(?i:\\x{{{c:x}}})", text)
        seen |= same
        pairs += [(other, min(same)) for other in same if other != min(same)]
    return pairs


def long_foldings():
    """Runs of code points that (?i) also takes for a longer sequence: (first, how many, first and second code point of its sequence)."""
    runs = []
    for c in ALL:
        to = chr(c).casefold()
        if len(to) == 1:
            continue
        first, second = ord(to[0]), ord(to[1])
        if runs and c == runs[-1][0] + runs[-1][1] and first == runs[-1][2] + runs[-1][1] and second == runs[-1][3]:
            runs[-1][1] += 1
        else:
            runs.append([c, 1, first, second])
    return runs


def lower_case():
    lower = normalizers.Lowercase().normalize_str("\n".join(chr(c) for c in ALL if c != 10)).split("\n")
    return [(c, ord(to)) for c, to in zip((c for c in ALL if c != 10), lower) if to != chr(c) and len(to) == 1]


def unknown_to_forms():
    """Code points that today's Unicode decomposes, composes or reorders, and the library's older forms leave alone."""
    nfd, nfkd = normalizers.NFD().normalize_str, normalizers.NFKD().normalize_str
    unknown = set()
    for c in ALL:
        ch = chr(c)
        klass = unicodedata2.combining(ch)
        known = True
        if klass and klass < 230:
            known = nfd("a\u0301" + ch) != "a\u0301" + ch
        elif klass:
            known = nfd("a" + ch + "\u0316") != "a" + ch + "\u0316"
        if unicodedata2.decomposition(ch) and nfkd(ch) == ch:
            known = False
            if not unicodedata2.decomposition(ch).startswith("<"):
                parts = [int(p, 16) for p in unicodedata2.decomposition(ch).split()]
                unknown.add(parts[0])
        if not known:
            unknown.add(c)
    return unknown


def scripts_of_unicode_scripts(script_of):
    """Exceptions of UnicodeScripts to the scripts of the regular expressions: it knows an older version and no script of what is newer."""
    split = pre_tokenizers.UnicodeScripts().pre_tokenize_str

    def any_script(c):
        return all(any(ch in piece and other in piece for piece, _ in split(other + ch)) for other in "\u03b1\u0431" for ch in [chr(c)])
    return {c for c in ALL if script_of[c] is not None and c != 0x20 and any_script(c)}


def wrapped(items):
    return textwrap.fill(", ".join(items), 149, initial_indent="    ", subsequent_indent="    ")


def c_array(name, comment, items):
    return f"/* {comment} */\nconst uint32_t {name}[{len(items)}] = {{\n{wrapped(items)}}};\nconst size_t {name}_n = {len(items)};\n\n"


def pairs_array(name, comment, members):
    flat = [f"0x{c:x}" for pair in ranges(members) for c in pair]
    return c_array(name, comment, flat)


HEAD = """/* {} - written by test/golden/tokenizers/make_unicode_tables.py from the answers of the reference library (tokenizers
 * 0.23.3); see that script for the versions of Unicode behind them. Do not edit. */
#include "unicode.h"

/* clang-format off */
"""


def main():
    out = HEAD.format("unicode_tables.c")
    category_of = {}
    for i, short in enumerate(CATEGORIES):
        if short != "Cs":
            category_of.update(dict.fromkeys(regex_members(rf"\p{{{short}}}"), i))
    out += c_array("kvi_unicode_categories", "First code point of a run << 8 | general category (index into kvi_unicode_category_names).",
                   [f"0x{c << 8 | v:x}" for c, v in runs(category_of)])
    script_of = dict.fromkeys(ALL)
    for i, name in enumerate(SCRIPTS):
        script_of.update(dict.fromkeys(regex_members(rf"\p{{{name}}}"), i))
    assert {c for c in ALL if script_of[c] is None} == regex_members(r"\p{Unknown}")
    out += c_array("kvi_unicode_scripts", "First code point of a run << 8 | script (index into kvi_unicode_script_names, 255: none).",
                   [f"0x{c << 8 | (255 if v is None else v):x}" for c, v in runs(script_of)])
    for name, cats in BINARY.items():
        base = {c for c in ALL if list(CATEGORIES)[category_of[c]] in cats.split()}
        members = regex_members(rf"\p{{{name}}}")
        assert base <= members or not (base - members), name
        out += pairs_array("kvi_unicode_" + name.lower(), f"First and last code points of {name}"
                           + (f" beyond {cats}." if cats else "."), members - base)
    digits = "a".join(map(chr, ALL))
    numeric = {ord(s) for s, _ in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a" + digits) if len(s) == 1} - {ord("a")}
    spaces = removed_by(pre_tokenizers.WhitespaceSplit())
    words = pre_tokenizers.Whitespace().pre_tokenize_str(" ".join(f"a{chr(c)}a" for c in ALL if c not in spaces))
    out += pairs_array("kvi_unicode_word", "Word characters of Whitespace and of single_word.", {ord(s[1]) for s, _ in words if len(s) == 3})
    out += pairs_array("kvi_unicode_numeric", "Digits.", numeric)
    out += pairs_array("kvi_unicode_punctuation", "Punctuation.", removed_by(pre_tokenizers.Punctuation(behavior="removed")))
    out += pairs_array("kvi_unicode_marks", "StripAccents.", set(ALL) - set(map(ord, normalizers.StripAccents().normalize_str(TEXT))))
    out += pairs_array("kvi_unicode_unformed", "Code points that are newer than the normalization forms.", unknown_to_forms())
    out += pairs_array("kvi_unicode_unscripted", "Code points of a script that UnicodeScripts does not know.",
                       scripts_of_unicode_scripts(script_of))
    out += "const char *const kvi_unicode_category_names[30][2] = {\n    " + ",\n    ".join(
        f'{{"{k}", "{v.replace("_", "").lower()}"}}' for k, v in CATEGORIES.items()) + "};\n\n"
    names = [f'"{s.replace("_", "").lower()}"' for s in SCRIPTS]
    out += f"const char *const kvi_unicode_script_names[{len(names)}] = {{\n{wrapped(names)}}};\nconst size_t kvi_unicode_script_names_n = {len(names)};\n"
    (ROOT / "runtime/text/unicode_tables.c").write_text(out)
    mappings = HEAD.format("unicode_mappings.c")
    for name, comment, pairs in (("kvi_unicode_lower", "Lower case", lower_case()), ("kvi_unicode_fold", "(?i)", case_folding())):
        flat = [f"0x{v & 0xFFFFFFFF:x}" for run in mapping_runs(pairs) for v in run]
        mappings += c_array(name, f"{comment}: first, last, step, difference.", flat)
    mappings += c_array("kvi_unicode_fold_long", "(?i), longer: first, how many, its sequence's first and second.",
                        [f"0x{v:x}" for run in long_foldings() for v in run])
    (ROOT / "runtime/text/unicode_mappings.c").write_text(mappings.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
