/* kernel_list.h - every kernel of the library, one line each: KERNEL(name, registers). `registers` is the most a thread may use on
 * sm_86 and sm_89; the build's budget check fails above it, and on any spill. Included with KERNEL defined. All of them are
 * looked up when a device is opened, so that nothing is loaded later.
 * gemv_<weights>_n<rows>: rows of activations that share one pass over the weights. */
KERNEL(embed, 32)
KERNEL(norm_rows, 40)
KERNEL(gemv_f16_n1, 96)
KERNEL(gemv_f16_n2, 128)
KERNEL(gemv_f16_n4, 128)
KERNEL(gemv_f16_n8, 128)
KERNEL(gemv_bf16_n1, 96)
KERNEL(gemv_bf16_n2, 128)
KERNEL(gemv_bf16_n4, 128)
KERNEL(gemv_bf16_n8, 128)
KERNEL(gemv_f32_n1, 96)
KERNEL(gemv_f32_n4, 128)
