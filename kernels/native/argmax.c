/* ArgMaxLogSumExp: of each row the place of its largest value, and the logarithm of the sum of all exponentials.
 *
 *   x [rows, columns] float -> argmax [rows] int64, log_sum [rows] float
 *
 * Equal values: the first. A row with a NaN has the place of the first one, and the sum NaN. What is computed is in
 * levels/argmax.c.
 */
#include "levels.h"
#include "ort.h"

typedef struct {
  OrtApi *api;
  const Level *level;
} ArgMaxLogSumExp;

static OrtStatus *create_argmax(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  (void)self, (void)info;
  ArgMaxLogSumExp *op = malloc(sizeof *op);
  if (!op) return ort_status(api, ORT_FAIL, "ArgMaxLogSumExp: out of memory");
  op->api = api, op->level = chosen_level();
  *kernel = op;
  return NULL;
}

static OrtStatus *run_argmax(void *kernel, OrtKernelContext *context) {
  const ArgMaxLogSumExp *op = kernel;
  OrtApi *api = op->api;
  Tensor x;
  TRY(read_input(api, context, 0, &x));
  if (x.rank != 2 || x.sides[1] < 1) return ort_status(api, ORT_FAIL, "ArgMaxLogSumExp: x must be [rows, columns]");
  void *argmax, *log_sum;
  TRY(make_output(api, context, 0, x.sides, 1, &argmax));
  TRY(make_output(api, context, 1, x.sides, 1, &log_sum));
  ArgmaxRun run = {x.data, (size_t)x.sides[1], argmax, log_sum};
  return x.sides[0] ? ort_parallel(api, context, op->level->reduce_row, (size_t)x.sides[0], &run) : NULL;
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
