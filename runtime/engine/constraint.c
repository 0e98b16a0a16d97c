/* constraint.c - see constraint.h. */
#include "constraint.h"
#include "session.h"
#include "../grammar/gbnf.h"
#include "../grammar/schema.h"

#include <math.h>
#include <string.h>

enum { KIND_SCHEMA, KIND_GBNF, KIND_REGEX, KINDS, KIND_TOOLS };
static const char *const keys[KINDS] = {"grammar.schema", "grammar.gbnf", "grammar.regex"};
#define BY_NAME "name:" /* in front of a tool in gen.tool_choice */

/* --------------------------------------------------------------------------------------------------------- grammars --- */
static void free_kept(kvi_kept_grammar *kept)
{
    kvi_grammar_free(kept->grammar);
    kvi_mem_free(kept->text);
    kvi_mem_free(kept);
}

void kvi_grammars_free(kvi_grammars *g)
{
    for (uint32_t i = 0; i < KVI_GRAMMARS; i++)
        if (g->kept[i]) free_kept(g->kept[i]);
    kvi_token_trie_free(g->trie);
    kvi_mem_free(g->mask);
    kvi_ids_free(&g->ids);
    *g = (kvi_grammars){0};
}

/* The text of a grammar of tools: choice, schema, tools, each with its NUL. */
static kvrt_status compile_tools(kvi_engine *e, const char *text, kvi_grammar **out, kvrt_error *error)
{
    const char *choice = text, *schema = choice + strlen(choice) + 1, *tools = schema + strlen(schema) + 1;
    const size_t by_name = sizeof BY_NAME - 1;
    const bool named = strncmp(choice, BY_NAME, by_name) == 0;
    kvi_call_rules rules = {.style = kvi_tool_calls_style(e), .required = named || strcmp(choice, "required") == 0};
    if (named) rules.only = choice + by_name, rules.only_len = strlen(choice + by_name);
    for (uint32_t i = 0; i < KVI_CALL_MARKS; i++) rules.single |= (uint32_t)(e->grammars.marks[i] >= 0) << i;
    kvi_arena arena;
    kvi_arena_init(&arena, 1u << 14);
    kvrt_status status = kvi_json_tree(tools, strlen(tools), "option gen.tools", &arena, &rules.tools, error);
    if (status >= KVRT_OK && *schema)
        status = kvi_json_tree(schema, strlen(schema), "grammar.schema", &arena, &rules.schema, error);
    if (status >= KVRT_OK) status = kvi_call_grammar(&rules, kvi_grammar_default_limits(), out, error);
    kvi_arena_free(&arena);
    return status;
}

static kvrt_status compile(kvi_engine *e, int32_t kind, const char *text, size_t len, kvi_grammar **out,
                           kvrt_error *error)
{
    const kvi_grammar_limits limits = kvi_grammar_default_limits();
    if (kind == KIND_TOOLS) return compile_tools(e, text, out, error);
    if (kind == KIND_SCHEMA) return kvi_schema_compile(text, len, limits, out, error);
    if (kind == KIND_GBNF) return kvi_gbnf_compile(text, len, limits, out, error);
    return kvi_regex_grammar(text, len, limits, out, error);
}

/* A place among the kept: a free one, or that of the one nobody has used for longest. NULL: all are in use, and the new one is freed with its last
 * user. */
static kvi_kept_grammar **find_place(kvi_grammars *g)
{
    kvi_kept_grammar **oldest = NULL;
    for (uint32_t i = 0; i < KVI_GRAMMARS; i++) {
        if (!g->kept[i]) return &g->kept[i];
        if (g->kept[i]->users == 0 && (!oldest || g->kept[i]->used < (*oldest)->used)) oldest = &g->kept[i];
    }
    if (oldest) free_kept(*oldest);
    return oldest;
}

