/* tokenizer.c - loading a tokenizer as a whole, and encoding as a whole; the parts are in the files named in
 * tokenizer_impl.h. */
#include "tokenizer.h"

#include "../base/folder.h"
#include "tokenizer_impl.h"
#include "../text/unicode.h"

#include <stdio.h>
#include <string.h>

#define TEXT_MAX (1u << 30) /* positions within a piece are 32-bit */

/* ----------------------------------------------------------------------------------------------------- loading --- */
/* Where the parts of tokenizer.json stand; the model, which is large, is read on the way. */
typedef struct parts {
    kvi_json added, normalizer, pre_tokenizer, post_processor, decoder;
    bool has_model;
} parts;

static kvrt_status find_parts(kvi_tokenizer *tok, kvi_json *r, parts *p, kvrt_error *error)
{
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "model") && !p->has_model) {
            KVI_TRY(kvi_load_model(tok, r, error));
            p->has_model = true;
            continue;
        }
        if (kvi_json_key_is(r, "added_tokens")) p->added = *r;
        else if (kvi_json_key_is(r, "normalizer")) p->normalizer = *r;
        else if (kvi_json_key_is(r, "pre_tokenizer")) p->pre_tokenizer = *r;
        else if (kvi_json_key_is(r, "post_processor")) p->post_processor = *r;
        else if (kvi_json_key_is(r, "decoder")) p->decoder = *r;
        kvi_json_skip(r);
    }
    if (r->error || !kvi_json_end(r)) return kvi_json_fail(r, tok->name, error);
    if (!p->has_model) return kvi_error_set(error, KVRT_FORMAT, "%s: no \"model\"", tok->name);
    return KVRT_OK;
}

/* The model reads raw bytes where ByteLevel comes last and nothing else asks for its letters: no need to spell them. */
static void choose_byte_level(kvi_tokenizer *tok)
{
    size_t last = tok->n_pre;
    bool plain = tok->model == KVI_MODEL_BPE && !tok->bpe.byte_fallback && !tok->bpe.prefix.len && !tok->bpe.suffix.len;
    for (size_t i = 0; i < tok->n_pre; i++) {
        tok->pre[i].spell = tok->pre[i].kind == KVI_PRE_BYTE_LEVEL && (i + 1 < last || !plain);
        tok->byte_level = tok->pre[i].kind == KVI_PRE_BYTE_LEVEL && i + 1 == last && plain;
    }
}

/* "bos_token": "<s>" or {"content": "<s>", ...}. */
static void read_token_name(kvi_tokenizer *tok, kvi_json *r, int32_t *id)
{
    char text[256];
    if (kvi_json_peek(r) == KVI_JSON_OBJECT) {
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            if (kvi_json_key_is(r, "content") && kvi_json_peek(r) == KVI_JSON_STRING) read_token_name(tok, r, id);
            else kvi_json_skip(r);
        }
    } else if (kvi_json_peek(r) == KVI_JSON_STRING) {
        kvi_json_string(r);
        if (r->str_len > sizeof text) return;
        *id = kvi_tokenizer_token_to_id(tok, text, kvi_json_str_unescape(r, text));
    } else {
        kvi_json_skip(r);
    }
}

/* What tokenizer_config.json says of the class that reads the folder. */
typedef struct llama_class {
    bool is_llama, legacy, given, add_prefix_space; /* given: it says add_prefix_space, true or false */
} llama_class;

/* The class LlamaTokenizer takes only the model from tokenizer.json and builds the parts around it itself, as
 * SentencePiece has them: no normalizer, Metaspace in the whole text, and a decoder that takes the added space away.
 * That is followed where the folder says add_prefix_space, because there it matters. */
