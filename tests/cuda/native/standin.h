/* What the sources of the stand-in share. */
#include <cuda_runtime_api.h>

#define API __attribute__((visibility("default")))
#define ANSWERS(name) API cudaError_t name { return cudaSuccess; }

extern int capturing; /* between the begin and the end of a capture */

/* A line of the trace. */
void stand_note(const char *kind, const char *format, ...);