static kvrt_status get_grammar(kvi_engine *e, int32_t kind, const char *text, size_t len, kvi_kept_grammar **out,
                               kvrt_error *error)
{
    kvi_grammars *g = &e->grammars;
    g->clock++;
    for (uint32_t i = 0; i < KVI_GRAMMARS; i++) {
        kvi_kept_grammar *k = g->kept[i];
        if (!k || k->kind != kind || k->len != len || memcmp(k->text, text, len) != 0) continue;
        k->used = g->clock;
        k->users++;
        *out = k;
        return KVRT_OK;
    }
    kvi_kept_grammar *k = kvi_mem_zalloc(1, sizeof *k);
    if (k) k->text = kvi_mem_strndup(text, len);
    if (!k || !k->text) {
        kvi_mem_free(k);
        return kvi_error_nomem(error, len, "grammar");
    }
    k->len = len, k->kind = kind, k->used = g->clock;
    const kvrt_status status = compile(e, kind, text, len, &k->grammar, error);
    kvi_kept_grammar **place = status >= KVRT_OK ? find_place(g) : NULL;
    if (status < KVRT_OK) {
        free_kept(k);
        return status;
    }
    if (place) *place = k;
    k->loose = !place;
    k->users = 1;
    *out = k;
    return KVRT_OK;
}

static kvrt_status need_trie(kvi_engine *e, kvrt_error *error)
{
    kvi_grammars *g = &e->grammars;
    if (!e->tokenizer) return kvi_error_set(error, KVRT_STATE, "grammar: a synthetic shape has no tokenizer");
    for (uint32_t i = 0; i < KVI_CALL_MARKS && !g->trie; i++)
        g->marks[i] = kvi_tokenizer_token_to_id(e->tokenizer, kvi_call_marks[i], strlen(kvi_call_marks[i]));
    if (!g->trie) KVI_TRY(kvi_token_trie_new(e->tokenizer, (int32_t)e->config.vocab_size, &g->trie, error));
    if (!g->mask) g->mask = kvi_mem_zalloc(g->trie->n_words + 1u, sizeof *g->mask);
    return g->mask ? KVRT_OK : kvi_error_nomem(error, g->trie->n_words * 4u, "mask of tokens");
}

static void release(kvi_kept_grammar *k)
{
    if (--k->users == 0 && k->loose) free_kept(k);
}

/* ------------------------------------------------------------------------------------------------------ constraints --- */
void kvi_constraint_free(kvi_constraint *c)
{
    if (c->of) {
        kvi_matcher_free(&c->matcher);
        release(c->of);
    }
    kvi_mem_free(c->free_mask);
    *c = (kvi_constraint){0};
}

/* The options' grammar; of tools, `tools_text` is filled (freed by the caller). *kind stays -1: none. */
static kvrt_status wanted(const kvrt_options *o, int32_t *kind, const char **text, size_t *len, kvi_buf *tools_text,
                          kvrt_error *error)
{
    const char *tools = kvi_options_string(o, "gen.tools"), *choice = kvi_options_string(o, "gen.tool_choice");
    const bool required = strcmp(choice, "required") == 0 || strncmp(choice, BY_NAME, sizeof BY_NAME - 1) == 0;
    *kind = -1;
    if (!required && strcmp(choice, "auto") != 0 && strcmp(choice, "free") != 0)
        return kvi_error_set(error, KVRT_ARG,
                             "option gen.tool_choice: need auto, free, required or " BY_NAME "TOOL, found '%.60s'",
                             choice);
    if (required && !*tools)
        return kvi_error_set(error, KVRT_ARG, "option gen.tool_choice: %.60s without gen.tools", choice);
    for (int32_t k = 0; k < KINDS; k++) {
        if (!*kvi_options_string(o, keys[k])) continue;
        if (*kind >= 0)
            return kvi_error_set(error, KVRT_ARG, "options %s and %s are both set, need one", keys[*kind], keys[k]);
        *kind = k;
    }
    if (required && *kind > KIND_SCHEMA)
        return kvi_error_set(error, KVRT_ARG, "options %s and gen.tool_choice %.60s exclude one another", keys[*kind],
                             choice);
    if (*kind >= 0) *text = kvi_options_string(o, keys[*kind]), *len = strlen(*text);
    if (!*tools || strcmp(choice, "free") == 0 || *kind > KIND_SCHEMA || strspn(tools, " \n\r\t[]") == strlen(tools))
        return KVRT_OK;
    kvi_buf_append(tools_text, choice, strlen(choice) + 1);
    if (*kind == KIND_SCHEMA) kvi_buf_append(tools_text, *text, *len);
    kvi_buf_append(tools_text, "", 1);
    kvi_buf_append(tools_text, tools, strlen(tools) + 1);
    if (tools_text->failed) return kvi_error_nomem(error, strlen(tools), "tools");
    *kind = KIND_TOOLS, *text = tools_text->data, *len = tools_text->len;
    return KVRT_OK;
}