static void apply_llama_class(kvi_tokenizer *tok, const llama_class *c)
{
    static const kvi_bytes mark = {"\xe2\x96\x81", 3}, space = {" ", 1};
    if (!c->is_llama || !c->given || tok->model != KVI_MODEL_BPE || !tok->bpe.byte_fallback) return;
    kvi_prepend prepend = !c->add_prefix_space ? KVI_PREPEND_NEVER : c->legacy ? KVI_PREPEND_ALWAYS : KVI_PREPEND_FIRST;
    tok->bpe.fuse_unk = true;
    tok->bpe.unk_id = -1;
    tok->n_norm = 0;
    tok->pre[0] = (kvi_pre_op){.kind = KVI_PRE_METASPACE, .prepend = prepend, .literal = mark};
    tok->n_pre = 1;
    tok->dec[0] = (kvi_dec_op){.kind = KVI_DEC_REPLACE, .pattern = mark, .content = space};
    tok->dec[1] = (kvi_dec_op){.kind = KVI_DEC_BYTE_FALLBACK};
    tok->n_dec = 2;
    tok->dec_spaces = false;
    tok->strip_first = c->add_prefix_space ? space : (kvi_bytes){0};
    tok->strip_first_max = c->add_prefix_space;
}

static bool optional_bool(kvi_json *r, bool otherwise)
{
    if (kvi_json_peek(r) == KVI_JSON_TRUE || kvi_json_peek(r) == KVI_JSON_FALSE) return kvi_json_bool(r);
    kvi_json_skip(r);
    return otherwise;
}

static kvrt_status load_config(kvi_tokenizer *tok, const char *config, size_t len, kvrt_error *error)
{
    kvi_json r;
    llama_class c = {.add_prefix_space = true};
    kvi_json_init(&r, config, len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "bos_token")) read_token_name(tok, &r, &tok->bos_id);
        else if (kvi_json_key_is(&r, "eos_token")) read_token_name(tok, &r, &tok->eos_id);
        else if (kvi_json_key_is(&r, "add_prefix_space")) {
            c.given = kvi_json_peek(&r) == KVI_JSON_TRUE || kvi_json_peek(&r) == KVI_JSON_FALSE;
            c.add_prefix_space = optional_bool(&r, true);
        } else if (kvi_json_key_is(&r, "legacy")) c.legacy = optional_bool(&r, false);
        else if (kvi_json_key_is(&r, "tokenizer_class") && kvi_json_peek(&r) == KVI_JSON_STRING) {
            kvi_json_string(&r);
            c.is_llama = kvi_json_str_is(&r, "LlamaTokenizer") || kvi_json_str_is(&r, "LlamaTokenizerFast");
        } else kvi_json_skip(&r);
    }
    if (r.error || !kvi_json_end(&r)) return kvi_json_fail(&r, "tokenizer_config.json", error);
    if (!tok->other_class) apply_llama_class(tok, &c);
    return KVRT_OK;
}

static void describe(kvi_tokenizer *tok)
{
    static const char *const pre[] = {"Split",       "ByteLevel", "Metaspace",      "WhitespaceSplit", "Whitespace",
                                      "Punctuation", "Digits",    "UnicodeScripts", "FixedLength"};
    int n = snprintf(tok->describe, sizeof tok->describe, "%s, %d tokens",
                     tok->model == KVI_MODEL_BPE ? "BPE" : "Unigram", (int)tok->n_ids);
    if (tok->model == KVI_MODEL_BPE && n > 0 && (size_t)n < sizeof tok->describe)
        n += snprintf(tok->describe + n, sizeof tok->describe - (size_t)n, ", %zu merges", tok->bpe.n_merges);
    for (size_t i = 0; i < tok->n_pre && n > 0 && (size_t)n < sizeof tok->describe; i++)
        n += snprintf(tok->describe + n, sizeof tok->describe - (size_t)n, "%s%s", i ? "+" : ", ",
                      pre[tok->pre[i].kind]);
}

kvrt_status kvi_load_finish(kvi_tokenizer *tok, kvrt_error *error)
{
    choose_byte_level(tok);
    kvi_model_exclude_markers(tok);
    KVI_TRY(kvi_added_prepare(tok, error));
    KVI_TRY(kvi_decode_prepare(tok, error));
    describe(tok);
    return KVRT_OK;
}

