/* test_weight_cache.c - weights kept in the backend's form (model.cache): the same logits to the bit whether they were laid or mapped, and a file that
 * is damaged, of another model or cannot be written costs nothing but a warning. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp, utimensat */
#include "golden_model.h"
#include "../../runtime/base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct opened {
    uint64_t digest;
    kvrt_engine_info info;
    char warning[400]; /* the first one about model.cache */
} opened;

static int32_t on_event(const kvrt_event *event, void *user)
{
    opened *o = user;
    if (event->type == KVRT_EVENT_WARNING && !o->warning[0] && strstr(event->text, "model.cache"))
        snprintf(o->warning, sizeof o->warning, "%s", event->text);
    return KVRT_CONTINUE;
}

static void digest_of(kvrt_engine engine, uint64_t *digest)
{
    enum { N = 24 };
    static float logits[N][4096];
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_error error = {.size = sizeof error};
    kvrt_session session;
    int32_t ids[N];
    uint32_t rows[N];
    assert_int_equal(kvrt_engine_get_info(engine, &info, &error), KVRT_OK);
    assert_true(info.vocab_size <= 4096);
    for (uint32_t i = 0; i < N; i++) ids[i] = (int32_t)(i * 37 % info.vocab_size), rows[i] = i;
    assert_int_equal(kvrt_session_create(engine, NULL, &session, &error), KVRT_OK);
    assert_int_equal(kvrt_session_eval(session, ids, N, rows, N, logits[0], &error), KVRT_OK);
    for (uint32_t i = 0; i < N * info.vocab_size; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[0][i], 4);
        *digest = (*digest ^ bits) * 0x100000001b3u;
    }
    assert_int_equal(kvrt_session_close(session, NULL), KVRT_OK);
}

/* Opens a folder with one more option, the cache (NULL: none), and computes. */
static opened open_with(const char *dir, const char *key, const char *value, const char *cache)
{
    opened o = {.digest = 0xcbf29ce484222325u, .info = {.size = sizeof o.info}};
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options;
    kvrt_engine engine;
    const char *const pairs[][2] = {
        {"model.path", dir}, {"device.backend", "cpu"}, {"cpu.amx", "false"}, {"kv.format", "f16"},
        {key, value},        {"weights.group", "32"},   {"ctx.size", "128"},  {"model.cache", cache ? cache : ""},
        {"cpu.threads", "2"}};
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (kvrt_options_set_text(options, pairs[i][0], pairs[i][1], &error) < KVRT_OK) fail_msg("%s", error.message);
    if (kvrt_engine_open(options, on_event, &o, &engine, &error) < KVRT_OK) fail_msg("%s: %s", dir, error.message);
    kvrt_options_destroy(options);
    digest_of(engine, &o.digest);
    assert_int_equal(kvrt_engine_get_info(engine, &o.info, &error), KVRT_OK);
    assert_true(o.info.resident_bytes <= o.info.planned_bytes);
    assert_int_equal(kvrt_engine_close(engine, NULL), KVRT_OK);
    return o;
}

/* ------------------------------------------------------------------------------------------------------ folders --- */
typedef struct place {
    char dir[64], file[400]; /* file: the only one of the cache */
    uint64_t bytes;
} place;

