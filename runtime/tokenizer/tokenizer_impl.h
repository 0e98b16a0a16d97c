/* tokenizer_impl.h - what the parts of the tokenizer share; included by runtime/tokenizer only.
 * The way of a text: sanitize -> split at raw added tokens -> per run: normalize -> split at normalized added tokens ->
 * pre-tokenize -> model -> ids -> post-processor. */
#ifndef KVI_TOKENIZER_IMPL_H
#define KVI_TOKENIZER_IMPL_H
#include "../base/json.h"
#include "tokenizer.h"
#include "tokenizer_table.h"
#include "regex.h"

typedef struct kvi_bytes {
    const char *data;
    size_t len;
} kvi_bytes;

/* One token: its spelling in the file, the bytes it decodes to. */
enum { KVI_TOKEN_USED = 1, KVI_TOKEN_ADDED = 2, KVI_TOKEN_SPECIAL = 4, KVI_TOKEN_MARKER = 8 };
typedef struct kvi_token {
    const char *text, *bytes;
    uint32_t text_len, bytes_len;
    uint32_t flags;
} kvi_token;

typedef struct kvi_added {
    kvi_bytes content;
    int32_t id;
    bool special, marker, single_word, lstrip, rstrip, normalized;
} kvi_added;

/* ------------------------------------------------------------------------------------------------- normalizers --- */
typedef enum kvi_norm_kind {
    KVI_NORM_NFC,
    KVI_NORM_NFD,
    KVI_NORM_NFKC,
    KVI_NORM_NFKD,
    KVI_NORM_LOWERCASE,
    KVI_NORM_STRIP,
    KVI_NORM_STRIP_ACCENTS,
    KVI_NORM_REPLACE,
    KVI_NORM_PREPEND,
    KVI_NORM_PRECOMPILED,
    KVI_NORM_NMT,
    KVI_NORM_BYTE_LEVEL
} kvi_norm_kind;
typedef struct kvi_norm_op {
    kvi_norm_kind kind;
    bool left, right;           /* Strip */
    kvi_bytes pattern, content; /* Replace (literal), Prepend (content) */
    kvi_regex *regex;           /* Replace (regex), or NULL */
    const uint32_t *units;      /* Precompiled: double array (n_units) */
    size_t n_units;
    kvi_bytes replacements; /* Precompiled: NUL-terminated strings */
} kvi_norm_op;

#define KVI_NORM_MAX 32

/* Text on its way. `mark` (same length; NULL when provenance is uniform) is 1 where a byte comes from user text. */
typedef struct kvi_view {
    const char *text, *mark;
    size_t len;
    bool at_start; /* begins where the whole input begins */
} kvi_view;
typedef struct kvi_norm_text {
    kvi_buf text, mark;
    bool marked;
    size_t limit; /* of text.len; what does not fit sets `full` instead */
    bool full;
} kvi_norm_text;
/* Runs ops on `view` and replaces it by the result, which lies in one of the two buffers (or is the input when n_ops =
 * 0). Fails with NOMEM_HOST, or UNSUPPORTED when the budget is spent. */
kvrt_status kvi_normalize(const kvi_norm_op *ops, size_t n_ops, kvi_view *view, kvi_norm_text buffers[2],
                          kvi_regex_scratch *scratch, kvi_budget *budget, kvrt_error *error);
/* What one call over `len` bytes of text may spend. Ordinary tokenizers take 5 to 30 steps a byte and make at most three
 * bytes of one (11 with NFKC at its worst), so that only a hostile file can run out: in under a second. */
static inline kvi_budget kvi_budget_for(size_t len)
{
    return (kvi_budget){.steps = (UINT64_C(1) << 24) + 256 * (uint64_t)len, .bytes = ((size_t)1 << 22) + 16 * len};
}
kvrt_status kvi_budget_spent(kvrt_error *error); /* the error of a spent budget */

/* ---------------------------------------------------------------------------------------------- pre-tokenizers --- */
typedef enum kvi_pre_kind {
    KVI_PRE_SPLIT,
    KVI_PRE_BYTE_LEVEL,
    KVI_PRE_METASPACE,
    KVI_PRE_WHITESPACE_SPLIT,
    KVI_PRE_WHITESPACE,
    KVI_PRE_PUNCTUATION,
    KVI_PRE_DIGITS,
    KVI_PRE_SCRIPTS,
    KVI_PRE_FIXED_LENGTH
} kvi_pre_kind;
typedef enum kvi_behavior {
    KVI_SPLIT_REMOVED,
    KVI_SPLIT_ISOLATED,
    KVI_SPLIT_WITH_PREVIOUS,
    KVI_SPLIT_WITH_NEXT,
    KVI_SPLIT_CONTIGUOUS
} kvi_behavior;
typedef enum kvi_prepend { KVI_PREPEND_ALWAYS, KVI_PREPEND_FIRST, KVI_PREPEND_NEVER } kvi_prepend;
typedef struct kvi_pre_op {
    kvi_pre_kind kind;
    kvi_behavior behavior;
    bool invert, add_prefix_space, split, individual;
    bool spell;    /* ByteLevel with steps after it: they see the bytes as letters of the byte-level alphabet */
    size_t length; /* FixedLength */
    kvi_prepend prepend;
    kvi_bytes literal; /* Split by a string; Metaspace's replacement */
    kvi_regex *regex;
} kvi_pre_op;
#define KVI_PRE_MAX 16

