/* The part of TVM 0.27's binary interface that its CPU kernels use; no TVM header is needed. */
#ifndef TVMCONV_TVM_ABI_H
#define TVMCONV_TVM_ABI_H

#include <stdint.h>

typedef struct {
  int32_t device_type, device_id; /* 1: CPU */
} DLDevice;

typedef struct {
  uint8_t code, bits; /* DLPack: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool */
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides; /* strides NULL: compact, row-major */
  uint64_t byte_offset;
} DLTensor;

enum { TVMCONV_FFI_NONE = 0, TVMCONV_FFI_DLTENSOR = 7, TVMCONV_FFI_TENSOR = 70 };

/* One argument. A DLTENSOR points to a DLTensor; a TENSOR to an object whose DLTensor follows its header. */
typedef struct {
  int32_t type_index;
  uint32_t small_length;
  union {
    int64_t integer;
    double real;
    void *pointer;
    uint64_t bits;
  } value;
} TVMFFIAny;

/* A kernel, exported by its object file as __tvm_ffi_<name>. */
typedef int (*tvmconv_kernel)(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

typedef struct {
  void *sync_handle;
  int32_t num_task; /* a parallel body divides its range by this */
} TVMParallelGroupEnv;

typedef int (*tvmconv_task)(int32_t task, TVMParallelGroupEnv *env, void *data);

#endif
