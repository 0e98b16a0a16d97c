/* tile_gemm_numbers.cu - tile_gemm.cuh for codes that stand for other numbers. */
#include "tile_gemm.cuh"

TILE_GEMM(table4, kvi_codes_table)
TILE_GEMM(numbers4, kvi_codes_numbers)
TILE_GEMM(e4m3, kvi_codes_e4m3)
TILE_GEMM(e5m2, kvi_codes_e5m2)
