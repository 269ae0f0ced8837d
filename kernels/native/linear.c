/* Linear: (layer norm) -> eight bits -> product with eight-bit weights -> (bias) (GELU) (residual).
 *
 *   x [rows, in] float            weight [in, out] int8, or [out, in] where `transposed`
 *   scales [out] float            one for each column of the product
 *   bias [out], gamma [in], beta [in], residual [rows, out]: float, each may be left out
 *   y [rows, out] float
 *
 * A row is rounded by its own largest value, as the graph's plain operators do it. Sums are of whole numbers, so they
 * are exact; what follows is done lane by lane in one order. An answer depends on its own row only, to the last bit.
 */
#include <math.h>
#include <string.h>

#include "ort.h"
#include "simd.h"

enum {
  QUAD = 4,                 /* bytes that one lane of vpdpbusd multiplies and adds */
  VECTORS = 3,              /* registers of columns in a panel */
  PANEL = VECTORS * LANES,  /* columns */
  TILE = 8,                 /* rows: TILE x VECTORS sums stay in registers */
  PARTS = 16,               /* a product is cut into at most so many, for threads to take in turn */
  ZERO_POINT = 128,
};
static const size_t ALONE = 1 << 14; /* values that one thread rounds sooner than two agree on who does what */

typedef struct {
  OrtApi *api;
  size_t in, out, quads, panels;
  int8_t *weight;  /* [panels][quads][PANEL][QUAD] */
  float *scales;   /* [panels][PANEL], as the next two */
  float *bias;
  int32_t *start;  /* what a sum begins with: it takes the zero point off again */
  float *gamma, *beta, epsilon; /* gamma is NULL without a norm */
  int gelu, above_lowest;
  float lowest;
} Linear;

typedef struct {
  const Linear *op;
  const float *x, *residual;
  float *y;
  uint8_t *rounded; /* [rows][quads * QUAD] */
  float *steps;     /* [rows]: what one whole number stands for */
  size_t rows, parts, rows_per_part;
} Run;

/* ---- rows ------------------------------------------------------------------------------------------------------ */

ALWAYS void normalize(const Linear *op, const float *x, float *out) {
  const size_t width = op->in;
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += LANES)
    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes(width - i), x + i));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
  __m512 squares = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += LANES) {
    const __mmask16 mask = lanes(width - i);
    const __m512 off = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + i), mean);
    squares = _mm512_fmadd_ps(off, off, squares);
  }
  const float scale = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + op->epsilon);
  const __m512 scales = _mm512_set1_ps(scale);
  for (size_t i = 0; i < width; i += LANES) {
    const __mmask16 mask = lanes(width - i);
    const __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), mean);
    const __m512 gain = _mm512_mul_ps(scales, _mm512_maskz_loadu_ps(mask, op->gamma + i));
    _mm512_mask_storeu_ps(out + i, mask, _mm512_fmadd_ps(off, gain, _mm512_maskz_loadu_ps(mask, op->beta + i)));
  }
}

/* Whole numbers of 0 .. 255 for one row; returns their step. A row with a NaN or an infinity has the step NaN. */
ALWAYS float round_row(const Linear *op, const float *x, uint8_t *out) {
  const size_t width = op->in;
  const __m512 lowest = _mm512_set1_ps(op->above_lowest ? op->lowest : 0.0f);
  __m512 most = _mm512_setzero_ps(), probe = _mm512_setzero_ps();
  for (size_t i = 0; i < width; i += LANES) {
    const __mmask16 mask = lanes(width - i);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 size = op->above_lowest ? _mm512_maskz_sub_ps(mask, value, lowest) : _mm512_abs_ps(value);
    most = _mm512_max_ps(most, size);
    probe = _mm512_fmadd_ps(value, _mm512_setzero_ps(), probe);
  }
  const float step = _mm512_reduce_max_ps(most) / (op->above_lowest ? 255.0f : 127.0f) + _mm512_reduce_add_ps(probe);
  const __m512 inverse = _mm512_set1_ps(step > 0.0f ? 1.0f / step : 0.0f);
  const __m512i zero = _mm512_set1_epi32(op->above_lowest ? 0 : ZERO_POINT);
  for (size_t i = 0; i < width; i += LANES) {
    const __mmask16 mask = lanes(width - i);
    const __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), lowest);
    const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(value, inverse)), zero);
    _mm512_mask_cvtusepi32_storeu_epi8(out + i, mask, _mm512_max_epi32(whole, _mm512_setzero_si512()));
  }
  return step;
}

static void round_rows(const Run *run, size_t first, size_t end) {
  const Linear *op = run->op;
  float normed[op->gamma ? op->in : 1];
  for (size_t row = first; row < end; row++) {
    const float *x = run->x + row * op->in;
    if (op->gamma) {
      normalize(op, x, normed);
      x = normed;
    }
    run->steps[row] = round_row(op, x, run->rounded + row * op->quads * QUAD);
  }
}

