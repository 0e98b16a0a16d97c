/* tokenizer_facts.c - what a tokenizer tells about itself and its tokens. */
#include "tokenizer_impl.h"

static const kvi_token *token(const kvi_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n_ids && (tok->tokens[id].flags & KVI_TOKEN_USED) ? &tok->tokens[id] : NULL;
}

int32_t kvi_tokenizer_vocab_size(const kvi_tokenizer *tok) { return tok->n_ids; }

int32_t kvi_tokenizer_token_to_id(const kvi_tokenizer *tok, const char *text, size_t len)
{
    int32_t id = kvi_string_table_get(&tok->added_by_text, text, len);
    return id >= 0 ? id : kvi_string_table_get(&tok->vocab, text, len);
}

const char *kvi_tokenizer_token_text(const kvi_tokenizer *tok, int32_t id, size_t *len)
{
    const kvi_token *t = token(tok, id);
    *len = t ? t->text_len : 0;
    return t ? t->text : NULL;
}

bool kvi_tokenizer_is_special(const kvi_tokenizer *tok, int32_t id)
{
    const kvi_token *t = token(tok, id);
    return t && (t->flags & KVI_TOKEN_SPECIAL);
}

bool kvi_tokenizer_is_marker(const kvi_tokenizer *tok, int32_t id)
{
    const kvi_token *t = token(tok, id);
    return t && (t->flags & KVI_TOKEN_MARKER);
}

int32_t kvi_tokenizer_bos_id(const kvi_tokenizer *tok) { return tok->bos_id; }
int32_t kvi_tokenizer_eos_id(const kvi_tokenizer *tok) { return tok->eos_id; }
int32_t kvi_tokenizer_unk_id(const kvi_tokenizer *tok) { return tok->unk_id; }

const int32_t *kvi_tokenizer_prefix(const kvi_tokenizer *tok, size_t *n)
{
    *n = tok->n_prefix;
    return tok->prefix;
}

const int32_t *kvi_tokenizer_suffix(const kvi_tokenizer *tok, size_t *n)
{
    *n = tok->n_suffix;
    return tok->suffix;
}

const char *kvi_tokenizer_describe(const kvi_tokenizer *tok) { return tok->describe; }
