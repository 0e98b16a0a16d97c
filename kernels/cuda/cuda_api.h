/* cuda_api.h - the part of the CUDA driver API that kvrt uses: types, constants and one list of functions, by the versioned names
 * that libcuda.so.1 exports. Our own declarations, so that no toolkit is needed to build; they follow the ABI of cuda.h of
 * CUDA 12 and 13. driver.c makes a table of pointers from the list, test/emu implements the same functions.
 * C and C++. Nothing but declarations. */
#ifndef KVI_CUDA_API_H
#define KVI_CUDA_API_H
#include <stddef.h>
#include <stdint.h>

typedef int kvi_cu_result;
typedef int kvi_cu_device;
typedef uint64_t kvi_cu_dptr;
typedef struct kvi_cu_context_t *kvi_cu_context;
typedef struct kvi_cu_stream_t *kvi_cu_stream;
typedef struct kvi_cu_event_t *kvi_cu_event;
typedef struct kvi_cu_library_t *kvi_cu_library;
typedef struct kvi_cu_kernel_t *kvi_cu_kernel;
typedef struct kvi_cu_function_t *kvi_cu_function;
typedef struct kvi_cu_graph_t *kvi_cu_graph;
typedef struct kvi_cu_node_t *kvi_cu_node;
typedef struct kvi_cu_graph_exec_t *kvi_cu_graph_exec;

/* CUDA_KERNEL_NODE_PARAMS_v2 */
typedef struct kvi_cu_kernel_node {
    kvi_cu_function function;
    unsigned int grid_x, grid_y, grid_z;
    unsigned int block_x, block_y, block_z;
    unsigned int shared_bytes;
    void **params; /* one pointer per kernel parameter; copied when the node is added */
    void **extra;
    kvi_cu_kernel kernel;   /* NULL when function is given */
    kvi_cu_context context; /* NULL: the current one */
} kvi_cu_kernel_node;

/* Memory without addresses of its own: CUmemGenericAllocationHandle, CUmemLocation, CUmemAllocationProp, CUmemAccessDesc */
typedef unsigned long long kvi_cu_memory;
typedef struct kvi_cu_location {
    int type, id;
} kvi_cu_location;
typedef struct kvi_cu_memory_kind {
    int type, handles;
    kvi_cu_location location;
    void *windows;
    unsigned char flags[8];
} kvi_cu_memory_kind;
typedef struct kvi_cu_memory_access {
    kvi_cu_location location;
    int flags;
} kvi_cu_memory_access;
enum { KVI_CU_MEMORY_PINNED = 1, KVI_CU_LOCATION_DEVICE = 1, KVI_CU_ACCESS_READ_WRITE = 3, KVI_CU_GRAIN_LEAST = 0 };

enum {
    KVI_CU_SUCCESS = 0,
    KVI_CU_INVALID_VALUE = 1,
    KVI_CU_OUT_OF_MEMORY = 2,
    KVI_CU_NOT_INITIALIZED = 3,
    KVI_CU_NO_DEVICE = 100,
    KVI_CU_INVALID_DEVICE = 101,
    KVI_CU_INVALID_IMAGE = 200,
    KVI_CU_INVALID_CONTEXT = 201,
    KVI_CU_NO_BINARY_FOR_GPU = 209,
    KVI_CU_ECC_UNCORRECTABLE = 214,
    KVI_CU_UNSUPPORTED_PTX_VERSION = 222,
    KVI_CU_INVALID_HANDLE = 400,
    KVI_CU_NOT_FOUND = 500,
    KVI_CU_NOT_READY = 600,
    KVI_CU_ILLEGAL_ADDRESS = 700,
    KVI_CU_LAUNCH_OUT_OF_RESOURCES = 701,
    KVI_CU_LAUNCH_TIMEOUT = 702,
    KVI_CU_ASSERT = 710,
    KVI_CU_HARDWARE_STACK_ERROR = 714,
    KVI_CU_ILLEGAL_INSTRUCTION = 715,
    KVI_CU_MISALIGNED_ADDRESS = 716,
    KVI_CU_LAUNCH_FAILED = 719,
    KVI_CU_CONTAINED = 721,
    KVI_CU_SYSTEM_DRIVER_MISMATCH = 803,
    KVI_CU_UNKNOWN = 999
};
/* CUdevice_attribute */
enum {
    KVI_CU_ATTR_MAX_THREADS_PER_BLOCK = 1,
    KVI_CU_ATTR_MAX_SHARED_PER_BLOCK = 8,
    KVI_CU_ATTR_CLOCK_KHZ = 13,
    KVI_CU_ATTR_SM_COUNT = 16,
    KVI_CU_ATTR_COMPUTE_MODE = 20,
    KVI_CU_ATTR_MEMORY_CLOCK_KHZ = 36,
    KVI_CU_ATTR_MEMORY_BUS_BITS = 37,
    KVI_CU_ATTR_L2_BYTES = 38,
    KVI_CU_ATTR_CAPABILITY_MAJOR = 75,
    KVI_CU_ATTR_CAPABILITY_MINOR = 76,
    KVI_CU_ATTR_VIRTUAL_MEMORY = 102
};
/* CUfunction_attribute */
enum {
    KVI_CU_FUNC_MAX_THREADS = 0,
    KVI_CU_FUNC_SHARED_BYTES = 1, /* static */
    KVI_CU_FUNC_LOCAL_BYTES = 3,
    KVI_CU_FUNC_REGISTERS = 4
};
enum { KVI_CU_STREAM_NON_BLOCKING = 1 };
enum { KVI_CU_EVENT_DEFAULT = 0, KVI_CU_EVENT_DISABLE_TIMING = 2 };

