/* A cuBLAS that computes nothing: products leave a line in the trace of cuda.c. */
#include "standin.h"

#include <stdlib.h>

/* Functions without their parameters, which nothing here reads. */
#define PRODUCT(name) API int name() { stand_note("product", #name); return 0; }
#define QUIET(name) API int name() { return 0; }

PRODUCT(cublasDgeam) PRODUCT(cublasDgemmBatched) PRODUCT(cublasDgemmStridedBatched) PRODUCT(cublasDgemm_v2)
PRODUCT(cublasDgetrfBatched) PRODUCT(cublasDgetriBatched) PRODUCT(cublasGemmBatchedEx) PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx) PRODUCT(cublasScopy_v2) PRODUCT(cublasSgeam) PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched) PRODUCT(cublasSgemm_v2) PRODUCT(cublasSgetrfBatched) PRODUCT(cublasSgetriBatched)
PRODUCT(cublasSscal_v2) PRODUCT(cublasLtMatmul) PRODUCT(cublasLtMatrixTransform)
QUIET(cublasDestroy_v2) QUIET(cublasSetMathMode) QUIET(cublasSetStream_v2) QUIET(cublasLtDestroy)
QUIET(cublasLtMatmulAlgoConfigSetAttribute) QUIET(cublasLtMatmulAlgoInit) QUIET(cublasLtMatmulDescCreate)
QUIET(cublasLtMatmulDescDestroy) QUIET(cublasLtMatmulDescSetAttribute) QUIET(cublasLtMatmulPreferenceCreate)
QUIET(cublasLtMatmulPreferenceDestroy) QUIET(cublasLtMatmulPreferenceSetAttribute) QUIET(cublasLtMatrixLayoutCreate)
QUIET(cublasLtMatrixLayoutDestroy) QUIET(cublasLtMatrixLayoutSetAttribute) QUIET(cublasLtMatrixTransformDescCreate)
QUIET(cublasLtMatrixTransformDescDestroy)
API int cublasCreate_v2(void **found) { *found = calloc(1, 8); return 0; }
API int cublasLtCreate(void **found) { *found = calloc(1, 8); return 0; }
API int cublasGetMathMode(void *blas, int *mode) { *mode = 0; return 0; }
API const char *cublasGetStatusName(int status) { return "a status of the stand-in"; }
API const char *cublasGetStatusString(int status) { return "a status of the stand-in"; }
API int cublasLtMatmulAlgoGetHeuristic(void *lt, void *product, void *a, void *b, void *c, void *d, void *preference,
                                       int wanted, void *results, int *count) {
    *count = 1;
    return 0;
}
