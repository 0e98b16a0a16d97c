/* generation_config.h - what generation_config.json of a model folder says about sampling: defaults of that model, below every option that
 * was set. Owns: the keys, their ranges, and what is done with values that transformers would refuse (refused) or leave unused (a
 * warning). The end tokens of the file are read by config.c. */
#ifndef KVI_GENERATION_CONFIG_H
#define KVI_GENERATION_CONFIG_H
#include "../base/options.h"

/* Sets in `options` what the file says and nobody has set. No file: nothing. Errors: IO; FORMAT, naming file, key, found and needed.
 * *ends (may be NULL): the file names end tokens. */
kvrt_status kvi_generation_defaults(const char *dir, kvrt_options *options, bool *ends, kvrt_error *error);
/* The same from memory. */
kvrt_status kvi_generation_parse(const char *text, size_t len, kvrt_options *options, bool *ends, kvrt_error *error);

#endif
