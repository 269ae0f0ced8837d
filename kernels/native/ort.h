/* The little of ONNX Runtime's C interface that custom operators need.
 *
 * ONNX Runtime promises a table of functions that only grows: a function keeps its place for ever. `API_VERSION`
 * is the version of the table that these places were read from (1.17 and later serve it); a runtime that no longer
 * does answers NULL, and nothing is registered.
 */
#ifndef LMAAS_ORT_H
#define LMAAS_ORT_H

#include <stddef.h>
#include <stdint.h>

#define API_VERSION 17

typedef struct OrtStatus OrtStatus; /* NULL is success */
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef void *const OrtApi; /* the table */

typedef struct {
  OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

enum { ORT_FAIL = 1, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6, ORT_INT64 = 7 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

#define ORT_FUNCTION(name, ...) static inline OrtStatus *name(OrtApi *api, __VA_ARGS__)

ORT_FUNCTION(ort_status, int code, const char *message) {
  return ((OrtStatus * (*)(int, const char *)) api[0])(code, message);
}
ORT_FUNCTION(ort_new_domain, const char *name, OrtCustomOpDomain **out) {
  return ((OrtStatus * (*)(const char *, OrtCustomOpDomain **)) api[26])(name, out);
}
ORT_FUNCTION(ort_add_operator, OrtCustomOpDomain *domain, const void *operator_) {
  return ((OrtStatus * (*)(OrtCustomOpDomain *, const void *)) api[27])(domain, operator_);
}
ORT_FUNCTION(ort_add_domain, OrtSessionOptions *options, OrtCustomOpDomain *domain) {
  return ((OrtStatus * (*)(OrtSessionOptions *, OrtCustomOpDomain *)) api[28])(options, domain);
}
ORT_FUNCTION(ort_data, OrtValue *value, void **out) {
  return ((OrtStatus * (*)(OrtValue *, void **)) api[51])(value, out);
}
ORT_FUNCTION(ort_rank, const OrtTensorTypeAndShapeInfo *info, size_t *out) {
  return ((OrtStatus * (*)(const OrtTensorTypeAndShapeInfo *, size_t *)) api[61])(info, out);
}
ORT_FUNCTION(ort_sides, const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t count) {
  return ((OrtStatus * (*)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)) api[62])(info, out, count);
}
ORT_FUNCTION(ort_shape, const OrtValue *value, OrtTensorTypeAndShapeInfo **out) {
  return ((OrtStatus * (*)(const OrtValue *, OrtTensorTypeAndShapeInfo **)) api[65])(value, out);
}
ORT_FUNCTION(ort_float_attribute, const OrtKernelInfo *info, const char *name, float *out) {
  return ((OrtStatus * (*)(const OrtKernelInfo *, const char *, float *)) api[85])(info, name, out);
}
ORT_FUNCTION(ort_int_attribute, const OrtKernelInfo *info, const char *name, int64_t *out) {
  return ((OrtStatus * (*)(const OrtKernelInfo *, const char *, int64_t *)) api[86])(info, name, out);
}
ORT_FUNCTION(ort_input, const OrtKernelContext *context, size_t index, const OrtValue **out) {
  return ((OrtStatus * (*)(const OrtKernelContext *, size_t, const OrtValue **)) api[90])(context, index, out);
}
ORT_FUNCTION(ort_output, OrtKernelContext *context, size_t index, const int64_t *sides, size_t rank,
             OrtValue **out) {
  return ((OrtStatus * (*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)) api[91])(
      context, index, sides, rank, out);
}
ORT_FUNCTION(ort_constant_input, const OrtKernelInfo *info, size_t index, int *is_constant,
             const OrtValue **out) {
  return ((OrtStatus * (*)(const OrtKernelInfo *, size_t, int *, const OrtValue **)) api[249])(info, index,
                                                                                              is_constant, out);
}
/* `part(data, index)` for each index below `total`, on the threads of the session. */
ORT_FUNCTION(ort_parallel, const OrtKernelContext *context, void (*part)(void *, size_t), size_t total,
             void *data) {
  return ((OrtStatus * (*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)) api[274])(
      context, part, total, 0, data);
}
static inline void ort_release_status(OrtApi *api, OrtStatus *status) {
  ((void (*)(OrtStatus *))api[93])(status);
}
static inline void ort_release_shape(OrtApi *api, OrtTensorTypeAndShapeInfo *info) {
  ((void (*)(OrtTensorTypeAndShapeInfo *))api[99])(info);
}

/* OrtCustomOp of version 17. */
typedef struct Operator Operator;
struct Operator {
  uint32_t version;
  void *(*create_kernel)(const Operator *, OrtApi *, const OrtKernelInfo *);
  const char *(*name)(const Operator *);
  const char *(*provider)(const Operator *);
  int (*input_type)(const Operator *, size_t);
  size_t (*input_count)(const Operator *);
  int (*output_type)(const Operator *, size_t);
  size_t (*output_count)(const Operator *);
  void (*compute)(void *, OrtKernelContext *);
  void (*destroy)(void *);
  int (*input_kind)(const Operator *, size_t);
  int (*output_kind)(const Operator *, size_t);
  int (*input_memory)(const Operator *, size_t);
  int (*variadic_input_least)(const Operator *);
  int (*variadic_input_alike)(const Operator *);
  int (*variadic_output_least)(const Operator *);
  int (*variadic_output_alike)(const Operator *);
  OrtStatus *(*create)(const Operator *, OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*run)(void *, OrtKernelContext *);
  OrtStatus *(*infer_shape)(const Operator *, void *);
  int (*first_version)(const Operator *);
  int (*last_version)(const Operator *);
};

#define TRY(expression)                       \
  do {                                        \
    OrtStatus *status_ = (expression);        \
    if (status_) return status_;              \
  } while (0)

enum { MOST_SIDES = 4 };

/* A tensor as kernels see it; `data` is NULL where an optional one was left out. */
typedef struct {
  void *data;
  size_t rank;
  int64_t sides[MOST_SIDES];
} Tensor;

static inline OrtStatus *read_tensor(OrtApi *api, const OrtValue *value, Tensor *out) {
  *out = (Tensor){0};
  if (!value) return NULL;
  OrtTensorTypeAndShapeInfo *info;
  TRY(ort_shape(api, value, &info));
  OrtStatus *status = ort_rank(api, info, &out->rank);
  if (!status && out->rank > MOST_SIDES) status = ort_status(api, ORT_FAIL, "a tensor of more than 4 sides");
  if (!status) status = ort_sides(api, info, out->sides, out->rank);
  ort_release_shape(api, info);
  return status ? status : ort_data(api, (OrtValue *)value, &out->data);
}

static inline OrtStatus *read_input(OrtApi *api, const OrtKernelContext *context, size_t index, Tensor *out) {
  const OrtValue *value = NULL;
  TRY(ort_input(api, context, index, &value));
  return read_tensor(api, value, out);
}

static inline OrtStatus *make_output(OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *sides,
                                     size_t rank, void **data) {
  OrtValue *value = NULL;
  TRY(ort_output(api, context, index, sides, rank, &value));
  return ort_data(api, value, data);
}

/* What all our operators answer alike. */
static inline const char *on_cpu(const Operator *self) { return (void)self, "CPUExecutionProvider"; }
static inline int in_host_memory(const Operator *self, size_t index) { return (void)self, (void)index, 0; }
static inline int only_version(const Operator *self) { return (void)self, 1; }
static inline int always(const Operator *self, size_t index) { return (void)self, (void)index, ORT_REQUIRED; }

extern const Operator linear_operator, block_linear_operator, attention_operator, argmax_operator;

#endif
