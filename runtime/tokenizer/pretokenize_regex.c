/* pretokenize_regex.c - compiling and running, see pretokenize_regex.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenize_regex.h"

#include <pcre2.h>
#include <string.h>

/* One search over a megabyte takes a few million steps with the usual patterns; more than this is a runaway. */
#define STEP_LIMIT 50000000u
#define HEAP_LIMIT_KIB (256u * 1024u)
#define PATTERN_MAX 16384u

struct kvi_regex {
    kvi_regex *next;
    pcre2_general_context *memory;
    pcre2_code *code;
    pcre2_match_context *limits;
};

static void *take(PCRE2_SIZE bytes, void *unused)
{
    (void)unused;
    return kvi_mem_alloc(bytes);
}

static void give(void *block, void *unused)
{
    (void)unused;
    kvi_mem_free(block);
}

void kvi_regex_free(kvi_regex *regex)
{
    if (!regex) return;
    pcre2_match_context_free(regex->limits);
    pcre2_code_free(regex->code);
    pcre2_general_context_free(regex->memory);
    kvi_mem_free(regex);
}

kvi_regex **kvi_regex_next(kvi_regex *regex) { return &regex->next; }

static kvrt_status compile_into(kvi_regex *regex, const kvi_buf *pattern, const char *owner, const char *original,
                                int shown, kvrt_error *error)
{
    regex->memory = pcre2_general_context_create(take, give, NULL);
    if (!regex->memory) return kvi_error_nomem(error, 0, "regular expression");
    pcre2_compile_context *context = pcre2_compile_context_create(regex->memory);
    regex->limits = pcre2_match_context_create(regex->memory);
    if (!context || !regex->limits) {
        pcre2_compile_context_free(context);
        return kvi_error_nomem(error, 0, "regular expression");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
    pcre2_set_match_limit(regex->limits, STEP_LIMIT);
    pcre2_set_heap_limit(regex->limits, HEAP_LIMIT_KIB);
    int code = 0;
    PCRE2_SIZE offset = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    regex->code =
        pcre2_compile((PCRE2_SPTR)(pattern->data ? pattern->data : ""), pattern->len, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (regex->code) return KVRT_OK;
    if (code == PCRE2_ERROR_HEAP_FAILED) return kvi_error_nomem(error, 0, "regular expression");
    char text[128] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
    return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: regular expression \"%.*s\": %s", owner, shown, original, text);
}

kvrt_status kvi_regex_compile(const char *pattern, size_t len, const char *owner, kvi_regex **out, kvrt_error *error)
{
    *out = NULL;
    if (len > PATTERN_MAX)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: regular expression of %zu bytes, need at most %u", owner,
                             len, PATTERN_MAX);
    int shown = (int)(len > 80 ? 80 : len);
    kvi_buf translated = {0};
    const char *why = NULL;
    kvrt_status status = KVRT_OK;
    if (!kvi_regex_translate(pattern, len, &translated, &why))
        status =
            kvi_error_set(error, KVRT_UNSUPPORTED, "%s: regular expression \"%.*s\": %s", owner, shown, pattern, why);
    kvi_regex *regex = NULL;
    if (status == KVRT_OK) {
        regex = kvi_mem_zalloc(1, sizeof *regex);
        if (!regex || translated.failed) status = kvi_error_nomem(error, sizeof *regex, "regular expression");
        else status = compile_into(regex, &translated, owner, pattern, shown, error);
    }
    kvi_buf_free(&translated);
    if (status != KVRT_OK) {
        kvi_regex_free(regex);
        return status;
    }
    *out = regex;
    return KVRT_OK;
}

void kvi_regex_scratch_free(kvi_regex_scratch *scratch)
{
    pcre2_match_data_free(scratch->match);
    scratch->match = NULL;
}

kvrt_status kvi_regex_find(const kvi_regex *regex, kvi_regex_scratch *scratch, const char *text, size_t len,
                           size_t from, bool *found, size_t *start, size_t *end, kvrt_error *error)
{
    /* The match data carries its own copy of the memory functions, so it may serve several expressions. */
    if (!scratch->match) scratch->match = pcre2_match_data_create(1, regex->memory);
    if (!scratch->match) return kvi_error_nomem(error, 0, "regular expression match");
    *found = false;
    /* Well-formedness was established once for the whole text; checking it per call would be quadratic. */
    int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, scratch->match, regex->limits);
    if (rc == PCRE2_ERROR_NOMATCH) return KVRT_OK;
    if (rc < 0) {
        if (rc == PCRE2_ERROR_NOMEMORY) return kvi_error_nomem(error, 0, "regular expression match");
        return kvi_error_set(
            error, KVRT_UNSUPPORTED,
            "tokenizer: regular expression needs more steps or memory than allowed on a text of %zu bytes", len);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(scratch->match);
    *start = pair[0];
    *end = pair[1] < pair[0] ? pair[0] : pair[1];
    *found = true;
    return KVRT_OK;
}
