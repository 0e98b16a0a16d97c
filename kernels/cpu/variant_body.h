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
const kvi_cpu_variant JOIN(kvi_cpu_, VARIANT) = {
    .name = TEXT(VARIANT),
    .needs = NEEDS,
    .panel = PANEL,
    .plain = {[KVI_F32] = {gemv_f32, pack_f32}, [KVI_F16] = {gemv_f16, pack_f16}, [KVI_BF16] = {gemv_bf16, pack_bf16}},
    .tiled = {gemv_tile, pack_tile},
    .decoded = {gemv_decoded, pack_decoded},
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
    .normal = normal,
    .widen = widen,
    .narrow = narrow,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .gelu_tanh_mul = gelu_tanh_mul,
    .swiglu_oai_mul = swiglu_oai_mul,
    .softcap = softcap,
    .softmax_step = softmax_step,
    .scale = scale,
    .hadamard = hadamard,
    .delta = delta,
    .delta_block = delta_block,
    .conv_silu = conv_silu,
    .read_streams = read_streams};
