/* The door of the library: what ONNX Runtime calls to learn its operators, and whether this processor can run them. */
#include <cpuid.h>
#include <pthread.h>

#include "ort.h"
#include "simd.h"

enum { SAVED = 0xe6 }; /* registers that the operating system keeps for a thread: xmm, ymm, masks, both halves of zmm */

/* 1 where the processor has every instruction that the operators are built from (Intel's manual, CPUID leaf 7). */
int lmaas_supported(void) {
  unsigned a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & SAVED) != SAVED || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  const unsigned wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  return (b & wanted) == wanted && (c & bit_AVX512VNNI);
}

typedef struct {
  void *memory;
  size_t bytes;
} Kept;

static pthread_key_t kept_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void free_kept(void *data) {
  Kept *kept = data;
  for (int use = 0; use < SCRATCH_USES; use++) free(kept[use].memory);
  free(kept);
}

static void make_key(void) { pthread_key_create(&kept_key, free_kept); }

void *scratch(int use, size_t bytes) {
  static _Thread_local Kept *kept; /* the key's own look-up is slower; it is there to free at the thread's end */
  if (!kept) {
    pthread_once(&once, make_key);
    kept = calloc(SCRATCH_USES, sizeof *kept);
    if (!kept) return NULL;
    pthread_setspecific(kept_key, kept);
  }
  if (kept[use].bytes < bytes) {
    free(kept[use].memory);
    kept[use].bytes = round_up(bytes, 1 << 16);
    kept[use].memory = aligned_alloc(LINE, kept[use].bytes);
    if (!kept[use].memory) kept[use].bytes = 0;
  }
  return kept[use].memory;
}

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  OrtApi *api = base->GetApi(API_VERSION);
  if (!api) return NULL; /* the session will name the first operator that it does not know */
  OrtCustomOpDomain *domain;
  TRY(ort_new_domain(api, "lmaas", &domain)); /* lives as long as the process, as sessions may */
  TRY(ort_add_operator(api, domain, &linear_operator));
  TRY(ort_add_operator(api, domain, &attention_operator));
  TRY(ort_add_operator(api, domain, &argmax_operator));
  return ort_add_domain(api, options, domain);
}
