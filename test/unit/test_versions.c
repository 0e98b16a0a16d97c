/* test_versions.c - the promise of struct sizes: a struct one field short (an older header) and one byte longer (a newer one) work at every
 * entry of the API, what lies past the caller's size is not touched, and what both have is the same. */
#define _POSIX_C_SOURCE 200809L
#include "golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { CANARY = 0xa5, MOST = 4096 };
static golden_model model;
static kvrt_engine engine;
static kvrt_session session;
static kvrt_options *options;
static const int32_t prompt[5] = {10, 20, 30, 40, 50};

typedef kvrt_status (*entry)(void *out, kvrt_error *error);

static kvrt_status option_at(void *out, kvrt_error *error) { return kvrt_option_at(3, out, error); }
static kvrt_status engine_info(void *out, kvrt_error *error) { return kvrt_engine_get_info(engine, out, error); }
static kvrt_status session_info(void *out, kvrt_error *error) { return kvrt_session_get_info(session, out, error); }
static kvrt_status inspect(void *out, kvrt_error *error) { return kvrt_inspect(model.dir, out, NULL, NULL, error); }
static kvrt_status plan_row(void *out, kvrt_error *error)
{
    uint64_t n;
    return kvrt_plan(options, "k4v4", NULL, out, 1, &n, error);
}
static kvrt_status plan_info(void *out, kvrt_error *error)
{
    uint64_t n;
    const kvrt_status status = kvrt_plan(options, "k4v4", out, NULL, 0, &n, error);
    return status == KVRT_PARTIAL ? KVRT_OK : status;
}
static kvrt_status op_time(void *out, kvrt_error *error)
{
    assert_int_equal(kvrt_measure_ops(engine, 1, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_sync(session, prompt, 5, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_session_eval(session, prompt, 1, NULL, 0, NULL, NULL), KVRT_OK);
    return kvrt_measure_op_at(engine, 0, out, error);
}
static kvrt_status result(void *out, kvrt_error *error)
{
    assert_int_equal(kvrt_session_sync(session, prompt, 5, NULL, NULL), KVRT_OK);
    return kvrt_generate(session, options, NULL, NULL, out, error);
}
/* An error record is written by a failing call. */
static kvrt_status error_record(void *out, kvrt_error *error)
{
    (void)error;
    uint32_t size;
    memcpy(&size, out, sizeof size);
    return kvrt_session_rewind(session, 999, out) == KVRT_ARG && size >= 8 ? KVRT_OK : KVRT_ARG;
}

#define ENTRY(call, type, last, stable)                                                                                \
    {                                                                                                                  \
#type, call, sizeof(type), offsetof(type, last), stable                                                        \
    }
static const struct {
    const char *name;
    entry call;
    uint32_t full, last; /* sizes of the struct and of it without its last field */
    uint32_t stable;     /* leading bytes that are the same in every call */
} entries[] = {ENTRY(option_at, kvrt_option_info, max, sizeof(kvrt_option_info)),
               ENTRY(engine_info, kvrt_engine_info, weight_read_bytes, sizeof(kvrt_engine_info)),
               ENTRY(session_info, kvrt_session_info, n_packed_pages, sizeof(kvrt_session_info)),
               ENTRY(inspect, kvrt_inspect_info, n_files, sizeof(kvrt_inspect_info)),
               ENTRY(plan_row, kvrt_plan_row, problem, offsetof(kvrt_plan_row, max_ctx)),
               ENTRY(plan_info, kvrt_plan_info, backend, offsetof(kvrt_plan_info, budget_bytes)),
               ENTRY(op_time, kvrt_op_time, bytes, offsetof(kvrt_op_time, calls)),
               ENTRY(result, kvrt_result, seed, offsetof(kvrt_result, request)),
               ENTRY(error_record, kvrt_error, message, offsetof(kvrt_error, message))};

static void call_sized(unsigned i, uint32_t size, unsigned char *out)
{
    kvrt_error error = {.size = sizeof error};
    memset(out, CANARY, MOST);
    memcpy(out, &size, sizeof size);
    if (entries[i].call(out, &error) != KVRT_OK) fail_msg("%s of %u bytes: %s", entries[i].name, size, error.message);
    if (error.code || error.message[0])
        fail_msg("%s succeeds, and writes the error: %s", entries[i].name, error.message);
    assert_memory_equal(out, &size, sizeof size);
    for (uint32_t at = size; at < MOST; at++)
        if (out[at] != CANARY) fail_msg("%s of %u bytes: byte %u is written", entries[i].name, size, at);
}

static void shorter_and_longer_structs_work(void **state)
{
    (void)state;
    static _Alignas(16) unsigned char whole[MOST], other[MOST];
    for (unsigned i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        const uint32_t sizes[] = {
            8, entries[i].last - 1, entries[i].last, entries[i].full - 1, entries[i].full + 1, entries[i].full + 64};
        assert_true(entries[i].last < entries[i].full && entries[i].full + 64 < MOST);
        call_sized(i, entries[i].full, whole);
        for (unsigned k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            call_sized(i, sizes[k], other);
            const uint32_t same = sizes[k] < entries[i].stable ? sizes[k] : entries[i].stable;
            if (memcmp(whole + 4, other + 4, same - 4) != 0)
                fail_msg("%s of %u bytes: not what the full one gets", entries[i].name, sizes[k]);
        }
        for (uint32_t size = 0; size < 8; size += 4) {
            kvrt_error error = {.size = sizeof error};
            memcpy(other, &size, sizeof size);
            assert_int_equal(entries[i].call(other, &error), KVRT_ARG);
            if (entries[i].call != error_record && !strstr(error.message, entries[i].name))
                fail_msg("%s: message \"%s\"", entries[i].name, error.message);
        }
    }
}

static kvrt_status fail_at_once(kvrt_error *error) { return kvrt_session_rewind(session, 999, error); }
/* The reason is first kept for the event. */
static kvrt_status fail_with_an_event(kvrt_error *error)
{
    uint64_t request;
    assert_int_equal(kvrt_session_sync(session, prompt, 5, NULL, NULL), KVRT_OK);
    assert_int_equal(kvrt_request_reserve(session, &request, NULL), KVRT_OK);
    kvrt_cancel_request(session, request);
    return kvrt_generate(session, NULL, NULL, NULL, NULL, error);
}

/* A cut message ends with a NUL inside the caller's record. */
static void short_error_records_end(void **state)
{
    (void)state;
    kvrt_status (*const failures[])(kvrt_error *) = {fail_at_once, fail_with_an_event};
    for (uint32_t room = 1; room < 120; room++) {
        _Alignas(16) unsigned char bytes[sizeof(kvrt_error)];
        kvrt_error whole = {.size = sizeof whole};
        const uint32_t at = offsetof(kvrt_error, message), size = at + room / 2 + 1;
        memset(bytes, CANARY, sizeof bytes);
        memcpy(bytes, &size, sizeof size);
        assert_true(failures[room & 1](&whole) < KVRT_OK);
        assert_int_equal(failures[room & 1]((kvrt_error *)(void *)bytes), whole.code);
        const char *message = (const char *)bytes + at;
        const size_t len = strnlen(message, size - at);
        assert_true(len < size - at);
        assert_int_equal(len, strlen(whole.message) < size - at ? strlen(whole.message) : size - at - 1);
        assert_memory_equal(message, whole.message, len);
        assert_int_equal(bytes[size], CANARY);
    }
}

/* A message that is too long ends on a whole code point, and loses no more than the last one. */
static void long_messages_stay_utf8(void **state)
{
    (void)state;
    for (unsigned shift = 0; shift < 3; shift++) {
        kvrt_error error = {.size = sizeof error};
        char key[1000] = "ab";
        size_t n = shift;
        for (unsigned i = 0; i < 300; i++, n += 3) memcpy(key + n, "\xe4\xbd\xa0", 3); /* a letter of three bytes */
        key[n] = 0;
        assert_int_equal(kvrt_options_set_text(options, key, "1", &error), KVRT_ARG);
        const size_t len = strlen(error.message), head = strlen("option ") + shift;
        assert_true(len >= sizeof error.message - 4 && len < sizeof error.message);
        assert_int_equal((len - head) % 3, 0);
        assert_memory_equal(error.message + len - 3, "\xe4\xbd\xa0", 3);
    }
}

static void versions_and_names_are_exact(void **state)
{
    (void)state;
    assert_int_equal(kvrt_abi_check(KVRT_ABI_VERSION), KVRT_OK);
    assert_int_equal(kvrt_abi_check(KVRT_ABI_VERSION - 1), KVRT_ABI);
    assert_int_equal(kvrt_abi_check(KVRT_ABI_VERSION + 1), KVRT_ABI);
#define IS_NAMED(name, value, text)                                                                                    \
    assert_string_equal(kvrt_status_name(value), "KVRT_" #name);                                                       \
    assert_string_equal(kvrt_status_text(value), text);
    KVRT_STATUS_LIST(IS_NAMED)
    assert_string_equal(kvrt_status_name(99), "KVRT_?");
    assert_string_equal(kvrt_status_text(99), "unknown status");
    const uint32_t version = kvrt_version();
    char text[32];
    snprintf(text, sizeof text, "%u.%u.%u", version >> 16, version >> 8 & 255, version & 255);
    assert_string_equal(kvrt_version_string(), text);
}

/* An error about memory says how much is missing. */
static void memory_errors_have_numbers(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine none;
    kvrt_options *o;
    assert_int_equal(kvrt_options_clone(options, &o, NULL), KVRT_OK);
    assert_int_equal(kvrt_options_set_i64(o, "mem.limit", 400000, NULL), KVRT_OK);
    assert_int_equal(kvrt_engine_open(o, NULL, NULL, &none, &error), KVRT_OVER_BUDGET);
    assert_int_equal(error.available_bytes, 400000);
    assert_true(error.needed_bytes > error.available_bytes && error.needed_bytes < 64 << 20);
    kvrt_options_destroy(o);
}

/* What is tried on the way and is no failure of the call does not reach the caller: here, that the folder has no chat template. */
static void a_success_writes_no_error(void **state)
{
    (void)state;
    kvrt_error error = {.size = sizeof error};
    kvrt_engine other;
    assert_int_equal(kvrt_engine_open(options, NULL, NULL, &other, &error), KVRT_OK);
    assert_int_equal(error.code, 0);
    assert_string_equal(error.message, "");
    assert_int_equal(kvrt_engine_close(other, &error), KVRT_OK);
    assert_int_equal(error.code, 0);
}

/* Rows lie as far apart as the caller's struct is long. */
static void plan_rows_have_the_callers_stride(void **state)
{
    (void)state;
    static _Alignas(16) unsigned char bytes[8 * MOST];
    const uint32_t stride = offsetof(kvrt_plan_row, max_ctx);
    uint64_t n;
    memset(bytes, CANARY, sizeof bytes);
    memcpy(bytes, &stride, sizeof stride);
    assert_int_equal(kvrt_plan(options, "f16,i8,k4v4", NULL, (kvrt_plan_row *)(void *)bytes, 3, &n, NULL), KVRT_OK);
    assert_int_equal(n, 3);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t size;
        double bits;
        memcpy(&size, bytes + i * stride, sizeof size);
        memcpy(&bits, bytes + i * stride + offsetof(kvrt_plan_row, bits_per_element), sizeof bits);
        assert_int_equal(size, stride);
        assert_true(i == 0 ? bits == 16 : i == 1 ? bits > 8 && bits < 16 : bits > 4 && bits < 8);
    }
    assert_int_equal(bytes[3 * stride], CANARY);
}

/* The one struct that goes in: what is past its size reads as 0, whatever lies there. */
static void a_short_input_has_defaults(void **state)
{
    (void)state;
    kvrt_chat_input in = {.size = sizeof in,
                          .messages = "[{\"role\": \"user\", \"content\": \"hi\"}]",
                          .messages_len = -1,
                          .add_generation_prompt = 1};
    char whole[512] = "", other[512] = "";
    uint64_t n, len, other_len;
    kvrt_engine chat = golden_open_tiny((const char *const[]){"ctx.size", "64", NULL});
    (void)kvrt_chat_render(chat, &in, NULL, 0, &n, whole, sizeof whole, &len, NULL);
    assert_true(len > 0);
    in.text_from = UINT64_MAX; /* out of range, were it read */
    in.size = offsetof(kvrt_chat_input, text_from);
    assert_true(kvrt_chat_render(chat, &in, NULL, 0, &n, other, sizeof other, &other_len, NULL) >= 0);
    assert_int_equal(len, other_len);
    assert_memory_equal(whole, other, len);
    in.text_from = 0;
    in.size = sizeof in + 1;
    assert_true(kvrt_chat_render(chat, &in, NULL, 0, &n, other, sizeof other, &other_len, NULL) >= 0);
    in.size = 0;
    assert_int_equal(kvrt_chat_render(chat, &in, NULL, 0, &n, other, sizeof other, &other_len, NULL), KVRT_ARG);
    assert_int_equal(kvrt_engine_close(chat, NULL), KVRT_OK);
}

static int setup(void **state)
{
    (void)state;
    if (!golden_load("llama_gqa2", &model)) return -1;
    engine = golden_open(&model, (const char *const[]){"ctx.size", "64", "sample.seed", "1", NULL});
    kvrt_options_create(&options, NULL);
    kvrt_options_set_string(options, "model.path", model.dir, -1, NULL);
    kvrt_options_set_i64(options, "gen.max_tokens", 3, NULL);
    kvrt_options_set_i64(options, "ctx.size", 64, NULL);
    return kvrt_session_create(engine, NULL, &session, NULL) == KVRT_OK ? 0 : -1;
}
static int teardown(void **state)
{
    (void)state;
    kvrt_options_destroy(options);
    kvrt_engine_close(engine, NULL);
    golden_free(&model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shorter_and_longer_structs_work),   cmocka_unit_test(short_error_records_end),
        cmocka_unit_test(a_success_writes_no_error),         cmocka_unit_test(long_messages_stay_utf8),
        cmocka_unit_test(versions_and_names_are_exact),      cmocka_unit_test(memory_errors_have_numbers),
        cmocka_unit_test(plan_rows_have_the_callers_stride), cmocka_unit_test(a_short_input_has_defaults)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