/* ---------------------------------------------------------------------------------------------------- models --- */
typedef enum kvi_model_kind { KVI_MODEL_NONE, KVI_MODEL_BPE, KVI_MODEL_UNIGRAM } kvi_model_kind;

typedef struct kvi_bpe {
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk_id;            /* -1: unknown characters vanish */
    int32_t byte_ids[256];     /* "<0xXX>", -1: none */
    int32_t alphabet_ids[256]; /* token of one byte in the byte-level alphabet, -1: none */
    kvi_bytes prefix, suffix;  /* continuing_subword_prefix, end_of_word_suffix */
    kvi_pair_table merges;
    size_t n_merges;
    int32_t *rank_ids; // (ranks) token a merge makes
} kvi_bpe;

typedef struct kvi_unigram {
    int32_t unk_id; /* -1: none */
    bool byte_fallback;
    double unk_score;
    const double *scores; // (n_tokens)
    int32_t byte_ids[256];
    kvi_trie trie;
} kvi_unigram;

/* -------------------------------------------------------------------------------------------------- decoders --- */
typedef enum kvi_dec_kind {
    KVI_DEC_BYTE_LEVEL,
    KVI_DEC_METASPACE,
    KVI_DEC_REPLACE,
    KVI_DEC_BYTE_FALLBACK,
    KVI_DEC_STRIP
} kvi_dec_kind;
typedef struct kvi_dec_op {
    kvi_dec_kind kind;
    kvi_bytes pattern, content;
    kvi_regex *regex;
    uint32_t start, stop; /* Strip, per token */
    bool first_gone;      /* Metaspace: the first token of a text loses its marks, the others turn them into spaces */
} kvi_dec_op;
#define KVI_DEC_MAX 16

struct kvi_tokenizer {
    kvi_arena arena;
    char *chunk; /* where the next string goes while loading */
    size_t chunk_left;
    char name[96], describe[160];
    kvi_token *tokens; // (n_ids)
    size_t tokens_cap;
    int32_t n_ids;
    size_t max_token_bytes;         /* of the longest spelling */
    kvi_string_table vocab;         /* spelling -> id: the model's tokens */
    kvi_string_table added_by_text; /* and the added ones */
    kvi_added *added;               // (n_added)
    size_t n_added, added_cap;
    kvi_trie raw_trie,
        norm_trie; /* added tokens matched before and after normalization; values are indices into added */
    kvi_norm_op norm[KVI_NORM_MAX]; // (n_norm)
    size_t n_norm;
    kvi_pre_op pre[KVI_PRE_MAX]; // (n_pre)
    size_t n_pre;
    bool byte_level;  /* ByteLevel comes last: the model sees the bytes themselves, not letters of its alphabet */
    bool other_class; /* the folder's model is of a type that transformers never gives the class LlamaTokenizer */
    kvi_model_kind model;
    kvi_bpe bpe;
    kvi_unigram unigram;
    int32_t *prefix, *suffix; // (n_prefix), (n_suffix)
    size_t n_prefix, n_suffix;
    kvi_dec_op dec[KVI_DEC_MAX]; // (n_dec)
    size_t n_dec;
    bool dec_fused;           /* a Fuse step was read */
    kvi_bytes *first_bytes;   // (n_ids) of a token that begins a text; NULL: as anywhere else
    bool dec_spaces;          /* no decoder: tokens are joined by spaces */
    kvi_bytes strip_first;    /* character taken from the start of a text */
    uint32_t strip_first_max; /* how many of them; UINT32_MAX: all that lead the first token */
    int32_t bos_id, eos_id, unk_id;
    kvi_regex *regexes; /* list of all compiled ones, for freeing */
};