kvrt_status kvi_constraint_make(kvi_session *s, const kvrt_options *o, kvi_constraint *out, kvrt_error *error)
{
    int32_t kind;
    const char *text = NULL;
    size_t len = 0;
    kvi_buf tools = {0};
    kvi_constraint *old = &s->gen.constraint;
    *out = (kvi_constraint){0};
    kvrt_status status = wanted(o, &kind, &text, &len, &tools, error);
    if (status >= KVRT_OK && kind >= 0) status = need_trie(s->engine, error);
    if (status >= KVRT_OK && kind >= 0) status = get_grammar(s->engine, kind, text, len, &out->of, error);
    if (status >= KVRT_OK && kind == KIND_TOOLS) out->of->required = strcmp(text, "auto") != 0;
    kvi_buf_free(&tools);
    if (status < KVRT_OK || kind < 0) return status;
    if (old->of == out->of && old->begun && !old->over && old->first + (int64_t)old->matcher.n_tokens == s->n_tokens) {
        release(out->of);
        *out = *old;
        *old = (kvi_constraint){0};
        return KVRT_OK;
    }
    status = kvi_matcher_init(&out->matcher, out->of->grammar, error);
    if (status < KVRT_OK) kvi_constraint_free(out);
    return status;
}

kvrt_status kvi_constraint_copy(const kvi_constraint *from, kvi_constraint *to, kvrt_error *error)
{
    if (!from->of) return KVRT_OK;
    *to = (kvi_constraint){
        .of = from->of, .first = from->first, .begun = from->begun, .over = from->over, .n_forced = from->n_forced};
    memcpy(to->forced, from->forced, sizeof to->forced);
    to->of->users++;
    const kvrt_status status = kvi_matcher_copy(&from->matcher, &to->matcher, error);
    if (status < KVRT_OK) kvi_constraint_free(to);
    return status;
}

void kvi_constraint_end(kvi_constraint *c)
{
    c->over = true;
    c->n_forced = 0;
}

void kvi_constraint_cut(kvi_constraint *c, uint32_t n)
{
    c->over = false;
    if (!c->of || !c->begun || n >= c->first + (int64_t)c->matcher.n_tokens) return;
    c->n_forced = 0;
    const size_t keep = n > c->first ? (size_t)(n - c->first) : 0;
    /* A text that cannot be followed any more (memory) begins anew. */
    if (keep == 0 || kvi_matcher_back(&c->matcher, c->matcher.n_tokens - keep, NULL) < KVRT_OK) c->begun = false;
}

/* ----------------------------------------------------------------------------------------------------------- tokens --- */
static bool has_tools(const kvi_constraint *c) { return c->of && c->of->kind == KIND_TOOLS; }

