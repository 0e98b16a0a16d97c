/* plan_memory.c - what fits, before anything is taken: plan_memory MODEL [BYTES]. BYTES as in "2GiB"; without it, what is free now. */
#include <kvrt.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc < 2) return fprintf(stderr, "usage: plan_memory_memory MODEL [BYTES]\n"), 2;
    kvrt_error error = {.size = sizeof error};
    kvrt_options *options = NULL;
    kvrt_plan_info info = {.size = sizeof info};
    kvrt_plan_row rows[8];
    uint64_t n = 0;
    for (int i = 0; i < 8; i++) rows[i].size = sizeof rows[i];

    int32_t status = kvrt_options_create(&options, &error);
    if (status >= 0) status = kvrt_options_set_string(options, "model.path", argv[1], -1, &error);
    if (status >= 0 && argc > 2) status = kvrt_options_set_text(options, "mem.limit", argv[2], &error);
    if (status >= 0) status = kvrt_plan(options, "f16,i8,k4v4,k4v2", &info, rows, 8, &n, &error);
    for (uint64_t i = 0; status >= 0 && i < n; i++)
        printf("%-5s %6.0f bytes a token, at most %7llu tokens (%s), %4llu sessions of %llu\n", rows[i].kv,
               rows[i].bytes_per_token, (unsigned long long)rows[i].max_ctx, rows[i].capped_by,
               (unsigned long long)rows[i].max_sessions, (unsigned long long)rows[i].ctx);
    if (status < 0) fprintf(stderr, "plan_memory: %s\n", error.message);
    kvrt_options_destroy(options);
    return status < 0;
}