/* X(member of the table, exported symbol, parameters) */
#define KVI_CU_FUNCTIONS(X)                                                                                            \
    X(init, cuInit, (unsigned int flags))                                                                              \
    X(driver_version, cuDriverGetVersion, (int *version))                                                              \
    X(device_count, cuDeviceGetCount, (int *count))                                                                    \
    X(device_get, cuDeviceGet, (kvi_cu_device * device, int ordinal))                                                  \
    X(device_name, cuDeviceGetName, (char *name, int len, kvi_cu_device device))                                       \
    X(device_total_mem, cuDeviceTotalMem_v2, (size_t * bytes, kvi_cu_device device))                                   \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, kvi_cu_device device))                       \
    X(primary_retain, cuDevicePrimaryCtxRetain, (kvi_cu_context * context, kvi_cu_device device))                      \
    X(primary_release, cuDevicePrimaryCtxRelease_v2, (kvi_cu_device device))                                           \
    X(context_push, cuCtxPushCurrent_v2, (kvi_cu_context context))                                                     \
    X(context_pop, cuCtxPopCurrent_v2, (kvi_cu_context * context))                                                     \
    X(context_current, cuCtxGetCurrent, (kvi_cu_context * context))                                                    \
    X(context_device, cuCtxGetDevice, (kvi_cu_device * device))                                                        \
    X(mem_info, cuMemGetInfo_v2, (size_t * free_bytes, size_t * total_bytes))                                          \
    X(mem_alloc, cuMemAlloc_v2, (kvi_cu_dptr * at, size_t bytes))                                                      \
    X(mem_free, cuMemFree_v2, (kvi_cu_dptr at))                                                                        \
    X(memory_grain, cuMemGetAllocationGranularity, (size_t * bytes, const kvi_cu_memory_kind *kind, int which))        \
    X(memory_create, cuMemCreate,                                                                                      \
      (kvi_cu_memory * memory, size_t bytes, const kvi_cu_memory_kind *kind, unsigned long long flags))                \
    X(memory_release, cuMemRelease, (kvi_cu_memory memory))                                                            \
    X(memory_map, cuMemMap,                                                                                            \
      (kvi_cu_dptr at, size_t bytes, size_t offset, kvi_cu_memory memory, unsigned long long flags))                   \
    X(memory_unmap, cuMemUnmap, (kvi_cu_dptr at, size_t bytes))                                                        \
    X(memory_access, cuMemSetAccess, (kvi_cu_dptr at, size_t bytes, const kvi_cu_memory_access *access, size_t count)) \
    X(address_reserve, cuMemAddressReserve,                                                                            \
      (kvi_cu_dptr * at, size_t bytes, size_t alignment, kvi_cu_dptr wish, unsigned long long flags))                  \
    X(address_free, cuMemAddressFree, (kvi_cu_dptr at, size_t bytes))                                                  \
    X(host_alloc, cuMemAllocHost_v2, (void **at, size_t bytes))                                                        \
    X(host_free, cuMemFreeHost, (void *at))                                                                            \
    X(copy_to_device, cuMemcpyHtoDAsync_v2, (kvi_cu_dptr to, const void *from, size_t bytes, kvi_cu_stream stream))    \
    X(copy_to_host, cuMemcpyDtoHAsync_v2, (void *to, kvi_cu_dptr from, size_t bytes, kvi_cu_stream stream))            \
    X(copy_on_device, cuMemcpyDtoDAsync_v2, (kvi_cu_dptr to, kvi_cu_dptr from, size_t bytes, kvi_cu_stream stream))    \
    X(mem_set, cuMemsetD8Async, (kvi_cu_dptr at, unsigned char value, size_t bytes, kvi_cu_stream stream))             \
    X(stream_create, cuStreamCreate, (kvi_cu_stream * stream, unsigned int flags))                                     \
    X(stream_destroy, cuStreamDestroy_v2, (kvi_cu_stream stream))                                                      \
    X(stream_wait, cuStreamSynchronize, (kvi_cu_stream stream))                                                        \
    X(event_create, cuEventCreate, (kvi_cu_event * event, unsigned int flags))                                         \
    X(event_destroy, cuEventDestroy_v2, (kvi_cu_event event))                                                          \
    X(event_record, cuEventRecord, (kvi_cu_event event, kvi_cu_stream stream))                                         \
    X(event_wait, cuEventSynchronize, (kvi_cu_event event))                                                            \
    X(event_elapsed, cuEventElapsedTime, (float *ms, kvi_cu_event start, kvi_cu_event end))                            \
    X(library_load, cuLibraryLoadData,                                                                                 \
      (kvi_cu_library * library, const void *image, void *jit_options, void **jit_values, unsigned int n_jit,          \
       void *options, void **values, unsigned int n_options))                                                          \
    X(library_unload, cuLibraryUnload, (kvi_cu_library library))                                                       \
    X(library_kernel, cuLibraryGetKernel, (kvi_cu_kernel * kernel, kvi_cu_library library, const char *name))          \
    X(kernel_function, cuKernelGetFunction, (kvi_cu_function * function, kvi_cu_kernel kernel))                        \
    X(function_attribute, cuFuncGetAttribute, (int *value, int attribute, kvi_cu_function function))                   \
    X(launch, cuLaunchKernel,                                                                                          \
      (kvi_cu_function function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,  \
       unsigned int block_y, unsigned int block_z, unsigned int shared_bytes, kvi_cu_stream stream, void **params,     \
       void **extra))                                                                                                  \
    X(graph_create, cuGraphCreate, (kvi_cu_graph * graph, unsigned int flags))                                         \
    X(graph_destroy, cuGraphDestroy, (kvi_cu_graph graph))                                                             \
    X(graph_add_kernel, cuGraphAddKernelNode_v2,                                                                       \
      (kvi_cu_node * node, kvi_cu_graph graph, const kvi_cu_node *after, size_t n_after,                               \
       const kvi_cu_kernel_node *launch))                                                                              \
    X(graph_instantiate, cuGraphInstantiateWithFlags,                                                                  \
      (kvi_cu_graph_exec * exec, kvi_cu_graph graph, unsigned long long flags))                                        \
    X(graph_upload, cuGraphUpload, (kvi_cu_graph_exec exec, kvi_cu_stream stream))                                     \
    X(graph_launch, cuGraphLaunch, (kvi_cu_graph_exec exec, kvi_cu_stream stream))                                     \
    X(graph_exec_destroy, cuGraphExecDestroy, (kvi_cu_graph_exec exec))                                                \
    X(error_name, cuGetErrorName, (kvi_cu_result result, const char **name))                                           \
    X(error_text, cuGetErrorString, (kvi_cu_result result, const char **text))

/* The functions of an open driver. */
typedef struct kvi_cu_driver {
#define KVI_CU_MEMBER(member, symbol, parameters) kvi_cu_result(*member) parameters;
    KVI_CU_FUNCTIONS(KVI_CU_MEMBER)
#undef KVI_CU_MEMBER
} kvi_cu_driver;

/* What driver.c hands to cuLibraryLoadData in a build without nvcc: only the emulated driver takes it. */
#define KVI_CU_PLACEHOLDER_IMAGE "kvrt-kernels-1"

#endif
