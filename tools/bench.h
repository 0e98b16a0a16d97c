/* bench.h - parts of `kvrt bench`. */
#ifndef KVRT_BENCH_H
#define KVRT_BENCH_H
#include "command.h"

/* N sessions that decode at once against one alone, in rounds that alternate; then the pauses of one beside N - 1 that read prompts. `depth`
 * positions stand in each cache before. An exit code. */
int bench_together(const command_line *line, uint32_t n, uint32_t depth, uint32_t n_prompt, uint32_t n_gen,
                   uint32_t n_reps, bool json);

/* The same texts with guesses (draft.type of the options) and without, in rounds that alternate: one that repeats itself, and one that nobody can
 * guess. An exit code. */
int bench_draft(const command_line *line, uint32_t n_prompt, uint32_t n_gen, uint32_t n_reps, bool json);

#endif