kvi_tokenizer *kvi_load_begin(const char *name, kvrt_error *error)
{
    kvi_tokenizer *tok = kvi_mem_zalloc(1, sizeof *tok);
    if (!tok) {
        (void)kvi_error_nomem(error, sizeof *tok, "tokenizer");
        return NULL;
    }
    kvi_arena_init(&tok->arena, 1u << 18);
    snprintf(tok->name, sizeof tok->name, "%s", name);
    tok->bos_id = tok->eos_id = tok->unk_id = -1;
    return tok;
}

static kvrt_status load_parts(kvi_tokenizer *tok, const char *json, size_t len, const char *config, size_t config_len,
                              kvrt_error *error)
{
    parts p = {0};
    kvi_json r;
    kvi_json_init(&r, json, len);
    KVI_TRY(find_parts(tok, &r, &p, error));
    KVI_TRY(kvi_load_added(tok, &p.added, error));
    if (p.normalizer.text) KVI_TRY(kvi_load_normalizer(tok, &p.normalizer, error));
    if (p.pre_tokenizer.text) KVI_TRY(kvi_load_pre_tokenizer(tok, &p.pre_tokenizer, error));
    if (p.post_processor.text) KVI_TRY(kvi_load_post_processor(tok, &p.post_processor, error));
    tok->dec_spaces = true;
    if (p.decoder.text) KVI_TRY(kvi_load_decoder(tok, &p.decoder, error));
    if (config) KVI_TRY(load_config(tok, config, config_len, error));
    return kvi_load_finish(tok, error);
}

static kvrt_status load_named(const char *json, size_t len, const char *config, size_t config_len, bool other_class,
                              const char *name, kvi_tokenizer **out, kvrt_error *error)
{
    *out = NULL;
    kvi_tokenizer *tok = kvi_load_begin(name ? name : "tokenizer.json", error);
    if (!tok) return KVRT_NOMEM_HOST;
    tok->other_class = other_class;
    kvrt_status status = load_parts(tok, json, len, config, config_len, error);
    if (status != KVRT_OK) {
        kvi_tokenizer_free(tok);
        return status;
    }
    *out = tok;
    return KVRT_OK;
}

/* Names what the folder holds instead. */
kvrt_status kvi_tokenizer_load_json(const char *json, size_t len, const char *config, size_t config_len,
                                    const char *name, kvi_tokenizer **out, kvrt_error *error)
{
    return load_named(json, len, config, config_len, false, name, out, error);
}

/* transformers gives the class LlamaTokenizer to models of type llama alone; for mistral, phi3 and others it reads
 * tokenizer.json as it is, whatever class the folder names. */
static bool is_other_type(const kvi_map *config)
{
    kvi_json r;
    bool other = false;
    kvi_json_init(&r, (const char *)config->data, (size_t)config->len);
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        bool type = kvi_json_key_is(&r, "model_type") && kvi_json_peek(&r) == KVI_JSON_STRING;
        if (!type) kvi_json_skip(&r);
        else if (kvi_json_string(&r)) other = !kvi_json_str_is(&r, "llama");
    }
    return other;
}

static kvrt_status no_tokenizer(const char *dir, kvrt_error *error)
{
    static const char *const others[] = {"tokenizer.model", "vocab.json", "tiktoken.model"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (kvi_folder_has(dir, others[i]))
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "%s: no tokenizer.json, found only %s: convert it with "
                                 "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers",
                                 dir, others[i]);
    return kvi_error_set(error, KVRT_IO, "%s: no tokenizer.json, need one (a Hugging Face folder)", dir);
}

static kvrt_status load_other(const char *dir, kvi_tokenizer **out, kvrt_error *error)
{
    kvi_map json = {0};
    bool found = false;
    KVI_TRY(kvi_folder_map(dir, "tekken.json", false, &json, &found, error));
    const kvrt_status status =
        found ? kvi_tokenizer_load_tekken((const char *)json.data, (size_t)json.len, "tekken.json", out, error)
              : no_tokenizer(dir, error);
    kvi_os_unmap(&json);
    return status;
}