static void round_part(void *data, size_t part) {
  const Run *run = data;
  const size_t first = part * run->rows_per_part, end = first + run->rows_per_part;
  round_rows(run, first, end < run->rows ? end : run->rows);
}

/* ---- products -------------------------------------------------------------------------------------------------- */

/* x * sigmoid(1.5957691 (x + 0.044715 x^3)): GELU by the tanh of GPT-2. */
ALWAYS __m512 gelu(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
  const __m512 power = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_mul_ps(inner, _mm512_set1_ps(-1.5957691216f)));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(power)));
}

ALWAYS void write_row(const Run *run, size_t row, size_t column, const __m512i *sums) {
  const Linear *op = run->op;
  const __m512 step = _mm512_set1_ps(run->steps[row]);
  for (int v = 0; v < VECTORS; v++) {
    const size_t at = column + v * LANES;
    if (at >= op->out) return;
    const __mmask16 mask = lanes(op->out - at);
    const __m512 scale = _mm512_mul_ps(step, _mm512_loadu_ps(op->scales + at));
    __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), scale, _mm512_loadu_ps(op->bias + at));
    if (op->gelu) y = gelu(y);
    if (run->residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, run->residual + row * op->out + at));
    _mm512_mask_storeu_ps(run->y + row * op->out + at, mask, y);
  }
}

/* `rows` rows from `row` on times one panel; `rows` is a constant wherever this is inlined. */
ALWAYS void multiply(const Run *run, size_t panel, size_t row, const int rows) {
  const Linear *op = run->op;
  const size_t stride = op->quads * QUAD;
  const int8_t *weight = op->weight + panel * op->quads * PANEL * QUAD;
  const uint8_t *x = run->rounded + row * stride;
  __m512i sums[TILE][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_loadu_si512(op->start + panel * PANEL + v * LANES);
  for (size_t quad = 0; quad < op->quads; quad++) {
    __m512i columns[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) columns[v] = _mm512_load_si512(weight + (quad * VECTORS + v) * LINE);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, x + r * stride + quad * QUAD, sizeof four);
      const __m512i value = _mm512_set1_epi32(four);
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], value, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) write_row(run, row + r, panel * PANEL, sums[r]);
}

static void multiply_part(void *data, size_t part) {
  const Run *run = data;
  const size_t panels = run->op->panels;
  for (size_t panel = part * panels / run->parts; panel < (part + 1) * panels / run->parts; panel++) {
    size_t row = 0;
    for (; row + TILE <= run->rows; row += TILE) multiply(run, panel, row, TILE);
    switch (run->rows - row) {
      case 7: multiply(run, panel, row, 7); break;
      case 6: multiply(run, panel, row, 6); break;
      case 5: multiply(run, panel, row, 5); break;
      case 4: multiply(run, panel, row, 4); break;
      case 3: multiply(run, panel, row, 3); break;
      case 2: multiply(run, panel, row, 2); break;
      case 1: multiply(run, panel, row, 1); break;
    }
  }
}

/* ---- the operator ---------------------------------------------------------------------------------------------- */

static void free_linear(void *kernel) {
  Linear *op = kernel;
  if (!op) return;
  free(op->weight), free(op->scales), free(op->bias), free(op->start), free(op->gamma), free(op->beta);
  free(op);
}

static void pack(Linear *op, const int8_t *weight, int transposed) {
  const size_t row_step = transposed ? 1 : op->out, column_step = transposed ? op->in : 1;
  for (size_t panel = 0; panel < op->panels; panel++) {
    const size_t first = panel * PANEL, columns = op->out - first < PANEL ? op->out - first : PANEL;
    int8_t *packed = op->weight + panel * op->quads * PANEL * QUAD;
    for (size_t k = 0; k < op->in; k++) {
      const int8_t *row = weight + k * row_step + first * column_step;
      int8_t *out = packed + k / QUAD * PANEL * QUAD + k % QUAD;
      for (size_t n = 0; n < columns; n++) {
        out[n * QUAD] = row[n * column_step];
        op->start[first + n] += row[n * column_step];
      }
    }
  }
  for (size_t n = 0; n < op->out; n++) op->start[n] *= op->above_lowest ? 0 : -ZERO_POINT;
}

