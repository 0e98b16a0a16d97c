/* program.c - what is the same for every backend about a recorded program. */
#include "program.h"

#include <stddef.h>

const char *kvi_op_name(kvi_op_kind kind)
{
    static const char *const names[KVI_OP_KIND_COUNT] = {
        "embed",   "norm_linear", "rope_append", "attention",     "linear_add",       "norm_gate_up", "head", "route",
        "experts", "conv_state",  "delta",       "latent_append", "attention_latent", "join",         "last"};
    return (unsigned)kind < KVI_OP_KIND_COUNT ? names[kind] : "unknown operation";
}

uint32_t kvi_program_slice(const kvi_program *program, uint32_t first)
{
    while (first < program->n_ops && !program->ops[first].slice_end) first++;
    return first < program->n_ops ? first + 1 : program->n_ops;
}

kvrt_status kvi_program_range(const kvi_program *program, uint32_t first, uint32_t n, kvrt_error *error)
{
    if (first <= program->n_ops && n <= program->n_ops - first) return KVRT_OK;
    return kvi_error_set(error, KVRT_INTERNAL, "run: operations %u..%u of %u", first, first + n, program->n_ops);
}
