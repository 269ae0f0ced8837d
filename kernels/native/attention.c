/* Attention: causal, over a cache of eight-bit keys and values that it extends in place; in floats where there is none.
 *
 *   packed [batch * sequence, 3 * heads * size] float       queries, keys, values of the new tokens
 *   past_key, past_value [batch, heads, context, size + 4] uint8, or both left out
 *   seqlens_k [batch] int32                                  tokens of a row after this run, less one
 *   total_sequence_length [] int32                           the most of them
 *   out [batch * sequence, heads * size] float
 *   row_tokens [batch] int32                                 new tokens of each row, 0 or more; or it is left out, or empty
 *   present_key, present_value: the past with the new tokens; the same memory where the caller bound it so
 *
 * Without row_tokens each row has `sequence` tokens, and rows of a prompt are padded on the right, as with
 * GroupQueryAttention. With it the tokens of all rows follow each other without padding: packed is [tokens, ...], and
 * a row without new tokens is left as it is. What is computed is in levels/attention.c.
 */
#include <string.h>

#include "levels.h"
#include "ort.h"

typedef struct {
  OrtApi *api;
  const Level *level;
  size_t heads;
  float scale;
} Attention;

static OrtStatus *create_attention(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  (void)self;
  int64_t heads;
  float scale;
  TRY(ort_int_attribute(api, info, "num_heads", &heads));
  TRY(ort_float_attribute(api, info, "scale", &scale));
  Attention *op = malloc(sizeof *op);
  if (!op || heads < 1) return free(op), ort_status(api, ORT_FAIL, "Attention: num_heads must be 1 or more");
  *op = (Attention){api, chosen_level(), (size_t)heads, scale};
  *kernel = op;
  return NULL;
}

static OrtStatus *check(OrtApi *api, const AttentionRun *run, const Tensor *seqlens, int64_t total) {
  for (int64_t row = 0; row < seqlens->sides[0]; row++) {
    const int64_t tokens = (int64_t)run->seqlens[row] + 1, sequence = (int64_t)run->sequence;
    if (tokens < 1 || tokens > total || (run->is_prompt ? tokens > sequence : tokens < sequence))
      return ort_status(api, ORT_FAIL, "Attention: seqlens_k does not fit the tokens given");
  }
  return NULL;
}

/* Where the new tokens of each row begin, and their end; rows are checked. NULL where every row has as many. */
static OrtStatus *find_starts(OrtApi *api, AttentionRun *run, const Tensor *counts, int64_t tokens, int64_t total) {
  size_t *starts = scratch(SCRATCH_STARTS, (run->rows + 1) * sizeof *starts);
  if (!starts) return ort_status(api, ORT_FAIL, "Attention: out of memory");
  int64_t start = 0;
  for (size_t row = 0; row < run->rows; row++) {
    const int64_t count = ((const int32_t *)counts->data)[row], end = (int64_t)run->seqlens[row] + 1;
    if (count < 0 || (count && (end < count || end > total)))
      return ort_status(api, ORT_FAIL, "Attention: row_tokens does not fit seqlens_k");
    starts[row] = (size_t)start, start += count;
  }
  if (start != tokens) return ort_status(api, ORT_FAIL, "Attention: row_tokens must have the sum of all tokens");
  starts[run->rows] = (size_t)start, run->starts = starts;
  return NULL;
}

