/* Linear: (layer norm) -> eight bits -> product with eight-bit weights -> (bias) (GELU) (residual).
 *
 *   x [rows, in] float            weight [in, out] int8, or [out, in] where `transposed`
 *   scales [out] float            one for each column of the product
 *   bias [out], gamma [in], beta [in], residual [rows, out]: float, each may be left out
 *   y [rows, out] float
 *
 * What is computed is in levels/linear.c.
 *
 * BlockLinear: the same with weights of four bits in blocks of 32, each (nibble - 8) x factor x scale
 *
 *   weight [out, blocks, 16] uint8, as MatMulNBits has it      factors [out, blocks] int8
 *   scales [out, 1] float; `lowest` is taken off the product again here
 *
 * What is computed is in levels/blocks.c.
 */
#include <string.h>

#include "levels.h"
#include "ort.h"

enum { PARTS = 16 }; /* the most that a product is cut into, for threads to take in turn */
static const size_t ALONE = 1 << 14; /* values that one thread rounds sooner than two agree on who does what */

static void free_linear(void *kernel) {
  Linear *op = kernel;
  if (!op) return;
  free(op->weight), free(op->factors), free(op->scales), free(op->bias), free(op->start), free(op->gamma), free(op->beta);
  free(op);
}

/* A vector of whole lanes, zeros beyond it and where it was left out; NULL where memory is short. */
static float *copy_floats(const Tensor *tensor, size_t count) {
  float *copy = calloc(round_up(count, LANES), sizeof *copy);
  if (!copy) return NULL;
  if (tensor->data) memcpy(copy, tensor->data, count * sizeof(float));
  return copy;
}

static OrtStatus *constant(OrtApi *api, const OrtKernelInfo *info, size_t index, Tensor *out) {
  int is_constant = 0;
  const OrtValue *value = NULL;
  OrtStatus *status = ort_constant_input(api, info, index, &is_constant, &value);
  if (status) { /* an optional input that was left out */
    ort_release_status(api, status);
    value = NULL;
  }
  return read_tensor(api, value, out);
}

static int fits(const Tensor *tensor, size_t count) {
  return !tensor->data || (tensor->rank == 1 && (size_t)tensor->sides[0] == count);
}

/* Attributes and vectors, which both operators have; `in` and `out` are known. */
static OrtStatus *fill_vectors(Linear *op, const OrtKernelInfo *info) {
  OrtApi *api = op->api;
  int64_t flags[2];
  TRY(ort_int_attribute(api, info, "gelu", &flags[0]));
  TRY(ort_int_attribute(api, info, "above_lowest", &flags[1]));
  TRY(ort_float_attribute(api, info, "lowest", &op->lowest));
  TRY(ort_float_attribute(api, info, "epsilon", &op->epsilon));
  op->gelu = (int)flags[0], op->above_lowest = (int)flags[1];
  Tensor scales, bias, gamma, beta;
  TRY(constant(api, info, 2, &scales));
  TRY(constant(api, info, 3, &bias));
  TRY(constant(api, info, 4, &gamma));
  TRY(constant(api, info, 5, &beta));
  if (scales.rank == 2 && scales.sides[1] == 1) scales.rank = 1;
  if (!scales.data || !fits(&scales, op->out) || !fits(&bias, op->out) || !fits(&gamma, op->in) ||
      !fits(&beta, op->in) || !gamma.data != !beta.data)
    return ort_status(api, ORT_FAIL, "Linear: scales, bias, gamma or beta do not fit the weight");
  op->scales = copy_floats(&scales, op->out), op->bias = copy_floats(&bias, op->out);
  if (gamma.data) op->gamma = copy_floats(&gamma, op->in), op->beta = copy_floats(&beta, op->in);
  if (!op->scales || !op->bias || (gamma.data && (!op->gamma || !op->beta)))
    return ort_status(api, ORT_FAIL, "Linear: out of memory");
  return NULL;
}

static OrtStatus *fill(Linear *op, const OrtKernelInfo *info) {
  OrtApi *api = op->api;
  int64_t transposed;
  Tensor weight;
  TRY(ort_int_attribute(api, info, "transposed", &transposed));
  TRY(constant(api, info, 1, &weight));
  if (weight.rank != 2) return ort_status(api, ORT_FAIL, "Linear: the weight must be constant, [in, out]");
  op->in = (size_t)weight.sides[transposed ? 1 : 0], op->out = (size_t)weight.sides[transposed ? 0 : 1];
  op->product = &op->level->eight_bits;
  TRY(fill_vectors(op, info));
  return op->level->pack(op, weight.data, (int)transposed) ? NULL
                                                            : ort_status(api, ORT_FAIL, "Linear: out of memory");
}

