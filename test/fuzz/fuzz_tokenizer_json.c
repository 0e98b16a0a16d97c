/* fuzz_tokenizer_json.c - any bytes as tokenizer.json: an error or a tokenizer that can encode and decode. */
#include "runtime/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello <|end|> w\xc3\xb6rld \xff e\xcc\x81 <mask>  it's 12345 \xe4\xb8\xad\n\n";
    kvi_tokenizer *tok = NULL;
    kvrt_error error = {.size = sizeof error};
    if (kvi_tokenizer_load_json((const char *)data, size, NULL, 0, "fuzz", &tok, &error) != KVRT_OK) {
        if (tok || error.message[0] == 0) __builtin_trap();
        return 0;
    }
    kvi_ids ids = {0};
    kvi_buf back = {0};
    kvi_segment segments[] = {{text, 16, true}, {text + 16, sizeof text - 17, false}};
    kvi_tokenizer_encode(tok, text, sizeof text - 1, KVRT_TOKENIZE_PARSE_SPECIAL | KVRT_TOKENIZE_ADD_SPECIAL, &ids,
                         NULL);
    kvi_tokenizer_encode_segments(tok, segments, 2, 0, &ids, NULL);
    for (size_t i = 0; i < ids.len; i++)
        if (ids.data[i] < 0 || ids.data[i] >= kvi_tokenizer_vocab_size(tok)) __builtin_trap();
    kvi_tokenizer_decode(tok, ids.data, ids.len, KVRT_DETOKENIZE_KEEP_SPECIAL, &back, NULL);
    kvi_buf_free(&back);
    kvi_ids_free(&ids);
    kvi_tokenizer_free(tok);
    return 0;
}