/* The weights as the operator keeps them; NULL where memory is short. */
static float *copy_floats(const Tensor *tensor, size_t padded) {
  float *copy = aligned_alloc(LINE, round_up(padded * sizeof(float), LINE));
  if (!copy) return NULL;
  memset(copy, 0, padded * sizeof(float));
  if (tensor->data) memcpy(copy, tensor->data, (size_t)tensor->sides[0] * sizeof(float));
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

static OrtStatus *fill(Linear *op, const OrtKernelInfo *info) {
  OrtApi *api = op->api;
  int64_t transposed, flags[2];
  TRY(ort_int_attribute(api, info, "transposed", &transposed));
  TRY(ort_int_attribute(api, info, "gelu", &flags[0]));
  TRY(ort_int_attribute(api, info, "above_lowest", &flags[1]));
  TRY(ort_float_attribute(api, info, "lowest", &op->lowest));
  TRY(ort_float_attribute(api, info, "epsilon", &op->epsilon));
  op->gelu = (int)flags[0], op->above_lowest = (int)flags[1];
  Tensor weight, scales, bias, gamma, beta;
  TRY(constant(api, info, 1, &weight));
  TRY(constant(api, info, 2, &scales));
  TRY(constant(api, info, 3, &bias));
  TRY(constant(api, info, 4, &gamma));
  TRY(constant(api, info, 5, &beta));
  if (weight.rank != 2 || !scales.data) return ort_status(api, ORT_FAIL, "Linear: weight and scales must be constant");
  op->in = (size_t)weight.sides[transposed ? 1 : 0], op->out = (size_t)weight.sides[transposed ? 0 : 1];
  if (!fits(&scales, op->out) || !fits(&bias, op->out) || !fits(&gamma, op->in) || !fits(&beta, op->in) ||
      !gamma.data != !beta.data)
    return ort_status(api, ORT_FAIL, "Linear: scales, bias, gamma or beta do not fit the weight");
  op->quads = round_up(op->in, QUAD) / QUAD, op->panels = round_up(op->out, PANEL) / PANEL;
  const size_t bytes = op->panels * op->quads * PANEL * QUAD, columns = op->panels * PANEL;
  op->weight = aligned_alloc(LINE, bytes);
  op->start = aligned_alloc(LINE, columns * sizeof(int32_t));
  op->scales = copy_floats(&scales, columns), op->bias = copy_floats(&bias, columns);
  if (gamma.data) op->gamma = copy_floats(&gamma, op->in), op->beta = copy_floats(&beta, op->in);
  if (!op->weight || !op->start || !op->scales || !op->bias || (gamma.data && (!op->gamma || !op->beta)))
    return ort_status(api, ORT_FAIL, "Linear: out of memory");
  memset(op->weight, 0, bytes), memset(op->start, 0, columns * sizeof(int32_t));
  pack(op, weight.data, (int)transposed);
  return NULL;
}

static OrtStatus *create_linear(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  (void)self;
  Linear *op = calloc(1, sizeof *op);
  if (!op) return ort_status(api, ORT_FAIL, "Linear: out of memory");
  op->api = api;
  OrtStatus *status = fill(op, info);
  if (status)
    free_linear(op);
  else
    *kernel = op;
  return status;
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
  const size_t row_bytes = op->quads * QUAD, rounded_bytes = round_up(rows * row_bytes, LINE);
  uint8_t *rounded = scratch(SCRATCH_ROWS, rounded_bytes + rows * sizeof(float));
  if (!rounded) return ort_status(api, ORT_FAIL, "Linear: out of memory");
  Run run = {op, x.data, residual.data, y, rounded, (float *)(rounded + rounded_bytes), rows, 0, 0};
  if (rows * op->in <= ALONE) {
    round_rows(&run, 0, rows);
  } else {
    run.rows_per_part = (rows + PARTS - 1) / PARTS;
    TRY(ort_parallel(api, context, round_part, (rows + run.rows_per_part - 1) / run.rows_per_part, &run));
  }
  run.parts = op->panels < PARTS ? op->panels : PARTS;
  return ort_parallel(api, context, multiply_part, run.parts, &run);
}

static const char *linear_name(const Operator *self) { return (void)self, "Linear"; }
static int input_type(const Operator *self, size_t index) { return (void)self, index == 1 ? ORT_INT8 : ORT_FLOAT; }
static int output_type(const Operator *self, size_t index) { return (void)self, (void)index, ORT_FLOAT; }
static size_t input_count(const Operator *self) { return (void)self, 7; }
static size_t output_count(const Operator *self) { return (void)self, 1; }
static int input_kind(const Operator *self, size_t index) { return (void)self, index < 3 ? ORT_REQUIRED : ORT_OPTIONAL; }

const Operator linear_operator = {
    .version = API_VERSION, .name = linear_name, .provider = on_cpu, .input_type = input_type,
    .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = free_linear,
    .input_kind = input_kind, .output_kind = always, .input_memory = in_host_memory, .create = create_linear,
    .run = run_linear, .first_version = only_version, .last_version = only_version,
};
