/* command_inspect.c - `kvrt inspect MODEL`: architecture, tensors, sizes, dtype histogram, and what is unsupported
 * and why. */
#include "command.h"

#include <string.h>

enum { X_JSON, X_TENSORS, X_COUNT };
static const argparse_option extra[X_COUNT] = {
    {"json", 0, 0, 0, NULL, "print JSON"},
    {"tensors", 't', 0, 0, NULL, "list every tensor"},
};
const command inspect_command = {
    "inspect", "inspect MODEL [--tensors] [--json]", "Shows what a model folder holds.", extra, X_COUNT, "log."};

typedef struct histogram {
    struct {
        char dtype[16];
        uint64_t count, bytes;
    } rows[32];
    struct {
        char form[16], kernel[64];
        uint64_t n_weights;
        double bits; /* of all of them */
    } forms[32];
    unsigned n, n_forms;
    bool list, json, first;
} histogram;

static void print_tensor(histogram *h, const kvrt_inspect_tensor *t)
{
    if (h->json) {
        printf("%s{\"name\":", h->first ? "" : ",");
        command_json_string(stdout, t->name, strlen(t->name));
        printf(",\"dtype\":\"%s\",\"shape\":[", t->dtype);
        for (uint64_t i = 0; i < t->n_dims; i++) printf("%s%llu", i ? "," : "", (unsigned long long)t->shape[i]);
        printf("],\"bytes\":%llu", (unsigned long long)t->bytes);
        if (t->n_weights)
            printf(",\"form\":\"%s\",\"n_weights\":%llu,\"bits\":%.4g,\"group\":%u,\"kernel\":\"%s\"", t->form,
                   (unsigned long long)t->n_weights, t->bits, t->group, t->kernel);
        printf("}");
        h->first = false;
        return;
    }
    printf("  %-60s %-5s [", t->name, t->dtype);
    for (uint64_t i = 0; i < t->n_dims; i++) printf("%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    printf("]");
    if (t->n_weights) printf("  %s, %.4g bits", t->form, t->bits);
    if (t->group) printf(", groups of %u", t->group);
    if (t->kernel[0]) printf(", %s", t->kernel);
    printf("\n");
}

static void count_form(histogram *h, const kvrt_inspect_tensor *t)
{
    unsigned i = 0;
    while (i < h->n_forms && (strcmp(h->forms[i].form, t->form) != 0 || strcmp(h->forms[i].kernel, t->kernel) != 0))
        i++;
    if (i == h->n_forms && h->n_forms < 32) {
        snprintf(h->forms[i].form, sizeof h->forms[i].form, "%s", t->form);
        snprintf(h->forms[h->n_forms++].kernel, sizeof h->forms[i].kernel, "%s", t->kernel);
    }
    if (i < 32) h->forms[i].n_weights += t->n_weights, h->forms[i].bits += t->bits * (double)t->n_weights;
}

static void on_tensor(const kvrt_inspect_tensor *t, void *user)
{
    histogram *h = user;
    unsigned i = 0;
    while (i < h->n && strcmp(h->rows[i].dtype, t->dtype) != 0) i++;
    if (i == h->n && h->n < 32) snprintf(h->rows[h->n++].dtype, 16, "%s", t->dtype);
    if (i < 32) h->rows[i].count++, h->rows[i].bytes += t->bytes;
    if (t->n_weights) count_form(h, t);
    if (h->list) print_tensor(h, t);
}

/* The values that answers are sampled with, and where each comes from. */
static void print_sampling(const command_line *line, const kvrt_options *defaults, bool json)
{
    for (unsigned i = 0; command_sampling_keys[i]; i++) {
        const char *key = command_sampling_keys[i], *from = command_origin(line, defaults, key);
        char value[40];
        command_value(line->options, defaults, key, value, sizeof value);
        if (json) printf("%s\"%s\":{\"value\":%s,\"from\":\"%s\"}", i ? "," : "", strchr(key, '.') + 1, value, from);
        else printf("  %-16s %s (%s)\n", strchr(key, '.') + 1, value, from);
    }
}

static void print_ends(const kvrt_inspect_info *info)
{
    for (uint32_t i = 0; i < info->n_eos; i++) printf("%s%d", i ? "," : "", info->eos_ids[i]);
}

