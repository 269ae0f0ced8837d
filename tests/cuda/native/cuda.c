/* A CUDA that computes nothing: the functions of cudart and the driver that ONNX Runtime's provider calls.
 *
 * Memory of the device is memory of the host, zero at first, so copies and fills are real. A kernel does nothing but leave a line in
 * the trace, and a capture is a flag. So provider, placement of nodes, choice of kernels and captured graphs are the
 * real ones of ONNX Runtime; numbers, times and what cuBLAS and cuDNN would choose are not seen.
 *
 * A line of the trace is "<1 within a capture, else 0> <kind> <detail>". The device is that of STAND_GPUS GPUs (1 if it
 * is not set) of which CUDA_VISIBLE_DEVICES selects some: compute capability 9.0, with the limits of an H200. The driver
 * supports the CUDA of STAND_DRIVER, 13000 if it is not set.
 */
#include "standin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORY_GIB = 141, PROCESSORS = 132, OPTIN_SHARED = 232448, MEMORY_KHZ = 3201000, BUS_BITS = 6144 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *trace;
static size_t trace_used, trace_size;
int capturing;
static int device; /* the current one */

/* The trace */

void stand_note(const char *kind, const char *format, ...) {
    char line[1024];
    int length = snprintf(line, sizeof line, "%d %s ", capturing, kind);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + length, sizeof line - length, format, arguments);
    va_end(arguments);
    size_t needed = strlen(line) + 2;
    pthread_mutex_lock(&lock);
    if (trace_used + needed > trace_size) {
        trace_size = 2 * trace_size + needed;
        trace = realloc(trace, trace_size);
    }
    trace_used += sprintf(trace + trace_used, "%s\n", line);
    pthread_mutex_unlock(&lock);
}

API const char *stand_trace(void) { return trace_used ? trace : ""; }
API void stand_forget(void) { trace_used = 0; }

/* Memory */

static cudaError_t allocate(void **pointer, size_t size, const char *where) {
    stand_note("malloc", "%s %zu", where, size);
    size_t rounded = (size / 256 + 2) * 256;
    *pointer = aligned_alloc(256, rounded);
    return *pointer && memset(*pointer, 0, rounded) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t API cudaMalloc(void **pointer, size_t size) { return allocate(pointer, size, "device"); }
cudaError_t API cudaMallocFromPoolAsync(void **pointer, size_t size, cudaMemPool_t pool, cudaStream_t stream) {
    return allocate(pointer, size, "pool");
}
cudaError_t API cudaMallocHost(void **pointer, size_t size) { return allocate(pointer, size, "pinned"); }
cudaError_t API cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    return allocate(pointer, size, "pinned");
}
cudaError_t API cudaFree(void *pointer) { free(pointer); return cudaSuccess; }
cudaError_t API cudaFreeAsync(void *pointer, cudaStream_t stream) { free(pointer); return cudaSuccess; }
cudaError_t API cudaFreeHost(void *pointer) { free(pointer); return cudaSuccess; }
cudaError_t API cudaMemGetInfo(size_t *unused, size_t *total) {
    *unused = *total = (size_t)MEMORY_GIB << 30;
    return cudaSuccess;
}
cudaError_t API cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = cudaMemoryTypeDevice;
    attributes->devicePointer = (void *)pointer;
    return cudaSuccess;
}
cudaError_t API cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *properties) {
    *pool = calloc(1, 8);
    return cudaSuccess;
}
cudaError_t API cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    memset(value, 0, 8);
    return cudaSuccess;
}
ANSWERS(cudaMemPoolDestroy(cudaMemPool_t pool))
ANSWERS(cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value))
ANSWERS(cudaMemPoolTrimTo(cudaMemPool_t pool, size_t size))

