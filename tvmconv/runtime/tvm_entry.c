/* `--format tvm`: the model as TVM's packed function "main", taking the input tensors, then the output tensors. */
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "internal.h"

#define OBJECT_HEADER_BYTES 24 /* TVMFFIObject: reference counts, type index, deleter */

/* TVM's; weak, so that the library also loads without TVM through the plain interface. */
extern __attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

TVMCONV_API int __tvm_ffi_main(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static tvmconv_model *model;
static int model_code;
static char model_error[TVMCONV_ERROR_BYTES];

static void make_model(void) {
  model_code = tvmconv_create(&model, 0);
  memcpy(model_error, tvmconv_error_text(), sizeof model_error);
}

__attribute__((destructor)) static void drop_model(void) { tvmconv_destroy(model); }

static int raise_error(const char *kind) {
  if (TVMFFIErrorSetRaisedFromCStr) TVMFFIErrorSetRaisedFromCStr(kind, tvmconv_error_text());
  return -1;
}

static const DLTensor *tensor_of(const TVMFFIAny *argument) {
  if (argument->type_index == TVMCONV_FFI_DLTENSOR) return argument->value.pointer;
  if (argument->type_index != TVMCONV_FFI_TENSOR) return NULL;
  return (const DLTensor *)(const void *)((const char *)argument->value.pointer + OBJECT_HEADER_BYTES);
}

static int contiguous(const DLTensor *tensor) {
  int64_t expected = 1;
  for (int i = tensor->ndim - 1; i >= 0 && tensor->strides; expected *= tensor->shape[i--])
    if (tensor->shape[i] != 1 && tensor->strides[i] != expected) return 0;
  return 1;
}

/* The tensor's first element, or NULL with the error text set. */
static void *check(const TVMFFIAny *argument, const tvmconv_port *port, const char *what) {
  const DLTensor *tensor = tensor_of(argument);
  const char *wrong = NULL;
  if (!tensor || !tensor->data)
    wrong = "is not a tensor";
  else if (tensor->device.device_type != 1)
    wrong = "is not in CPU memory";
  else if (tensor->dtype.code != port->dtype.code || tensor->dtype.bits != port->dtype.bits || tensor->dtype.lanes != 1)
    wrong = "has the wrong dtype";
  else if (tensor->ndim != port->ndim)
    wrong = "has the wrong number of dimensions";
  else if (!contiguous(tensor))
    wrong = "is not contiguous";
  for (int i = 0; !wrong && i < port->ndim; i++)
    if (tensor->shape[i] != port->shape[i]) wrong = "has the wrong shape";
  if (!wrong) return (char *)tensor->data + tensor->byte_offset;
  tvmconv_fail(TVMCONV_BAD_ARGUMENT, "%s '%s' %s", what, port->name, wrong);
  return NULL;
}

int __tvm_ffi_main(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  (void)self;
  const tvmconv_plan *plan = &tvmconv_model_plan;
  const int inputs = plan->input_count, outputs = plan->output_count;
  const void *input[TVMCONV_MAX_PORTS];
  void *output[TVMCONV_MAX_PORTS];
  if (count != inputs + outputs) {
    tvmconv_fail(TVMCONV_BAD_ARGUMENT, "expected %d arguments (%d inputs, then %d outputs), got %d", inputs + outputs,
                 inputs, outputs, count);
    return raise_error("TypeError");
  }
  for (int i = 0; i < inputs; i++)
    if (!(input[i] = check(&arguments[i], &plan->inputs[i], "input"))) return raise_error("ValueError");
  for (int i = 0; i < outputs; i++)
    if (!(output[i] = check(&arguments[inputs + i], &plan->outputs[i], "output"))) return raise_error("ValueError");
  pthread_once(&once, make_model);
  if (model_code) {
    tvmconv_error_set(model_error);
    return raise_error("RuntimeError");
  }
  if (tvmconv_run(model, input, output)) return raise_error("RuntimeError");
  result->type_index = TVMCONV_FFI_NONE;
  result->value.bits = 0;
  return 0;
}
