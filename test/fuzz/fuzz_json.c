/* fuzz_json.c - any bytes through the pull reader: walks every value, copies every string. */
#include "../../runtime/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(kvi_json *r, kvi_buf *text, int depth)
{
    switch (kvi_json_peek(r)) {
    case KVI_JSON_OBJECT:
        if (depth > 20) {
            kvi_json_skip(r);
            return;
        }
        kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            (void)kvi_json_key_is(r, "key");
            walk(r, text, depth + 1);
        }
        break;
    case KVI_JSON_ARRAY:
        if (depth > 20) {
            kvi_json_skip(r);
            return;
        }
        kvi_json_expect(r, KVI_JSON_ARRAY);
        while (kvi_json_next_item(r)) walk(r, text, depth + 1);
        break;
    case KVI_JSON_STRING:
        if (kvi_json_string(r)) kvi_json_str_copy(r, text);
        break;
    case KVI_JSON_NUMBER: (void)kvi_json_f64(r); break;
    case KVI_JSON_TRUE:
    case KVI_JSON_FALSE: (void)kvi_json_bool(r); break;
    case KVI_JSON_NULL: (void)kvi_json_null(r); break;
    case KVI_JSON_NONE: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kvi_json r;
    kvi_buf text = {0};
    kvrt_error error = {.size = sizeof error};
    kvi_json_init(&r, (const char *)data, size);
    walk(&r, &text, 0);
    if (!kvi_json_end(&r)) (void)kvi_json_fail(&r, "fuzz", &error);
    kvi_buf_clear(&text);
    kvi_json_write_string(&text, (const char *)data, size);
    kvi_buf_free(&text);
    return 0;
}
