/* generation_config.h - what generation_config.json of a model folder says about sampling: defaults of that model, below every option that
 * was set. Owns: the keys, their ranges, and what is done with values that transformers would refuse (refused) or leave unused (a
 * warning). The end tokens of the file are read by config.c. */
#ifndef KVI_GENERATION_CONFIG_H
#define KVI_GENERATION_CONFIG_H
#include "../base/options.h"

/* What is to be told beside the options. Start with the room for warnings, or with {0}. */
typedef struct kvi_generation_notes {
    bool ends;     /* the file names end tokens */
    char *warning; /* (cap) NUL-terminated; what is ignored is appended, after "; ". NULL: nobody asks */
    size_t cap;
} kvi_generation_notes;

/* Sets in `options` what the file says and nobody has set. No file: nothing. Errors: IO; FORMAT, naming file, key, found and needed. */
kvrt_status kvi_generation_defaults(const char *dir, kvrt_options *options, kvi_generation_notes *notes,
                                    kvrt_error *error);
/* The same from memory. */
kvrt_status kvi_generation_parse(const char *text, size_t len, kvrt_options *options, kvi_generation_notes *notes,
                                 kvrt_error *error);

#endif
