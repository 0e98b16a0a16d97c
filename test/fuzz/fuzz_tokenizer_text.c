/* fuzz_tokenizer_text.c - any bytes as text: first byte chooses the tokenizer, second the cut into template and user
 * segment. Checks: no failure, ids inside the vocabulary, no marker from user text, byte-level tokenizers give the
 * bytes back. */
#include "runtime/tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "runtime/base/os.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define N_NAMES 5u
static const char *const names[N_NAMES] = {"byte_level_llama3", "byte_level_qwen2", "spm_bpe_normalizer",
                                           "unigram_bytes", "mixed_parts"};
static kvi_tokenizer *toks[N_NAMES]; /* loaded once, kept for the life of the process */

static kvi_tokenizer *get(size_t which)
{
    if (toks[which]) return toks[which];
    char path[512];
    kvi_map map = {0};
    snprintf(path, sizeof path, KVRT_TEST_DIR "/golden/tokenizers/%s.json", names[which]);
    if (kvi_os_map(path, NULL, &map, NULL) != KVRT_OK) __builtin_trap();
    if (kvi_tokenizer_load_json((const char *)map.data, (size_t)map.len, NULL, 0, names[which], &toks[which], NULL) !=
        KVRT_OK)
        __builtin_trap();
    kvi_os_unmap(&map);
    return toks[which];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    size_t which = data[0] % N_NAMES, len = size - 2, cut = data[1] < len ? data[1] : len;
    const kvi_tokenizer *tok = get(which);
    const char *text = (const char *)data + 2;
    kvi_ids ids = {0};
    kvi_buf back = {0};
    if (kvi_tokenizer_encode(tok, text, len, 0, &ids, NULL) != KVRT_OK) __builtin_trap();
    for (size_t i = 0; i < ids.len; i++) {
        if (ids.data[i] < 0 || ids.data[i] >= kvi_tokenizer_vocab_size(tok)) __builtin_trap();
        if (kvi_tokenizer_is_marker(tok, ids.data[i]) && ids.data[i] != kvi_tokenizer_unk_id(tok)) __builtin_trap();
    }
    if (kvi_tokenizer_decode(tok, ids.data, ids.len, KVRT_DETOKENIZE_KEEP_SPECIAL, &back, NULL) != KVRT_OK)
        __builtin_trap();
    if (which == 0 && (back.len != len || (len && memcmp(back.data, text, len) != 0))) __builtin_trap();
    kvi_segment segments[] = {{text, cut, true}, {text + cut, len - cut, false}};
    ids.len = 0;
    if (kvi_tokenizer_encode_segments(tok, segments, 2, KVRT_TOKENIZE_ADD_SPECIAL, &ids, NULL) != KVRT_OK)
        __builtin_trap();
    kvi_buf_free(&back);
    kvi_ids_free(&ids);
    return 0;
}
