/* fuzz_tokenizer_vocabulary.c - any list of tokens, types, scores and merges as a vocabulary: an error, or a tokenizer that can encode and
 * decode. First byte: model and flags; then lines: "Ttext" a token of type T (a digit), "+left right" a merge. Scores follow the text. */
#include "runtime/tokenizer/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(kvi_buf *out, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++) kvi_buf_append_byte(out, (char)(value >> (8 * i)));
}

static void use(const kvi_tokenizer *tok, const char *text, size_t len)
{
    kvi_ids ids = {0};
    kvi_buf back = {0};
    kvi_tokenizer_encode(tok, text, len, KVRT_TOKENIZE_PARSE_SPECIAL | KVRT_TOKENIZE_ADD_SPECIAL, &ids, NULL);
    kvi_tokenizer_encode(tok, text, len, 0, &ids, NULL);
    for (size_t i = 0; i < ids.len; i++)
        if (ids.data[i] < 0 || ids.data[i] >= kvi_tokenizer_vocab_size(tok)) __builtin_trap();
    kvi_tokenizer_decode(tok, ids.data, ids.len, KVRT_DETOKENIZE_KEEP_SPECIAL, &back, NULL);
    kvi_buf_free(&back);
    kvi_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello <s> w\xc3\xb6rld \xff e\xcc\x81   it's 12345 \xe4\xb8\xad\n\n";
    if (size == 0) return 0;
    kvi_buf tokens = {0}, types = {0}, scores = {0}, merges = {0};
    uint64_t n = 0, n_merges = 0;
    for (size_t at = 1; at < size;) {
        const uint8_t *line = data + at, *stop = memchr(line, '\n', size - at);
        const size_t len = stop ? (size_t)(stop - line) : size - at;
        at += len + 1;
        if (len == 0) continue;
        const bool merge = line[0] == '+';
        kvi_buf *list = merge ? &merges : &tokens;
        put(list, len - 1, 8);
        if (len > 1) kvi_buf_append(list, line + 1, len - 1);
        if (merge) {
            n_merges++;
            continue;
        }
        put(&types, line[0] - (uint64_t)'0', 4);
        put(&scores, len * 0x10000u + line[len - 1] * 0x1000000u, 4);
        n++;
    }
    const kvi_vocabulary v = {.model = data[0] & 1 ? "llama" : "gpt2",
                              .pre = "gpt-2", /* the regexes are constants, and most of the time of loading */
                              .tokens = {(const uint8_t *)tokens.data, n},
                              .types = data[0] & 16 ? NULL : (const uint8_t *)types.data,
                              .scores = (const uint8_t *)scores.data,
                              .merges = {(const uint8_t *)(merges.data ? merges.data : ""), n_merges},
                              .bos_id = data[0] & 32 ? 1 : -1,
                              .eos_id = -1,
                              .unk_id = -1,
                              .add_bos = -1,
                              .add_eos = data[0] & 32 ? 1 : -1,
                              .space_prefix = data[0] & 64 ? 0 : -1};
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_from_vocabulary(&v, "fuzz", &tok, &error) == KVRT_OK) use(tok, text, sizeof text - 1);
    else if (tok || !error.message[0]) __builtin_trap();
    kvi_tokenizer_free(tok);
    kvi_buf_free(&tokens);
    kvi_buf_free(&types);
    kvi_buf_free(&scores);
    kvi_buf_free(&merges);
    return 0;
}
