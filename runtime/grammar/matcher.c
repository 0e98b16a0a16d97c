/* matcher.c - the text: taking tokens, going back, what is forced; and keeping memory within bounds, by forgetting everything but the bytes and
 * reading
 * them again. Sets and places are made in matcher_sets.c. See matcher.h. */
#include "matcher.h"
#include "matcher_sets.h"

#include <string.h>

#define GRAMMAR_BYTES ((size_t)96 << 20) /* of the lexer's states and expressions, beyond which it forgets them */

kvrt_status kvi_matcher_failed(const kvi_matcher *m, kvrt_error *error)
{
    const char *why = m->why ? m->why : m->grammar->exprs.why;
    if (!why || !*why) return kvi_error_nomem(error, kvi_matcher_bytes(m), "a grammar's text");
    return kvi_error_set(error, KVRT_GRAMMAR, "grammar: %s, at byte %zu of the text", why, m->bytes.len);
}

static bool failed(const kvi_matcher *m) { return m->why || m->grammar->exprs.why; }

/* What went wrong in one call says nothing about the next: limits are of a call. */
static void begin_call(kvi_matcher *m)
{
    m->why = NULL;
    m->steps = m->grammar->call_steps;
    m->grammar->exprs.why = NULL;
    m->grammar->exprs.steps = m->grammar->call_steps;
}

/* Only the bytes are kept: sets and places begin anew, and the tokens are walked again. */
static kvrt_status read_again(kvi_matcher *m, kvrt_error *error)
{
    begin_call(m);
    m->steps = UINT64_MAX;
    m->epoch = m->grammar->epoch;
    kvi_spot at = kvi_matcher_restart(m);
    size_t pos = 0;
    for (size_t t = 0; t <= m->n_tokens && !failed(m); t++) {
        const size_t end = t < m->n_tokens ? m->tokens[t].n_bytes : m->bytes.len;
        for (; pos < end; pos++) at = kvi_matcher_step(m, at, m->grammar->classes[(uint8_t)m->bytes.data[pos]]);
        if (t < m->n_tokens) m->tokens[t].before = at;
    }
    if (failed(m)) {
        m->epoch = 0; /* numbers are good for nothing; the next call tries again */
        return kvi_matcher_failed(m, error);
    }
    m->at = at;
    return KVRT_OK;
}

kvrt_status kvi_matcher_prepare(kvi_matcher *m, kvrt_error *error)
{
    begin_call(m);
    if (kvi_grammar_used(m->grammar) > m->grammar->kept_bytes + GRAMMAR_BYTES) kvi_grammar_forget(m->grammar);
    if (m->epoch == m->grammar->epoch && kvi_matcher_bytes(m) <= m->max_bytes) return KVRT_OK;
    KVI_TRY(read_again(m, error));
    begin_call(m);
    /* What the text alone takes must leave room to look ahead. */
    if (kvi_matcher_used(m) <= m->max_bytes / 2) return KVRT_OK;
    m->why = "the text has become too long for this grammar";
    return kvi_matcher_failed(m, error);
}

kvrt_status kvi_matcher_init(kvi_matcher *m, kvi_grammar *grammar, kvrt_error *error)
{
    *m = (kvi_matcher){.grammar = grammar, .max_bytes = KVI_MATCHER_BYTES};
    return read_again(m, error);
}

kvrt_status kvi_matcher_copy(const kvi_matcher *m, kvi_matcher *copy, kvrt_error *error)
{
    *copy = (kvi_matcher){.grammar = m->grammar, .max_bytes = m->max_bytes};
    void *tokens = NULL;
    kvi_buf_append(&copy->bytes, m->bytes.data, m->bytes.len);
    const bool ok = kvi_mem_grow(&tokens, &copy->cap_tokens, m->n_tokens, sizeof *copy->tokens) && !copy->bytes.failed;
    copy->tokens = tokens;
    if (ok && m->n_tokens) memcpy(copy->tokens, m->tokens, m->n_tokens * sizeof *copy->tokens);
    copy->n_tokens = m->n_tokens;
    const kvrt_status status = ok ? read_again(copy, error) : kvi_error_nomem(error, m->bytes.len, "a grammar's text");
    if (status < KVRT_OK) kvi_matcher_free(copy);
    return status;
}

kvrt_status kvi_matcher_take(kvi_matcher *m, const char *bytes, size_t len, bool *fits, kvrt_error *error)
{
    *fits = false;
    KVI_TRY(kvi_matcher_prepare(m, error));
    kvi_spot at = m->at;
    for (size_t i = 0; i < len && at != KVI_SPOT_DEAD; i++)
        at = kvi_matcher_step(m, at, m->grammar->classes[(uint8_t)bytes[i]]);
    if (failed(m)) return kvi_matcher_failed(m, error);
    if (at == KVI_SPOT_DEAD) return KVRT_OK;
    void *tokens = m->tokens;
    if (!kvi_mem_grow(&tokens, &m->cap_tokens, m->n_tokens + 1, sizeof *m->tokens))
        return kvi_error_nomem(error, sizeof *m->tokens, "a grammar's text");
    m->tokens = tokens;
    const size_t before = m->bytes.len;
    kvi_buf_append(&m->bytes, bytes, len);
    if (m->bytes.failed) {
        m->bytes.failed = false;
        return kvi_error_nomem(error, len, "a grammar's text");
    }
    m->tokens[m->n_tokens++] = (struct kvi_token_at){m->at, before};
    m->at = at;
    *fits = true;
    return KVRT_OK;
}

kvrt_status kvi_matcher_back(kvi_matcher *m, size_t n, kvrt_error *error)
{
    if (n == 0) return KVRT_OK;
    if (n > m->n_tokens)
        return kvi_error_set(error, KVRT_ARG, "grammar: %zu tokens back, need at most %zu", n, m->n_tokens);
    m->n_tokens -= n;
    m->at = m->tokens[m->n_tokens].before;
    m->bytes.len = m->tokens[m->n_tokens].n_bytes;
    return kvi_matcher_prepare(m, error);
}

bool kvi_matcher_accepts(const kvi_matcher *m) { return m->at < m->n_places && m->places[m->at].accepts; }

/* The only byte that can come next; -1: there are several, -2: there is none. */
static int only_byte(kvi_matcher *m, kvi_spot at, kvi_spot *next)
{
    const kvi_grammar *g = m->grammar;
    int byte = -2;
    for (uint32_t c = 0; c < g->n_classes; c++) {
        const kvi_spot to = kvi_matcher_step(m, at, c);
        if (to == KVI_SPOT_DEAD) continue;
        if (byte != -2 || g->class_size[c] != 1) return -1;
        byte = g->first_of[c];
        *next = to;
    }
    return byte;
}

kvrt_status kvi_matcher_forced(kvi_matcher *m, char *bytes, size_t cap, size_t *n, bool *ends, kvrt_error *error)
{
    *n = 0;
    *ends = false;
    KVI_TRY(kvi_matcher_prepare(m, error));
    kvi_spot at = m->at, next = at;
    while (*n < cap) {
        const int byte = only_byte(m, at, &next);
        *ends = byte == -2;
        if (byte < 0 || m->places[at].accepts) break;
        bytes[(*n)++] = (char)byte;
        at = next;
    }
    return failed(m) ? kvi_matcher_failed(m, error) : KVRT_OK;
}
