/* serve_params.c - members of a request that more than one API has: what chooses tokens goes into options, whose ranges the library
 * checks and names. */
#include "serve.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *key;
    char type; /* f: number, i: whole number, b: boolean */
} table[] = {{"temperature", "sample.temperature", 'f'},
             {"top_p", "sample.top_p", 'f'},
             {"top_k", "sample.top_k", 'i'},
             {"min_p", "sample.min_p", 'f'},
             {"repetition_penalty", "sample.repeat_penalty", 'f'},
             {"repeat_penalty", "sample.repeat_penalty", 'f'},
             {"repeat_last_n", "sample.repeat_last", 'i'},
             {"frequency_penalty", "sample.frequency_penalty", 'f'},
             {"presence_penalty", "sample.presence_penalty", 'f'},
             {"ignore_eos", "gen.ignore_eos", 'b'},
             {"max_tokens", "gen.max_tokens", 'i'},
             {"max_completion_tokens", "gen.max_tokens", 'i'},
             {"max_output_tokens", "gen.max_tokens", 'i'}};

static bool wrong_type(serve_call *call, const char *name, const char *need, const serve_node *found)
{
    return serve_fail(call, 400, name, "%s: need %s, found %s", name, need, serve_json_type_name(found));
}

bool serve_param_is(serve_call *call, const serve_node *of, const char *name, serve_json_type type, const char *param)
{
    const serve_node *node = serve_json_get(&call->json, of, name), example = {.type = type};
    if (!node || node->type == type || (type == SERVE_TRUE && node->type == SERVE_FALSE)) return true;
    return serve_fail(call, 400, param, "%s%s%s: need %s, found %s", strcmp(param, name) == 0 ? "" : param,
                      strcmp(param, name) == 0 ? "" : ": ", name, serve_json_type_name(&example),
                      serve_json_type_name(node));
}

bool serve_param_bool(serve_call *call, const char *name, bool *out)
{
    const serve_node *node = serve_json_get(&call->json, call->body, name);
    if (!node) return true;
    if (node->type != SERVE_TRUE && node->type != SERVE_FALSE) return wrong_type(call, name, "a boolean", node);
    *out = node->type == SERVE_TRUE;
    return true;
}

bool serve_param_i64(serve_call *call, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const serve_node *node = serve_json_get(&call->json, call->body, name);
    int64_t value;
    if (!node) return true;
    if (!serve_json_i64(&call->json, node, &value)) return wrong_type(call, name, "a whole number", node);
    if (value < min || value > max)
        return serve_fail(call, 400, name, "%s: found %lld, need %lld..%lld", name, (long long)value, (long long)min,
                          (long long)max);
    *out = value;
    return true;
}

bool serve_set_i64(serve_call *call, const char *param, const char *key, int64_t value)
{
    kvrt_error error = {.size = sizeof error};
    const int32_t status = kvrt_options_set_i64(call->options, key, value, &error);
    return status >= 0 || serve_fail_kvrt(call, status, param, &error);
}

static bool set_row(serve_call *call, size_t row, const serve_node *node)
{
    kvrt_error error = {.size = sizeof error};
    const char *name = table[row].name, *key = table[row].key;
    int32_t status = KVRT_OK;
    double number;
    int64_t whole;
    if (table[row].type == 'f') {
        if (!serve_json_f64(&call->json, node, &number)) return wrong_type(call, name, "a number", node);
        status = kvrt_options_set_f64(call->options, key, number, &error);
    } else if (table[row].type == 'i') {
        if (!serve_json_i64(&call->json, node, &whole)) return wrong_type(call, name, "a whole number", node);
        if (strcmp(name, "top_k") == 0 && whole == -1) whole = 0; /* of other servers: all */
        status = kvrt_options_set_i64(call->options, key, whole, &error);
    } else {
        if (node->type != SERVE_TRUE && node->type != SERVE_FALSE) return wrong_type(call, name, "a boolean", node);
        status = kvrt_options_set_bool(call->options, key, node->type == SERVE_TRUE, &error);
    }
    return status >= 0 || serve_fail_kvrt(call, status, name, &error);
}