/* Reasoning and headers are free, but the text cannot end in them. A grammar of gpt-oss' calls reads both itself. */
static bool is_free(const kvi_session *s)
{
    if (has_tools(&s->gen.constraint) && s->engine->call_format == KVI_CALLS_HARMONY) return false;
    return s->gen.sections.reasoning || (s->gen.channels.on && s->gen.channel.header);
}

static void ban_eos(const kvi_session *s, float *logits)
{
    const kvi_model_config *c = &s->engine->config;
    for (uint32_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] >= 0 && (uint32_t)c->eos_ids[i] < c->vocab_size) logits[c->eos_ids[i]] = -INFINITY;
}

static void allow(const kvi_session *s, int32_t id)
{
    if (id >= 0 && (uint32_t)id < s->engine->config.vocab_size) s->engine->grammars.mask[id >> 5] |= 1u << (id & 31);
}

/* What a token without text is in a grammar of calls. */
static void spell_mark(const kvi_grammars *g, int32_t id, char bytes[2])
{
    bytes[0] = (char)KVI_CALL_MARK, bytes[1] = (char)KVI_CALL_OTHER;
    for (uint32_t i = 0; i < KVI_CALL_MARKS; i++)
        if (g->marks[i] == id) bytes[1] = (char)(i + 1);
}

static bool fits(kvi_matcher *m, uint8_t mark)
{
    const kvi_grammar *g = m->grammar;
    const kvi_spot at = kvi_matcher_step(m, m->at, g->classes[KVI_CALL_MARK]);
    return at != KVI_SPOT_DEAD && kvi_matcher_step(m, at, g->classes[mark]) != KVI_SPOT_DEAD;
}

/* Of a text with calls: text by the trie, marks by number, and where text is free all tokens without text. */
static kvrt_status tools_mask(kvi_session *s, kvrt_error *error)
{
    kvi_constraint *c = &s->gen.constraint;
    kvi_grammars *g = &s->engine->grammars;
    kvi_matcher *m = &c->matcher;
    bool any;
    KVI_TRY(kvi_matcher_prepare(m, error));
    const size_t bytes = g->trie->n_words * sizeof *g->mask;
    if (c->free_mask && c->free_at == m->at && c->free_epoch == m->epoch) {
        memcpy(g->mask, c->free_mask, bytes);
        return KVRT_OK;
    }
    KVI_TRY(kvi_token_mask(g->trie, m, g->mask, &any, error));
    const bool free = fits(m, KVI_CALL_OTHER);
    for (int32_t id = 0; id < g->trie->n_vocab; id++) {
        const char *text;
        size_t len;
        if (g->mask[id >> 5] >> (id & 31) & 1) {
            /* The byte of a mark is no text of a token. */
            if (free && kvi_token_trie_text(s->engine->tokenizer, id, &text, &len) &&
                memchr(text, (int)KVI_CALL_MARK, len))
                g->mask[id >> 5] &= ~(1u << (id & 31));
        } else if (free && !kvi_token_trie_text(s->engine->tokenizer, id, &text, &len)) allow(s, id);
    }
    for (uint32_t i = 0; i < KVI_CALL_MARKS; i++) {
        if (g->marks[i] < 0) continue;
        g->mask[g->marks[i] >> 5] &= ~(1u << (g->marks[i] & 31));
        if (fits(m, (uint8_t)(i + 1))) allow(s, g->marks[i]);
    }
    if (!free) return (m->why ? kvi_matcher_failed(m, error) : KVRT_OK);
    if (!c->free_mask) c->free_mask = kvi_mem_zalloc(g->trie->n_words + 1u, sizeof *c->free_mask);
    if (!c->free_mask) return kvi_error_nomem(error, bytes, "mask of tokens");
    memcpy(c->free_mask, g->mask, bytes);
    c->free_at = m->at, c->free_epoch = m->epoch;
    return (m->why ? kvi_matcher_failed(m, error) : KVRT_OK);
}

