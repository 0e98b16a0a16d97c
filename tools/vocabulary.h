/* vocabulary.h - the names an option goes by. One option is --temp on the command line, `temp = 0` or `sample.temperature = 0` in a file,
 * KVRT_TEMP in the environment and /set temp in a chat, and people bring names from other programs. All of these are understood in all
 * of these places; '-', '_' and '.' are one, and so are small and capital letters. The library knows keys only. */
#ifndef KVRT_VOCABULARY_H
#define KVRT_VOCABULARY_H
#include "kvrt.h"

#include <stdbool.h>
#include <stddef.h>

/* The option of that name: *info as kvrt_option_at gives it, *index its place there. Dashes in front are fine. */
bool vocabulary_find(const char *name, kvrt_option_info *info, uint32_t *index);
/* The option that a wrong name is likely to mean; false when none is near. */
bool vocabulary_nearest(const char *name, kvrt_option_info *info);
/* The n-th further name of a flag (an option's or a command's own); NULL past the end. */
const char *vocabulary_other_name(const char *flag, unsigned n);
/* What a flag of other programs is here, where it is no option: "--backend cuda" for gpu. NULL: nothing to say. */
const char *vocabulary_hint(const char *flag);
/* A value as it is written here, for habits such as --seed -1. */
const char *vocabulary_value(const char *key, const char *value);
/* The letter of an option's flag, 0 for none. */
char vocabulary_letter(const char *key);
/* "--temp", "KVRT_TEMP": how the option is written there; by key where it has no flag. */
const char *vocabulary_as_flag(const kvrt_option_info *info, char *dst, size_t cap);
const char *vocabulary_as_variable(const kvrt_option_info *info, char *dst, size_t cap);

#endif
