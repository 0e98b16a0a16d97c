/* tokenizer_vocabulary.c - a tokenizer from a bare vocabulary, as GGUF files carry it. Owns: what the names of pre-tokenizers mean, merges by
 * score, defaults. Refuses, by name: models other than gpt2, llama and gemma4, pre-tokenizers it does not know.
 * To know: where llama.cpp approximates the original regex of a tokenizer.json, the original is used here. Control and user-defined tokens are
 * found in text before anything else, and are never the result of merges. */
#include "tokenizer_impl.h"
#include "../base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

typedef struct builder {
    kvi_tokenizer *tok;
    const kvi_vocabulary *v;
    kvrt_error *error;
} builder;

static kvrt_status no_memory(const builder *b) { return kvi_error_nomem(b->error, 0, "tokenizer"); }

static uint32_t word_at(const uint8_t *words, uint64_t i)
{
    const uint8_t *p = words + 4 * i;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

kvi_bytes kvi_texts_next(const uint8_t **at)
{
    uint64_t len = 0;
    for (uint32_t i = 0; i < 8; i++) len |= (uint64_t)(*at)[i] << (8 * i);
    const kvi_bytes text = {.data = (const char *)*at + 8, .len = (size_t)len};
    *at += 8 + len;
    return text;
}

/* ------------------------------------------------------------------------------------------------- vocabulary --- */
static uint32_t type_of(const builder *b, uint64_t id) { return b->v->types ? word_at(b->v->types, id) : TYPE_NORMAL; }

static bool is_found_in_text(uint32_t type)
{
    return type == TYPE_CONTROL || type == TYPE_USER_DEFINED || type == TYPE_UNKNOWN;
}

/* One of text that outlives the file: `text` points into a block of all spellings. */
static kvrt_status add_token(const builder *b, uint64_t id, kvi_bytes text)
{
    kvi_tokenizer *tok = b->tok;
    const uint32_t type = type_of(b, id);
    if (text.len > 65535)
        return kvi_error_set(b->error, KVRT_FORMAT, "%s: token %llu of %zu bytes, need at most 65535", tok->name,
                             (unsigned long long)id, text.len);
    KVI_TRY(kvi_load_reserve(tok, (int64_t)id, (size_t)b->v->tokens.n, b->error));
    tok->tokens[id] = (kvi_token){.text = text.data, .text_len = (uint32_t)text.len, .flags = KVI_TOKEN_USED};
    if (text.len > tok->max_token_bytes) tok->max_token_bytes = text.len;
    if (text.len && type != TYPE_CONTROL && type != TYPE_UNKNOWN &&
        !kvi_string_table_put(&tok->vocab, text.data, text.len, (int32_t)id))
        return no_memory(b);
    if (!is_found_in_text(type)) return KVRT_OK;
    /* It would cut characters of a text apart. */
    if (kvi_utf8_valid_prefix(text.data, text.len) < text.len)
        return kvi_error_set(b->error, KVRT_FORMAT,
                             "%s: tokenizer.ggml.tokens: token %llu is not UTF-8, need it for a %s", tok->name,
                             (unsigned long long)id, type == TYPE_USER_DEFINED ? "user-defined one" : "control token");
    kvi_added added = {.content = text, .special = type != TYPE_USER_DEFINED};
    return kvi_load_added_token(tok, &added, (int64_t)id, b->error);
}

static kvrt_status read_tokens(const builder *b)
{
    const kvi_texts *texts = &b->v->tokens;
    size_t bytes = 0;
    const uint8_t *at = texts->at;
    if (texts->n == 0 || texts->n > INT32_MAX / 2)
        return kvi_error_set(b->error, KVRT_FORMAT, "%s: tokenizer.ggml.tokens: %llu tokens, need 1 to %d",
                             b->tok->name, (unsigned long long)texts->n, INT32_MAX / 2);
    for (uint64_t i = 0; i < texts->n; i++) bytes += kvi_texts_next(&at).len;
    char *block = kvi_arena_alloc(&b->tok->arena, bytes + 1);
    if (!block || !kvi_string_table_init(&b->tok->vocab, (size_t)texts->n) ||
        !kvi_string_table_init(&b->tok->added_by_text, 64))
        return no_memory(b);
    at = texts->at;
    for (uint64_t i = 0; i < texts->n; i++) {
        const kvi_bytes text = kvi_texts_next(&at);
        memcpy(block, text.data, text.len);
        KVI_TRY(add_token(b, i, (kvi_bytes){block, text.len}));
        block += text.len;
    }
    return KVRT_OK;
}

static kvrt_status read_id(const builder *b, const char *what, int64_t given, int32_t otherwise, int32_t *out)
{
    const int64_t id = given < 0 ? otherwise : given;
    if (id < b->tok->n_ids) return *out = (int32_t)id, KVRT_OK;
    if (given < 0) return *out = -1, KVRT_OK;
    return kvi_error_set(b->error, KVRT_FORMAT, "%s: tokenizer.ggml.%s_token_id: is %lld, need less than %d (tokens)",
                         b->tok->name, what, (long long)given, (int)b->tok->n_ids);
}

/* Ids of the ends, and which of them are put around a text. `assumed`: where the file says nothing, the ids and the BOS of old llama files. */
static kvrt_status read_ends(const builder *b, bool assumed, bool add_bos)
{
    kvi_tokenizer *tok = b->tok;
    KVI_TRY(read_id(b, "bos", b->v->bos_id, assumed ? 1 : -1, &tok->bos_id));
    KVI_TRY(read_id(b, "eos", b->v->eos_id, assumed ? 2 : -1, &tok->eos_id));
    KVI_TRY(read_id(b, "unknown", b->v->unk_id, assumed ? 0 : -1, &tok->unk_id));
    tok->prefix = kvi_arena_alloc(&tok->arena, sizeof *tok->prefix);
    tok->suffix = kvi_arena_alloc(&tok->arena, sizeof *tok->suffix);
    if (!tok->prefix || !tok->suffix) return no_memory(b);
    if (b->v->add_bos >= 0) add_bos = b->v->add_bos > 0;
    if (add_bos && tok->bos_id >= 0) tok->prefix[tok->n_prefix++] = tok->bos_id;
    if (b->v->add_eos > 0 && tok->eos_id >= 0) tok->suffix[tok->n_suffix++] = tok->eos_id;
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------- byte-level BPE --- */
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define AFTER_WORDS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" AFTER_WORDS
#define QWEN2 CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" AFTER_WORDS
#define QWEN35                                                                                                         \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "                                                      \
                "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LOWER_WORD "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
#define UPPER_WORD "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
#define AFTER_CASED "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN LOWER_WORD "|" UPPER_WORD "|\\p{N}" AFTER_CASED
#define GPT4O LOWER_WORD CONTRACTION "?|" UPPER_WORD CONTRACTION "?|\\p{N}{1,3}" AFTER_CASED
/* Letters as the Unicode of DeepSeek's first models knew them. */
#define DEEPSEEK_LETTERS                                                                                               \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"                    \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}"             \
    "\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"                    \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"                  \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                  \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"          \
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}"         \
    "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                   \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}"                    \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"                    \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"                   \
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"                  \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"                \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"                             \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "              \
    "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define MOST_REGEXES 6

