/* kvrt_node.c - kvrt for Node.js through the C interface of its N-API, which does not change between versions: no C++, no generator.
 *
 *     const kvrt = require('./kvrt.node')
 *     const engine = kvrt.open({'model.path': 'path/of/a/model', 'ctx.sessions': '2'})
 *     const session = kvrt.session(engine, {'gen.max_tokens': '40'})
 *     kvrt.sync(session, kvrt.tokenize(engine, 'Once upon a time'))
 *     const request = kvrt.submit(session, {})
 *     function turn() {                       // never blocks for long: 4 ms, then the event loop has its turn
 *         const more = kvrt.step(engine, 4000)
 *         for (let e; (e = kvrt.poll(engine)); ) if (e.type === kvrt.TEXT) process.stdout.write(e.text)
 *         if (more) setImmediate(turn)
 *     }
 *     turn()
 *
 * Errors are thrown, with kvrt's message and code. Engines and sessions are plain values; close(engine) ends all of its sessions, and whatever is
 * used after that throws. Request numbers are BigInts. Everything runs on the thread that calls. */
#include <kvrt.h>
#include <node_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------- values --- */
static void throw_status(napi_env env, const kvrt_error *error)
{
    napi_value code, message, object;
    if (napi_create_string_utf8(env, kvrt_status_name(error->code), NAPI_AUTO_LENGTH, &code) != napi_ok ||
        napi_create_string_utf8(env, error->message, NAPI_AUTO_LENGTH, &message) != napi_ok ||
        napi_create_error(env, code, message, &object) != napi_ok)
        return;
    (void)napi_throw(env, object);
}

/* True when the call succeeded; else an exception is pending. */
static bool went_well(napi_env env, kvrt_status status, const kvrt_error *error)
{
    if (status < KVRT_OK) throw_status(env, error);
    return status >= KVRT_OK;
}

static bool arguments(napi_env env, napi_callback_info info, size_t n, napi_value *values)
{
    size_t given = n;
    if (napi_get_cb_info(env, info, &given, values, NULL, NULL) == napi_ok && given >= n) return true;
    (void)napi_throw_type_error(env, NULL, "kvrt: arguments are missing");
    return false;
}

/* A handle of kvrt is a number in the form of a pointer, which the library checks itself. */
static bool handle_of(napi_env env, napi_value value, void **out)
{
    bool lossless;
    uint64_t bits;
    if (napi_get_value_bigint_uint64(env, value, &bits, &lossless) != napi_ok) {
        (void)napi_throw_type_error(env, NULL, "kvrt: need an engine or a session");
        return false;
    }
    *out = (void *)(uintptr_t)bits;
    return true;
}

static napi_value of_bits(napi_env env, uint64_t bits)
{
    napi_value value = NULL;
    (void)napi_create_bigint_uint64(env, bits, &value);
    return value;
}

/* The caller frees it. NULL: an exception is pending. */
static char *text_of(napi_env env, napi_value value, size_t *len)
{
    if (napi_get_value_string_utf8(env, value, NULL, 0, len) != napi_ok) {
        (void)napi_throw_type_error(env, NULL, "kvrt: need a string");
        return NULL;
    }
    char *text = malloc(*len + 1);
    if (text && napi_get_value_string_utf8(env, value, text, *len + 1, len) == napi_ok) return text;
    free(text);
    (void)napi_throw_error(env, NULL, "kvrt: out of memory");
    return NULL;
}

static bool set_option(napi_env env, kvrt_options *options, napi_value key, napi_value value)
{
    kvrt_error error = {.size = sizeof error};
    size_t n;
    napi_value as_text;
    if (napi_coerce_to_string(env, value, &as_text) != napi_ok) return false;
    char *name = text_of(env, key, &n), *text = name ? text_of(env, as_text, &n) : NULL;
    const bool ok = text && went_well(env, kvrt_options_set_text(options, name, text, &error), &error);
    free(name);
    free(text);
    return ok;
}

/* From an object {key: value}; NULL: an exception is pending. */
static kvrt_options *options_of(napi_env env, napi_value object)
{
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    napi_value keys, key, value;
    uint32_t n = 0;
    if (napi_get_property_names(env, object, &keys) != napi_ok || napi_get_array_length(env, keys, &n) != napi_ok) {
        (void)napi_throw_type_error(env, NULL, "kvrt: need an object of options");
        return NULL;
    }
    if (!went_well(env, kvrt_options_create(&options, &error), &error)) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (napi_get_element(env, keys, i, &key) == napi_ok && napi_get_property(env, object, key, &value) == napi_ok &&
            set_option(env, options, key, value))
            continue;
        kvrt_options_destroy(options);
        return NULL;
    }
    return options;
}

/* An Int32Array with room for n; *data is its memory. */
static napi_value int32_array(napi_env env, size_t n, int32_t **data)
{
    napi_value buffer, array = NULL;
    void *bytes = NULL;
    if (napi_create_arraybuffer(env, n * sizeof(int32_t), &bytes, &buffer) != napi_ok ||
        napi_create_typedarray(env, napi_int32_array, n, buffer, 0, &array) != napi_ok)
        return NULL;
    *data = bytes;
    return array;
}

