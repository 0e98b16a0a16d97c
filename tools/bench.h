/* bench.h - parts of `kvrt bench`. */
#ifndef KVRT_BENCH_H
#define KVRT_BENCH_H
#include "command.h"

/* What operations took. */
#define BENCH_MAX_OPS 16u
typedef struct bench_ops {
    kvrt_op_time ops[BENCH_MAX_OPS];
    char kernels[BENCH_MAX_OPS][48]; /* their names, which end with the engine */
    unsigned n, n_timed;             /* tokens or steps of the pass that timed them */
} bench_ops;

/* Since they are timed, over n tokens or steps; they are not timed any more. A status. */
int32_t bench_take_ops(bench_ops *t, kvrt_engine engine, uint32_t n, kvrt_error *error);
/* A line each, per unit ("token"); as JSON the elements of an array. */
void bench_print_ops(const bench_ops *t, const char *unit, bool json);

/* N sessions that decode at once against one alone, in rounds that alternate; then the pauses of one beside N - 1 that read prompts. `depth`
 * positions stand in each cache before. ops: times of operations, of steps of all. An exit code. */
int bench_together(const command_line *line, uint32_t n, uint32_t depth, uint32_t n_prompt, uint32_t n_gen,
                   uint32_t n_reps, bool ops, bool json);

/* The same texts with guesses (draft.type of the options) and without, in rounds that alternate: one that repeats itself, and one that nobody can
 * guess. An exit code. */
int bench_draft(const command_line *line, uint32_t n_prompt, uint32_t n_gen, uint32_t n_reps, bool json);

#endif
