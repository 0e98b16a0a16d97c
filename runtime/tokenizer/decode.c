/* decode.c - ids to bytes. Owns: the decoder chain, run once per token at load, so that decoding is copying; the
 * byte-level alphabet. To know: the chain's steps all work token by token, except "fuse, then strip a leading space",
 * which is the kvi_decode_start rule of tokenizer.h, and Metaspace, which takes its marks out of the first token: where
 * it is there, the chain runs once more for tokens that begin a text. */
#include "tokenizer_impl.h"
#include "../base/utf8.h"

#include <string.h>

/* GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up, in order. */
const uint16_t kvi_byte_alphabet[256] = {
    256, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 276, 277,
    278, 279, 280, 281, 282, 283, 284, 285, 286, 287, 288, 33,  34,  35,  36,  37,  38,  39,  40,  41,  42,  43,
    44,  45,  46,  47,  48,  49,  50,  51,  52,  53,  54,  55,  56,  57,  58,  59,  60,  61,  62,  63,  64,  65,
    66,  67,  68,  69,  70,  71,  72,  73,  74,  75,  76,  77,  78,  79,  80,  81,  82,  83,  84,  85,  86,  87,
    88,  89,  90,  91,  92,  93,  94,  95,  96,  97,  98,  99,  100, 101, 102, 103, 104, 105, 106, 107, 108, 109,
    110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 289, 290, 291, 292, 293,
    294, 295, 296, 297, 298, 299, 300, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310, 311, 312, 313, 314, 315,
    316, 317, 318, 319, 320, 321, 322, 161, 162, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 323, 174, 175,
    176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197,
    198, 199, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219,
    220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240, 241,
    242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255};

