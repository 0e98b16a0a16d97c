/* regex_match.c - compiling as a whole, and running. To know: the matcher keeps its choices in a list of its own instead
 * of the call stack, so that no text can overflow a thread's stack, and pays for every instruction from the budget. */
#include "regex_impl.h"
#include "../base/utf8.h"

#include <string.h>

#define PATTERN_MAX 16384u

/* What to do when the present way fails. */
typedef enum choice_kind {
    GO,        /* go on at instruction pc, position a */
    GIVE_BACK, /* a greedy loop of one-class characters: leave at b, as long as b > a */
    TAKE_MORE, /* a lazy loop: take one more at a, after b so far */
    RESTORE    /* register pc had the value a */
} choice_kind;
typedef struct kvi_choice {
    uint32_t kind_pc; /* kind in the two highest bits */
    uint32_t a, b;
} choice;

typedef struct matcher {
    const kvi_regex *regex;
    kvi_regex_scratch *scratch;
    kvi_budget *budget;
    const char *text;
    uint32_t len, from;
    size_t n; /* choices */
    uint32_t registers[KVI_REGEX_REGISTERS];
    bool no_memory;
} matcher;

/* ---------------------------------------------------------------------------------------------------- compiling --- */
static void add_start(kvi_regex *regex, const kvi_class *c)
{
    for (size_t i = 0; i < c->n; i++) {
        char low[4], high[4];
        kvi_utf8_encode(low, c->items[i].first);
        kvi_utf8_encode(high, c->items[i].last);
        for (unsigned b = (unsigned char)low[0]; b <= (unsigned char)high[0]; b++)
            regex->can_start[b] = b < 0x80 || b >= 0xc0;
    }
}

/* Walks all ways from the start to the first thing that takes a character. False: a match may begin with anything. */
static bool find_starts(kvi_regex *regex, uint8_t *seen, uint32_t *todo)
{
    size_t n = 0;
    todo[n++] = 0;
    while (n > 0) {
        uint32_t pc = todo[--n];
        if (seen[pc]) continue;
        seen[pc] = 1;
        const kvi_inst *i = &regex->code[pc];
        switch (i->op) {
        case KVI_OP_CLASS: add_start(regex, &regex->classes[i->x]); break;
        case KVI_OP_BYTES: regex->can_start[(unsigned char)regex->pool.data[i->x]] = true; break;
        case KVI_OP_LOOP:
        case KVI_OP_LOOP_LAZY:
        case KVI_OP_LOOP_KEEP:
            add_start(regex, &regex->classes[i->x]);
            if (i->y == 0) todo[n++] = pc + 1;
            break;
        case KVI_OP_JUMP: todo[n++] = pc + (uint32_t)i->x; break;
        case KVI_OP_SPLIT:
            todo[n++] = pc + (uint32_t)i->x;
            todo[n++] = pc + (uint32_t)i->y;
            break;
        case KVI_OP_LEAVE:
            todo[n++] = pc + 1;
            todo[n++] = pc + (uint32_t)i->y;
            break;
        case KVI_OP_FAIL: break;
        case KVI_OP_MATCH:
        case KVI_OP_BACK:
        case KVI_OP_REPEAT: return false;
        default: todo[n++] = pc + 1;
        }
    }
    return true;
}

static kvrt_status prepare_starts(kvi_regex *regex, kvrt_error *error)
{
    uint8_t *seen = kvi_mem_zalloc(regex->n_code, 1);
    uint32_t *todo = kvi_mem_alloc((2 * regex->n_code + 2) * sizeof *todo);
    bool known = seen && todo && find_starts(regex, seen, todo);
    regex->starts_anywhere = !known;
    for (unsigned b = 0; b < 256 && !known; b++) regex->can_start[b] = b < 0x80 || b >= 0xc0;
    bool ok = seen && todo;
    kvi_mem_free(seen);
    kvi_mem_free(todo);
    return ok ? KVRT_OK : kvi_error_nomem(error, regex->n_code, "regular expression");
}

void kvi_regex_free(kvi_regex *regex)
{
    if (!regex) return;
    for (size_t i = 0; i < regex->n_classes; i++) {
        kvi_mem_free(regex->classes[i].low);
        kvi_mem_free(regex->classes[i].items);
    }
    kvi_mem_free(regex->classes);
    kvi_mem_free(regex->code);
    kvi_buf_free(&regex->pool);
    kvi_mem_free(regex);
}

