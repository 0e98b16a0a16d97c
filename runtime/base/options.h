/* options.h - the one options table and typed access for the engine. The table feeds the API, the command's flags, --help, the
 * configuration file, completions and the man page; a key that is not in it does not exist. */
#ifndef KVI_OPTIONS_H
#define KVI_OPTIONS_H
#include <stdbool.h>
#include "status.h"

/* Effective values by key, for code inside the library: a wrong key or type is a bug there, and gives 0, false or "". */
bool kvi_options_bool(const kvrt_options *options, const char *key);
int64_t kvi_options_i64(const kvrt_options *options, const char *key); /* -1: auto */
double kvi_options_f64(const kvrt_options *options, const char *key);
const char *kvi_options_string(const kvrt_options *options, const char *key);
/* List options: number of items, and item i. */
uint32_t kvi_options_list_len(const kvrt_options *options, const char *key);
const char *kvi_options_list_item(const kvrt_options *options, const char *key, uint32_t index, uint64_t *len);
/* The range as the table shows it ("0..100"). */
const char *kvi_option_range(const char *key);
bool kvi_options_is_set(const kvrt_options *options, const char *key);
/* ARG for an option that is set in `given`, belongs to a wider scope than `scope`, and has not its owner's value. */
kvrt_status kvi_options_check_scope(const kvrt_options *given, const kvrt_options *owner, int32_t scope,
                                    kvrt_error *error);
/* Copies every key that is set in `from` over `into`. */
kvrt_status kvi_options_merge(kvrt_options *into, const kvrt_options *from, kvrt_error *error);

/* "24GiB", "512MiB", "1.5GB", "4096" to bytes. */
bool kvi_parse_bytes(const char *text, int64_t *out);

#endif
