/* fuzz_folder.c - any bytes as a whole model folder: every file that an open reads, under a small budget, and what a host then does with it. An
 * error or an engine; never a crash, a leak or a hang.
 *
 * An input is a list of parts: the byte 0x1e, a letter, and the content up to the next 0x1e. The letters are those of `files` below, and
 *   s  the header of model.safetensors, whose length and data are made here: noise of small numbers, as long as its largest number says
 *   o  options, KEY=VALUE in lines       p  a prompt       m  messages, in JSON       x  tools, in JSON
 * make_folder_seeds.py writes the corpus. */
#define _XOPEN_SOURCE 700 /* mkdtemp, nftw */
#include "../../runtime/kvrt.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "fuzz_folder.c:%d: %s\n", __LINE__, #condition);                                           \
            __builtin_trap();                                                                                          \
        }                                                                                                              \
    } while (0)

#define MOST_DATA (1u << 20) /* bytes of weights */
#define MOST_IDS 48u

typedef struct part {
    const char *data; /* NULL: absent */
    size_t len;
} part;
static const struct {
    char letter;
    const char *name;
} files[] = {{'c', "config.json"},
             {'g', "generation_config.json"},
             {'t', "tokenizer.json"},
             {'k', "tokenizer_config.json"},
             {'j', "chat_template.jinja"},
             {'a', "additional_chat_templates/tool_use.jinja"},
             {'n', "special_tokens_map.json"},
             {'i', "model.safetensors.index.json"},
             {'h', "hf_quant_config.json"},
             {'v', "kv_cache_scales.json"},
             {'r', "model.safetensors"}}; /* raw: header and all */
static char folder[64];

/* -------------------------------------------------------------------------------------------------------- folder --- */
static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info, (void)kind, (void)at;
    return remove(path);
}
static void remove_folder(void) { (void)nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/* In memory where the system has such a folder. */
static void make_folder(void)
{
    char path[128];
    if (folder[0]) return;
    snprintf(folder, sizeof folder, "%s/kvrt-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/additional_chat_templates", folder);
    CHECK(mkdir(path, 0700) == 0);
    atexit(remove_folder);
}

static void write_file(const char *name, const void *head, size_t n_head, part body, const void *tail, size_t n_tail)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    (void)unlink(path);
    if (!body.data) return;
    FILE *file = fopen(path, "wb");
    CHECK(file);
    CHECK(fwrite(head, 1, n_head, file) == n_head && fwrite(body.data, 1, body.len, file) == body.len &&
          fwrite(tail, 1, n_tail, file) == n_tail);
    CHECK(fclose(file) == 0);
}

/* The largest number that stands in the header, the end of the data if nobody lied. */
static size_t end_of_data(part header)
{
    size_t most = 0, number = 0;
    for (size_t i = 0; i < header.len; i++) {
        const char c = header.data[i];
        number = c >= '0' && c <= '9' && number <= MOST_DATA ? number * 10 + (size_t)(c - '0') : 0;
        if (number > most && number <= MOST_DATA) most = number;
    }
    return most;
}

static void write_weights(part header)
{
    static uint8_t noise[MOST_DATA];
    uint8_t len[8];
    for (size_t i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)header.len >> (8 * i));
    for (size_t i = 0; !noise[1] && i < MOST_DATA; i += 2) { /* numbers of about 0.02 in BF16, 1 in F16, either sign */
        noise[i] = (uint8_t)(i * 2654435761u >> 13);
        noise[i + 1] = (uint8_t)(0x3c | (i * 2246822519u >> 17 & 0x80));
    }
    write_file("model.safetensors", len, sizeof len, header, noise, end_of_data(header));
}

static void split(const uint8_t *data, size_t size, part parts[128])
{
    for (size_t i = 0; i < size;) {
        const char *end = memchr(data + i, 0x1e, size - i);
        const size_t len = end ? (size_t)(end - (const char *)data) - i : size - i;
        if (len) parts[data[i] & 127] = (part){(const char *)data + i + 1, len - 1};
        i += len + 1;
    }
}

/* ------------------------------------------------------------------------------------------------------- options --- */
/* What would leave the folder, the CPU or the budget is not for an input to say. */
static int is_open_to_inputs(const char *key)
{
    static const char *const no[] = {"model.path", "model.shape", "device.", "debug.", "cpu.threads", "mem.reserve"};
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        if (strncmp(key, no[i], strlen(no[i])) == 0) return 0;
    return 1;
}

static kvrt_options *options_of(part text)
{
    kvrt_options *options;
    CHECK(kvrt_options_create(&options, NULL) == KVRT_OK);
    CHECK(kvrt_options_set_i64(options, "gen.max_tokens", 3, NULL) == KVRT_OK);
    for (size_t i = 0; i < text.len;) {
        char line[128];
        const char *end = memchr(text.data + i, '\n', text.len - i);
        const size_t len = end ? (size_t)(end - text.data) - i : text.len - i;
        snprintf(line, sizeof line, "%.*s", (int)len, text.data + i);
        i += len + 1;
        char *equals = strchr(line, '=');
        if (!equals) continue;
        *equals = 0;
        if (is_open_to_inputs(line)) (void)kvrt_options_set_text(options, line, equals + 1, NULL);
    }
    int64_t limit = 0, most = 0;
    CHECK(kvrt_options_get_i64(options, "mem.limit", &limit, NULL) == KVRT_OK);
    if (limit <= 0 || limit > 32 << 20) (void)kvrt_options_set_i64(options, "mem.limit", 32 << 20, NULL);
    CHECK(kvrt_options_get_i64(options, "gen.max_tokens", &most, NULL) == KVRT_OK);
    if (most < 0 || most > 8) (void)kvrt_options_set_i64(options, "gen.max_tokens", 8, NULL);
    (void)kvrt_options_set_text(options, "device.backend", "cpu", NULL);
    (void)kvrt_options_set_i64(options, "cpu.threads", 1, NULL);
    CHECK(kvrt_options_set_string(options, "model.path", folder, -1, NULL) == KVRT_OK);
    return options;
}

