/* ArgMaxLogSumExp: of each row the place of its largest value, and the logarithm of the sum of all exponentials.
 *
 *   x [rows, columns] float -> argmax [rows] int64, log_sum [rows] float
 *
 * Equal values: the first. A row with a NaN has the place of the first one, and the sum NaN.
 */
#include <math.h>

#include "ort.h"
#include "simd.h"

typedef struct {
  OrtApi *api;
} ArgMaxLogSumExp;

typedef struct {
  const float *x;
  size_t columns;
  int64_t *argmax;
  float *log_sum;
} Run;

static void reduce_row(void *data, size_t row) {
  const Run *run = data;
  const float *x = run->x + row * run->columns;
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  __m512 most = nothing;
  for (size_t i = 0; i < run->columns; i += LANES) {
    const __m512 value = _mm512_mask_loadu_ps(nothing, lanes(run->columns - i), x + i);
    if (_mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q)) {
      run->argmax[row] = (int64_t)i + __builtin_ctz(_mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q));
      run->log_sum[row] = NAN;
      return;
    }
    most = _mm512_max_ps(most, value);
  }
  const float peak = _mm512_reduce_max_ps(most);
  const __m512 peaks = _mm512_set1_ps(peak);
  run->argmax[row] = -1;
  for (size_t i = 0; run->argmax[row] < 0 && i < run->columns; i += LANES) {
    const __m512 value = _mm512_maskz_loadu_ps(lanes(run->columns - i), x + i);
    const __mmask16 equal = _mm512_mask_cmp_ps_mask(lanes(run->columns - i), value, peaks, _CMP_EQ_OQ);
    if (equal) run->argmax[row] = (int64_t)i + __builtin_ctz(equal);
  }
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < run->columns; i += LANES) {
    const __mmask16 mask = lanes(run->columns - i);
    const __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), peaks);
    sum = _mm512_mask_add_ps(sum, mask, sum, exponential(value));
  }
  run->log_sum[row] = peak + logf(_mm512_reduce_add_ps(sum));
}

static OrtStatus *create_argmax(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  (void)self, (void)info;
  ArgMaxLogSumExp *op = malloc(sizeof *op);
  if (!op) return ort_status(api, ORT_FAIL, "ArgMaxLogSumExp: out of memory");
  op->api = api;
  *kernel = op;
  return NULL;
}

static OrtStatus *run_argmax(void *kernel, OrtKernelContext *context) {
  OrtApi *api = ((const ArgMaxLogSumExp *)kernel)->api;
  Tensor x;
  TRY(read_input(api, context, 0, &x));
  if (x.rank != 2 || x.sides[1] < 1) return ort_status(api, ORT_FAIL, "ArgMaxLogSumExp: x must be [rows, columns]");
  void *argmax, *log_sum;
  TRY(make_output(api, context, 0, x.sides, 1, &argmax));
  TRY(make_output(api, context, 1, x.sides, 1, &log_sum));
  Run run = {x.data, (size_t)x.sides[1], argmax, log_sum};
  return x.sides[0] ? ort_parallel(api, context, reduce_row, (size_t)x.sides[0], &run) : NULL;
}

static const char *argmax_name(const Operator *self) { return (void)self, "ArgMaxLogSumExp"; }
static int input_type(const Operator *self, size_t index) { return (void)self, (void)index, ORT_FLOAT; }
static int output_type(const Operator *self, size_t index) { return (void)self, index ? ORT_FLOAT : ORT_INT64; }
static size_t input_count(const Operator *self) { return (void)self, 1; }
static size_t output_count(const Operator *self) { return (void)self, 2; }

const Operator argmax_operator = {
    .version = API_VERSION, .name = argmax_name, .provider = on_cpu, .input_type = input_type,
    .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = free,
    .input_kind = always, .output_kind = always, .input_memory = in_host_memory, .create = create_argmax,
    .run = run_argmax, .first_version = only_version, .last_version = only_version,
};
