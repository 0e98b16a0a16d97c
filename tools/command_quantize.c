/* command_quantize.c - `kvrt quantize IN OUT`: a model folder with weights of 4 or 8 bits, as compressed-tensors lays them out. The folder is
 * made under another name beside OUT and takes its name when it is complete; what is interrupted leaves nothing. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "command.h"
#include "same_vocabulary.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { X_WEIGHTS, X_GROUP, X_HEAD, X_METHOD, X_TEXT, X_TOKENS, X_LIKE, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"weights", 'w', 1, 0, "TYPE", "i4 or i8: bits of the matrices of all layers [i4]"},
    {"group", 'g', 1, 0, "N", "weights of a row that share a scale, 0: the whole row [128 of i4, 0 of i8]"},
    {"head", 0, 1, 0, "TYPE", "i8: the head too [as it is]"},
    {"method", 'm', 1, 0, "NAME",
     "rtn: plain rounding; search: scales of least error; gptq: errors made good by other weights [gptq with --text, "
     "else rtn]"},
    {"text", 'f', 1, 0, "FILE", "a text like those that the model will see: errors count as its activations say"},
    {"tokens", 'n', 1, 0, "N", "of the text, at most [16384]"},
    {"like", 'l', 1, 0, "FOLDER", "of a GGUF file: where tokenizer.json and what belongs to it are copied from"},
};
const command quantize_command = {
    "quantize",
    "quantize IN OUT [--weights i4|i8] [--group N] [--head i8] [--method NAME] [--text FILE] [--like FOLDER]",
    "Writes a folder with weights of 4 or 8 bits (compressed-tensors).",
    extra,
    X_COUNT,
    "cpu. mem. log."};

/* What is being written. */
typedef struct writer {
    const char *in;    /* whose other files go with the model */
    char folder[4200]; /* under its temporary name */
    FILE *file;        /* model.safetensors */
    char *header;
    size_t header_len, header_cap;
    uint64_t offset;
    command_progress progress;
    bool began; /* the header is written */
    char problem[400];
} writer;

static bool problem(writer *w, const char *what, const char *path)
{
    if (!w->problem[0]) snprintf(w->problem, sizeof w->problem, "%.200s: %s: %s", path, what, strerror(errno));
    return false;
}

static bool add(writer *w, const char *text)
{
    const size_t len = strlen(text);
    while (w->header_len + len + 16 > w->header_cap) {
        char *more = realloc(w->header, w->header_cap * 2 + 65536);
        if (!more) return problem(w, "cannot hold the list of tensors", w->folder);
        w->header = more;
        w->header_cap = w->header_cap * 2 + 65536;
    }
    memcpy(w->header + w->header_len, text, len + 1);
    w->header_len += len;
    return true;
}

/* Names of tensors come from a header of the same kind, so they need no escaping but for what JSON itself has. */
static bool list_tensor(writer *w, const kvrt_quantize_event *e)
{
    char line[512];
    for (const char *c = e->name; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32)
            return problem(w, "a tensor's name cannot be written", e->name);
    snprintf(line, sizeof line, "%s\"%.200s\":{\"dtype\":\"%s\",\"shape\":[%llu",
             w->header_len ? "," : "{\"__metadata__\":{\"format\":\"pt\"},", e->name, e->dtype,
             (unsigned long long)e->shape[0]);
    if (!add(w, line)) return false;
    for (uint64_t i = 1; i < e->n_dims; i++) {
        snprintf(line, sizeof line, ",%llu", (unsigned long long)e->shape[i]);
        if (!add(w, line)) return false;
    }
    snprintf(line, sizeof line, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)w->offset,
             (unsigned long long)(w->offset + e->bytes));
    w->offset += e->bytes;
    return add(w, line);
}

static bool write_all(writer *w, FILE *file, const void *data, size_t len)
{
    return fwrite(data, 1, len, file) == len || problem(w, "cannot be written", w->folder);
}

/* The header is padded so that data begins at a multiple of 8, as the reference library has it. */
static bool begin_data(writer *w)
{
    unsigned char len[8];
    w->began = true;
    if (!add(w, "}")) return false;
    while (w->header_len % 8)
        if (!add(w, " ")) return false;
    for (int i = 0; i < 8; i++) len[i] = (unsigned char)((uint64_t)w->header_len >> (8 * i));
    return write_all(w, w->file, len, 8) && write_all(w, w->file, w->header, w->header_len);
}

static bool write_file(writer *w, const char *name, const void *data, size_t len)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", w->folder, name);
    FILE *file = fopen(path, "wb");
    if (!file) return problem(w, "cannot be written", path);
    const bool wrote = write_all(w, file, data, len);
    return (fclose(file) == 0 || problem(w, "cannot be written", path)) && wrote;
}

