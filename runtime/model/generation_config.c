/* generation_config.c - see generation_config.h. The file is read whole before anything is set, because do_sample may stand last. */
#include "generation_config.h"
#include "../base/folder.h"
#include "../base/json.h"

#include <stdio.h>
#include <string.h>

#define FILE_NAME "generation_config.json"
#define MAX_VALUE 40u

enum { TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION, N_KEYS };
static const struct {
    const char *key, *option;
} keys[N_KEYS] = {{"temperature", "sample.temperature"},
                  {"top_k", "sample.top_k"},
                  {"top_p", "sample.top_p"},
                  {"min_p", "sample.min_p"},
                  {"repetition_penalty", "sample.repeat_penalty"}};

/* What transformers would do and kvrt does not, with the value that means "off" beside null. */
static const struct {
    const char *key, *off;
} unknown[] = {{"num_beams", "1"},      {"num_beam_groups", "1"},       {"no_repeat_ngram_size", "0"},
               {"typical_p", "1"},      {"epsilon_cutoff", "0"},        {"eta_cutoff", "0"},
               {"top_h", "0"},          {"penalty_alpha", "0"},         {"encoder_repetition_penalty", "1"},
               {"guidance_scale", "1"}, {"bad_words_ids", "[]"},        {"suppress_tokens", "[]"},
               {"sequence_bias", "{}"}, {"forced_bos_token_id", "[]"},  {"forced_eos_token_id", "[]"},
               {"stop_strings", "[]"},  {"begin_suppress_tokens", "[]"}};

typedef struct found {
    char value[N_KEYS][MAX_VALUE]; /* as it stands in the file; "" absent or null */
    int do_sample;                 /* -1: absent */
} found;

/* The text of the next value, cut to fit; "" for null. */
static void take_value(kvi_json *r, char *out)
{
    (void)kvi_json_peek(r);
    const size_t begin = r->pos;
    out[0] = 0;
    if (kvi_json_null(r)) return;
    kvi_json_skip(r);
    if (!r->error) (void)snprintf(out, MAX_VALUE, "%.*s", (int)(r->pos - begin), r->text + begin);
}

static void warn(kvi_generation_notes *notes, const char *key, const char *value, const char *what)
{
    if (!notes->warning) return;
    const size_t used = strlen(notes->warning);
    (void)snprintf(notes->warning + used, notes->cap - used, "%s" FILE_NAME ": %s is %s, which %s", used ? "; " : "",
                   key, value, what);
}

static void warn_unknown(kvi_json *r, kvi_generation_notes *notes)
{
    char value[MAX_VALUE], key[64];
    size_t i = 0;
    const size_t n = sizeof unknown / sizeof unknown[0];
    while (i < n && !kvi_json_key_is(r, unknown[i].key)) i++;
    (void)snprintf(key, sizeof key, "%s", i < n ? unknown[i].key : "");
    take_value(r, value);
    double number, off;
    if (i == n || !value[0] || strcmp(value, unknown[i].off) == 0) return;
    if (kvi_parse_f64(value, strlen(value), &number) && kvi_parse_f64(unknown[i].off, strlen(unknown[i].off), &off) &&
        number == off)
        return;
    warn(notes, key, value, "kvrt does not do");
}

static kvrt_status read_all(kvi_json *r, found *f, kvi_generation_notes *notes, kvrt_error *error)
{
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return kvi_json_fail(r, FILE_NAME, error);
    while (kvi_json_next_key(r)) {
        size_t i = 0;
        while (i < N_KEYS && !kvi_json_key_is(r, keys[i].key)) i++;
        if (i < N_KEYS) take_value(r, f->value[i]);
        else if (kvi_json_key_is(r, "eos_token_id")) {
            char value[MAX_VALUE];
            take_value(r, value);
            notes->ends = value[0] != 0;
        } else if (kvi_json_key_is(r, "do_sample")) {
            char value[MAX_VALUE];
            take_value(r, value);
            f->do_sample = !value[0] ? -1 : strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
            if (value[0] && !f->do_sample && strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
                return kvi_error_set(error, KVRT_FORMAT, FILE_NAME ": do_sample is %s, need true or false", value);
        } else warn_unknown(r, notes);
    }
    return kvi_json_end(r) ? KVRT_OK : kvi_json_fail(r, FILE_NAME, error);
}

/* A value out of range is an error, except where transformers does not look at it: without sampling, and top_p from 1 on. */
static kvrt_status set_value(const found *f, size_t i, kvrt_options *options, kvi_generation_notes *notes,
                             kvrt_error *error)
{
    double number;
    const char *value = f->value[i];
    if (!value[0] || kvi_options_is_set(options, keys[i].option)) return KVRT_OK;
    const bool is_number = kvi_parse_f64(value, strlen(value), &number);
    if (is_number && kvrt_options_set_text(options, keys[i].option, value, NULL) >= KVRT_OK) return KVRT_OK;
    const bool unused = f->do_sample == 0 && i != REPETITION;
    if (!unused && !(i == TOP_P && is_number && number > 1))
        return kvi_error_set(error, KVRT_FORMAT, FILE_NAME ": %s is %s, need a number %s", keys[i].key, value,
                             kvi_option_range(keys[i].option));
    warn(notes, keys[i].key, value, "is ignored");
    return KVRT_OK;
}

kvrt_status kvi_generation_parse(const char *text, size_t len, kvrt_options *options, kvi_generation_notes *notes,
                                 kvrt_error *error)
{
    kvi_json r;
    found f = {.do_sample = -1};
    kvi_json_init(&r, text, len);
    r.python = true;
    kvi_generation_notes unasked = {.ends = false};
    if (!notes) notes = &unasked;
    notes->ends = false;
    KVI_TRY(read_all(&r, &f, notes, error));
    const bool greedy = f.do_sample == 0 && !kvi_options_is_set(options, keys[TEMPERATURE].option);
    if (greedy) KVI_TRY(kvrt_options_set_f64(options, keys[TEMPERATURE].option, 0, error));
    /* transformers penalizes everything that was said, not the newest tokens alone. */
    const bool everything = f.value[REPETITION][0] && !kvi_options_is_set(options, keys[REPETITION].option) &&
                            !kvi_options_is_set(options, "sample.repeat_last");
    if (everything) KVI_TRY(kvrt_options_set_i64(options, "sample.repeat_last", 1048576, error));
    for (size_t i = 0; i < N_KEYS; i++) KVI_TRY(set_value(&f, i, options, notes, error));
    return KVRT_OK;
}

kvrt_status kvi_generation_defaults(const char *dir, kvrt_options *options, kvi_generation_notes *notes,
                                    kvrt_error *error)
{
    kvi_map map;
    bool found;
    if (notes) notes->ends = false;
    KVI_TRY(kvi_folder_map(dir, FILE_NAME, true, &map, &found, error));
    kvrt_status status =
        found ? kvi_generation_parse((const char *)map.data, (size_t)map.len, options, notes, error) : KVRT_OK;
    kvi_os_unmap(&map);
    return status;
}