kvrt_status kvi_tokenizer_load(const char *dir, kvi_tokenizer **out, kvrt_error *error)
{
    *out = NULL;
    kvi_map json = {0}, config = {0}, model = {0};
    bool found = false, has_config = false, has_model = false;
    kvrt_status status = kvi_folder_map(dir, "tokenizer.json", false, &json, &found, error);
    if (status == KVRT_OK && !found) return load_other(dir, out, error);
    if (status == KVRT_OK) status = kvi_folder_map(dir, "tokenizer_config.json", false, &config, &has_config, error);
    if (status == KVRT_OK) status = kvi_folder_map(dir, "config.json", false, &model, &has_model, error);
    if (status == KVRT_OK)
        status = load_named((const char *)json.data, (size_t)json.len, (const char *)config.data, (size_t)config.len,
                            has_model && is_other_type(&model), "tokenizer.json", out, error);
    kvi_os_unmap(&model);
    kvi_os_unmap(&json);
    kvi_os_unmap(&config);
    return status;
}

void kvi_tokenizer_free(kvi_tokenizer *tok)
{
    if (!tok) return;
    while (tok->regexes) {
        kvi_regex *next = *kvi_regex_next(tok->regexes);
        kvi_regex_free(tok->regexes);
        tok->regexes = next;
    }
    kvi_string_table_free(&tok->vocab);
    kvi_string_table_free(&tok->added_by_text);
    kvi_pair_table_free(&tok->bpe.merges);
    kvi_trie_free(&tok->unigram.trie);
    kvi_trie_free(&tok->raw_trie);
    kvi_trie_free(&tok->norm_trie);
    kvi_mem_free(tok->added);
    kvi_mem_free(tok->tokens);
    kvi_arena_free(&tok->arena);
    kvi_mem_free(tok);
}

/* ---------------------------------------------------------------------------------------------------- encoding --- */
static kvrt_status piece(kvi_encoder *e, size_t start, size_t end, int32_t id, const kvi_view *in)
{
    if (id >= 0) return kvi_ids_push(e->out, id) ? KVRT_OK : kvi_error_nomem(e->error, sizeof id, "token ids");
    return kvi_pretokenize(e, 0, in->text + start, end - start, in->at_start && start == 0);
}

/* A stretch of raw text between added tokens. */
static kvrt_status run(kvi_encoder *e, size_t start, size_t end, int32_t id, const kvi_view *in)
{
    if (id >= 0) return piece(e, start, end, id, in);
    kvi_view view = {.text = in->text + start,
                     .len = end - start,
                     .mark = in->mark ? in->mark + start : NULL,
                     .at_start = in->at_start && start == 0};
    KVI_TRY(kvi_normalize(e->tok->norm, e->tok->n_norm, &view, e->norm, &e->regex, &e->budget, e->error));
    return kvi_added_walk(e, &view, true, piece);
}

/* The whole input as one well-formed text with its provenance; *view points to the caller's bytes when they are fit as
 * they are. */