/* State of one encode call. */
typedef struct kvi_encoder {
    const kvi_tokenizer *tok;
    kvi_ids *out;
    kvrt_error *error;
    uint32_t byte_base; /* stand-ins of invalid bytes, KVI_UTF8_NO_BASE: none in this text */
    bool failed;        /* memory ran out while building a spelling */
    bool user;          /* uniform provenance: markers never match */
    kvi_norm_text norm[2];
    kvi_norm_text input; /* concatenated, sanitized segments */
    kvi_regex_scratch regex;
    kvi_budget budget;
    struct {
        struct kvi_split *items;
        size_t cap, n;
        kvi_buf buf, spelled;
    } pre[KVI_PRE_MAX];
    kvi_buf word; /* spelling of a piece or character */
    kvi_buf raw;  /* piece with its invalid bytes restored */
    struct kvi_symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap;
    size_t heap_cap;
    struct kvi_lattice_node *nodes;
    size_t nodes_cap;
} kvi_encoder;

/* pretokenize.c: piece of normalized text -> model, from pre-tokenizer `op` on. */
kvrt_status kvi_pretokenize(kvi_encoder *e, size_t op, const char *text, size_t len, bool at_start);
/* bpe.c, unigram.c: one piece -> ids. */
kvrt_status kvi_bpe_encode(kvi_encoder *e, const char *text, size_t len);
kvrt_status kvi_unigram_encode(kvi_encoder *e, const char *text, size_t len);
/* decode.c: fills tokens[].bytes; the decoder chain must be set. */
kvrt_status kvi_decode_prepare(kvi_tokenizer *tok, kvrt_error *error);
/* The byte-level alphabet (GPT-2): byte -> code point, and back (-1: none). */
extern const uint16_t kvi_byte_alphabet[256];
int kvi_byte_alphabet_back(uint32_t cp);
/* Byte value of a spelling "<0xXX>", -1 otherwise. */
int kvi_byte_token_value(const char *text, size_t len);
/* tokenizer_memory.c: a string of the file in the arena; {NULL, 0} when memory is out. */
kvi_bytes kvi_load_string(kvi_tokenizer *tok, const kvi_json *r);
/* Makes tokens[id] exist; false with *error set. `n_known` bounds how sparse ids may be. */
kvrt_status kvi_load_reserve(kvi_tokenizer *tok, int64_t id, size_t n_known, kvrt_error *error);
/* tokenizer_parts.c: the component descriptions of tokenizer.json. `r` stands before the value (null is fine). */
kvrt_status kvi_load_normalizer(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
kvrt_status kvi_load_pre_tokenizer(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
kvrt_status kvi_load_decoder(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
kvrt_status kvi_load_post_processor(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
/* A regex that dies with the tokenizer. */
kvrt_status kvi_load_regex(kvi_tokenizer *tok, const char *text, size_t len, kvi_regex **out, kvrt_error *error);
#define KVI_GPT2_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* tokenizer.c: a tokenizer without parts, and what follows when all of them are known. */
kvi_tokenizer *kvi_load_begin(const char *name, kvrt_error *error);
kvrt_status kvi_load_finish(kvi_tokenizer *tok, kvrt_error *error);
/* tokenizer_model.c: "model" into vocab, tokens and tables. */
kvrt_status kvi_load_model(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
/* tokenizer_merges.c: "merges" of a BPE model; the vocabulary is known. */
kvrt_status kvi_load_merges(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
/* The same of a list of "left right". */
kvrt_status kvi_load_merge_list(kvi_tokenizer *tok, const kvi_texts *texts, kvrt_error *error);
kvi_bytes kvi_texts_next(const uint8_t **at); /* the text at *at, which moves behind it */
/* Ids of the byte tokens "<0xXX>" and of the letters of the byte-level alphabet; the vocabulary is known. */
void kvi_load_byte_ids(kvi_tokenizer *tok, int32_t *byte_ids);
/* After added tokens are known: markers must not come out of the model. */
void kvi_model_exclude_markers(kvi_tokenizer *tok);
/* tokenizer_added.c */
kvrt_status kvi_load_added(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error);
/* One of them; a token of the model keeps its id. */
kvrt_status kvi_load_added_token(kvi_tokenizer *tok, kvi_added *added, int64_t id, kvrt_error *error);
/* After the normalizer is known: content of normalized tokens, tries. */
kvrt_status kvi_added_prepare(kvi_tokenizer *tok, kvrt_error *error);
/* Walks the added tokens in a text: fn gets each stretch between them (id -1) and each token. `normalized` chooses the
 * trie. */
typedef kvrt_status (*kvi_added_fn)(kvi_encoder *e, size_t start, size_t end, int32_t id, const kvi_view *in);
kvrt_status kvi_added_walk(kvi_encoder *e, const kvi_view *in, bool normalized, kvi_added_fn fn);

#endif
