/* tokenizer_tekken.c - Mistral's tekken.json, for folders that have no tokenizer.json: tokens as bytes in base64, in the order in which they were
 * made. What mistral-common does with it is the reference: special tokens first, so many of the others as the config says, and pieces merged by
 * the place of what comes out, which is a byte-level BPE with scores. Refuses tokens that are out of order or no base64.
 * To know: text never spells a special token there, and as everywhere here it does only where the caller says so. */
#include "tokenizer_impl.h"

#include <stdio.h>
#include <string.h>

#define MOST_TOKENS (1 << 24)

typedef struct tekken {
    const char *name;
    kvi_json vocab, special; /* where the lists begin */
    bool has_vocab, has_special;
    int64_t n, n_special; /* ids, and those of special tokens, which come first */
    kvi_buf pattern, tokens, types, scores, text;
    kvrt_error *error;
} tekken;

static bool out_of_memory(const tekken *t)
{
    return t->tokens.failed || t->types.failed || t->scores.failed || t->pattern.failed || t->text.failed;
}
static kvrt_status no_memory(const tekken *t) { return kvi_error_nomem(t->error, t->tokens.len, "tokenizer"); }

static kvrt_status wrong(const tekken *t, const char *what, int64_t rank)
{
    if (out_of_memory(t)) return no_memory(t);
    return kvi_error_set(t->error, KVRT_FORMAT, "%s: %s %lld: need them in order from 0 on, with base64 in token_bytes",
                         t->name, what, (long long)rank);
}

/* ------------------------------------------------------------------------------------------------------ parts --- */
static void read_settings(tekken *t, kvi_json *r)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "pattern") && kvi_json_peek(r) == KVI_JSON_STRING) {
            kvi_json_string(r);
            kvi_buf_clear(&t->pattern);
            kvi_json_str_copy(r, &t->pattern);
        } else if (kvi_json_key_is(r, "default_vocab_size")) t->n = kvi_json_i64(r);
        else if (kvi_json_key_is(r, "default_num_special_tokens")) t->n_special = kvi_json_i64(r);
        else kvi_json_skip(r);
    }
}

static kvrt_status find_parts(tekken *t, const char *json, size_t len)
{
    kvi_json r;
    kvi_json_init(&r, json, len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "config")) {
            read_settings(t, &r);
            continue;
        }
        if (kvi_json_key_is(&r, "vocab")) t->vocab = r, t->has_vocab = true;
        if (kvi_json_key_is(&r, "special_tokens") && kvi_json_peek(&r) == KVI_JSON_ARRAY)
            t->special = r, t->has_special = true;
        kvi_json_skip(&r);
    }
    if (r.error || !kvi_json_end(&r)) return kvi_json_fail(&r, t->name, t->error);
    if (out_of_memory(t)) return no_memory(t);
    if (t->has_vocab && t->pattern.len && t->n_special >= 0 && t->n > t->n_special && t->n <= MOST_TOKENS)
        return KVRT_OK;
    return kvi_error_set(t->error, KVRT_FORMAT,
                         "%s: need config (pattern, default_vocab_size up to %d, default_num_special_tokens below it) "
                         "and vocab",
                         t->name, MOST_TOKENS);
}

/* ----------------------------------------------------------------------------------------------------- tokens --- */
static void put_word(kvi_buf *out, uint32_t word)
{
    for (int i = 0; i < 4; i++) kvi_buf_append_byte(out, (char)(word >> (8 * i)));
}

/* As tokens stand in GGUF files (kvi_vocabulary). */
static void put_token(tekken *t, const char *text, size_t len, uint32_t type, float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    for (int i = 0; i < 8; i++) kvi_buf_append_byte(&t->tokens, (char)((uint64_t)len >> (8 * i)));
    kvi_buf_append(&t->tokens, text, len);
    put_word(&t->types, type);
    put_word(&t->scores, bits);
}

/* The tokens of files that list none. */
static const char *const usual[] = {"<unk>",
                                    "<s>",
                                    "</s>",
                                    "[INST]",
                                    "[/INST]",
                                    "[AVAILABLE_TOOLS]",
                                    "[/AVAILABLE_TOOLS]",
                                    "[TOOL_RESULTS]",
                                    "[/TOOL_RESULTS]",
                                    "[TOOL_CALLS]",
                                    "[IMG]",
                                    "<pad>",
                                    "[IMG_BREAK]",
                                    "[IMG_END]",
                                    "[PREFIX]",
                                    "[MIDDLE]",
                                    "[SUFFIX]",
                                    "[SYSTEM_PROMPT]",
                                    "[/SYSTEM_PROMPT]",
                                    "[TOOL_CONTENT]"};

