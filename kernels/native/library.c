/* The door of the library: what ONNX Runtime calls to learn its operators, and the level at which they compute. */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "levels.h"
#include "ort.h"

/* ---- levels ---------------------------------------------------------------------------------------------------- */

/* Registers that the operating system keeps for a thread: xmm and ymm; with masks and both halves of zmm. */
enum { YMM = 0x06, ZMM = 0xe6, AVX_VNNI = 1 << 4 /* leaf 7.1, EAX */ };

static int keeps(unsigned registers) {
  unsigned a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & registers) == registers;
}

static int runs_reference(void) { return 1; }

static int runs_avx2(void) {
  unsigned a, b, c, d;
  if (!keeps(YMM) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA)) return 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static int runs_avxvnni(void) {
  unsigned a, b, c, d;
  return runs_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI);
}

static int runs_avx512vnni(void) {
  unsigned a, b, c, d;
  if (!keeps(ZMM) || !runs_avx2() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  const unsigned wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  return (b & wanted) == wanted && (c & bit_AVX512VNNI);
}

#define DECLARE(level)                                                  \
  size_t panels_##level(size_t), row_bytes_##level(size_t), block_row_bytes_##level(size_t); \
  int pack_##level(Linear *, const int8_t *, int), pack_blocks_##level(Linear *, const BlockWeights *); \
  void round_part_##level(void *, size_t), multiply_part_##level(void *, size_t); \
  void round_blocks_part_##level(void *, size_t), multiply_blocks_part_##level(void *, size_t); \
  void attend_part_##level(void *, size_t), reduce_row_##level(void *, size_t);
#define ENTRY(level)                                                                                         \
  {#level, runs_##level, panels_##level, pack_##level, pack_blocks_##level, \
   {row_bytes_##level, round_part_##level, multiply_part_##level}, \
   {block_row_bytes_##level, round_blocks_part_##level, multiply_blocks_part_##level}, \
   attend_part_##level, reduce_row_##level}

DECLARE(avx512vnni) DECLARE(avxvnni) DECLARE(avx2) DECLARE(reference)
static const Level levels[] = {ENTRY(avx512vnni), ENTRY(avxvnni), ENTRY(avx2), ENTRY(reference)}; /* the best first */
enum { LEVELS = sizeof levels / sizeof *levels };

static const Level *chosen = &levels[LEVELS - 1];

__attribute__((constructor)) static void choose_best(void) {
  for (int i = LEVELS; i-- > 0;)
    if (levels[i].runs()) chosen = &levels[i];
}

const Level *chosen_level(void) { return chosen; }

/* The name of the level in use. */
const char *lmaas_level(void) { return chosen->name; }

static const Level *find(const char *name) {
  for (int i = 0; i < LEVELS; i++)
    if (!strcmp(levels[i].name, name) && levels[i].runs()) return &levels[i];
  return NULL;
}

/* 1 where there is such a level and the processor has it. */
int lmaas_runs(const char *name) { return find(name) != NULL; }

/* What is created from now on computes at this level: 1; 0 where the processor lacks it. */
int lmaas_use(const char *name) {
  const Level *level = find(name);
  if (level) chosen = level;
  return level != NULL;
}

/* That Attention takes row_tokens, and that there is BlockLinear. */
int lmaas_takes_row_tokens(void) { return 1; }
int lmaas_has_block_linear(void) { return 1; }

/* ---- memory of threads ------------------------------------------------------------------------------------------- */

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

/* ---- operators -------------------------------------------------------------------------------------------------- */

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  OrtApi *api = base->GetApi(API_VERSION);
  if (!api) return NULL; /* the session will name the first operator that it does not know */
  OrtCustomOpDomain *domain;
  TRY(ort_new_domain(api, "lmaas", &domain)); /* lives as long as the process, as sessions may */
  TRY(ort_add_operator(api, domain, &linear_operator));
  TRY(ort_add_operator(api, domain, &block_linear_operator));
  TRY(ort_add_operator(api, domain, &attention_operator));
  TRY(ort_add_operator(api, domain, &argmax_operator));
  return ort_add_domain(api, options, domain);
}
