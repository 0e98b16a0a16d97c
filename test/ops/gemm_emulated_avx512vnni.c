/* gemm_emulated_avx512vnni.c - the shipped gemm_amx.c on emulated tiles. */
#define KVI_AMX_HEADER "test/ops/amx_emulated.h"
#define kvi_cpu_amx kvi_cpu_emulated
#define kvi_cpu_bf16_amx kvi_cpu_bf16_emulated
#include "kernels/cpu/gemm_amx.c"