static OrtStatus *run_attention(void *kernel, OrtKernelContext *context) {
  const Attention *op = kernel;
  OrtApi *api = op->api;
  Tensor packed, past[2], seqlens, total, counts;
  TRY(read_input(api, context, 0, &packed));
  TRY(read_input(api, context, 1, &seqlens));
  TRY(read_input(api, context, 2, &total));
  TRY(read_input(api, context, 3, &past[0]));
  TRY(read_input(api, context, 4, &past[1]));
  TRY(read_input(api, context, 5, &counts));
  const int64_t batch = seqlens.sides[0], tokens = packed.sides[0], width = packed.sides[1];
  const int is_ragged = counts.data && counts.rank == 1 && counts.sides[0];
  if (packed.rank != 2 || seqlens.rank != 1 || total.rank != 0 || batch < 1 || (!is_ragged && tokens % batch) ||
      width % (3 * (int64_t)op->heads))
    return ort_status(api, ORT_FAIL, "Attention: packed must be [batch * sequence, 3 * heads * size]");
  if (is_ragged && (counts.sides[0] != batch || !past[0].data))
    return ort_status(api, ORT_FAIL, "Attention: row_tokens must be [batch], over a past");
  AttentionRun run = {.heads = op->heads, .size = (size_t)width / (3 * op->heads), .rows = (size_t)batch,
             .sequence = (size_t)(tokens / batch), .scale = op->scale, .packed = packed.data, .seqlens = seqlens.data};
  const int64_t most = *(const int32_t *)total.data;
  run.width = run.size + SCALE_BYTES;
  run.is_prompt = (int64_t)run.sequence == most;
  run.context = past[0].data ? (size_t)past[0].sides[2] : run.sequence;
  if (run.size % QUAD || run.size > MOST_SIZE) return ort_status(api, ORT_FAIL, "Attention: heads of a multiple of 4 up to 256");
  for (int i = 0; i < 2 && past[0].data; i++)
    if (past[i].rank != 4 || past[i].sides[0] != batch || past[i].sides[1] != (int64_t)op->heads ||
        past[i].sides[2] != (int64_t)run.context || past[i].sides[3] != (int64_t)run.width || most > (int64_t)run.context)
      return ort_status(api, ORT_FAIL, "Attention: past must be [batch, heads, context, size + 4] and hold all tokens");
  TRY(is_ragged ? find_starts(api, &run, &counts, tokens, most) : check(api, &run, &seqlens, most));
  const int64_t out_sides[] = {tokens, width / 3};
  const int64_t sides[] = {batch, (int64_t)op->heads, (int64_t)run.context, (int64_t)run.width};
  const size_t bytes = (size_t)batch * run.heads * run.context * run.width;
  void *out, *present[2] = {NULL, NULL};
  TRY(make_output(api, context, 0, out_sides, 2, &out));
  for (int i = 0; i < 2 && past[0].data; i++) {
    TRY(make_output(api, context, (size_t)i + 1, sides, 4, &present[i]));
    if (present[i] != past[i].data) memcpy(present[i], past[i].data, bytes);
  }
  int out_of_memory = 0;
  run.out = out, run.keys = present[0], run.values = present[1], run.out_of_memory = &out_of_memory;
  TRY(ort_parallel(api, context, op->level->attend_part, run.rows * run.heads, &run));
  return out_of_memory ? ort_status(api, ORT_FAIL, "Attention: out of memory") : NULL;
}

static const char *attention_name(const Operator *self) { return (void)self, "Attention"; }
static int input_type(const Operator *self, size_t index) {
  (void)self;
  return index == 0 ? ORT_FLOAT : index == 3 || index == 4 ? ORT_UINT8 : ORT_INT32;
}
static int output_type(const Operator *self, size_t index) { return (void)self, index ? ORT_UINT8 : ORT_FLOAT; }
static size_t input_count(const Operator *self) { return (void)self, 6; }
static size_t output_count(const Operator *self) { return (void)self, 3; }
static int input_kind(const Operator *self, size_t index) { return (void)self, index < 3 ? ORT_REQUIRED : ORT_OPTIONAL; }
static int output_kind(const Operator *self, size_t index) { return (void)self, index ? ORT_OPTIONAL : ORT_REQUIRED; }

const Operator attention_operator = {
    .version = API_VERSION, .name = attention_name, .provider = on_cpu, .input_type = input_type,
    .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = free,
    .input_kind = input_kind, .output_kind = output_kind, .input_memory = in_host_memory, .create = create_attention,
    .run = run_attention, .first_version = only_version, .last_version = only_version,
};
