/* tile_gemm_integers.cu - tile_gemm.cuh for codes that are integers; a file of their own, because each takes nvcc seconds. */
#include "tile_gemm.cuh"

TILE_GEMM(u2, kvi_codes_integer<2>)
TILE_GEMM(u3, kvi_codes_integer<3>)
TILE_GEMM(u4, kvi_codes_integer<4>)
TILE_GEMM(u5, kvi_codes_integer<5>)
TILE_GEMM(u6, kvi_codes_integer<6>)
TILE_GEMM(u8, kvi_codes_integer<8>)