static const char *way(enum cudaMemcpyKind kind) {
    static const char *ways[] = {"host-host", "host-device", "device-host", "device-device", "default"};
    return ways[kind < 5 ? kind : 4];
}
cudaError_t API cudaMemcpy(void *target, const void *source, size_t size, enum cudaMemcpyKind kind) {
    stand_note("copy", "waits %s %zu", way(kind), size);
    memmove(target, source, size);
    return capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t API cudaMemcpyAsync(void *target, const void *source, size_t size, enum cudaMemcpyKind kind,
                                cudaStream_t stream) {
    stand_note("copy", "async %s %zu on %p", way(kind), size, (void *)stream);
    if (!capturing) memmove(target, source, size);
    return cudaSuccess;
}
cudaError_t API cudaMemcpy2DAsync(void *target, size_t target_pitch, const void *source, size_t source_pitch,
                                  size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    stand_note("copy", "async %s %zu on %p", way(kind), width * height, (void *)stream);
    for (size_t row = 0; !capturing && row < height; row++)
        memmove((char *)target + row * target_pitch, (const char *)source + row * source_pitch, width);
    return cudaSuccess;
}
cudaError_t API cudaMemcpyFromSymbol(void *target, const void *symbol, size_t size, size_t offset,
                                     enum cudaMemcpyKind kind) {
    stand_note("copy", "waits symbol %s %zu", way(kind), size);
    memset(target, 0, size);
    return capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t API cudaMemset(void *target, int value, size_t size) {
    stand_note("fill", "waits %zu", size);
    memset(target, value, size);
    return cudaSuccess;
}
cudaError_t API cudaMemsetAsync(void *target, int value, size_t size, cudaStream_t stream) {
    stand_note("fill", "async %zu", size);
    if (!capturing) memset(target, value, size);
    return cudaSuccess;
}

/* Devices */

static int visible(int place) { /* the number of the GPU that this process calls `place`; -1: there is none */
    const char *chosen = getenv("CUDA_VISIBLE_DEVICES"), *all = getenv("STAND_GPUS");
    int count = all ? atoi(all) : 1;
    if (!chosen) return place < count ? place : -1;
    for (; place > 0 && chosen; place--) chosen = strchr(chosen, ',') ? strchr(chosen, ',') + 1 : NULL;
    return chosen && *chosen && atoi(chosen) < count ? atoi(chosen) : -1;
}
cudaError_t API cudaGetDeviceCount(int *count) {
    for (*count = 0; visible(*count) >= 0; ++*count) {}
    return *count ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t API cudaSetDevice(int place) {
    if (visible(place) < 0) return cudaErrorInvalidDevice;
    if (device != place) stand_note("device", "%d", visible(place));
    device = place;
    return cudaSuccess;
}
cudaError_t API cudaGetDevice(int *place) { *place = device; return cudaSuccess; }
cudaError_t API cudaGetDeviceProperties(struct cudaDeviceProp *found, int place) {
    memset(found, 0, sizeof *found);
    stand_note("properties", "%d", visible(place));
    snprintf(found->name, sizeof found->name, "stand-in GPU %d", visible(place));
    found->major = 9;
    found->multiProcessorCount = PROCESSORS;
    found->totalGlobalMem = (size_t)MEMORY_GIB << 30;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = 2048;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = OPTIN_SHARED;
    found->sharedMemPerMultiprocessor = OPTIN_SHARED + 1024;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->warpSize = 32;
    found->l2CacheSize = 60 << 20;
    found->memoryBusWidth = BUS_BITS;
    found->concurrentKernels = found->cooperativeLaunch = found->unifiedAddressing = 1;
    for (int side = 0; side < 3; side++) found->maxGridSize[side] = 2147483647, found->maxThreadsDim[side] = 1024;
    return cudaSuccess;
}
cudaError_t API cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int place) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = PROCESSORS; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = OPTIN_SHARED; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = OPTIN_SHARED + 1024; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMemoryClockRate: *value = MEMORY_KHZ; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = BUS_BITS; break;
    case cudaDevAttrL2CacheSize: *value = 60 << 20; break;
    default: *value = 1;
    }
    return cudaSuccess;
}
cudaError_t API cudaDriverGetVersion(int *version) { *version = 13000; return cudaSuccess; }
cudaError_t API cudaRuntimeGetVersion(int *version) { *version = 13000; return cudaSuccess; }
const char API *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported" : "cudaError";
}
const char API *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error of the stand-in";
}
API int cuDriverGetVersion(int *version) {
    const char *chosen = getenv("STAND_DRIVER");
    *version = chosen ? atoi(chosen) : 13000;
    return 0;
}
API int cuInit(unsigned flags) { return visible(0) >= 0 ? 0 : cudaErrorNoDevice; }
API int cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }
API int cuDeviceGet(int *device, int number) { *device = visible(number); return 0; }
API int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "Stand-in %d", device);
    return 0;
}
ANSWERS(cudaGetLastError(void))
ANSWERS(cudaPeekAtLastError(void))

/* Streams, events, graphs */

static void *handle(void) { return calloc(1, 8); }

static cudaError_t waits(const char *what, void *handle) {
    stand_note("wait", "%s on %p", what, handle);
    return capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t API cudaDeviceSynchronize(void) { return waits("device", NULL); }
cudaError_t API cudaStreamSynchronize(cudaStream_t stream) { return waits("stream", stream); }
cudaError_t API cudaEventSynchronize(cudaEvent_t event) { return waits("event", event); }
cudaError_t API cudaStreamCreate(cudaStream_t *stream) { *stream = handle(); return cudaSuccess; }
cudaError_t API cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    *stream = handle();
    return cudaSuccess;
}
ANSWERS(cudaStreamDestroy(cudaStream_t stream))
ANSWERS(cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags))
cudaError_t API cudaEventCreate(cudaEvent_t *event) { *event = handle(); return cudaSuccess; }
cudaError_t API cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = handle();
    return cudaSuccess;
}
cudaError_t API cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = 0.01f;
    return cudaSuccess;
}
ANSWERS(cudaEventDestroy(cudaEvent_t event))
ANSWERS(cudaEventRecord(cudaEvent_t event, cudaStream_t stream))
ANSWERS(cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags))
cudaError_t API cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    stand_note("capture", "begin %d", mode);
    capturing = 1;
    return cudaSuccess;
}
cudaError_t API cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    capturing = 0;
    stand_note("capture", "end");
    *graph = handle();
    return cudaSuccess;
}
cudaError_t API cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t API cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    *executable = handle();
    stand_note("graph", "made");
    return cudaSuccess;
}
cudaError_t API cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    stand_note("graph", "launched on %p", (void *)stream);
    return cudaSuccess;
}
ANSWERS(cudaGraphDestroy(cudaGraph_t graph))
ANSWERS(cudaGraphExecDestroy(cudaGraphExec_t executable))