kvi_regex **kvi_regex_next(kvi_regex *regex) { return &regex->next; }

kvrt_status kvi_regex_compile(const char *pattern, size_t len, const char *owner, kvi_regex **out, kvrt_error *error)
{
    *out = NULL;
    if (len > PATTERN_MAX)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: regular expression of %zu bytes, need at most %u", owner,
                             len, PATTERN_MAX);
    if (kvi_utf8_valid_prefix(pattern, len) != len)
        return kvi_error_set(error, KVRT_FORMAT, "%s: a regular expression that is not UTF-8", owner);
    kvi_regex *regex = kvi_mem_zalloc(1, sizeof *regex);
    if (!regex) return kvi_error_nomem(error, sizeof *regex, "regular expression");
    const char *why = NULL;
    kvrt_status status = KVRT_OK;
    if (!kvi_regex_parse(regex, pattern, len, &why))
        status = why ? kvi_error_set(error, KVRT_UNSUPPORTED, "%s: regular expression \"%.*s\": %s", owner,
                                     (int)(len > 80 ? 80 : len), pattern, why)
                     : kvi_error_nomem(error, len, "regular expression");
    if (status == KVRT_OK) status = prepare_starts(regex, error);
    if (status != KVRT_OK) {
        kvi_regex_free(regex);
        return status;
    }
    *out = regex;
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------ running --- */
/* Text is well-formed: no bounds to check within a code point. */
static inline uint32_t read_cp(const char *p, uint32_t *n)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) return *n = 1, u[0];
    if (u[0] < 0xe0) return *n = 2, (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3fu);
    if (u[0] < 0xf0) return *n = 3, (uint32_t)(u[0] & 0xf) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3fu);
    *n = 4;
    return (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3fu);
}

static inline uint32_t step_back(const char *text, uint32_t pos)
{
    do pos--;
    while (pos > 0 && ((unsigned char)text[pos] & 0xc0) == 0x80);
    return pos;
}

static bool grow(matcher *m)
{
    size_t bytes = (m->n + 1) * sizeof(choice);
    void *data = m->scratch->choices;
    m->no_memory = bytes <= m->budget->bytes && !kvi_mem_grow(&data, &m->scratch->cap, m->n + 1, sizeof(choice));
    if (bytes > m->budget->bytes) m->budget->steps = 0;
    if (m->no_memory || bytes > m->budget->bytes) return false;
    m->scratch->choices = data;
    return true;
}

static inline bool push(matcher *m, choice_kind kind, uint32_t pc, uint32_t a, uint32_t b)
{
    if (m->n == m->scratch->cap && !grow(m)) return false;
    m->scratch->choices[m->n++] = (choice){.kind_pc = (uint32_t)kind << 30 | pc, .a = a, .b = b};
    return true;
}

static bool set_register(matcher *m, int32_t r, uint32_t value)
{
    bool ok = push(m, RESTORE, (uint32_t)r, m->registers[r], 0);
    m->registers[r] = value;
    return ok;
}

/* Forgets the choices above `n`, but not what registers were before. */
static void cut(matcher *m, uint32_t n)
{
    size_t kept = n;
    for (size_t i = n; i < m->n; i++)
        if (m->scratch->choices[i].kind_pc >> 30 == RESTORE) m->scratch->choices[kept++] = m->scratch->choices[i];
    m->n = kept;
}

static void undo(matcher *m, uint32_t n)
{
    while (m->n > n) {
        choice c = m->scratch->choices[--m->n];
        if (c.kind_pc >> 30 == RESTORE) m->registers[c.kind_pc & 0x3fffffff] = c.a;
    }
}

static bool is_word_at(const matcher *m, uint32_t pos)
{
    uint32_t n;
    return pos < m->len && kvi_class_has(&m->regex->classes[m->regex->word], read_cp(m->text + pos, &n));
}