/* A text is split by one regex after the other, matches and what is between them apart. */
typedef struct pre_rule {
    const char *names; /* separated by spaces, with one at each end */
    bool ignore_merges, add_bos, nfc;
    const char *regexes[MOST_REGEXES];
} pre_rule;
static const pre_rule pre_rules[] = {
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", .ignore_merges = true, .add_bos = true,
     .regexes = {LLAMA3}},
    {" dbrx smaug-bpe glm4 glm5 chatglm-bpe ", .regexes = {LLAMA3}},
    {" qwen2 ", .nfc = true, .regexes = {QWEN2}},
    {" qwen35 ", .nfc = true, .regexes = {QWEN35}},
    {" deepseek-r1-qwen megrez stablelm2 hunyuan kormo grok-2 f2llmv2 ", .regexes = {QWEN2}},
    {" gpt-2 phi-2 mpt olmo jais trillion exaone4 a.x-4.0 mellum gigachat granite-docling ",
     .regexes = {KVI_GPT2_REGEX}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b ", .regexes = {"\\p{N}", KVI_GPT2_REGEX}},
    {" tekken ", .ignore_merges = true, .add_bos = true, .regexes = {TEKKEN}},
    {" gpt-4o llama4 kanana2 talkie ", .regexes = {GPT4O}},
    {" deepseek-v3 hunyuan-dense ",
     .regexes = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", DEEPSEEK3}},
    {" deepseek-llm ",
     .regexes = {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
                 "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+", "\\s+$",
                 CJK, "\\p{N}"}},
    {" deepseek-coder ", .regexes = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}},
    {" falcon ", .regexes = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", KVI_GPT2_REGEX, "[0-9][0-9][0-9]"}},
    {" default ", .regexes = {"[\\p{P}\\$\\+<=>\\^~\\|]+", KVI_GPT2_REGEX, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const pre_rule *find_rule(const char *name)
{
    const size_t len = strlen(name);
    for (size_t i = 0; i < sizeof pre_rules / sizeof pre_rules[0]; i++)
        for (const char *at = strstr(pre_rules[i].names, name); len && at; at = strstr(at + 1, name))
            if (at[-1] == ' ' && at[len] == ' ') return &pre_rules[i];
    return NULL;
}

static kvrt_status set_pre_tokenizer(const builder *b, const pre_rule *rule)
{
    kvi_tokenizer *tok = b->tok;
    if (rule->nfc) tok->norm[tok->n_norm++] = (kvi_norm_op){.kind = KVI_NORM_NFC};
    for (; tok->n_pre < MOST_REGEXES && rule->regexes[tok->n_pre]; tok->n_pre++) {
        const char *regex = rule->regexes[tok->n_pre];
        kvi_pre_op *op = &tok->pre[tok->n_pre];
        *op = (kvi_pre_op){.kind = KVI_PRE_SPLIT, .behavior = KVI_SPLIT_ISOLATED};
        KVI_TRY(kvi_load_regex(tok, regex, strlen(regex), &op->regex, b->error));
    }
    tok->pre[tok->n_pre++] = (kvi_pre_op){.kind = KVI_PRE_BYTE_LEVEL};
    return KVRT_OK;
}

static kvrt_status build_byte_level(const builder *b)
{
    kvi_tokenizer *tok = b->tok;
    const char *pre = b->v->pre ? b->v->pre : "default";
    const pre_rule *rule = find_rule(pre);
    if (!rule)
        return kvi_error_set(
            b->error, KVRT_UNSUPPORTED,
            "%s: tokenizer.ggml.pre: is '%.40s', need one of default, gpt-2, llama-bpe, qwen2, qwen35, "
            "glm4, smollm, tekken, gpt-4o, deepseek-llm, deepseek-v3 and their kin",
            tok->name, pre);
    if (!b->v->merges.at)
        return kvi_error_set(b->error, KVRT_FORMAT, "%s: tokenizer.ggml.merges: not found, need it for gpt2",
                             tok->name);
    tok->model = KVI_MODEL_BPE;
    tok->bpe.ignore_merges = rule->ignore_merges;
    KVI_TRY(read_ends(b, false, rule->add_bos));
    tok->bpe.unk_id = -1; /* every byte has a token */
    kvi_load_byte_ids(tok, tok->bpe.byte_ids);
    KVI_TRY(kvi_load_merge_list(tok, &b->v->merges, b->error));
    KVI_TRY(set_pre_tokenizer(b, rule));
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_BYTE_LEVEL};
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------- BPE by scores --- */
typedef struct ranked {
    float score;
    int32_t id;
} ranked;

/* Higher scores merge first. */
static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Calls for every way to make the token of two others; returns their number. With `table` NULL it only counts. */
static size_t split_token(const kvi_tokenizer *tok, int32_t id, uint32_t rank, kvi_pair_table *table)
{
    const kvi_token *token = &tok->tokens[id];
    size_t n = 0;
    for (size_t cut = 1; cut < token->text_len; cut++) {
        if (((unsigned char)token->text[cut] & 0xc0) == 0x80) continue; /* inside a character */
        const int32_t left = kvi_string_table_get(&tok->vocab, token->text, cut);
        const int32_t right =
            left < 0 ? -1 : kvi_string_table_get(&tok->vocab, token->text + cut, token->text_len - cut);
        if (right < 0) continue;
        if (table) kvi_pair_table_put(table, left, right, rank, id);
        n++;
    }
    return n;
}

static kvrt_status merge_by_score(const builder *b, ranked *list, size_t n)
{
    kvi_bpe *bpe = &b->tok->bpe;
    size_t n_pairs = 0;
    qsort(list, n, sizeof *list, by_score);
    for (size_t i = 0; i < n; i++) n_pairs += split_token(b->tok, list[i].id, 0, NULL);
    bpe->rank_ids = kvi_arena_alloc(&b->tok->arena, n * sizeof *bpe->rank_ids + 1);
    if (!bpe->rank_ids || !kvi_pair_table_init(&bpe->merges, n_pairs)) return no_memory(b);
    /* Tokens of one score have one rank, so that of their merges the leftmost comes first (runs of spaces in Llama's vocabulary). */
    for (size_t i = 0, rank = 0; i < n; i++) {
        if (list[i].score != list[rank].score) rank = i;
        bpe->rank_ids[i] = list[i].id;
        (void)split_token(b->tok, list[i].id, (uint32_t)rank, &bpe->merges);
    }
    bpe->n_merges = n_pairs;
    return KVRT_OK;
}

static kvrt_status read_scores(const builder *b)
{
    const uint64_t n_tokens = b->v->tokens.n;
    size_t n = 0;
    ranked *list = kvi_mem_zalloc((size_t)n_tokens, sizeof *list);
    if (!list) return no_memory(b);
    for (uint64_t i = 0; i < n_tokens; i++) {
        const uint32_t bits = word_at(b->v->scores, i);
        float score;
        memcpy(&score, &bits, sizeof score);
        if (type_of(b, i) != TYPE_NORMAL || !(score == score)) continue;
        list[n++] = (ranked){.score = score, .id = (int32_t)i};
    }
    kvrt_status status = merge_by_score(b, list, n);
    kvi_mem_free(list);
    return status;
}

/* As SentencePiece: a space before the text (and after each control token), spaces as U+2581, unknown characters as their bytes. */
static kvrt_status build_scored(const builder *b)
{
    static const kvi_bytes mark = {"\xe2\x96\x81", 3}, space = {" ", 1};
    kvi_tokenizer *tok = b->tok;
    if (!b->v->scores)
        return kvi_error_set(b->error, KVRT_FORMAT, "%s: tokenizer.ggml.scores: not found, need it for llama",
                             tok->name);
    tok->model = KVI_MODEL_BPE;
    KVI_TRY(read_ends(b, true, true));
    tok->bpe.unk_id = tok->unk_id;
    tok->bpe.byte_fallback = tok->bpe.fuse_unk = true;
    kvi_load_byte_ids(tok, tok->bpe.byte_ids);
    KVI_TRY(read_scores(b));
    if (b->v->space_prefix != 0) {
        tok->norm[tok->n_norm++] = (kvi_norm_op){.kind = KVI_NORM_PREPEND, .content = mark};
        tok->strip_first = space;
        tok->strip_first_max = 1;
    }
    tok->norm[tok->n_norm++] = (kvi_norm_op){.kind = KVI_NORM_REPLACE, .pattern = space, .content = mark};
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_REPLACE, .pattern = mark, .content = space};
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_BYTE_FALLBACK};
    return KVRT_OK;
}

/* Gemma 4: the construction of its tokenizer.json, with the merges of the file in their order. */
static kvrt_status build_gemma4(const builder *b)
{
    static const kvi_bytes mark = {"\xe2\x96\x81", 3}, space = {" ", 1};
    kvi_tokenizer *tok = b->tok;
    if (!b->v->merges.at)
        return kvi_error_set(b->error, KVRT_FORMAT, "%s: tokenizer.ggml.merges: not found, need it for gemma4",
                             tok->name);
    tok->model = KVI_MODEL_BPE;
    KVI_TRY(read_ends(b, false, true));
    tok->bpe.unk_id = tok->unk_id;
    tok->bpe.byte_fallback = tok->bpe.fuse_unk = true;
    kvi_load_byte_ids(tok, tok->bpe.byte_ids);
    KVI_TRY(kvi_load_merge_list(tok, &b->v->merges, b->error));
    tok->norm[tok->n_norm++] = (kvi_norm_op){.kind = KVI_NORM_REPLACE, .pattern = space, .content = mark};
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_REPLACE, .pattern = mark, .content = space};
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_BYTE_FALLBACK};
    return KVRT_OK;
}