kvrt_status kvi_constraint_mask(kvi_session *s, float *logits, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    kvi_constraint *c = &gen->constraint;
    const kvi_model_config *config = &s->engine->config;
    const uint32_t *mask = s->engine->grammars.mask;
    bool any;
    if (is_free(s)) {
        if (!has_tools(c) || c->of->required) ban_eos(s, logits);
        return KVRT_OK;
    }
    if (has_tools(c)) KVI_TRY(tools_mask(s, error));
    else KVI_TRY(kvi_token_mask(s->engine->grammars.trie, &c->matcher, s->engine->grammars.mask, &any, error));
    if (!gen->ignore_eos && kvi_matcher_accepts(&c->matcher))
        for (uint32_t i = 0; i < config->n_eos; i++) allow(s, config->eos_ids[i]);
    if (!c->begun && gen->channels.on) { /* headers come first */
        allow(s, gen->channels.start);
        allow(s, gen->channels.channel);
    }
    if (!c->begun && gen->sections.marks.open) allow(s, gen->sections.marks.open_id);
    bool left = false;
    for (uint32_t id = 0; id < config->vocab_size; id++) {
        if (mask[id >> 5] >> (id & 31) & 1) left = left || logits[id] > -INFINITY || logits[id] != logits[id];
        else logits[id] = -INFINITY;
    }
    if (left) return KVRT_OK;
    return kvi_error_set(error, KVRT_GRAMMAR_DEAD_END,
                         "grammar: no token of the vocabulary continues the text after %zu bytes",
                         c->matcher.bytes.len);
}

bool kvi_constraint_is_dead_end(const float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(logits[i] == -INFINITY)) return false;
    return true;
}

kvrt_status kvi_constraint_take(kvi_session *s, int32_t id, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    kvi_constraint *c = &gen->constraint;
    const char *bytes = "";
    char spelled[2];
    size_t len = 0;
    bool fit;
    if (kvi_is_eos(s->engine, id) && !gen->ignore_eos) {
        c->over = true;
        return KVRT_OK;
    }
    /* What is no text of the grammar counts as an empty token of it, once it has begun. */
    const bool outside = is_free(s);
    const bool is_text = !outside && kvi_token_trie_text(s->engine->tokenizer, id, &bytes, &len);
    if (!is_text) bytes = "", len = 0;
    if (!is_text && !outside && has_tools(c)) {
        spell_mark(&s->engine->grammars, id, spelled);
        /* A mark of reasoning comes before its section is open. */
        const bool marks = gen->sections.marks.open && id == gen->sections.marks.open_id;
        if (!marks) bytes = spelled, len = sizeof spelled;
    }
    if (!len && !c->begun) return KVRT_OK;
    KVI_TRY(kvi_matcher_take(&c->matcher, bytes, len, &fit, error));
    if (!fit)
        return kvi_error_set(error, KVRT_GRAMMAR_DEAD_END,
                             "grammar: token %d does not continue the text after %zu bytes", id, c->matcher.bytes.len);
    if (!c->begun) c->first = (int64_t)s->n_tokens - 1;
    c->begun = true;
    return KVRT_OK;
}

bool kvi_constraint_is_complete(kvi_session *s)
{
    kvi_constraint *c = &s->gen.constraint;
    size_t n;
    bool ends;
    char none[1];
    if (!c->of || is_free(s) || !c->begun || !kvi_matcher_accepts(&c->matcher)) return false;
    const bool complete = kvi_matcher_forced(&c->matcher, none, sizeof none, &n, &ends, NULL) >= KVRT_OK && ends;
    if (complete) c->over = true;
    return complete;
}