static void print_text(const kvrt_inspect_info *info, const histogram *h, const command_line *line,
                       const kvrt_options *defaults)
{
    printf("architecture   %s%s%s%s\n", info->architecture[0] ? info->architecture : "unknown",
           info->family[0] ? " (" : "", info->family, info->family[0] ? ")" : "");
    printf("layers         %u%s%s\nhidden, ffn    %u, %u\n", info->n_layers, info->layers[0] ? ": " : "", info->layers,
           info->hidden_size, info->ffn_size);
    printf("heads          %u query, %u KV, head_dim %u\n", info->n_heads, info->n_kv_heads, info->head_dim);
    printf("vocabulary     %u%s\n", info->vocab_size, info->tied_embeddings ? ", embeddings tied" : "");
    printf("context        %u%s\n", info->ctx_model, "");
    if (info->sliding_window) printf("window         %u\n", info->sliding_window);
    printf("rope           theta %.0f, scaling %s\n", info->rope_theta, info->rope_scaling);
    if (info->qkv_bias || info->qk_norm)
        printf("flags          %s%s\n", info->qkv_bias ? "qkv bias " : "", info->qk_norm ? "qk norm" : "");
    printf("tokenizer      %s\n", info->tokenizer[0] ? info->tokenizer : "none");
    printf("parameters     %llu in %llu tensors, %llu file%s, %.1f MiB\n", (unsigned long long)info->n_params,
           (unsigned long long)info->n_tensors, (unsigned long long)info->n_files, info->n_files == 1 ? "" : "s",
           (double)info->bytes / 1048576.0);
    for (unsigned i = 0; i < h->n; i++)
        printf("  %-12s %llu tensors, %.1f MiB\n", h->rows[i].dtype, (unsigned long long)h->rows[i].count,
               (double)h->rows[i].bytes / 1048576.0);
    if (info->n_weights)
        printf("weights        %s%s%.4g bits each\n", info->quantization, info->quantization[0] ? ", " : "",
               (double)info->weight_bytes * 8 / (double)info->n_weights);
    for (unsigned i = 0; i < h->n_forms; i++)
        printf("  %-12s %llu of %.4g bits%s%s\n", h->forms[i].form, (unsigned long long)h->forms[i].n_weights,
               h->forms[i].bits / (double)h->forms[i].n_weights, ": ",
               h->forms[i].kernel[0] ? h->forms[i].kernel : "vectors");
    printf("sampling\n");
    print_sampling(line, defaults, false);
    if (info->n_eos) printf("  %-16s ", "end tokens");
    print_ends(info);
    if (info->n_eos) printf(" (%s)\n", info->eos_of_generation ? "generation_config.json" : "config.json or tokenizer");
    if (info->warning[0]) printf("warning        %s\n", info->warning);
    printf("supported      %s%s\n", info->problem[0] ? "no: " : "yes", info->problem);
}

/* Forms by name; what multiplies the most of each. */
static void print_forms(const histogram *h)
{
    bool told[32] = {false}, any = false;
    for (unsigned i = 0; i < h->n_forms; i++) {
        uint64_t n = 0;
        double bits = 0;
        unsigned most = i;
        for (unsigned k = i; k < h->n_forms && !told[i]; k++) {
            if (k > i && strcmp(h->forms[k].form, h->forms[i].form) != 0) continue;
            told[k] = k > i;
            n += h->forms[k].n_weights, bits += h->forms[k].bits;
            if (h->forms[k].n_weights > h->forms[most].n_weights) most = k;
        }
        if (!n) continue;
        printf("%s\"%s\":{\"n_weights\":%llu,\"bits\":%.4g,\"kernel\":\"%s\"}", any ? "," : "", h->forms[i].form,
               (unsigned long long)n, bits / (double)n, h->forms[most].kernel);
        any = true;
    }
}

static void print_json(const kvrt_inspect_info *info, const histogram *h, const command_line *line,
                       const kvrt_options *defaults)
{
    printf("%s\"architecture\":", h->list ? "]," : "{");
    command_json_string(stdout, info->architecture, strlen(info->architecture));
    printf(",\"family\":\"%s\",\"n_layers\":%u,\"hidden_size\":%u,\"ffn_size\":%u,\"n_heads\":"
           "%u,\"n_kv_heads\":%u,\"head_dim\":%u,",
           info->family, info->n_layers, info->hidden_size, info->ffn_size, info->n_heads, info->n_kv_heads,
           info->head_dim);
    printf("\"vocab_size\":%u,\"ctx_model\":%u,\"sliding_window\":%u,\"n_params\":%llu,\"bytes\":%llu,\"n_tensors\":%"
           "llu,\"dtypes\":{",
           info->vocab_size, info->ctx_model, info->sliding_window, (unsigned long long)info->n_params,
           (unsigned long long)info->bytes, (unsigned long long)info->n_tensors);
    for (unsigned i = 0; i < h->n; i++)
        printf("%s\"%s\":%llu", i ? "," : "", h->rows[i].dtype, (unsigned long long)h->rows[i].bytes);
    printf("},\"quantization\":\"%s\",\"weight_bytes\":%llu,\"forms\":{", info->quantization,
           (unsigned long long)info->weight_bytes);
    print_forms(h);
    printf("},\"sampling\":{");
    print_sampling(line, defaults, true);
    printf("},\"eos_ids\":[");
    print_ends(info);
    printf("],\"supported\":%s,\"problem\":", info->problem[0] ? "false" : "true");
    command_json_string(stdout, info->problem, strlen(info->problem));
    printf(",\"warning\":");
    command_json_string(stdout, info->warning, strlen(info->warning));
    printf("}\n");
}

int inspect_main(int argc, char **argv)
{
    command_line line;
    int code = command_parse(&inspect_command, argc, argv, true, &line);
    if (code < 0 && line.n_positional != 1) {
        fprintf(stderr, "kvrt inspect: need one model folder (see kvrt inspect --help)\n");
        code = EXIT_USAGE;
    }
    if (code < 0) {
        kvrt_error error = command_error();
        kvrt_inspect_info info = {.size = sizeof info};
        histogram h = {.list = line.extra[X_TENSORS] != NULL, .json = line.extra[X_JSON] != NULL, .first = true};
        if (h.list && h.json) printf("{\"tensors\":[");
        kvrt_options *defaults = command_model_defaults(line.positional[0]);
        int32_t status = kvrt_inspect(line.positional[0], &info, on_tensor, &h, &error);
        code = status < 0 ? command_fail(status, &error) : EXIT_OK;
        if (code == EXIT_OK && h.json) print_json(&info, &h, &line, defaults);
        else if (code == EXIT_OK) print_text(&info, &h, &line, defaults);
        kvrt_options_destroy(defaults);
        if (code == EXIT_OK && info.problem[0]) code = EXIT_MODEL;
    }
    command_free(&line);
    return code;
}