static kvrt_status gather(kvi_encoder *e, const kvi_segment *segments, size_t n, kvi_view *view)
{
    kvi_utf8_blocks blocks = {{0}, false};
    size_t total = 0;
    bool any_user = false, any_parsed = false;
    for (size_t i = 0; i < n; i++) {
        if (segments[i].len > TEXT_MAX || (total += segments[i].len) > TEXT_MAX)
            return kvi_error_set(e->error, KVRT_ARG, "text of more than %u bytes cannot be tokenized in one call",
                                 TEXT_MAX);
        if (segments[i].len == 0) continue;
        *(segments[i].parse_special ? &any_parsed : &any_user) = true;
        if (kvi_utf8_valid_prefix(segments[i].text, segments[i].len) < segments[i].len) blocks.invalid = true;
    }
    e->user = any_user && !any_parsed;
    e->budget = kvi_budget_for(total);
    *view = (kvi_view){.text = "", .at_start = true};
    if (total == 0) return KVRT_OK;
    if (n == 1 && !blocks.invalid) {
        view->text = segments[0].text;
        view->len = segments[0].len;
        return KVRT_OK;
    }
    for (size_t i = 0; blocks.invalid && i < n; i++) kvi_utf8_blocks_scan(&blocks, segments[i].text, segments[i].len);
    bool has_bytes = e->tok->bpe.byte_fallback;
    for (size_t i = 0; i < e->tok->n_pre; i++) has_bytes |= e->tok->pre[i].kind == KVI_PRE_BYTE_LEVEL;
    e->byte_base = blocks.invalid && has_bytes ? kvi_utf8_blocks_base(&blocks) : KVI_UTF8_NO_BASE;
    e->input.marked = any_user && any_parsed;
    for (size_t i = 0; i < n; i++) {
        kvi_utf8_sanitize(&e->input.text, segments[i].text, segments[i].len, e->byte_base);
        while (e->input.marked && !e->input.mark.failed && e->input.mark.len < e->input.text.len)
            kvi_buf_append_byte(&e->input.mark, segments[i].parse_special ? 0 : 1);
    }
    if (e->input.text.failed || e->input.mark.failed) return kvi_error_nomem(e->error, total, "text to tokenize");
    view->text = e->input.text.data;
    view->len = e->input.text.len;
    view->mark = e->input.marked ? e->input.mark.data : NULL;
    return KVRT_OK;
}

static kvrt_status push_all(kvi_encoder *e, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!kvi_ids_push(e->out, ids[i])) return kvi_error_nomem(e->error, sizeof *ids, "token ids");
    return KVRT_OK;
}

static kvrt_status encode(kvi_encoder *e, const kvi_segment *segments, size_t n, uint32_t flags)
{
    kvi_view view;
    KVI_TRY(gather(e, segments, n, &view));
    bool special = flags & KVRT_TOKENIZE_ADD_SPECIAL;
    if (special) KVI_TRY(push_all(e, e->tok->prefix, e->tok->n_prefix));
    KVI_TRY(kvi_added_walk(e, &view, false, run));
    return special ? push_all(e, e->tok->suffix, e->tok->n_suffix) : KVRT_OK;
}

kvrt_status kvi_tokenizer_encode_segments(const kvi_tokenizer *tok, const kvi_segment *segments, size_t n_segments,
                                          uint32_t flags, kvi_ids *out, kvrt_error *error)
{
    kvi_encoder e = {.tok = tok, .out = out, .error = error, .byte_base = KVI_UTF8_NO_BASE};
    size_t len_before = out->len;
    kvrt_status status = encode(&e, segments, n_segments, flags);
    if (status != KVRT_OK) out->len = len_before;
    for (size_t i = 0; i < KVI_PRE_MAX; i++) {
        kvi_mem_free(e.pre[i].items);
        kvi_buf_free(&e.pre[i].buf);
        kvi_buf_free(&e.pre[i].spelled);
    }
    kvi_norm_text *texts[] = {&e.norm[0], &e.norm[1], &e.input};
    for (size_t i = 0; i < 3; i++) {
        kvi_buf_free(&texts[i]->text);
        kvi_buf_free(&texts[i]->mark);
    }
    kvi_buf_free(&e.word);
    kvi_buf_free(&e.raw);
    kvi_regex_scratch_free(&e.regex);
    kvi_mem_free(e.symbols);
    kvi_mem_free(e.heap);
    kvi_mem_free(e.nodes);
    return status;
}

kvrt_status kvi_tokenizer_encode(const kvi_tokenizer *tok, const char *text, size_t len, uint32_t flags, kvi_ids *out,
                                 kvrt_error *error)
{
    kvi_segment all = {.text = text, .len = len, .parse_special = (flags & KVRT_TOKENIZE_PARSE_SPECIAL) != 0};
    return kvi_tokenizer_encode_segments(tok, &all, 1, flags, out, error);
}