/* ---------------------------------------------------------------------------------------------------------- host --- */
static kvrt_error error; /* of the last call */

/* A failure has a code and says why; a success leaves the record alone. */
static kvrt_status told(kvrt_status status)
{
    CHECK(error.code == (status < KVRT_OK ? status : 0) && (error.message[0] != 0) == (status < KVRT_OK));
    return status;
}
#define TOLD(call) (error = (kvrt_error){.size = sizeof error}, told(call))

static int32_t on_event(const kvrt_event *event, void *user)
{
    CHECK(event->text && event->text[event->text_len] == 0);
    ++*(uint64_t *)user;
    return KVRT_CONTINUE;
}

static uint64_t ids_of(kvrt_engine engine, const part *parts, int32_t ids[MOST_IDS])
{
    uint64_t n = 0, len = 0;
    char text[512];
    const part p = parts['p'].data ? parts['p'] : (part){"a", 1}, m = parts['m'], x = parts['x'];
    if (m.data) {
        const kvrt_chat_input input = {.size = sizeof input,
                                       .add_generation_prompt = 1,
                                       .messages = m.data,
                                       .messages_len = (int64_t)m.len,
                                       .tools = x.data,
                                       .tools_len = (int64_t)x.len,
                                       .local_time = 1750000000};
        (void)TOLD(kvrt_chat_render(engine, &input, ids, MOST_IDS, &n, text, sizeof text, &len, &error));
        if (n) return n < MOST_IDS ? n : MOST_IDS;
    }
    (void)TOLD(kvrt_tokenize(engine, p.data, (int64_t)p.len, KVRT_TOKENIZE_ADD_SPECIAL | KVRT_TOKENIZE_PARSE_SPECIAL,
                             ids, MOST_IDS, &n, &error));
    n = n < MOST_IDS ? n : MOST_IDS;
    (void)TOLD(kvrt_detokenize(engine, ids, n, 0, text, sizeof text, &len, &error));
    return n;
}

static void use(kvrt_engine engine, const part *parts)
{
    kvrt_engine_info info = {.size = sizeof info};
    kvrt_result result = {.size = sizeof result};
    kvrt_session session;
    int32_t ids[MOST_IDS];
    uint64_t n_events = 0, n = ids_of(engine, parts, ids);
    CHECK(TOLD(kvrt_engine_get_info(engine, &info, &error)) == KVRT_OK);
    if (TOLD(kvrt_session_create(engine, NULL, &session, &error)) < KVRT_OK) return;
    if (n > 1 && n >= info.ctx_size) n = info.ctx_size > 1 ? info.ctx_size - 1 : 1;
    if (TOLD(kvrt_session_sync(session, ids, n, NULL, &error)) >= KVRT_OK)
        if (TOLD(kvrt_generate(session, NULL, on_event, &n_events, &result, &error)) >= KVRT_OK)
            CHECK(n_events > 0 && result.n_generated <= 8);
    CHECK(kvrt_engine_get_info(engine, &info, NULL) == KVRT_OK);
    CHECK(info.resident_bytes <= info.planned_bytes && info.planned_bytes <= info.budget_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    part parts[128] = {{0}};
    kvrt_inspect_info inspected = {.size = sizeof inspected};
    kvrt_plan_row row = {.size = sizeof row};
    kvrt_engine engine;
    const char *format;
    uint64_t bytes, blocks, bytes_after, blocks_after, n_rows = 0, n_events = 0;
    make_folder();
    split(data, size, parts);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        write_file(files[i].name, "", 0, parts[(int)files[i].letter], "", 0);
    if (parts['s'].data) write_weights(parts['s']);
    kvrt_debug_mem(&bytes, &blocks, NULL);
    kvrt_options *options = options_of(parts['o']);
    (void)TOLD(kvrt_inspect(folder, &inspected, NULL, NULL, &error));
    CHECK(kvrt_options_get_string(options, "kv.format", &format, NULL) == KVRT_OK);
    const kvrt_status planned = TOLD(kvrt_plan(options, format, NULL, &row, 1, &n_rows, &error));
    if (TOLD(kvrt_engine_open(options, on_event, &n_events, &engine, &error)) >= KVRT_OK) {
        use(engine, parts);
        CHECK(kvrt_engine_close(engine, NULL) == KVRT_OK);
    } else /* a plan is a promise */
        CHECK(error.code != KVRT_OVER_BUDGET || planned < KVRT_OK || n_rows != 1 || !row.fits);
    kvrt_options_destroy(options);
    kvrt_debug_mem(&bytes_after, &blocks_after, NULL);
    CHECK(bytes == bytes_after && blocks == blocks_after);
    return 0;
}