/* -------------------------------------------------------------------------------------------------------- calls --- */
static napi_value open_engine(napi_env env, napi_callback_info info)
{
    napi_value argument;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine engine = NULL;
    if (!arguments(env, info, 1, &argument)) return NULL;
    kvrt_options *options = options_of(env, argument);
    if (!options) return NULL;
    const bool ok = went_well(env, kvrt_engine_open(options, NULL, NULL, &engine, &error), &error);
    kvrt_options_destroy(options);
    return ok ? of_bits(env, (uint64_t)(uintptr_t)engine) : NULL;
}

static napi_value close_engine(napi_env env, napi_callback_info info)
{
    napi_value argument;
    kvrt_error error = {.size = sizeof error};
    void *engine;
    if (arguments(env, info, 1, &argument) && handle_of(env, argument, &engine))
        (void)went_well(env, kvrt_engine_close(engine, &error), &error);
    return NULL;
}

static napi_value tokenize(napi_env env, napi_callback_info info)
{
    napi_value values[2], ids = NULL;
    kvrt_error error = {.size = sizeof error};
    void *engine;
    size_t len;
    uint64_t n = 0;
    int32_t *data;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &engine)) return NULL;
    char *text = text_of(env, values[1], &len);
    if (!text) return NULL;
    /* Once to count, once to write. */
    kvrt_status status = kvrt_tokenize(engine, text, (int64_t)len, KVRT_TOKENIZE_ADD_SPECIAL, NULL, 0, &n, &error);
    if (went_well(env, status, &error) && (ids = int32_array(env, n, &data)) && n > 0) {
        status = kvrt_tokenize(engine, text, (int64_t)len, KVRT_TOKENIZE_ADD_SPECIAL, data, n, &n, &error);
        (void)went_well(env, status, &error);
    }
    free(text);
    return ids;
}

static napi_value create_session(napi_env env, napi_callback_info info)
{
    napi_value values[2];
    kvrt_error error = {.size = sizeof error};
    void *engine;
    kvrt_session session = NULL;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &engine)) return NULL;
    kvrt_options *options = options_of(env, values[1]);
    if (!options) return NULL;
    const bool ok = went_well(env, kvrt_session_create(engine, options, &session, &error), &error);
    kvrt_options_destroy(options);
    return ok ? of_bits(env, (uint64_t)(uintptr_t)session) : NULL;
}

static napi_value fork_session(napi_env env, napi_callback_info info)
{
    napi_value argument;
    kvrt_error error = {.size = sizeof error};
    void *session;
    kvrt_session fork = NULL;
    if (!arguments(env, info, 1, &argument) || !handle_of(env, argument, &session)) return NULL;
    if (!went_well(env, kvrt_session_fork(session, &fork, &error), &error)) return NULL;
    return of_bits(env, (uint64_t)(uintptr_t)fork);
}

static napi_value close_session(napi_env env, napi_callback_info info)
{
    napi_value argument;
    kvrt_error error = {.size = sizeof error};
    void *session;
    if (arguments(env, info, 1, &argument) && handle_of(env, argument, &session))
        (void)went_well(env, kvrt_session_close(session, &error), &error);
    return NULL;
}

/* Returns how many tokens are there already. */
static napi_value sync_session(napi_env env, napi_callback_info info)
{
    napi_value values[2], result = NULL;
    kvrt_error error = {.size = sizeof error};
    napi_typedarray_type type;
    void *session, *ids;
    size_t n;
    uint64_t reused = 0;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &session)) return NULL;
    if (napi_get_typedarray_info(env, values[1], &type, &n, &ids, NULL, NULL) != napi_ok || type != napi_int32_array) {
        (void)napi_throw_type_error(env, NULL, "kvrt: need tokens as an Int32Array");
        return NULL;
    }
    if (went_well(env, kvrt_session_sync(session, ids, n, &reused, &error), &error))
        (void)napi_create_double(env, (double)reused, &result);
    return result;
}

static napi_value session_tokens(napi_env env, napi_callback_info info)
{
    napi_value argument, ids = NULL;
    kvrt_error error = {.size = sizeof error};
    void *session;
    uint64_t n = 0;
    int32_t *data;
    if (!arguments(env, info, 1, &argument) || !handle_of(env, argument, &session)) return NULL;
    if (!went_well(env, kvrt_session_tokens(session, NULL, 0, &n, &error), &error)) return NULL;
    if ((ids = int32_array(env, n, &data)) && n > 0)
        (void)went_well(env, kvrt_session_tokens(session, data, n, &n, &error), &error);
    return ids;
}