bool serve_param_stops(serve_call *call, const char *name)
{
    const serve_json *j = &call->json;
    const serve_node *stop = serve_json_get(j, call->body, name);
    kvrt_error error = {.size = sizeof error};
    if (!stop) return true;
    if (stop->type != SERVE_STRING && stop->type != SERVE_ARRAY)
        return wrong_type(call, name, "a string or an array", stop);
    for (const serve_node *at = stop->type == SERVE_ARRAY ? serve_json_child(j, stop) : stop; at;
         at = stop->type == SERVE_ARRAY ? serve_json_next(j, at) : NULL) {
        if (at->type != SERVE_STRING) return wrong_type(call, name, "strings", at);
        if (call->n_stops == SERVE_STOPS)
            return serve_fail(call, 400, name, "%s: need at most %u strings", name, SERVE_STOPS);
        serve_text *text = &call->stops[call->n_stops];
        serve_json_string(j, at, text);
        if (text->failed) return serve_fail(call, 500, NULL, "out of memory");
        if (!text->len) return serve_fail(call, 400, name, "%s: an empty string", name);
        call->n_stops++;
        const int32_t status =
            kvrt_options_set_string(call->options, "gen.stop", text->data, (int64_t)text->len, &error);
        if (status < 0) return serve_fail_kvrt(call, status, name, &error);
    }
    return true;
}

/* {"42": -5}: what is added to the logit of a token. */
static bool set_bias(serve_call *call)
{
    const serve_json *j = &call->json;
    const serve_node *bias = serve_json_get(j, call->body, "logit_bias");
    kvrt_error error = {.size = sizeof error};
    if (!bias) return true;
    if (bias->type != SERVE_OBJECT) return wrong_type(call, "logit_bias", "an object", bias);
    for (const serve_node *at = serve_json_child(j, bias); at; at = serve_json_next(j, at)) {
        char item[96];
        double value;
        if (!serve_json_f64(j, at, &value)) return wrong_type(call, "logit_bias", "numbers", at);
        if (at->key_len > 20) return serve_fail(call, 400, "logit_bias", "logit_bias: need ids of tokens as names");
        snprintf(item, sizeof item, "%.*s=%.9g", (int)at->key_len, j->text + at->key_start, value);
        const int32_t status = kvrt_options_set_string(call->options, "sample.logit_bias", item, -1, &error);
        if (status < 0) return serve_fail_kvrt(call, status, "logit_bias", &error);
    }
    return true;
}

static bool is_known(const serve_json *j, const serve_node *node, const char *const *names)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (serve_json_key_is(j, node, table[i].name)) return true;
    for (; *names; names++)
        if (serve_json_key_is(j, node, *names)) return true;
    return false;
}

/* In the words and with the code that clients know from OpenAI's API. */
static bool fail_by_code(serve_call *call, const char *param, const char *how, const char *name, size_t len)
{
    if (!call->status) snprintf(call->code, sizeof call->code, "%s_parameter", how);
    return serve_fail(call, 400, param, "%s parameter: %.*s", how, len < 60 ? (int)len : 60, name);
}

bool serve_refuse(serve_call *call, const char *const *names)
{
    for (; *names; names++) {
        const serve_node *node = serve_json_get(&call->json, call->body, *names);
        const bool empty = node && (node->type == SERVE_ARRAY || node->type == SERVE_OBJECT) && !node->child;
        if (node && !empty && node->type != SERVE_FALSE)
            return fail_by_code(call, *names, "unsupported", *names, strlen(*names));
    }
    return true;
}

bool serve_params(serve_call *call, const char *const *known)
{
    const serve_json *j = &call->json;
    for (const serve_node *at = serve_json_child(j, call->body); at && known; at = serve_json_next(j, at))
        if (!is_known(j, at, known)) return fail_by_code(call, NULL, "unknown", j->text + at->key_start, at->key_len);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const serve_node *node = serve_json_get(j, call->body, table[i].name);
        if (node && !set_row(call, i, node)) return false;
    }
    int64_t seed = -1;
    if (!serve_param_i64(call, "seed", INT64_MIN, INT64_MAX, &seed)) return false;
    /* Of other servers -1: a random one. Answers of one request count on from its seed. */
    call->seed = seed == -1 ? call->server->seed : (int64_t)((uint64_t)seed & INT64_MAX / 2);
    return serve_param_bool(call, "stream", &call->stream) && set_bias(call);
}
