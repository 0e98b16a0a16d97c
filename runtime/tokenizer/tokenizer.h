/* tokenizer.h - text to token ids and back, as the model folder's tokenizer.json defines it.
 * Owns: normalizer, pre-tokenizer, model (BPE, byte-fallback BPE, Unigram), added tokens, post-processor, decoder.
 * Refuses: components it does not know (UNSUPPORTED, named), WordPiece and WordLevel models.
 * To know: a loaded tokenizer is const; any number of threads may encode and decode with it at once. Text is bytes:
 * invalid UTF-8 never fails, it becomes byte tokens where the vocabulary has them and U+FFFD where it has not. */
#ifndef KVI_TOKENIZER_H
#define KVI_TOKENIZER_H
#include "../base/mem.h"
#include "../base/status.h"

typedef struct kvi_tokenizer kvi_tokenizer;

/* Growable array of ids; start from {0}. */
typedef struct kvi_ids {
    int32_t *data; // (len)
    size_t len, cap;
} kvi_ids;
bool kvi_ids_push(kvi_ids *ids, int32_t id); /* false when memory is out */
void kvi_ids_free(kvi_ids *ids);

/* Reads tokenizer.json and tokenizer_config.json (optional: names BOS and EOS) of a model folder, or, where there is no tokenizer.json, Mistral's
 * tekken.json. */
kvrt_status kvi_tokenizer_load(const char *dir, kvi_tokenizer **out, kvrt_error *error);
/* The same from memory; `config` may be NULL. `name` and "tokenizer_config.json" appear in messages. Nothing is kept of
 * the input. */
kvrt_status kvi_tokenizer_load_json(const char *json, size_t len, const char *config, size_t config_len,
                                    const char *name, kvi_tokenizer **out, kvrt_error *error);
/* Mistral's tekken.json from memory (tokenizer_tekken.c). */
kvrt_status kvi_tokenizer_load_tekken(const char *json, size_t len, const char *name, kvi_tokenizer **out,
                                      kvrt_error *error);
/* A tokenizer as GGUF files describe it (tokenizer_vocabulary.c): a list of tokens with what is needed to merge them, and names for the rest.
 * `name` appears in messages; keys in messages are GGUF's. Nothing is kept of the input, which has been checked to be as long as it says. */
typedef struct kvi_texts {
    const uint8_t *at; /* n times: 8 bytes of length, little-endian, and so many bytes */
    uint64_t n;
} kvi_texts;
typedef struct kvi_vocabulary {
    const char *
        model; /* "gpt2": byte-level BPE; "llama": SentencePiece's BPE by scores; "gemma4"; "tekken": byte-level BPE by scores */
    const char *pre; /* of gpt2: how text is split before; NULL: "default". Of tekken: the regex itself */
    kvi_texts tokens;
    const uint8_t *
        types; /* (n tokens) i32, little-endian: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; NULL: all 1 */
    const uint8_t *scores;              /* (n tokens) f32, little-endian; of llama */
    kvi_texts merges;                   /* "left right", first one first; of gpt2 */
    int64_t bos_id, eos_id, unk_id;     /* -1: not said */
    int add_bos, add_eos, space_prefix; /* -1: not said */
} kvi_vocabulary;
kvrt_status kvi_tokenizer_from_vocabulary(const kvi_vocabulary *vocabulary, const char *name, kvi_tokenizer **out,
                                          kvrt_error *error);
void kvi_tokenizer_free(kvi_tokenizer *tok); /* NULL is fine */

/* Appends the ids of `text` to *out. flags: KVRT_TOKENIZE_ADD_SPECIAL | KVRT_TOKENIZE_PARSE_SPECIAL of kvrt.h. On an
 * error *out is as it was. Errors: NOMEM_HOST; UNSUPPORTED when the tokenizer asks for more steps or bytes than a text of this
 * length gets (kvi_budget_for), which only a hostile tokenizer.json does. */
kvrt_status kvi_tokenizer_encode(const kvi_tokenizer *tok, const char *text, size_t len, uint32_t flags, kvi_ids *out,
                                 kvrt_error *error);

/* Text with provenance: the segments are encoded as their concatenation would be, except that a token that touches a
 * segment with parse_special = false never matches as a marker (below), whichever bytes that segment holds. */
typedef struct kvi_segment {
    const char *text;
    size_t len;
    bool parse_special;
} kvi_segment;
/* flags: ADD_SPECIAL only; PARSE_SPECIAL is ignored. */
kvrt_status kvi_tokenizer_encode_segments(const kvi_tokenizer *tok, const kvi_segment *segments, size_t n_segments,
                                          uint32_t flags, kvi_ids *out, kvrt_error *error);

/* Decoding. The text of a list of ids is the concatenation of the bytes of its tokens, except that some decoders strip
 * a leading space from the first one: kvi_decode_start remembers where the text stands. Start from {0} for the
 * beginning of a text, or from {.started = true} when ids continue earlier text (generation after a prompt). */
typedef struct kvi_decode_start {
    bool started;
    uint32_t n_stripped; /* leading characters taken away so far */
} kvi_decode_start;
/* Bytes of one token; they belong to the tokenizer. Special tokens give nothing unless flags has
 * KVRT_DETOKENIZE_KEEP_SPECIAL. An id outside the vocabulary gives nothing. `start` may be NULL: raw bytes without the
 * leading-space rule. */
void kvi_tokenizer_token_bytes(const kvi_tokenizer *tok, kvi_decode_start *start, int32_t id, uint32_t flags,
                               const char **bytes, size_t *len);
/* Appends the bytes of all ids; may end inside a code point and may hold invalid UTF-8 when the ids do. */
kvrt_status kvi_tokenizer_decode(const kvi_tokenizer *tok, const int32_t *ids, size_t n, uint32_t flags, kvi_buf *out,
                                 kvrt_error *error);

/* Facts. */
int32_t kvi_tokenizer_vocab_size(const kvi_tokenizer *tok); /* highest id + 1, added tokens included */
int32_t kvi_tokenizer_token_to_id(const kvi_tokenizer *tok, const char *text,
                                  size_t len); /* as spelled in the file; -1: none */
/* Token as spelled in the file ("Ġthe", "▁the", "<s>"); NULL and 0 for an unused id. Not NUL-terminated. */
const char *kvi_tokenizer_token_text(const kvi_tokenizer *tok, int32_t id, size_t *len);
bool kvi_tokenizer_is_special(const kvi_tokenizer *tok, int32_t id); /* an added token with "special": true */
/* Special, or an added token of the form <...> ("<tool_call>", "</think>"): what user text must never turn into. */
bool kvi_tokenizer_is_marker(const kvi_tokenizer *tok, int32_t id);
int32_t kvi_tokenizer_bos_id(const kvi_tokenizer *tok); /* of tokenizer_config.json; -1: none */
int32_t kvi_tokenizer_eos_id(const kvi_tokenizer *tok);
int32_t kvi_tokenizer_unk_id(const kvi_tokenizer *tok);
/* Ids that ADD_SPECIAL puts before and after the text. */
const int32_t *kvi_tokenizer_prefix(const kvi_tokenizer *tok, size_t *n);
const int32_t *kvi_tokenizer_suffix(const kvi_tokenizer *tok, size_t *n);
/* One line for inspect: "BPE, 128256 tokens, 280147 merges, Split+ByteLevel". */
const char *kvi_tokenizer_describe(const kvi_tokenizer *tok);

#endif
