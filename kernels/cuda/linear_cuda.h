/* linear_cuda.h - products of linear_cuda.c for those who put them together in other ways (experts_cuda.c). */
#ifndef KVI_LINEAR_CUDA_H
#define KVI_LINEAR_CUDA_H
#include "device_cuda.h"
#include "linear_params.h"

/* What chooses a kernel. Rows of a product have the same bits in every kernel of their form, narrow or wide (backend.h). */
typedef struct kvi_cuda_rows {
    uint32_t step; /* rows of x */
    uint32_t each; /* rows that meet one matrix: those of the step, or about as many pairs as an expert has */
    bool narrow;
} kvi_cuda_rows;

/* What the scratch of operands holds; zero: nothing. */
typedef struct kvi_cuda_held {
    bool any;
    uint32_t type;
    kvi_dptr order;
} kvi_cuda_held;

/* Parameters of the operation's product but for its weights, which may need several launches. */
kvi_cuda_linear_params kvi_cuda_linear_common(const kvi_device *device, const kvi_op *op);
/* Weights first .. behind - 1 of the operation that can go side by side with the first of them; returns how many. */
uint32_t kvi_cuda_linear_weights(kvi_cuda_linear_params *p, const kvi_op *op, uint32_t first, uint32_t behind);
bool kvi_cuda_side_by_side(const kvi_weight *a, const kvi_weight *b);
/* Gate (weight 0) and up (1) whose forms differ: gate is left in y, and up finds it there. */
void kvi_cuda_gate_apart(kvi_cuda_linear_params *p, uint32_t weight);
/* Rows of a block of the kernel that multiplies by w. */
uint32_t kvi_cuda_linear_tile_rows(const kvi_weight *w, const kvi_cuda_rows *rows);
/* Makes x what that kernel reads, in the scratch of operands, unless it is; but for experts, whose columns each may have in an order of its own. */
kvrt_status kvi_cuda_linear_operand(kvi_device *device, const kvi_weight *w, kvi_cuda_linear_params *p,
                                    const kvi_cuda_rows *rows, kvi_cuda_held *held, kvrt_error *error);
/* Weights first .. first + n by such an x. */
kvrt_status kvi_cuda_linear_product(kvi_device *device, const kvi_op *op, uint32_t first, uint32_t n,
                                    const kvi_cuda_linear_params *p, const kvi_cuda_rows *rows, const char **name,
                                    kvrt_error *error);
#endif
