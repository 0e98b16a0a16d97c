/* same_vocabulary.h - `kvrt quantize FILE.gguf OUT --like FOLDER`: a GGUF file has no tokenizer.json to copy, so a folder of the same model
 * lends its own. A folder of another model would make a wrong model without a word, so the two vocabularies are compared. */
#ifndef TOOLS_SAME_VOCABULARY_H
#define TOOLS_SAME_VOCABULARY_H

#include "kvrt.h"

/* EXIT_OK: every token of `engine` has the same text in `folder`. Else an exit code, and what is wrong has been said. */
int same_vocabulary(kvrt_engine engine, const char *folder);

#endif