static bool holds(const matcher *m, kvi_assertion what, uint32_t pos)
{
    switch (what) {
    case KVI_AT_LINE_START: return pos == 0 || (m->text[pos - 1] == '\n' && pos < m->len);
    case KVI_AT_LINE_END: return pos == m->len || m->text[pos] == '\n';
    case KVI_AT_TEXT_START: return pos == 0;
    case KVI_AT_TEXT_END: return pos == m->len;
    case KVI_AT_LAST_LINE_END: return pos == m->len || (pos + 1 == m->len && m->text[pos] == '\n');
    case KVI_AT_SEARCH_START: return pos == m->from;
    case KVI_AT_WORD_EDGE:
    case KVI_NOT_AT_WORD_EDGE: {
        bool before = pos > 0 && is_word_at(m, step_back(m->text, pos)), edge = before != is_word_at(m, pos);
        return edge == (what == KVI_AT_WORD_EDGE);
    }
    }
    return false;
}

/* Runs over characters of the class, at most `max`. */
static uint32_t run_class(const matcher *m, const kvi_class *c, uint32_t pos, int32_t max, int32_t *count)
{
    uint32_t n;
    int32_t k = 0;
    while (k < max && pos < m->len && kvi_class_has(c, read_cp(m->text + pos, &n))) {
        pos += n;
        k++;
    }
    *count = k;
    return pos;
}

/* One instruction that takes characters or looks at them; *pos moves. False: it fails here, or memory is out. */
static bool loop(matcher *m, const kvi_inst *i, uint32_t pc, uint32_t *pos)
{
    const kvi_class *c = &m->regex->classes[i->x];
    int32_t count;
    if (i->op == KVI_OP_LOOP_LAZY) {
        *pos = run_class(m, c, *pos, i->y, &count);
        return count == i->y && (i->z == i->y || push(m, TAKE_MORE, pc, *pos, (uint32_t)count));
    }
    uint32_t first = *pos;
    *pos = run_class(m, c, *pos, i->z, &count);
    if (!kvi_budget_take(m->budget, (uint64_t)count / 8) || count < i->y) return false;
    if (count == i->y || i->op == KVI_OP_LOOP_KEEP) return true;
    if (i->y > 0) first = run_class(m, c, first, i->y, &count);
    return push(m, GIVE_BACK, pc, first, *pos);
}

/* Takes the last choice back: *pc and *pos where to go on. False: there is none. */
static bool go_back(matcher *m, uint32_t *pc, uint32_t *pos)
{
    while (m->n > 0) {
        choice *c = &m->scratch->choices[m->n - 1];
        uint32_t at = c->kind_pc & 0x3fffffff, n;
        const kvi_inst *i = &m->regex->code[at];
        switch ((choice_kind)(c->kind_pc >> 30)) {
        case GO:
            *pc = at;
            *pos = c->a;
            m->n--;
            return true;
        case RESTORE:
            m->registers[at] = c->a;
            m->n--;
            break;
        case GIVE_BACK:
            c->b = step_back(m->text, c->b);
            *pos = c->b;
            *pc = at + 1;
            if (c->b == c->a) m->n--;
            return true;
        case TAKE_MORE:
            if (c->a < m->len && kvi_class_has(&m->regex->classes[i->x], read_cp(m->text + c->a, &n))) {
                c->a += n;
                c->b++;
                *pos = c->a;
                *pc = at + 1;
                if ((int32_t)c->b == i->z) m->n--;
                return true;
            }
            m->n--;
            break;
        }
    }
    return false;
}

/* Instructions that only keep account. False: out of memory. */
static bool keep_account(matcher *m, const kvi_inst *i, uint32_t *pc, uint32_t *pos)
{
    uint32_t n_before = (uint32_t)m->n;
    ++*pc;
    switch (i->op) {
    case KVI_OP_ENTER:
    case KVI_OP_SAVE: return set_register(m, i->x, *pos);
    case KVI_OP_LEAVE:
        if (m->registers[i->x] == *pos) *pc += (uint32_t)i->y - 1;
        return true;
    case KVI_OP_MARK:
        if (!set_register(m, i->x + 1, *pos) || !push(m, RESTORE, (uint32_t)i->x, m->registers[i->x], 0)) return false;
        m->registers[i->x] = n_before + 2;
        return true;
    case KVI_OP_AHEAD:
        *pos = m->registers[i->x + 1];
        cut(m, m->registers[i->x]);
        return true;
    default: cut(m, m->registers[i->x]); return true;
    }
}