/* What comes next whatever is sampled, first one first, at most KVI_FORWARD_TOKENS; *n = 0: there is a choice. */
static kvrt_status find_forced(kvi_session *s, int32_t *out, uint32_t *n, kvrt_error *error)
{
    kvi_constraint *c = &s->gen.constraint;
    kvi_grammars *g = &s->engine->grammars;
    kvi_ids *ids = &g->ids;
    char bytes[192];
    size_t n_bytes, n_ids = 0, used = 0;
    bool ends;
    *n = 0;
    KVI_TRY(kvi_matcher_forced(&c->matcher, bytes, sizeof bytes, &n_bytes, &ends, error));
    if (n_bytes < 2) return KVRT_OK;
    /* A mark is a token of its own, and where one follows text ends as surely as where nothing does. */
    char *mark = has_tools(c) ? memchr(bytes, (int)KVI_CALL_MARK, n_bytes) : NULL;
    if (mark == bytes) {
        const uint8_t m = (uint8_t)bytes[1];
        if (m > 0 && m <= KVI_CALL_MARKS) out[(*n)++] = g->marks[m - 1];
        return KVRT_OK;
    }
    if (mark) n_bytes = (size_t)(mark - bytes), ends = true;
    ids->len = 0;
    KVI_TRY(kvi_tokenizer_encode(s->engine->tokenizer, bytes, n_bytes, 0, ids, error));
    /* The last token might be a longer one once more is known, unless nothing more can come; what does not spell the bytes themselves (a prefix
     * of the
     * text, an unknown token) ends the list. */
    const size_t most = ids->len - (ids->len > 0 && !ends);
    for (; n_ids < most && n_ids < KVI_FORWARD_TOKENS; n_ids++) {
        const char *text;
        size_t len;
        if (!kvi_token_trie_text(s->engine->tokenizer, ids->data[n_ids], &text, &len)) break;
        if (len > n_bytes - used || memcmp(text, bytes + used, len) != 0) break;
        used += len;
        out[n_ids] = ids->data[n_ids];
    }
    *n = (uint32_t)n_ids;
    return KVRT_OK;
}

kvrt_status kvi_constraint_forward(kvi_session *s, kvrt_error *error)
{
    kvi_constraint *c = &s->gen.constraint;
    int32_t next[KVI_FORWARD_TOKENS];
    c->n_forced = 0;
    if (!c->of || is_free(s) || !c->begun || c->over) return KVRT_OK;
    KVI_TRY(find_forced(s, next, &c->n_forced, error));
    for (uint32_t i = 0; i < c->n_forced; i++) c->forced[i] = next[c->n_forced - 1 - i];
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- guesses --- */
/* Tokens are taken as the text's own would be, and given back in the end. Where text is free, and behind a token without text, the
 * grammar has nothing to say. */
static bool follow(kvi_session *s, int32_t id)
{
    kvi_constraint *c = &s->gen.constraint;
    const char *bytes;
    size_t len;
    bool fits = false;
    if (!kvi_token_trie_text(s->engine->tokenizer, id, &bytes, &len) ||
        kvi_matcher_take(&c->matcher, bytes, len, &fits, NULL) < KVRT_OK || !fits)
        return false;
    c->n_guessed++;
    return true;
}

uint32_t kvi_constraint_guess(kvi_session *s, int32_t id, int32_t *out, uint32_t most)
{
    int32_t forced[KVI_FORWARD_TOKENS];
    uint32_t n = 1, n_forced = 0;
    out[0] = id;
    if (!s->gen.constraint.of || is_free(s)) return 1;
    if (!follow(s, id)) return 0;
    if (find_forced(s, forced, &n_forced, NULL) < KVRT_OK) return 1;
    while (n < most && n - 1 < n_forced && follow(s, forced[n - 1])) {
        out[n] = forced[n - 1];
        n++;
    }
    return n;
}

void kvi_constraint_unguess(kvi_session *s)
{
    kvi_constraint *c = &s->gen.constraint;
    /* What cannot go back (memory) says so when the next token is masked. */
    if (c->n_guessed) (void)kvi_matcher_back(&c->matcher, c->n_guessed, NULL);
    c->n_guessed = 0;
}
