/* serve_info.c - what can be asked beside answers: whether the server lives, its model, tokens. Figures are in serve_metrics.c. */
#define _POSIX_C_SOURCE 200809L
#include "serve.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JSON "application/json"

int serve_health(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_text out = {0};
    (void)body, (void)len;
    pthread_mutex_lock(&s->lock);
    const bool draining = s->draining;
    pthread_mutex_unlock(&s->lock);
    serve_puts(&out, draining ? "{\"status\":\"shutting down\"}" : "{\"status\":\"ok\"}");
    return serve_reply(s, connection, draining ? 503 : 200, JSON, &out);
}

/* With the members that OpenAI's API has, and those of Anthropic's. */
static void put_model(const serve_server *s, serve_text *out)
{
    const time_t started = (time_t)s->started;
    struct tm tm;
    char when[32];
    (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&started, &tm));
    serve_puts(out, "{\"id\":");
    serve_put_json_str(out, s->model);
    serve_puts(out, ",\"object\":\"model\",\"type\":\"model\",\"display_name\":");
    serve_put_json_str(out, s->model);
    serve_putf(out, ",\"created\":%lld,\"created_at\":\"%s\",\"owned_by\":\"kvrt\",\"max_model_len\":%u}",
               (long long)s->started, when, s->info.ctx_size);
}

int serve_models(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_text out = {0};
    (void)body, (void)len;
    serve_puts(&out, "{\"object\":\"list\",\"data\":[");
    put_model(s, &out);
    serve_puts(&out, "],\"has_more\":false,\"first_id\":");
    serve_put_json_str(&out, s->model);
    serve_puts(&out, ",\"last_id\":");
    serve_put_json_str(&out, s->model);
    serve_puts(&out, "}");
    return serve_reply(s, connection, 200, JSON, &out);
}

int serve_model(serve_server *s, struct MHD_Connection *connection, const char *name)
{
    serve_text out = {0};
    char message[200];
    if (strcmp(name, s->model) != 0) {
        snprintf(message, sizeof message, "there is no model '%.100s' here", name);
        return serve_reply_error(s, connection, NULL, 404, "model", "model_not_found", message);
    }
    put_model(s, &out);
    return serve_reply(s, connection, 200, JSON, &out);
}

int serve_props(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_text out = {0};
    const kvrt_engine_info *e = &s->info;
    (void)body, (void)len;
    serve_puts(&out, "{\"model\":");
    serve_put_json_str(&out, s->model);
    serve_puts(&out, ",\"architecture\":");
    serve_put_json_str(&out, e->architecture);
    serve_puts(&out, ",\"backend\":");
    serve_put_json_str(&out, e->backend);
    serve_puts(&out, ",\"device\":");
    serve_put_json_str(&out, e->device);
    serve_puts(&out, ",\"kv_format\":");
    serve_put_json_str(&out, e->kv_format);
    serve_puts(&out, ",\"weight_dtype\":");
    serve_put_json_str(&out, e->weight_dtype);
    serve_putf(&out, ",\"ctx_size\":%u,\"ctx_model\":%u,\"vocab_size\":%u,\"n_params\":%llu,\"sessions\":%u",
               e->ctx_size, e->ctx_model, e->vocab_size, (unsigned long long)e->n_params, s->n_seats);
    serve_putf(&out, ",\"kv_bytes_per_token\":%.6g,\"planned_bytes\":%llu,\"version\":\"%s\"}", e->kv_bytes_per_token,
               (unsigned long long)e->planned_bytes, kvrt_version_string());
    return serve_reply(s, connection, 200, JSON, &out);
}

static int bad(serve_server *s, struct MHD_Connection *connection, serve_json *json, const char *param,
               const char *message)
{
    serve_json_free(json);
    return serve_reply_error(s, connection, NULL, 400, param, NULL, message);
}

/* {"id": 5, "piece": "text"}, or its bytes where they are no text by themselves. */
static void put_piece(serve_server *s, serve_text *out, int32_t id)
{
    char piece[512];
    uint64_t len = 0;
    size_t at = 0;
    if (kvrt_detokenize(s->engine, &id, 1, KVRT_DETOKENIZE_KEEP_SPECIAL, piece, sizeof piece, &len, NULL) != KVRT_OK)
        len = 0;
    for (size_t n = 1; at < len && n; at += n) n = serve_utf8_length(piece + at, len - at);
    serve_putf(out, "{\"id\":%d,\"piece\":", id);
    if (at == len) serve_put_json(out, piece, len);
    for (size_t i = 0; i < len && at < len; i++) serve_putf(out, i ? ",%u" : "[%u", (unsigned char)piece[i]);
    serve_puts(out, at < len ? "]}" : "}");
}