/* tekken.json: pieces that are tokens stay whole, others are merged by the place of what comes out. */
static kvrt_status build_tekken(const builder *b)
{
    kvi_tokenizer *tok = b->tok;
    const pre_rule rule = {.regexes = {b->v->pre}};
    tok->model = KVI_MODEL_BPE;
    tok->bpe.ignore_merges = true;
    KVI_TRY(read_ends(b, false, true));
    tok->bpe.unk_id = -1;
    kvi_load_byte_ids(tok, tok->bpe.byte_ids);
    KVI_TRY(read_scores(b));
    KVI_TRY(set_pre_tokenizer(b, &rule));
    tok->dec[tok->n_dec++] = (kvi_dec_op){.kind = KVI_DEC_BYTE_LEVEL};
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
static kvrt_status build(const builder *b)
{
    static const struct {
        const char *model;
        kvrt_status (*build)(const builder *b);
    } models[] = {
        {"gpt2", build_byte_level}, {"llama", build_scored}, {"gemma4", build_gemma4}, {"tekken", build_tekken}};
    size_t i = 0;
    while (i < sizeof models / sizeof models[0] && strcmp(models[i].model, b->v->model) != 0) i++;
    if (i == sizeof models / sizeof models[0])
        return kvi_error_set(b->error, KVRT_UNSUPPORTED,
                             "%s: tokenizer.ggml.model: is '%.40s', need gpt2, llama or gemma4", b->tok->name,
                             b->v->model);
    KVI_TRY(read_tokens(b));
    KVI_TRY(models[i].build(b));
    return kvi_load_finish(b->tok, b->error);
}

kvrt_status kvi_tokenizer_from_vocabulary(const kvi_vocabulary *vocabulary, const char *name, kvi_tokenizer **out,
                                          kvrt_error *error)
{
    *out = NULL;
    kvi_tokenizer *tok = kvi_load_begin(name, error);
    if (!tok) return KVRT_NOMEM_HOST;
    const builder b = {.tok = tok, .v = vocabulary, .error = error};
    const kvrt_status status = build(&b);
    if (status < KVRT_OK) kvi_tokenizer_free(tok);
    else *out = tok;
    return status;
}
