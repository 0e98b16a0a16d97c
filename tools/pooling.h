/* pooling.h - see pooling.c. */
#ifndef KVRT_POOLING_H
#define KVRT_POOLING_H
#include "command.h"

/* `asked`: "tokens", "mean", "last", "auto", or NULL, which is auto. An exit code; EXIT_USAGE without a message: another word. */
int pooling_of(const char *asked, const char *model, int32_t *out);

#endif
