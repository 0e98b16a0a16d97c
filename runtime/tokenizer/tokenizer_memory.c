/* tokenizer_memory.c - what grows while a tokenizer is loaded or used: lists of ids, the strings of the file, the array
 * of tokens; and the budget's error. */
#include "tokenizer_impl.h"

#include <string.h>

bool kvi_ids_push(kvi_ids *ids, int32_t id)
{
    void *data = ids->data;
    if (!kvi_mem_grow(&data, &ids->cap, ids->len + 1, sizeof *ids->data)) return false;
    ids->data = data;
    ids->data[ids->len++] = id;
    return true;
}

void kvi_ids_free(kvi_ids *ids)
{
    kvi_mem_free(ids->data);
    *ids = (kvi_ids){0};
}

kvi_bytes kvi_load_string(kvi_tokenizer *tok, const kvi_json *r)
{
    if (r->str_len > tok->chunk_left) {
        size_t size = r->str_len > 65536 ? r->str_len : 65536;
        tok->chunk = kvi_arena_alloc(&tok->arena, size);
        tok->chunk_left = tok->chunk ? size : 0;
        if (!tok->chunk) return (kvi_bytes){0};
    }
    kvi_bytes out = {.data = tok->chunk ? tok->chunk : "", .len = 0};
    if (r->str_len == 0) return out;
    out.len = kvi_json_str_unescape(r, tok->chunk);
    tok->chunk += out.len;
    tok->chunk_left -= out.len;
    return out;
}

kvrt_status kvi_load_reserve(kvi_tokenizer *tok, int64_t id, size_t n_known, kvrt_error *error)
{
    /* Ids need not be dense, but memory is proportional to the highest one: a short file must not claim gigabytes. */
    int64_t limit = (int64_t)(4 * n_known + (1u << 18));
    if (id < 0 || id >= limit || id >= INT32_MAX / 2)
        return kvi_error_set(error, KVRT_FORMAT, "%s: token id %lld, need 0 to %lld", tok->name, (long long)id,
                             (long long)limit - 1);
    void *tokens = tok->tokens;
    size_t cap = tok->tokens_cap;
    if (!kvi_mem_grow(&tokens, &cap, (size_t)id + 1, sizeof *tok->tokens))
        return kvi_error_nomem(error, (uint64_t)id, "tokenizer");
    tok->tokens = tokens;
    if (cap > tok->tokens_cap) memset(tok->tokens + tok->tokens_cap, 0, (cap - tok->tokens_cap) * sizeof *tok->tokens);
    tok->tokens_cap = cap;
    if (id >= tok->n_ids) tok->n_ids = (int32_t)id + 1;
    return KVRT_OK;
}

kvrt_status kvi_budget_spent(kvrt_error *error)
{
    return kvi_error_set(error, KVRT_UNSUPPORTED,
                         "tokenizer: this text needs more steps or memory than a text of its length gets; a "
                         "tokenizer.json that asks for so much may be hostile");
}
