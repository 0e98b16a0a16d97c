/* fuzz_serve_json.c - any bytes as the body of a request: every value is looked at in all ways; names and strings, written again and read again,
 * are the same. */
#include "../../tools/serve/serve_json.c"
#include "../../tools/serve/serve_text.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_string(const serve_json *json, const serve_node *node)
{
    serve_text once = {0}, written = {0}, twice = {0};
    serve_json again;
    serve_json_string(json, node, &once);
    serve_put_json(&written, once.data, once.len);
    if (!serve_json_read(&again, written.data, written.len)) abort();
    serve_json_string(&again, again.nodes, &twice);
    if (twice.len != once.len || memcmp(twice.data, once.data, once.len) != 0) abort();
    if (!serve_json_is(json, node, once.data) && strlen(once.data) == once.len) abort();
    serve_json_free(&again);
    serve_text_free(&once);
    serve_text_free(&written);
    serve_text_free(&twice);
}

static uint32_t walk(const serve_json *json, const serve_node *node, unsigned depth)
{
    uint32_t n = 1;
    double number;
    int64_t whole;
    if (depth > SERVE_JSON_DEPTH || (size_t)node->start + node->len > json->len || !node->len) abort();
    (void)serve_json_get(json, node, "messages");
    if (node->key_start) { /* a name is itself, and not what is shorter or longer */
        const serve_node key = {.start = node->key_start - 1, .len = node->key_len + 2, .type = SERVE_STRING};
        serve_text name = {0};
        serve_json_string(json, &key, &name);
        if (strlen(name.data) == name.len && !serve_json_key_is(json, node, name.data)) abort();
        serve_put(&name, "x", 1);
        if (serve_json_key_is(json, node, name.data)) abort();
        serve_text_free(&name);
    }
    (void)serve_json_type_name(node);
    if (node->type == SERVE_STRING) check_string(json, node);
    if (serve_json_i64(json, node, &whole) && !serve_json_f64(json, node, &number)) abort();
    for (const serve_node *at = serve_json_child(json, node); at; at = serve_json_next(json, at))
        n += walk(json, at, depth + 1);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    serve_json json;
    serve_text text = {0};
    if (serve_json_read(&json, (const char *)data, size)) {
        if (walk(&json, json.nodes, 0) != json.n) abort(); /* every node is in the tree once */
    } else if (!json.error || json.at > size) abort();
    serve_json_free(&json);
    /* What a model says need not be UTF-8; what is written always is JSON. */
    serve_put_json(&text, (const char *)data, size);
    if (!serve_json_read(&json, text.data, text.len)) abort();
    serve_json_free(&json);
    serve_text_free(&text);
    return 0;
}