static int32_t on_event(const kvrt_quantize_event *e, void *user)
{
    writer *w = user;
    bool ok = !command_interrupted;
    if (ok && e->kind == KVRT_QUANTIZE_LIST) ok = list_tensor(w, e);
    if (ok && e->kind == KVRT_QUANTIZE_LEARN)
        command_progress_show(&w->progress, "text", e->done, e->total, 1, "tokens and layers");
    if (ok && e->kind == KVRT_QUANTIZE_TENSOR) {
        ok = (w->began || begin_data(w)) && write_all(w, w->file, e->data, (size_t)e->bytes);
        command_progress_show(&w->progress, "weights", e->done, e->total, 1048576, "MiB");
    }
    if (ok && e->kind == KVRT_QUANTIZE_CONFIG) ok = write_file(w, "config.json", e->data, (size_t)e->bytes);
    return !ok;
}

/* ------------------------------------------------------------------------------------------------- other files --- */
static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What a folder holds beside weights goes with the model: tokenizer, templates, sampling, the card. */
static bool is_copied(const char *name)
{
    static const char *const weights[] = {
        ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf", ".pth", ".pt", ".msgpack", ".h5",
        ".onnx"};
    if (name[0] == '.' || strcmp(name, "config.json") == 0) return false;
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        if (ends_with(name, weights[i])) return false;
    return true;
}

static bool copy_files(writer *w, const char *from, const char *below)
{
    char path[4800], name[512];
    DIR *dir = opendir(from);
    bool ok = dir || problem(w, "cannot be read", from);
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;) {
        struct stat about;
        size_t len;
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        snprintf(name, sizeof name, "%s%s", below, entry->d_name);
        if (!is_copied(entry->d_name) || stat(path, &about) != 0) continue;
        if (S_ISDIR(about.st_mode) && strcmp(entry->d_name, "additional_chat_templates") == 0) {
            char inner[4800];
            snprintf(inner, sizeof inner, "%s/%s", w->folder, name);
            ok = mkdir(inner, 0777) == 0 || problem(w, "cannot be made", inner);
            snprintf(name, sizeof name, "%s/", entry->d_name);
            ok = ok && copy_files(w, path, name);
        }
        if (!S_ISREG(about.st_mode)) continue;
        char *text = command_read_file(path, &len);
        ok = text && write_file(w, name, text, len);
        free(text);
    }
    if (dir) closedir(dir);
    return ok;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *at)
{
    (void)about, (void)kind, (void)at;
    return remove(path);
}

/* ------------------------------------------------------------------------------------------------------- whole --- */
static int usage(const char *what, const char *found)
{
    fprintf(stderr, "kvrt quantize: %s%s%s\n", what, found ? ", found " : "", found ? found : "");
    return EXIT_USAGE;
}

static bool number(const char *text, uint32_t most, uint32_t *out)
{
    char *end;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 10);
    *out = (uint32_t)value;
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno && value <= most;
}

static int read_params(const command_line *line, kvrt_quantize_params *p, uint32_t *n_tokens)
{
    const char *weights = line->extra[X_WEIGHTS] ? line->extra[X_WEIGHTS] : "i4", *head = line->extra[X_HEAD],
               *method = line->extra[X_METHOD] ? line->extra[X_METHOD]
                         : line->extra[X_TEXT] ? "gptq"
                                               : "rtn";
    static const char *const methods[] = {"rtn", "search", "gptq"};
    *n_tokens = 16384;
    if (line->n_positional != 2) return usage("need two folders, IN and OUT", NULL);
    if (strcmp(weights, "i4") != 0 && strcmp(weights, "i8") != 0) return usage("--weights needs i4 or i8", weights);
    if (head && strcmp(head, "i8") != 0) return usage("--head needs i8", head);
    p->bits = weights[1] == '4' ? 4 : 8;
    p->group = p->bits == 4 ? 128 : 0;
    p->head_bits = head ? 8 : 0;
    p->method = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(methods[i], method) == 0) p->method = i;
    if (p->method < 0) return usage("--method needs rtn, search or gptq", method);
    if (p->method == KVRT_QUANTIZE_GPTQ && !line->extra[X_TEXT]) return usage("--method gptq needs --text FILE", NULL);
    if (line->extra[X_GROUP] && (!number(line->extra[X_GROUP], 65536, &p->group) || (p->group && p->group < 8)))
        return usage("--group needs 0 or 8 to 65536", line->extra[X_GROUP]);
    if (line->extra[X_TOKENS] && (!number(line->extra[X_TOKENS], 1u << 24, n_tokens) || *n_tokens < 128))
        return usage("--tokens needs 128 to 16777216", line->extra[X_TOKENS]);
    return -1;
}

static int tokenize_text(kvrt_engine engine, const char *path, uint32_t most, int32_t **ids, uint64_t *n)
{
    kvrt_error error = command_error();
    size_t len;
    char *text = command_read_file(path, &len);
    int32_t status = text ? kvrt_tokenize(engine, text, (int64_t)len, 0, NULL, 0, n, &error) : KVRT_OK;
    if (text && status >= 0) {
        *ids = malloc((size_t)(*n + 1) * sizeof **ids);
        status = *ids ? kvrt_tokenize(engine, text, (int64_t)len, 0, *ids, *n, n, &error) : KVRT_NOMEM_HOST;
    }
    free(text);
    if (*n > most) *n = most;
    return !text ? EXIT_RUN : status < 0 ? command_fail(status, &error) : EXIT_OK;
}

