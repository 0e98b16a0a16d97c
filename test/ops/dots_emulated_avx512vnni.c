/* dots_emulated_avx512vnni.c - the shipped dots_amx.c on emulated tiles. */
#define KVI_AMX_HEADER "test/ops/amx_emulated.h"
#define kvi_dots_amx kvi_dots_emulated
#include "kernels/cpu/dots_amx.c"
