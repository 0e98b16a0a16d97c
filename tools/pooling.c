/* pooling.c - how a model's embeddings are made of its tokens: as asked for, else as its folder says (1_Pooling/config.json, which
 * sentence-transformers writes), else of the last token, which a decoder has read everything for. */
#define _POSIX_C_SOURCE 200809L
#include "pooling.h"

#include <stdlib.h>
#include <string.h>

/* "name": true */
static bool is_true(const char *json, const char *name)
{
    const char *at = strstr(json, name);
    if (!at) return false;
    at += strlen(name);
    at += strspn(at, "\" :\t\r\n");
    return strncmp(at, "true", 4) == 0;
}

int pooling_of(const char *asked, const char *model, int32_t *out)
{
    static const char *const names[] = {"tokens", "mean", "last"};
    for (int i = 0; asked && i < 3; i++)
        if (strcmp(asked, names[i]) == 0) return *out = KVRT_POOL_TOKENS + i, EXIT_OK;
    if (asked && strcmp(asked, "auto") != 0) return EXIT_USAGE;
    char path[4200], text[4096] = "";
    *out = KVRT_POOL_LAST;
    const int n = snprintf(path, sizeof path, "%s/1_Pooling/config.json", model ? model : "");
    FILE *file = n > 0 && (size_t)n < sizeof path ? fopen(path, "rb") : NULL;
    if (!file) return EXIT_OK;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    (void)fclose(file);
    if (is_true(text, "pooling_mode_mean_tokens")) *out = KVRT_POOL_MEAN;
    else if (!is_true(text, "pooling_mode_lasttoken")) {
        fprintf(stderr, "kvrt: %s: neither pooling_mode_mean_tokens nor pooling_mode_lasttoken, need --pooling\n",
                path);
        return EXIT_MODEL;
    }
    return EXIT_OK;
}