int kvi_byte_alphabet_back(uint32_t cp)
{
    if (cp >= 256 && cp < 289) return (int)cp - 256;
    if (cp >= 289 && cp < 323) return (int)cp - 289 + 127;
    if (cp == 323) return 173;
    return (cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 255 && cp != 173) ? (int)cp : -1;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int kvi_byte_token_value(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_value(text[3]), low = hex_value(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ------------------------------------------------------------------------------------------- steps of the chain --- */
static void step_byte_level(kvi_buf *in, kvi_buf *out)
{
    for (size_t pos = 0; pos < in->len;) {
        uint32_t cp = 0;
        size_t n = kvi_utf8_decode(in->data + pos, in->len - pos, &cp);
        int byte = n ? kvi_byte_alphabet_back(cp) : -1;
        if (byte < 0) { /* not spelled in the alphabet: an added token, taken literally as a whole */
            kvi_buf_clear(out);
            kvi_buf_append(out, in->data, in->len);
            return;
        }
        kvi_buf_append_byte(out, (char)byte);
        pos += n;
    }
}

/* One budget for all tokens: a chain of replacements may make gigabytes of a letter. */
typedef struct chain_state {
    kvi_regex_scratch scratch;
    kvi_budget budget;
    kvrt_error *error;
    bool first; /* the token begins a text */
} chain_state;

static void step_replace(const kvi_dec_op *op, const chain_state *state, kvi_buf *in, kvi_buf *out)
{
    size_t pos = 0;
    while (pos < in->len && out->len <= state->budget.bytes) {
        if (in->len - pos >= op->pattern.len && memcmp(in->data + pos, op->pattern.data, op->pattern.len) == 0) {
            if (!state->first || !op->first_gone) kvi_buf_append(out, op->content.data, op->content.len);
            pos += op->pattern.len;
        } else {
            kvi_buf_append_byte(out, in->data[pos++]);
        }
    }
}

static kvrt_status step_replace_regex(const kvi_dec_op *op, kvi_buf *in, kvi_buf *out, chain_state *state)
{
    size_t pos = 0, done = 0;
    while (pos <= in->len && out->len <= state->budget.bytes) {
        bool found;
        size_t start, end;
        KVI_TRY(kvi_regex_find(op->regex, &state->scratch, &state->budget, in->data, in->len, pos, &found, &start, &end,
                               state->error));
        if (!found) break;
        kvi_buf_append(out, in->data + done, start - done);
        kvi_buf_append(out, op->content.data, op->content.len);
        done = end;
        pos = end > start ? end : end + 1;
        while (pos < in->len && ((unsigned char)in->data[pos] & 0xc0) == 0x80) pos++;
    }
    kvi_buf_append(out, in->data + done, in->len - done);
    return KVRT_OK;
}

static void step_strip(const kvi_dec_op *op, kvi_buf *in, kvi_buf *out)
{
    size_t first = 0, last = in->len, n = op->content.len;
    for (uint32_t i = 0; i < op->start && last - first >= n && memcmp(in->data + first, op->content.data, n) == 0; i++)
        first += n;
    for (uint32_t i = 0; i < op->stop && last - first >= n && memcmp(in->data + last - n, op->content.data, n) == 0;
         i++)
        last -= n;
    kvi_buf_append(out, in->data + first, last - first);
}

static kvrt_status run_chain(const kvi_tokenizer *tok, kvi_buf *a, kvi_buf *b, chain_state *state)
{
    for (size_t i = 0; i < tok->n_dec && a->len > 0; i++) {
        const kvi_dec_op *op = &tok->dec[i];
        int byte = -1;
        kvi_buf_clear(b);
        switch (op->kind) {
        case KVI_DEC_BYTE_LEVEL: step_byte_level(a, b); break;
        case KVI_DEC_METASPACE:
        case KVI_DEC_REPLACE:
            if (op->regex) KVI_TRY(step_replace_regex(op, a, b, state));
            else step_replace(op, state, a, b);
            break;
        case KVI_DEC_BYTE_FALLBACK:
            byte = kvi_byte_token_value(a->data, a->len);
            if (byte < 0) kvi_buf_append(b, a->data, a->len);
            else kvi_buf_append_byte(b, (char)byte);
            break;
        case KVI_DEC_STRIP: step_strip(op, a, b); break;
        }
        if (b->failed) return kvi_error_nomem(state->error, b->len, "tokenizer");
        if (b->len > state->budget.bytes || !kvi_budget_take(&state->budget, a->len + b->len))
            return kvi_budget_spent(state->error);
        kvi_buf swap = *a;
        *a = *b;
        *b = swap;
        if (byte >= 0) break; /* a byte is final: the steps after it see it only as part of a character */
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------ prepare --- */
/* Where the bytes of tokens are put. */
typedef struct keeper {
    kvi_tokenizer *tok;
    char *chunk;
    size_t left;
} keeper;

/* {NULL, 0} when memory is out. */
static kvi_bytes keep_bytes(keeper *k, const kvi_token *token, const kvi_buf *bytes)
{
    if (bytes->len == 0) return (kvi_bytes){"", 0};
    if (bytes->len == token->text_len && memcmp(bytes->data, token->text, bytes->len) == 0)
        return (kvi_bytes){token->text, token->text_len};
    if (bytes->len > k->left) {
        k->left = bytes->len > 65536 ? bytes->len : 65536;
        k->chunk = kvi_arena_alloc(&k->tok->arena, k->left);
        if (!k->chunk) return (kvi_bytes){0};
    }
    kvi_bytes out = {k->chunk, bytes->len};
    memcpy(k->chunk, bytes->data, bytes->len);
    k->chunk += bytes->len;
    k->left -= bytes->len;
    return out;
}

/* Runs the chain for every token: into tokens[].bytes, or for the first of a text into first_bytes. */
static kvrt_status decode_all(keeper *k, chain_state *state, kvi_buf *a, kvi_buf *b)
{
    kvi_tokenizer *tok = k->tok;
    for (int32_t id = 0; id < tok->n_ids; id++) {
        kvi_token *token = &tok->tokens[id];
        if (!(token->flags & KVI_TOKEN_USED)) continue;
        kvi_buf_clear(a);
        kvi_buf_append(a, token->text, token->text_len);
        KVI_TRY(run_chain(tok, a, b, state));
        kvi_bytes bytes = keep_bytes(k, token, a);
        if (a->failed || b->failed || !bytes.data) return kvi_error_nomem(state->error, token->text_len, "tokenizer");
        if (state->first) {
            tok->first_bytes[id] = bytes;
        } else {
            token->bytes = bytes.data;
            token->bytes_len = (uint32_t)bytes.len;
        }
    }
    return KVRT_OK;
}

kvrt_status kvi_decode_prepare(kvi_tokenizer *tok, kvrt_error *error)
{
    kvi_buf a = {0}, b = {0};
    size_t total = 0;
    bool first_differs = false;
    for (int32_t id = 0; id < tok->n_ids; id++) total += 1 + tok->tokens[id].text_len;
    for (size_t i = 0; i < tok->n_dec; i++) first_differs |= tok->dec[i].first_gone;
    chain_state state = {.budget = kvi_budget_for(total), .error = error};
    state.budget.bytes = 1u << 20; /* of one token */
    keeper k = {.tok = tok};
    kvrt_status status = decode_all(&k, &state, &a, &b);
    if (status == KVRT_OK && first_differs) {
        tok->first_bytes = kvi_arena_alloc(&tok->arena, (size_t)tok->n_ids * sizeof *tok->first_bytes);
        state.first = true;
        status = tok->first_bytes ? decode_all(&k, &state, &a, &b) : kvi_error_nomem(error, 0, "tokenizer");
    }
    kvi_regex_scratch_free(&state.scratch);
    kvi_buf_free(&a);
    kvi_buf_free(&b);
    return status;
}

/* ------------------------------------------------------------------------------------------------ public part --- */
void kvi_tokenizer_token_bytes(const kvi_tokenizer *tok, kvi_decode_start *start, int32_t id, uint32_t flags,
                               const char **bytes, size_t *len)
{
    *bytes = "";
    *len = 0;
    if (id < 0 || id >= tok->n_ids || !(tok->tokens[id].flags & KVI_TOKEN_USED)) return;
    const kvi_token *token = &tok->tokens[id];
    if ((token->flags & KVI_TOKEN_SPECIAL) && !(flags & KVRT_DETOKENIZE_KEEP_SPECIAL)) return;
    *bytes = token->bytes;
    *len = token->bytes_len;
    if (!start || start->started) return;
    if (tok->first_bytes) {
        *bytes = tok->first_bytes[id].data;
        *len = tok->first_bytes[id].len;
    }
    const kvi_bytes *strip = &tok->strip_first;
    while (start->n_stripped < tok->strip_first_max && strip->len > 0 && *len >= strip->len &&
           memcmp(*bytes, strip->data, strip->len) == 0) {
        *bytes += strip->len;
        *len -= strip->len;
        start->n_stripped++;
    }
    if (*len > 0 || tok->first_bytes || start->n_stripped >= tok->strip_first_max) start->started = true;
}

kvrt_status kvi_tokenizer_decode(const kvi_tokenizer *tok, const int32_t *ids, size_t n, uint32_t flags, kvi_buf *out,
                                 kvrt_error *error)
{
    kvi_decode_start start = {0};
    size_t first = out->len;
    for (size_t i = 0; i < n; i++) {
        const char *bytes;
        size_t len;
        kvi_tokenizer_token_bytes(tok, &start, ids[i], flags, &bytes, &len);
        if (tok->dec_spaces && out->len > first && len > 0) kvi_buf_append_byte(out, ' ');
        kvi_buf_append(out, bytes, len);
    }
    return out->failed ? kvi_error_nomem(error, out->len, "decoded text") : KVRT_OK;
}
