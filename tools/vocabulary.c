/* vocabulary.c - see vocabulary.h. */
#include "vocabulary.h"
#include "argparse.h"

#include <stdio.h>
#include <string.h>

/* Names of other programs, by the flag they mean here. Letters: the name is one character. */
static const struct {
    const char *flag, *other;
} others[] = {
    {"max-tokens", "n"},
    {"max-tokens", "max-new-tokens"},
    {"max-tokens", "n-predict"},
    {"max-tokens", "num-predict"},
    {"max-tokens", "predict"},
    {"ctx", "ctx-size"},
    {"ctx", "context"},
    {"ctx", "context-size"},
    {"ctx", "context-length"},
    {"ctx", "n-ctx"},
    {"ctx", "num-ctx"},
    {"ctx", "max-model-len"},
    {"ctx", "max-seq-len"},
    {"threads", "n-threads"},
    {"threads", "num-threads"},
    {"temp", "temperature"},
    {"repeat-penalty", "repetition-penalty"},
    {"repeat-last", "repeat-last-n"},
    {"stop", "stop-string"},
    {"stop", "stop-sequence"},
    {"stop", "reverse-prompt"},
    {"kv", "kv-format"},
    {"kv", "kv-cache"},
    {"kv", "kv-cache-dtype"},
    {"kv", "cache-type"},
    {"mem-limit", "memory-limit"},
    {"mem-limit", "max-memory"},
    {"log-level", "verbosity"},
    {"gpu-layers", "ngl"},
    {"gpu-layers", "n-gpu-layers"},
    {"cache-type-k", "cache-type-v"},
    {"cache-type-k", "ctk"},
    {"cache-type-k", "ctv"},
    {"system", "system-prompt"},
    {"system", "sys"},
    {"raw", "no-bos"},
    {"quiet", "silent"},
};

static const struct {
    const char *key;
    char letter;
} letters[] = {{"gen.max_tokens", 'n'}, {"ctx.size", 'c'}, {"cpu.threads", 't'}};

static const struct {
    const char *flag, *hint;
} hints[] = {
    {"gpu", "--backend cuda"},
    {"cuda", "--backend cuda"},
    {"cpu", "--backend cpu"},
    {"m", "the model folder is the first argument"},
    {"model", "the model folder is the first argument"},
    {"model-path", "the model folder is the first argument"},
    {"i", "kvrt chat"},
    {"interactive", "kvrt chat"},
    {"chat", "kvrt chat"},
    {"v", "--stats, or --log-level 3"},
    {"verbose", "--stats, or --log-level 3"},
    {"debug", "--log-level 4"},
    {"o", "stdout is the text alone: > FILE"},
    {"output", "stdout is the text alone: > FILE"},
    {"stream", "text is always streamed"},
    {"no-stream", "text is always streamed, --json prints it at the end"},
    {"greedy", "--temp 0"},
    {"text", "the text is the argument behind the model"},
};

static const struct {
    const char *key, *typed, *value;
} values[] = {{"sample.seed", "-1", "auto"},  {"sample.seed", "random", "auto"}, {"cpu.threads", "-1", "auto"},
              {"cpu.threads", "all", "auto"}, {"device.backend", "gpu", "cuda"}, {"cpu.isa", "native", "auto"}};

const char *vocabulary_hint(const char *flag)
{
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (strcmp(hints[i].flag, flag) == 0) return hints[i].hint;
    return NULL;
}

const char *vocabulary_value(const char *key, const char *value)
{
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        if (strcmp(values[i].key, key) == 0 && strcmp(values[i].typed, value) == 0) return values[i].value;
    return value;
}

const char *vocabulary_other_name(const char *flag, unsigned n)
{
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(others[i].flag, flag) == 0 && n-- == 0) return others[i].other;
    return NULL;
}

char vocabulary_letter(const char *key)
{
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++)
        if (strcmp(letters[i].key, key) == 0) return letters[i].letter;
    return 0;
}

static void normalize(const char *name, char *dst, size_t cap)
{
    size_t n = 0;
    while (*name == '-') name++;
    for (; *name && n + 1 < cap; name++) {
        char c = *name == '_' || *name == '.' ? '-' : *name;
        dst[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    dst[n] = 0;
}

/* Of sampling and generation the part behind the dot is a name as well; elsewhere it says too little (log.level). */
static const char *last_part(const char *key)
{
    bool alone = strncmp(key, "sample.", 7) == 0 || strncmp(key, "gen.", 4) == 0;
    return alone ? strchr(key, '.') + 1 : NULL;
}

/* The k-th name of an option, normalized; false past the end. */
static bool name_at(const kvrt_option_info *info, unsigned k, char *dst, size_t cap)
{
    const char *names[3] = {info->key, info->flag, last_part(info->key)};
    const char letter[2] = {vocabulary_letter(info->key), 0};
    const char *name = k < 3    ? names[k]
                       : k == 3 ? letter
                                : (info->flag ? vocabulary_other_name(info->flag, k - 4) : NULL);
    normalize(name ? name : "", dst, cap);
    return k < 4 || name;
}

bool vocabulary_find(const char *name, kvrt_option_info *info, uint32_t *index)
{
    char wanted[128], candidate[128];
    normalize(name, wanted, sizeof wanted);
    for (uint32_t i = 0; *wanted && i < kvrt_option_count(); i++) {
        *info = (kvrt_option_info){.size = sizeof *info};
        if (kvrt_option_at(i, info, NULL) < 0) continue;
        if (index) *index = i;
        for (unsigned k = 0; name_at(info, k, candidate, sizeof candidate); k++)
            if (strcmp(candidate, wanted) == 0) return true;
    }
    return false;
}

bool vocabulary_nearest(const char *name, kvrt_option_info *info)
{
    char wanted[128], candidate[128];
    unsigned best = 1000;
    normalize(name, wanted, sizeof wanted);
    for (uint32_t i = 0; i < kvrt_option_count(); i++) {
        kvrt_option_info at = {.size = sizeof at};
        if (kvrt_option_at(i, &at, NULL) < 0) continue;
        for (unsigned k = 0; name_at(&at, k, candidate, sizeof candidate); k++) {
            unsigned d = *candidate ? argparse_distance(wanted, candidate) : 1000;
            if (d < best) best = d, *info = at;
        }
    }
    return argparse_is_near(wanted, best);
}

const char *vocabulary_as_flag(const kvrt_option_info *info, char *dst, size_t cap)
{
    snprintf(dst, cap, info->flag ? "--%s" : "--set %s=VALUE", info->flag ? info->flag : info->key);
    return dst;
}

const char *vocabulary_as_variable(const kvrt_option_info *info, char *dst, size_t cap)
{
    snprintf(dst, cap, "KVRT_%s", info->flag ? info->flag : info->key);
    for (char *p = dst; *p; p++) *p = *p == '-' || *p == '.' ? '_' : (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    return dst;
}
