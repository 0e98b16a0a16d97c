/* variant_body.h - the source of every variant, compiled once per instruction set by variant_*.c, which define
 *   VARIANT       suffix of the table's name          MR        rows of a panel_mac tile
 *   NEEDS         KVI_CPU_HAS_* that the CPU must have
 *   TILES         kvi_cpu_tiles to use where the CPU has them, or NULL
 *   DOTS          kvi_cpu_dots that every CPU with these needs has
 * include lanes_*.h before this and define narrow_f16, VW values at a time, behind it.
 * Vectors are the compilers' vector extension, so one text serves all. Contraction is off (-ffp-contract=off), so that
 * the compiler's choices do not change results; where a product is fused, fma_vec says so. */
#include "attention_packed.h"
#include "../../runtime/kv/encode.h"
#include "../../runtime/model/weight_codec.h"

#include <math.h>

#define PANEL (2u * VW)

static inline void narrow_f16(vf v, uint16_t *p);

#include "variant_numbers.h"

#include "variant_attention.h"
#include "variant_bandwidth.h"
#include "variant_gemv.h"
#include "variant_panels.h"
#include "variant_rows.h"
#include "variant_state.h"
#include "variant_tiles.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(v) #v
#define TEXT(v) TEXT_(v)
#define KERNEL_OF(form)                                                                                                \
    {                                                                                                                  \
        "gemv_" #form "_" TEXT(VARIANT), "gemm_" #form "_" TEXT(VARIANT), gemv_##form, pack_##form                     \
    }
#define TILED_OF(NAME, text, block, bytes, scale, need, may)                                                           \
    {"gemv_" text "_exact_" TEXT(VARIANT), "gemm_" text "_exact_" TEXT(VARIANT), gemv_tile, pack_tile},
#define DECODED_OF(NAME, text, block, bytes, scale, need, may)                                                         \
    {"gemv_" text "_decoded_" TEXT(VARIANT), "gemm_" text "_decoded_" TEXT(VARIANT), gemv_decoded, pack_decoded},
const kvi_cpu_variant JOIN(kvi_cpu_, VARIANT) = {
    .name = TEXT(VARIANT),
    .needs = NEEDS,
    .panel = PANEL,
    .kernels = {[KVI_FORM_F32] = KERNEL_OF(f32), [KVI_FORM_F16] = KERNEL_OF(f16), [KVI_FORM_BF16] = KERNEL_OF(bf16)},
    .tiled = {KVI_WEIGHT_FORMS(TILED_OF)},
    .decoded = {KVI_WEIGHT_FORMS(DECODED_OF)},
    .dots = DOTS,
    .packed = &JOIN(kvi_cpu_packed_, VARIANT),
    .encoder = &JOIN(kvi_kv_encoder_, VARIANT),
    .tiles = TILES,
    .pack = pack,
    .panel_mac = panel_mac,
    .score = score,
    .blend = blend,
    .unpack = unpack,
    .affine = affine,
    .widen = widen,
    .narrow = narrow,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .softmax_step = softmax_step,
    .scale = scale,
    .hadamard = hadamard,
    .delta = delta,
    .conv_silu = conv_silu,
    .read_streams = read_streams};