static kvrt_status put_special(tekken *t)
{
    int64_t n = 0;
    kvi_json *r = &t->special;
    if (!t->has_special)
        for (; n < t->n_special && n < (int64_t)(sizeof usual / sizeof usual[0]); n++)
            put_token(t, usual[n], strlen(usual[n]), 3, 0);
    if (t->has_special) kvi_json_expect(r, KVI_JSON_ARRAY);
    while (t->has_special && kvi_json_next_item(r)) {
        int64_t rank = -1;
        bool control = true;
        kvi_buf_clear(&t->text);
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (kvi_json_key_is(r, "rank")) rank = kvi_json_i64(r);
            else if (kvi_json_key_is(r, "is_control")) control = kvi_json_bool(r);
            else if (kvi_json_key_is(r, "token_str") && kvi_json_string(r)) kvi_json_str_copy(r, &t->text);
            else if (!r->error) kvi_json_skip(r);
        }
        if (r->error) return kvi_json_fail(r, t->name, t->error);
        if (rank != n || n == t->n_special || t->text.len == 0) return wrong(t, "special token", n);
        put_token(t, t->text.data, t->text.len, control ? 3 : 4, 0);
        n++;
    }
    for (; n < t->n_special; n++) { /* places that nothing has taken yet */
        char filler[40];
        const int len = snprintf(filler, sizeof filler, "<SPECIAL_%lld>", (long long)n);
        put_token(t, filler, (size_t)len, 3, 0);
    }
    return KVRT_OK;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Appends the bytes, each as its letter of the byte-level alphabet. */
static bool spell(const char *text, size_t len, kvi_buf *out)
{
    uint32_t bits = 0, n_bits = 0;
    while (len && text[len - 1] == '=') len--;
    for (size_t i = 0; i < len; i++) {
        const int digit = base64_digit(text[i]);
        if (digit < 0) return false;
        bits = bits << 6 | (uint32_t)digit, n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        const uint16_t letter = kvi_byte_alphabet[bits >> n_bits & 255u];
        if (letter >= 0x80) kvi_buf_append_byte(out, (char)(0xc0 | letter >> 6));
        kvi_buf_append_byte(out, (char)(letter < 0x80 ? letter : 0x80 | (letter & 63)));
    }
    return n_bits < 6 && len;
}

static kvrt_status put_tokens(tekken *t)
{
    kvi_json *r = &t->vocab;
    int64_t n = 0;
    kvi_json_expect(r, KVI_JSON_ARRAY);
    while (n < t->n - t->n_special && kvi_json_next_item(r)) {
        int64_t rank = -1;
        bool spelled = false;
        kvi_buf_clear(&t->text);
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (kvi_json_key_is(r, "rank")) rank = kvi_json_i64(r);
            else if (kvi_json_key_is(r, "token_bytes") && kvi_json_string(r)) {
                kvi_buf_clear(&t->text);
                spelled = !r->str_escaped && spell(r->str, r->str_len, &t->text);
            } else if (!r->error) kvi_json_skip(r);
        }
        if (r->error) return kvi_json_fail(r, t->name, t->error);
        if (rank != n || !spelled) return wrong(t, "token", n);
        put_token(t, t->text.data, t->text.len, 1, (float)-n); /* whole numbers up to 2^24 are floats */
        n++;
    }
    if (r->error) return kvi_json_fail(r, t->name, t->error);
    if (n == t->n - t->n_special) return KVRT_OK;
    return kvi_error_set(t->error, KVRT_FORMAT, "%s: vocab of %lld tokens, need %lld (default_vocab_size less special)",
                         t->name, (long long)n, (long long)(t->n - t->n_special));
}

/* ------------------------------------------------------------------------------------------------------ whole --- */
static kvrt_status load(tekken *t, const char *json, size_t len, kvi_tokenizer **out)
{
    KVI_TRY(find_parts(t, json, len));
    KVI_TRY(put_special(t));
    KVI_TRY(put_tokens(t));
    kvi_buf_append_byte(&t->pattern, 0);
    if (out_of_memory(t)) return no_memory(t);
    const kvi_vocabulary v = {.model = "tekken",
                              .pre = t->pattern.data,
                              .tokens = {(const uint8_t *)t->tokens.data, (uint64_t)t->n},
                              .types = (const uint8_t *)t->types.data,
                              .scores = (const uint8_t *)t->scores.data,
                              .unk_id = t->n_special > 0 ? 0 : -1,
                              .bos_id = t->n_special > 1 ? 1 : -1,
                              .eos_id = t->n_special > 2 ? 2 : -1,
                              .add_bos = -1,
                              .add_eos = -1,
                              .space_prefix = -1};
    return kvi_tokenizer_from_vocabulary(&v, t->name, out, t->error);
}

kvrt_status kvi_tokenizer_load_tekken(const char *json, size_t len, const char *name, kvi_tokenizer **out,
                                      kvrt_error *error)
{
    tekken t = {.name = name, .n = -1, .n_special = -1, .error = error};
    *out = NULL;
    const kvrt_status status = load(&t, json, len, out);
    kvi_buf *const buffers[] = {&t.pattern, &t.tokens, &t.types, &t.scores, &t.text};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) kvi_buf_free(buffers[i]);
    return status;
}