/* Weights and config.json, then the rest, then the name. */
static int write_folder(writer *w, kvrt_engine engine, const kvrt_quantize_params *params, const char *out)
{
    kvrt_error error = command_error();
    char path[4400];
    if (mkdir(w->folder, 0777) != 0) {
        problem(w, "cannot be made", w->folder);
        return EXIT_RUN;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", w->folder);
    w->file = fopen(path, "wb");
    int32_t status = w->file ? kvrt_quantize(engine, params, on_event, w, &error) : KVRT_IO;
    if (!w->file) problem(w, "cannot be written", path);
    command_progress_clear(&w->progress);
    if (w->file && fflush(w->file) == 0 && fsync(fileno(w->file)) != 0) problem(w, "cannot be written", path);
    if (w->file && fclose(w->file) != 0) problem(w, "cannot be written", path);
    if (command_interrupted) return EXIT_INTERRUPT;
    if (w->problem[0]) return EXIT_RUN;
    if (status < 0) return command_fail(status, &error);
    if (!copy_files(w, w->in, "")) return EXIT_RUN;
    if (rename(w->folder, out) != 0) {
        problem(w, "cannot take its name", out);
        return EXIT_RUN;
    }
    w->folder[0] = 0;
    printf("%s: %.1f MiB of weights\n", out, (double)w->offset / 1048576.0);
    return EXIT_OK;
}

/* Positions that the model was trained for; the text is read in parts that it can follow. */
static uint32_t context_of(const char *path)
{
    kvrt_inspect_info info = {.size = sizeof info};
    return kvrt_inspect(path, &info, NULL, NULL, NULL) < 0 ? 0 : info.ctx_model;
}

/* A GGUF file has no tokenizer.json to copy. */
static bool needs_like(const char *path)
{
    char config[4400];
    struct stat about;
    snprintf(config, sizeof config, "%.4096s/config.json", path);
    return stat(path, &about) == 0 && stat(config, &about) != 0;
}

/* Whose files are copied: IN's, or LIKE's. */
static int choose_files(const command_line *line, writer *w)
{
    const char *like = line->extra[X_LIKE];
    char tokenizer[4400];
    struct stat about;
    if (!like)
        return needs_like(w->in)
                   ? usage("IN is no Hugging Face folder, need --like FOLDER for its tokenizer.json", w->in)
                   : EXIT_OK;
    if (!needs_like(w->in)) return usage("--like is for a GGUF file", w->in);
    snprintf(tokenizer, sizeof tokenizer, "%.4096s/tokenizer.json", like);
    if (stat(tokenizer, &about) != 0) return usage("--like needs a folder with a tokenizer.json", like);
    w->in = like;
    return EXIT_OK;
}

static int run(command_line *line, kvrt_quantize_params *params, uint32_t n_tokens)
{
    const char *out = line->positional[1];
    kvrt_engine engine = NULL;
    int32_t *ids = NULL;
    writer w = {.in = line->model[0] ? line->model : line->positional[0]};
    struct stat about;
    if (stat(out, &about) == 0) return usage("OUT is there already", out);
    (void)kvrt_options_set_text(line->options, "device.backend", "cpu", NULL);
    (void)kvrt_options_set_text(line->options, "kv.format", "f16", NULL);
    (void)kvrt_options_set_text(line->options, "ctx.size", context_of(w.in) < 2048 ? "512" : "2048", NULL);
    int code = choose_files(line, &w);
    if (code == EXIT_OK) code = command_open(line->options, &engine);
    command_catch_interrupt(NULL);
    if (code == EXIT_OK && line->extra[X_LIKE]) code = same_vocabulary(engine, line->extra[X_LIKE]);
    if (code == EXIT_OK && line->extra[X_TEXT]) {
        code = tokenize_text(engine, line->extra[X_TEXT], n_tokens, &ids, &params->n_ids);
        params->ids = ids;
    }
    if (code == EXIT_OK) {
        snprintf(w.folder, sizeof w.folder, "%.4096s.partial-%ld", out, (long)getpid());
        code = write_folder(&w, engine, params, out);
    }
    if (w.folder[0] && stat(w.folder, &about) == 0) (void)nftw(w.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (w.problem[0]) fprintf(stderr, "kvrt quantize: %s\n", w.problem);
    if (code == EXIT_INTERRUPT) fprintf(stderr, "kvrt quantize: interrupted\n");
    if (engine) (void)kvrt_engine_close(engine, NULL);
    free(ids);
    free(w.header);
    return code;
}

int quantize_main(int argc, char **argv)
{
    command_line line;
    kvrt_quantize_params params = {.size = sizeof params};
    uint32_t n_tokens;
    int code = command_parse(&quantize_command, argc, argv, true, &line);
    if (code < 0) code = read_params(&line, &params, &n_tokens);
    if (code < 0) code = run(&line, &params, n_tokens);
    command_free(&line);
    return code;
}