static bool repeats(const matcher *m, const kvi_inst *i, uint32_t *pos)
{
    uint32_t start = m->registers[i->x], end = m->registers[i->x + 1];
    if (end == UINT32_MAX || start > end || m->len - *pos < end - start) return false;
    if (memcmp(m->text + start, m->text + *pos, end - start) != 0) return false;
    *pos += end - start;
    return true;
}

/* Does a match begin at `pos`? Its end, or UINT32_MAX. Also when budget or memory ran out. */
static uint32_t match_at(matcher *m, uint32_t pos)
{
    const kvi_regex *regex = m->regex;
    uint32_t pc = 0, n;
    m->n = 0;
    for (;;) {
        const kvi_inst *i = &regex->code[pc];
        bool ok = true;
        if (m->budget->steps == 0) return UINT32_MAX;
        m->budget->steps--;
        switch (i->op) {
        case KVI_OP_MATCH: return pos;
        case KVI_OP_CLASS:
            ok = pos < m->len && kvi_class_has(&regex->classes[i->x], read_cp(m->text + pos, &n));
            if (ok) pos += n;
            pc++;
            break;
        case KVI_OP_BYTES:
            n = (uint32_t)i->y;
            ok = m->len - pos >= n && memcmp(m->text + pos, regex->pool.data + i->x, n) == 0;
            pos += n;
            pc++;
            break;
        case KVI_OP_LOOP:
        case KVI_OP_LOOP_LAZY:
        case KVI_OP_LOOP_KEEP: ok = loop(m, i, pc++, &pos); break;
        case KVI_OP_JUMP: pc += (uint32_t)i->x; break;
        case KVI_OP_SPLIT:
            ok = push(m, GO, pc + (uint32_t)i->y, pos, 0);
            pc += (uint32_t)i->x;
            break;
        case KVI_OP_ASSERT: ok = holds(m, (kvi_assertion)i->x, pos), pc++; break;
        case KVI_OP_BACK:
            for (int32_t k = 0; k < i->x && ok; k++)
                if ((ok = pos > 0)) pos = step_back(m->text, pos);
            pc++;
            break;
        case KVI_OP_REPEAT: ok = repeats(m, i, &pos), pc++; break;
        case KVI_OP_FAIL:
            undo(m, m->registers[i->x]);
            ok = false;
            break;
        default: ok = keep_account(m, i, &pc, &pos);
        }
        if (!ok && (m->no_memory || !go_back(m, &pc, &pos))) return UINT32_MAX;
    }
}

void kvi_regex_scratch_free(kvi_regex_scratch *scratch)
{
    kvi_mem_free(scratch->choices);
    *scratch = (kvi_regex_scratch){0};
}

kvrt_status kvi_regex_find(const kvi_regex *regex, kvi_regex_scratch *scratch, kvi_budget *budget, const char *text,
                           size_t len, size_t from, bool *found, size_t *start, size_t *end, kvrt_error *error)
{
    matcher m = {.regex = regex, .scratch = scratch, .budget = budget, .text = text, .len = (uint32_t)len};
    memset(m.registers, 0xff, (size_t)regex->n_registers * sizeof *m.registers);
    m.from = (uint32_t)from;
    *found = false;
    for (size_t pos = from; pos <= len; pos++) {
        size_t skipped = pos;
        while (pos < len && !regex->can_start[(unsigned char)text[pos]]) pos++;
        if (pos == len && !regex->starts_anywhere) return KVRT_OK;
        bool enough = kvi_budget_take(budget, (pos - skipped) / 8);
        uint32_t stop = enough ? match_at(&m, (uint32_t)pos) : UINT32_MAX;
        if (m.no_memory) return kvi_error_nomem(error, m.n * sizeof(choice), "regular expression match");
        if (budget->steps == 0)
            return kvi_error_set(error, KVRT_UNSUPPORTED,
                                 "tokenizer: its regular expressions need more steps or memory than a text of this "
                                 "length gets; the tokenizer.json may be hostile");
        if (stop == UINT32_MAX) continue;
        *found = true;
        *start = pos;
        *end = stop;
        return KVRT_OK;
    }
    return KVRT_OK;
}
