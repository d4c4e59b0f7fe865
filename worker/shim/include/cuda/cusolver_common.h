// ATen's CUDA headers name cuSOLVER, cuBLAS and cuSPARSE by a handle and a status each; this shim uses none of
// them, so that these declarations stand in for the headers of three large wheels.
#pragma once
typedef enum { CUSOLVER_STATUS_SUCCESS = 0 } cusolverStatus_t;
