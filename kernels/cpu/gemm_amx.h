/* gemm_amx.h - prefill GEMM on AMX tiles: BF16 weights straight from the map, activations rounded to BF16, f32
 * accumulation. Its results differ from the f32 path by the rounding of the activations: relative 2^-9 each, a limit of
 * its own in the tests. */
#ifndef KVI_CPU_GEMM_AMX_H
#define KVI_CPU_GEMM_AMX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the packed form of n_rows x n_in activations; n_in must be a multiple of 32. */
size_t kvi_amx_packed_bytes(uint32_t n_rows, uint32_t n_in);
/* Packs rows [16 t, 16 t + 16) of x (n_rows, n_in) f32 for block t. Missing rows become zero. */
void kvi_amx_pack_block(const float *x, uint32_t n_rows, uint32_t n_in, uint32_t block, void *packed);
/* y[r * ldy + o] (+)= w[o] . x[r] for o < n_out (a multiple of 32) and all rows; w (n_out, n_in) BF16. `bias` may be
 * NULL. Configures the tiles of the calling thread and releases them. */
void kvi_amx_gemm(const void *w, uint32_t n_out, uint32_t n_in, const void *packed, uint32_t n_rows, const float *bias,
                  bool add, float *y, size_t ldy);

#endif