static napi_value submit(napi_env env, napi_callback_info info)
{
    napi_value values[2];
    kvrt_error error = {.size = sizeof error};
    void *session;
    uint64_t request = 0;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &session)) return NULL;
    kvrt_options *options = options_of(env, values[1]);
    if (!options) return NULL;
    const bool ok = went_well(env, kvrt_submit(session, options, &request, &error), &error);
    kvrt_options_destroy(options);
    return ok ? of_bits(env, request) : NULL;
}

/* Whether there is more to do. */
static napi_value step(napi_env env, napi_callback_info info)
{
    napi_value values[2], more = NULL;
    kvrt_error error = {.size = sizeof error};
    void *engine;
    int64_t budget = 0;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &engine)) return NULL;
    (void)napi_get_value_int64(env, values[1], &budget);
    const kvrt_status status = kvrt_step(engine, budget > 0 ? (uint64_t)budget : 0, &error);
    if (went_well(env, status, &error)) (void)napi_get_boolean(env, status != KVRT_DONE, &more);
    return more;
}

static void put(napi_env env, napi_value object, const char *name, napi_value value)
{
    if (value) (void)napi_set_named_property(env, object, name, value);
}

static napi_value number(napi_env env, double value)
{
    napi_value out = NULL;
    (void)napi_create_double(env, value, &out);
    return out;
}

/* {type, request, text, finish, status, done, total}, or null. */
static napi_value poll_engine(napi_env env, napi_callback_info info)
{
    napi_value argument, object = NULL, text = NULL;
    kvrt_error error = {.size = sizeof error};
    kvrt_event event = {.size = sizeof event};
    void *engine;
    if (!arguments(env, info, 1, &argument) || !handle_of(env, argument, &engine)) return NULL;
    const kvrt_status status = kvrt_poll(engine, &event, &error);
    if (!went_well(env, status, &error)) return NULL;
    if (status == KVRT_DONE) {
        (void)napi_get_null(env, &object);
        return object;
    }
    if (napi_create_object(env, &object) != napi_ok) return NULL;
    (void)napi_create_string_utf8(env, event.text ? event.text : "", event.text_len, &text);
    put(env, object, "type", number(env, event.type));
    put(env, object, "request", of_bits(env, event.request));
    put(env, object, "text", text);
    put(env, object, "finish", number(env, event.finish));
    put(env, object, "status", number(env, event.status));
    put(env, object, "done", number(env, (double)event.done));
    put(env, object, "total", number(env, (double)event.total));
    return object;
}

static napi_value cancel(napi_env env, napi_callback_info info)
{
    napi_value argument;
    uint64_t request = 0;
    bool lossless;
    if (arguments(env, info, 1, &argument) &&
        napi_get_value_bigint_uint64(env, argument, &request, &lossless) == napi_ok)
        kvrt_cancel_id(request);
    return NULL;
}

/* Both ways between a session and a file. */
static napi_value with_file(napi_env env, napi_callback_info info,
                            kvrt_status (*move)(kvrt_session, const char *, uint32_t, kvrt_error *))
{
    napi_value values[2];
    kvrt_error error = {.size = sizeof error};
    void *session;
    size_t len;
    if (!arguments(env, info, 2, values) || !handle_of(env, values[0], &session)) return NULL;
    char *path = text_of(env, values[1], &len);
    if (path) (void)went_well(env, move(session, path, 0, &error), &error);
    free(path);
    return NULL;
}
static napi_value save(napi_env env, napi_callback_info info) { return with_file(env, info, kvrt_session_save); }
static napi_value load(napi_env env, napi_callback_info info) { return with_file(env, info, kvrt_session_load); }

NAPI_MODULE_INIT()
{
    static const struct {
        const char *name;
        napi_callback call;
    } calls[] = {{"open", open_engine},  {"close", close_engine},
                 {"tokenize", tokenize}, {"session", create_session},
                 {"fork", fork_session}, {"closeSession", close_session},
                 {"sync", sync_session}, {"tokens", session_tokens},
                 {"submit", submit},     {"step", step},
                 {"poll", poll_engine},  {"cancel", cancel},
                 {"save", save},         {"load", load}};
    static const struct {
        const char *name;
        int32_t value;
    } numbers[] = {{"TEXT", KVRT_EVENT_TEXT},           {"REASONING", KVRT_EVENT_REASONING},
                   {"DONE", KVRT_EVENT_DONE},           {"ERROR", KVRT_EVENT_ERROR},
                   {"SHIFTED", KVRT_EVENT_CTX_SHIFTED}, {"CANCELLED", KVRT_FINISH_CANCELLED}};
    if (kvrt_abi_check(KVRT_ABI_VERSION) < KVRT_OK) {
        (void)napi_throw_error(env, NULL, "kvrt: the library is another than this module was built for");
        return NULL;
    }
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        napi_value function;
        if (napi_create_function(env, calls[i].name, NAPI_AUTO_LENGTH, calls[i].call, NULL, &function) == napi_ok)
            put(env, exports, calls[i].name, function);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        put(env, exports, numbers[i].name, number(env, numbers[i].value));
    return exports;
}