static OrtStatus *fill_blocks(Linear *op, const OrtKernelInfo *info) {
  OrtApi *api = op->api;
  int64_t in;
  Tensor weight, factors;
  TRY(ort_int_attribute(api, info, "width", &in));
  TRY(constant(api, info, 1, &weight));
  TRY(constant(api, info, 7, &factors));
  const int64_t blocks = (in + BLOCK - 1) / BLOCK;
  if (weight.rank != 3 || factors.rank != 2 || blocks < 1 || blocks > MOST_BLOCKS || weight.sides[1] != blocks ||
      weight.sides[2] != BLOCK / 2 || factors.sides[0] != weight.sides[0] || factors.sides[1] != blocks)
    return ort_status(api, ORT_FAIL, "BlockLinear: weight and factors must be constant, for up to 256 blocks of 32");
  op->in = (size_t)in, op->out = (size_t)weight.sides[0], op->product = &op->level->four_bits;
  TRY(fill_vectors(op, info));
  const BlockWeights from = {weight.data, factors.data};
  return op->level->pack_blocks(op, &from) ? NULL : ort_status(api, ORT_FAIL, "BlockLinear: out of memory");
}

static OrtStatus *create(OrtApi *api, const OrtKernelInfo *info, OrtStatus *(*filled)(Linear *, const OrtKernelInfo *),
                         void **kernel) {
  Linear *op = calloc(1, sizeof *op);
  if (!op) return ort_status(api, ORT_FAIL, "Linear: out of memory");
  op->api = (void *)api, op->level = chosen_level();
  OrtStatus *status = filled(op, info);
  if (status)
    free_linear(op);
  else
    *kernel = op;
  return status;
}

static OrtStatus *create_linear(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  return (void)self, create(api, info, fill, kernel);
}

static OrtStatus *create_block_linear(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  return (void)self, create(api, info, fill_blocks, kernel);
}

static OrtStatus *run_linear(void *kernel, OrtKernelContext *context) {
  Linear *op = kernel;
  OrtApi *api = op->api;
  Tensor x, residual;
  TRY(read_input(api, context, 0, &x));
  TRY(read_input(api, context, 6, &residual));
  if (x.rank != 2 || (size_t)x.sides[1] != op->in) return ort_status(api, ORT_FAIL, "Linear: x must be [rows, in]");
  const size_t rows = (size_t)x.sides[0];
  if (residual.data && (residual.rank != 2 || residual.sides[0] != x.sides[0] || (size_t)residual.sides[1] != op->out))
    return ort_status(api, ORT_FAIL, "Linear: the residual must be [rows, out]");
  const int64_t sides[] = {x.sides[0], (int64_t)op->out};
  void *y = NULL;
  TRY(make_output(api, context, 0, sides, 2, &y));
  if (!rows) return NULL;
  const size_t rounded_bytes = round_up(rows * op->product->row_bytes(op->in), LINE);
  uint8_t *rounded = scratch(SCRATCH_ROWS, rounded_bytes + rows * sizeof(float));
  if (!rounded) return ort_status(api, ORT_FAIL, "Linear: out of memory");
  LinearRun run = {op, x.data, residual.data, y, rounded, (float *)(rounded + rounded_bytes), rows, 0, rows};
  if (rows * op->in <= ALONE) {
    op->product->round_part(&run, 0);
  } else {
    run.rows_per_part = (rows + PARTS - 1) / PARTS;
    TRY(ort_parallel(api, context, op->product->round_part, (rows + run.rows_per_part - 1) / run.rows_per_part, &run));
  }
  const size_t panels = op->level->panels(op->out);
  run.parts = panels < PARTS ? panels : PARTS;
  return ort_parallel(api, context, op->product->multiply_part, run.parts, &run);
}

static const char *linear_name(const Operator *self) { return (void)self, "Linear"; }
static const char *block_linear_name(const Operator *self) { return (void)self, "BlockLinear"; }
static int input_type(const Operator *self, size_t index) { return (void)self, index == 1 ? ORT_INT8 : ORT_FLOAT; }
static int block_input_type(const Operator *self, size_t index) {
  return (void)self, index == 1 ? ORT_UINT8 : index == 7 ? ORT_INT8 : ORT_FLOAT;
}
static int output_type(const Operator *self, size_t index) { return (void)self, (void)index, ORT_FLOAT; }
static size_t input_count(const Operator *self) { return (void)self, 7; }
static size_t block_input_count(const Operator *self) { return (void)self, 8; }
static size_t output_count(const Operator *self) { return (void)self, 1; }
static int input_kind(const Operator *self, size_t index) {
  return (void)self, index < 3 || index == 7 ? ORT_REQUIRED : ORT_OPTIONAL;
}

const Operator linear_operator = {
    .version = API_VERSION, .name = linear_name, .provider = on_cpu, .input_type = input_type,
    .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = free_linear,
    .input_kind = input_kind, .output_kind = always, .input_memory = in_host_memory, .create = create_linear,
    .run = run_linear, .first_version = only_version, .last_version = only_version,
};

const Operator block_linear_operator = {
    .version = API_VERSION, .name = block_linear_name, .provider = on_cpu, .input_type = block_input_type,
    .input_count = block_input_count, .output_type = output_type, .output_count = output_count, .destroy = free_linear,
    .input_kind = input_kind, .output_kind = always, .input_memory = in_host_memory, .create = create_block_linear,
    .run = run_linear, .first_version = only_version, .last_version = only_version,
};