static bool is_flag(const serve_node *node) { return !node || node->type == SERVE_TRUE || node->type == SERVE_FALSE; }

int serve_tokenize_text(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_json json;
    kvrt_error error = {.size = sizeof error};
    if (!serve_json_read(&json, body, len)) return bad(s, connection, &json, NULL, "body: not valid JSON");
    const serve_node *content = serve_json_get(&json, json.nodes, "content"),
                     *add = serve_json_get(&json, json.nodes, "add_special"),
                     *with = serve_json_get(&json, json.nodes, "with_pieces");
    if (!content) content = serve_json_get(&json, json.nodes, "prompt"); /* its name in other servers */
    if (!is_flag(add) || !is_flag(with))
        return bad(s, connection, &json, is_flag(add) ? "with_pieces" : "add_special",
                   "add_special, with_pieces: need booleans");
    if (!content || content->type != SERVE_STRING)
        return bad(s, connection, &json, "content", "content: need a string");
    serve_text text = {0}, out = {0};
    serve_json_string(&json, content, &text);
    int32_t *ids = NULL;
    size_t n = 0;
    const bool pieces = with && with->type == SERVE_TRUE;
    const uint32_t flags = add && add->type == SERVE_TRUE ? KVRT_TOKENIZE_ADD_SPECIAL : 0;
    const int32_t status =
        text.failed ? KVRT_NOMEM_HOST : serve_tokenize(s, text.data, text.len, flags, &ids, &n, &error);
    serve_text_free(&text);
    serve_json_free(&json);
    if (status < 0) return serve_reply_error(s, connection, NULL, 500, NULL, NULL, error.message);
    serve_putf(&out, "{\"count\":%zu,\"tokens\":[", n);
    for (size_t i = 0; i < n; i++) {
        if (i) serve_puts(&out, ",");
        if (pieces) put_piece(s, &out, ids[i]);
        else serve_putf(&out, "%d", ids[i]);
    }
    serve_puts(&out, "]}");
    free(ids);
    return serve_reply(s, connection, out.failed ? 500 : 200, JSON, &out);
}

int serve_detokenize_ids(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    serve_json json;
    kvrt_error error = {.size = sizeof error};
    if (!serve_json_read(&json, body, len)) return bad(s, connection, &json, NULL, "body: not valid JSON");
    const serve_node *tokens = serve_json_get(&json, json.nodes, "tokens");
    if (!tokens || tokens->type != SERVE_ARRAY) return bad(s, connection, &json, "tokens", "tokens: need an array");
    int32_t *ids = malloc(((size_t)json.n + 1) * sizeof *ids);
    size_t n = 0;
    for (const serve_node *at = serve_json_child(&json, tokens); ids && at; at = serve_json_next(&json, at)) {
        int64_t id;
        if (!serve_json_i64(&json, at, &id) || id < 0 || id >= (int64_t)s->info.vocab_size) {
            free(ids);
            return bad(s, connection, &json, "tokens", "tokens: need ids of the vocabulary");
        }
        ids[n++] = (int32_t)id;
    }
    serve_json_free(&json);
    serve_text out = {0};
    uint64_t n_text = 0;
    int32_t status = ids ? kvrt_detokenize(s->engine, ids, n, KVRT_DETOKENIZE_KEEP_SPECIAL, NULL, 0, &n_text, &error)
                         : KVRT_NOMEM_HOST;
    char *text = status < 0 ? NULL : malloc(n_text + 1);
    if (status >= 0 && text)
        status = kvrt_detokenize(s->engine, ids, n, KVRT_DETOKENIZE_KEEP_SPECIAL, text, n_text, &n_text, &error);
    free(ids);
    if (status >= 0 && text) {
        serve_puts(&out, "{\"content\":");
        serve_put_json(&out, text, n_text);
        serve_puts(&out, "}");
    }
    free(text);
    if (!out.len || out.failed) return serve_reply_error(s, connection, NULL, 500, NULL, NULL, error.message);
    return serve_reply(s, connection, 200, JSON, &out);
}
