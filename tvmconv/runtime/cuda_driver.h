/* The functions of the CUDA driver that a model uses, found in libcuda.so.1 at run time. Nothing of CUDA's is needed
 * to compile this: types and constants below are those of the driver's stable binary interface. */
#ifndef TVMCONV_CUDA_DRIVER_H
#define TVMCONV_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum { /* CUresult */
  CUDA_SUCCESS = 0,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
};
enum { CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76 };
enum { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
enum { CU_STREAM_NON_BLOCKING = 1 };
enum { CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1 };
enum { CU_EVENT_DEFAULT = 0 };

/* Every function with its parameters, under the name of its symbol. */
#define TVMCONV_CUDA_FUNCTIONS(F)                                                                                    \
  F(cuInit, (unsigned flags))                                                                                        \
  F(cuDriverGetVersion, (int *version))                                                                              \
  F(cuDeviceGetCount, (int *count))                                                                                  \
  F(cuDeviceGet, (CUdevice * device, int ordinal))                                                                   \
  F(cuDeviceGetName, (char *name, int length, CUdevice device))                                                      \
  F(cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                                              \
  F(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                                                \
  F(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                                                 \
  F(cuCtxPushCurrent_v2, (CUcontext context))                                                                        \
  F(cuCtxPopCurrent_v2, (CUcontext * context))                                                                       \
  F(cuModuleLoadData, (CUmodule * module, const void *image))                                                        \
  F(cuModuleUnload, (CUmodule module))                                                                               \
  F(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char *name))                                 \
  F(cuFuncSetAttribute, (CUfunction function, int attribute, int value))                                             \
  F(cuMemAlloc_v2, (CUdeviceptr * address, size_t bytes))                                                            \
  F(cuMemFree_v2, (CUdeviceptr address))                                                                             \
  F(cuMemcpyAsync, (CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream))                     \
  F(cuMemsetD8Async, (CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream))                      \
  F(cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,       \
                     unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **parameters,  \
                     void **extra))                                                                                  \
  F(cuStreamCreate, (CUstream * stream, unsigned flags))                                                             \
  F(cuStreamDestroy_v2, (CUstream stream))                                                                           \
  F(cuStreamSynchronize, (CUstream stream))                                                                          \
  F(cuStreamBeginCapture_v2, (CUstream stream, int mode))                                                            \
  F(cuStreamEndCapture, (CUstream stream, CUgraph * graph))                                                          \
  F(cuGraphInstantiateWithFlags, (CUgraphExec * executable, CUgraph graph, unsigned long long flags))                \
  F(cuGraphLaunch, (CUgraphExec executable, CUstream stream))                                                        \
  F(cuGraphDestroy, (CUgraph graph))                                                                                 \
  F(cuGraphExecDestroy, (CUgraphExec executable))                                                                    \
  F(cuEventCreate, (CUevent * event, unsigned flags))                                                                \
  F(cuEventRecord, (CUevent event, CUstream stream))                                                                 \
  F(cuEventElapsedTime, (float *milliseconds, CUevent start, CUevent end))                                           \
  F(cuEventDestroy_v2, (CUevent event))                                                                              \
  F(cuGetErrorName, (CUresult result, const char **name))

typedef struct {
#define TVMCONV_CUDA_MEMBER(name, parameters) CUresult(*name) parameters;
  TVMCONV_CUDA_FUNCTIONS(TVMCONV_CUDA_MEMBER)
#undef TVMCONV_CUDA_MEMBER
} tvmconv_cuda_driver;

/* The driver, loaded and initialised at the first call; NULL: see the error text. */
const tvmconv_cuda_driver *tvmconv_cuda(void);

/* Set the error text to what could not be done and the driver's name of the reason; returns `code`, or
 * TVMCONV_NO_MEMORY if that is the reason. */
int tvmconv_cuda_fail(int code, CUresult result, const char *action);

/* Leave the function if a call of the driver failed. */
#define TRY(call, code, action)                                       \
  do {                                                                \
    CUresult result_ = (call);                                        \
    if (result_) return tvmconv_cuda_fail(code, result_, action);     \
  } while (0)

#endif