static uint32_t look(place *p)
{
    uint32_t n = 0;
    DIR *d = opendir(p->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.' && ++n) snprintf(p->file, sizeof p->file, "%s/%s", p->dir, e->d_name);
    closedir(d);
    struct stat st;
    p->bytes = n && stat(p->file, &st) == 0 ? (uint64_t)st.st_size : 0;
    return n;
}

static place make_place(void)
{
    place p = {.dir = "/tmp/kvrt_cache_XXXXXX"};
    assert_non_null(mkdtemp(p.dir));
    return p;
}

static void remove_place(place *p)
{
    while (look(p)) assert_int_equal(remove(p->file), 0);
    assert_int_equal(remove(p->dir), 0);
}

static void folder_named(const char *name, char *out, size_t cap)
{
    snprintf(out, cap, "%s/golden/%s", KVRT_TEST_DIR, name);
}

static void flip(const place *p, uint64_t at)
{
    FILE *f = fopen(p->file, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    const int byte = fgetc(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    fputc(byte ^ 0x20, f);
    assert_int_equal(fclose(f), 0);
}

/* -------------------------------------------------------------------------------------------------------- tests --- */
/* Forms of files, rounding at open, rows without tiles, experts, sorted columns. */
static void mapped_is_laid(void **state)
{
    static const struct {
        const char *folder, *key, *value;
        bool kept;
    } all[] = {
        {"quantized/gptq_sym", "weights.type", "auto", true}, {"quantized/gptq_desc_act", "weights.type", "auto", true},
        {"quantized/mxfp4", "weights.type", "auto", true},    {"models/llama_gqa2", "weights.type", "i4", true},
        {"models/llama_d128", "weights.embed", "i8", true},   {"models/qwen3_bf16", "weights.head", "i8", true},
        {"models/qwen3_bf16", "weights.type", "auto", false}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char dir[600];
        place p = make_place();
        folder_named(all[i].folder, dir, sizeof dir);
        const opened plain = open_with(dir, all[i].key, all[i].value, NULL),
                     first = open_with(dir, all[i].key, all[i].value, p.dir);
        assert_int_equal(look(&p), all[i].kept);
        const opened second = open_with(dir, all[i].key, all[i].value, p.dir);
        if (plain.digest != first.digest || plain.digest != second.digest) fail_msg("%s: other logits", dir);
        assert_string_equal(first.warning, "");
        assert_string_equal(second.warning, "");
        assert_int_equal(look(&p), all[i].kept);
        assert_true(!all[i].kept || second.info.planned_bytes < first.info.planned_bytes);
        assert_true(first.info.planned_bytes >= plain.info.planned_bytes);
        remove_place(&p);
    }
}

static void another_wish_is_another_file(void **state)
{
    char dir[600];
    place p = make_place();
    folder_named("models/llama_gqa2", dir, sizeof dir);
    (void)open_with(dir, "weights.type", "i4", p.dir);
    assert_int_equal(look(&p), 1);
    (void)open_with(dir, "weights.type", "i8", p.dir);
    assert_int_equal(look(&p), 2);
    (void)open_with(dir, "weights.type", "i4", p.dir);
    assert_int_equal(look(&p), 2);
    remove_place(&p);
}

static void damage_is_found_and_mended(void **state)
{
    char dir[600];
    place p = make_place();
    folder_named("models/llama_gqa2", dir, sizeof dir);
    const opened plain = open_with(dir, "weights.type", "i4", p.dir);
    assert_int_equal(look(&p), 1);
    const uint64_t n = p.bytes, forms = n - 64 - 64, whole = n;
    const struct {
        uint64_t at, length;
        const char *says;
    } all[] = {{0, whole, "does not begin"},
               {9, whole, "damaged"},
               {30, whole, "damaged"},
               {64, whole, "a form is damaged"},
               {forms / 2, whole, "a form is damaged"},
               {n - 64 - 3, whole, "damaged"},
               {n - 64, whole, ""},
               {n - 56, whole, ""},
               {n - 48, whole, "damaged"},
               {n - 1, whole, "does not end"},
               {0, n - 1, "does not end"},
               {0, n / 2, "does not end"},
               {0, 100, "does not begin"},
               {0, 1, "does not begin"},
               {0, 0, "is empty"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].length < whole) assert_int_equal(truncate(p.file, (off_t)all[i].length), 0);
        else flip(&p, all[i].at);
        const opened mended = open_with(dir, "weights.type", "i4", p.dir),
                     after = open_with(dir, "weights.type", "i4", p.dir);
        assert_true(mended.digest == plain.digest && after.digest == plain.digest);
        if (!mended.warning[0] || !strstr(mended.warning, all[i].says) || !strstr(mended.warning, p.file))
            fail_msg("damage %zu: '%s'", i, mended.warning);
        assert_string_equal(after.warning, "");
        assert_int_equal(look(&p), 1);
        assert_int_equal(p.bytes, whole);
        assert_true(after.info.planned_bytes < mended.info.planned_bytes);
    }
    remove_place(&p);
}

/* The content decides where the files' times differ: copied or touched is the same model, one changed number in the middle is not. */
static void another_content_is_another_model(void **state)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    char from[600], path[800];
    place p = make_place(), model = make_place();
    folder_named("models/llama_gqa2", from, sizeof from);
    for (int i = 0; i < 3; i++) {
        kvi_map map = {0};
        snprintf(path, sizeof path, "%s/%s", from, files[i]);
        assert_int_equal(kvi_os_map(path, NULL, &map, NULL), KVRT_OK);
        snprintf(path, sizeof path, "%s/%s", model.dir, files[i]);
        FILE *f = fopen(path, "wb");
        assert_int_equal(fwrite(map.data, 1, map.len, f), map.len);
        fclose(f);
        kvi_os_unmap(&map);
    }
    const opened first = open_with(from, "weights.type", "i4", p.dir),
                 copied = open_with(model.dir, "weights.type", "i4", p.dir);
    assert_string_equal(copied.warning, "");
    assert_true(copied.info.planned_bytes < first.info.planned_bytes && copied.digest == first.digest);
    snprintf(model.file, sizeof model.file, "%s/model.safetensors", model.dir);
    struct stat st;
    assert_int_equal(stat(model.file, &st), 0);
    flip(&model, (uint64_t)st.st_size - 8001); /* in the middle of nowhere */
    const opened changed = open_with(model.dir, "weights.type", "i4", p.dir);
    assert_non_null(strstr(changed.warning, "the model has changed"));
    assert_true(changed.digest != first.digest);
    assert_true(changed.digest == open_with(model.dir, "weights.type", "i4", NULL).digest);
    remove_place(&p);
    remove_place(&model);
}

static int32_t writes_left;
static int64_t failing_write(int32_t file, const void *bytes, uint64_t n)
{
    if (writes_left-- > 0) return (int64_t)write(file, bytes, n);
    errno = ENOSPC;
    return -1;
}

static void what_cannot_be_written_is_not_kept(void **state)
{
    char dir[600];
    place p = make_place();
    folder_named("models/llama_gqa2", dir, sizeof dir);
    const opened plain = open_with(dir, "weights.type", "i4", NULL);
    kvi_os_write_hook = failing_write;
    for (int32_t n = 0; n < 14; n += 2) {
        writes_left = n;
        const opened o = open_with(dir, "weights.type", "i4", p.dir);
        assert_non_null(strstr(o.warning, "not kept"));
        assert_true(o.digest == plain.digest);
        assert_int_equal(look(&p), 0);
    }
    kvi_os_write_hook = NULL;
    remove_place(&p);
}

static void a_missing_folder_is_made(void **state)
{
    char dir[600], deep[700];
    place p = make_place();
    folder_named("models/llama_gqa2", dir, sizeof dir);
    const opened plain = open_with(dir, "weights.type", "i4", NULL);
    snprintf(deep, sizeof deep, "%s/no/such", p.dir); /* its parent too is missing: said, not made */
    const opened none = open_with(dir, "weights.type", "i4", deep);
    assert_non_null(strstr(none.warning, "not kept"));
    assert_int_equal(remove(p.dir), 0);
    const opened made = open_with(dir, "weights.type", "i4", p.dir),
                 mapped = open_with(dir, "weights.type", "i4", p.dir);
    assert_true(none.digest == plain.digest && made.digest == plain.digest && mapped.digest == plain.digest);
    assert_true(mapped.info.planned_bytes < made.info.planned_bytes);
    assert_int_equal(look(&p), 1);
    remove_place(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mapped_is_laid),
                                       cmocka_unit_test(another_wish_is_another_file),
                                       cmocka_unit_test(damage_is_found_and_mended),
                                       cmocka_unit_test(another_content_is_another_model),
                                       cmocka_unit_test(what_cannot_be_written_is_not_kept),
                                       cmocka_unit_test(a_missing_folder_is_made)};
    return cmocka_run_group_tests_name("weight cache", tests, NULL, NULL);
}
