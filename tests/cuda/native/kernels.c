/* Kernels: they are registered by name, and a launch leaves the name in the trace of cuda.c. */
#include "standin.h"

#include <string.h>

enum { KERNEL_BINS = 1 << 18 };

/* A table from the address of a host function to the name of its kernel */

static struct { const void *function; const char *name; } kernels[KERNEL_BINS];

static size_t bin_of(const void *function) {
    size_t bin = ((size_t)function >> 4) * 0x9E3779B97F4A7C15ull >> 46;
    while (kernels[bin].function && kernels[bin].function != function) bin = (bin + 1) % KERNEL_BINS;
    return bin;
}

static cudaError_t launch(const void *function) {
    const char *name = kernels[bin_of(function)].name;
    stand_note("kernel", "%s", name ? name : "?");
    return cudaSuccess;
}

API void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
API void __cudaRegisterFatBinaryEnd(void **handle) { }
API void __cudaUnregisterFatBinary(void **handle) { }
API void __cudaRegisterVar(void **h, char *v, char *a, const char *n, int e, size_t s, int c, int g) {
}
API void __cudaRegisterFunction(void **handle, const char *function, char *symbol, const char *name, int limit,
                                uint3 *thread, uint3 *block, dim3 *blocks, dim3 *grid, int *warp) {
    size_t bin = bin_of(function);
    kernels[bin].function = function;
    kernels[bin].name = name;
}

static __thread struct { dim3 grid, block; size_t shared; void *stream; } configuration;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
    configuration.grid = grid, configuration.block = block;
    configuration.shared = shared, configuration.stream = stream;
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = configuration.grid, *block = configuration.block;
    *shared = configuration.shared, *(void **)stream = configuration.stream;
    return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                   cudaStream_t stream) {
    return launch(kernel);
}
cudaError_t API cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
                                 cudaStream_t stream) {
    return launch(function);
}
cudaError_t API cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                                            size_t shared, cudaStream_t stream) {
    return launch(function);
}
cudaError_t API cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **arguments) {
    return launch(function);
}
cudaError_t API cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    stand_note("host", "function");
    if (!capturing) function(data);
    return cudaSuccess;
}
cudaError_t API cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    return cudaSuccess;
}
ANSWERS(cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v))
ANSWERS(cudaKernelSetAttributeForDevice(cudaKernel_t k, enum cudaFuncAttribute a, int v, int d))
cudaError_t API cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size,
                                                                       size_t shared, unsigned flags) {
    *blocks = 2;
    return cudaSuccess;
}

/* Libraries that are loaded at run time: there are none */

cudaError_t API cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                                 unsigned long long flags,
                                                 enum cudaDriverEntryPointQueryResult *result) {
    *function = NULL;
    if (result) *result = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
cudaError_t API cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *options, void **v,
                                    unsigned n, enum cudaLibraryOption *more, void **w, unsigned m) {
    *library = NULL;
    return cudaSuccess;
}
cudaError_t API cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    *kernel = NULL;
    return cudaSuccess;
}
ANSWERS(cudaLibraryUnload(cudaLibrary_t library))
API int cuTensorMapEncodeTiled(void) { return 0; }
