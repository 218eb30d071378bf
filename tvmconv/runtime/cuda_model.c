/* An instance of a model for CUDA: one device, its memory, and a graph of all launches that a run replays. */
#include <pthread.h>
#include <stdlib.h>

#include "cuda_driver.h"
#include "cuda_images.h"
#include "cuda_plan.h"
#include "internal.h"

struct tvmconv_model {
  pthread_mutex_t lock; /* one run at a time: the memory and the stream are the instance's */
  const tvmconv_cuda_driver *cuda;
  CUdevice device;
  CUcontext context; /* the primary one, shared with everybody else in the process */
  CUmodule module;
  CUfunction *functions;
  CUdeviceptr arena, weights;
  CUstream stream;
  CUgraphExec graph;
  CUevent *events; /* step_count + 1, made by the first profile */
  char name[TVMCONV_CUDA_NAME_BYTES];
};

static const tvmconv_cuda_plan *const plan = &tvmconv_cuda_model_plan;

/* --- code */

static int find_functions(tvmconv_model *model) {
  for (int i = 0; i < plan->function_count; i++) {
    const tvmconv_function *function = &plan->functions[i];
    TRY(model->cuda->cuModuleGetFunction(&model->functions[i], model->module, function->name), TVMCONV_WRONG_DEVICE,
        function->name);
    if (function->dynamic_bytes)
      TRY(model->cuda->cuFuncSetAttribute(model->functions[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                          (int)function->dynamic_bytes),
          TVMCONV_WRONG_DEVICE, function->name);
  }
  return 0;
}

/* --- memory */

static int allocate(tvmconv_model *model, CUdeviceptr *address, uint64_t bytes, const char *what) {
  CUresult result = model->cuda->cuMemAlloc_v2(address, bytes ? (size_t)bytes : 1);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory on %s for %llu bytes of %s", model->name,
                        (unsigned long long)bytes, what);
  TRY(result, TVMCONV_NO_DEVICE, what);
  return 0;
}

/* The weights arrive once; halos around activations stay as they are made here: kernels write only inside. */
static int fill_memory(tvmconv_model *model) {
  const tvmconv_cuda_driver *cuda = model->cuda;
  int code = allocate(model, &model->arena, plan->arena_bytes, "activations");
  if (!code) code = allocate(model, &model->weights, plan->weight_bytes, "weights");
  if (code) return code;
  if (plan->arena_bytes)
    TRY(cuda->cuMemsetD8Async(model->arena, 0, (size_t)plan->arena_bytes, model->stream), TVMCONV_NO_DEVICE,
        "cannot clear memory");
  for (int i = 0; i < plan->fill_count; i++) {
    const tvmconv_fill *fill = &plan->fills[i];
    TRY(cuda->cuMemsetD8Async(model->arena + fill->offset, (unsigned char)fill->value, (size_t)fill->bytes,
                              model->stream),
        TVMCONV_NO_DEVICE, "cannot fill memory");
  }
  if (plan->weight_bytes)
    TRY(cuda->cuMemcpyAsync(model->weights, (CUdeviceptr)(uintptr_t)plan->weights, (size_t)plan->weight_bytes,
                            model->stream),
        TVMCONV_NO_DEVICE, "cannot upload the weights");
  TRY(cuda->cuStreamSynchronize(model->stream), TVMCONV_NO_DEVICE, "cannot upload the weights");
  return 0;
}

/* --- launches */

static int launch(tvmconv_model *model, const tvmconv_cuda_launch *l) {
  CUdeviceptr addresses[TVMCONV_MAX_ARGUMENTS];
  void *parameters[TVMCONV_MAX_ARGUMENTS];
  for (int i = 0; i < l->count; i++) {
    CUdeviceptr base = l->arguments[i].space == TVMCONV_WEIGHTS ? model->weights : model->arena;
    addresses[i] = base + l->arguments[i].offset;
    parameters[i] = &addresses[i];
  }
  TRY(model->cuda->cuLaunchKernel(model->functions[l->function], l->grid[0], l->grid[1], l->grid[2], l->block[0],
                                  l->block[1], l->block[2], l->dynamic_bytes, model->stream, parameters, NULL),
      TVMCONV_KERNEL_FAILED, plan->functions[l->function].name);
  return 0;
}

static int launch_all(tvmconv_model *model) {
  int code = 0;
  for (int i = 0; i < plan->launch_count && !code; i++) code = launch(model, &plan->launches[i]);
  return code;
}

/* Record all launches as a graph, which a run then starts by one call. */
static int capture(tvmconv_model *model) {
  const tvmconv_cuda_driver *cuda = model->cuda;
  CUgraph graph = NULL;
  if (!plan->launch_count) return 0;
  TRY(cuda->cuStreamBeginCapture_v2(model->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), TVMCONV_KERNEL_FAILED,
      "cannot record the launches");
  int code = launch_all(model);
  CUresult result = cuda->cuStreamEndCapture(model->stream, &graph);
  if (!code && result) code = tvmconv_cuda_fail(TVMCONV_KERNEL_FAILED, result, "cannot record the launches");
  if (!code && (result = cuda->cuGraphInstantiateWithFlags(&model->graph, graph, 0)) != CUDA_SUCCESS)
    code = tvmconv_cuda_fail(TVMCONV_KERNEL_FAILED, result, "cannot make a graph of the launches");
  if (graph) cuda->cuGraphDestroy(graph);
  return code;
}

/* --- create and destroy */

static int prepare(tvmconv_model *model) {
  TRY(model->cuda->cuStreamCreate(&model->stream, CU_STREAM_NON_BLOCKING), TVMCONV_NO_DEVICE, "cannot make a stream");
  int code = tvmconv_cuda_load(model->cuda, model->device, &model->module);
  if (!code) code = find_functions(model);
  if (!code) code = fill_memory(model);
  if (!code) code = capture(model);
  return code;
}

static int open_device(tvmconv_model *model) {
  int code = tvmconv_cuda_choose_device(model->cuda, &model->device, model->name);
  if (code) return code;
  TRY(model->cuda->cuDevicePrimaryCtxRetain(&model->context, model->device), TVMCONV_NO_DEVICE, model->name);
  TRY(model->cuda->cuCtxPushCurrent_v2(model->context), TVMCONV_NO_DEVICE, model->name);
  code = prepare(model);
  model->cuda->cuCtxPopCurrent_v2(&(CUcontext){NULL});
  return code;
}

int tvmconv_create(tvmconv_model **result, int threads) {
  (void)threads; /* the device has its own */
  if (!result) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "tvmconv_create: the model pointer is NULL");
  *result = NULL;
  tvmconv_error_clear();
  const char *missing = tvmconv_missing_feature();
  if (missing) return tvmconv_fail(TVMCONV_WRONG_CPU, "the model needs %s, which this CPU does not have", missing);
  const tvmconv_cuda_driver *cuda = tvmconv_cuda();
  if (!cuda) return TVMCONV_NO_DEVICE;
  tvmconv_model *model = calloc(1, sizeof *model);
  if (!model || pthread_mutex_init(&model->lock, NULL)) {
    free(model);
    return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for a model");
  }
  model->cuda = cuda;
  model->functions = calloc((size_t)plan->function_count + 1, sizeof *model->functions);
  int code = model->functions ? open_device(model) : tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for a model");
  if (code)
    tvmconv_destroy(model);
  else
    *result = model;
  return code;
}

static void release(tvmconv_model *model) {
  const tvmconv_cuda_driver *cuda = model->cuda;
  if (model->stream) cuda->cuStreamSynchronize(model->stream);
  if (model->graph) cuda->cuGraphExecDestroy(model->graph);
  for (int i = 0; model->events && i <= plan->step_count; i++)
    if (model->events[i]) cuda->cuEventDestroy_v2(model->events[i]);
  if (model->arena) cuda->cuMemFree_v2(model->arena);
  if (model->weights) cuda->cuMemFree_v2(model->weights);
  if (model->module) cuda->cuModuleUnload(model->module);
  if (model->stream) cuda->cuStreamDestroy_v2(model->stream);
}

void tvmconv_destroy(tvmconv_model *model) {
  if (!model) return;
  if (model->context) {
    if (!model->cuda->cuCtxPushCurrent_v2(model->context)) {
      release(model);
      model->cuda->cuCtxPopCurrent_v2(&(CUcontext){NULL});
    }
    model->cuda->cuDevicePrimaryCtxRelease_v2(model->device);
  }
  pthread_mutex_destroy(&model->lock);
  free(model->events);
  free(model->functions);
  free(model);
}

/* --- run */

static int copy(tvmconv_model *model, CUdeviceptr destination, CUdeviceptr source, const tvmconv_port *port) {
  TRY(model->cuda->cuMemcpyAsync(destination, source, (size_t)port->bytes, model->stream), TVMCONV_KERNEL_FAILED,
      port->name);
  return 0;
}

static int make_events(tvmconv_model *model) {
  if (!model->events) model->events = calloc((size_t)plan->step_count + 1, sizeof *model->events);
  if (!model->events) return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for events");
  for (int i = 0; i <= plan->step_count; i++)
    if (!model->events[i]) /* an earlier attempt may have made some */
      TRY(model->cuda->cuEventCreate(&model->events[i], CU_EVENT_DEFAULT), TVMCONV_KERNEL_FAILED,
          "cannot make an event");
  return 0;
}

/* Launch one kernel after the other, with an event before each step and after the last. */
static int launch_timed(tvmconv_model *model) {
  int code = make_events(model), next = 0;
  for (int step = 0; step < plan->step_count && !code; step++) {
    TRY(model->cuda->cuEventRecord(model->events[step], model->stream), TVMCONV_KERNEL_FAILED, "cannot take the time");
    while (next < plan->launch_count && plan->launches[next].step == step && !code)
      code = launch(model, &plan->launches[next++]);
  }
  if (code) return code;
  TRY(model->cuda->cuEventRecord(model->events[plan->step_count], model->stream), TVMCONV_KERNEL_FAILED,
      "cannot take the time");
  return 0;
}

static int read_times(tvmconv_model *model, double *times) {
  for (int i = 0; i < plan->step_count; i++) {
    float milliseconds = 0;
    TRY(model->cuda->cuEventElapsedTime(&milliseconds, model->events[i], model->events[i + 1]), TVMCONV_KERNEL_FAILED,
        "cannot take the time");
    times[i] = 1e-3 * (double)milliseconds;
  }
  return 0;
}

static int run_on_device(tvmconv_model *model, const void *const inputs[], void *const outputs[], double *times) {
  int code = 0;
  for (int i = 0; i < plan->input_count && !code; i++)
    code = copy(model, model->arena + plan->input_offsets[i], (CUdeviceptr)(uintptr_t)inputs[i], &plan->inputs[i]);
  if (code) return code;
  if (times)
    code = launch_timed(model);
  else if (model->graph)
    TRY(model->cuda->cuGraphLaunch(model->graph, model->stream), TVMCONV_KERNEL_FAILED, "cannot start the kernels");
  for (int i = 0; i < plan->output_count && !code; i++)
    code = copy(model, (CUdeviceptr)(uintptr_t)outputs[i], model->arena + plan->output_offsets[i], &plan->outputs[i]);
  if (code) return code;
  TRY(model->cuda->cuStreamSynchronize(model->stream), TVMCONV_KERNEL_FAILED, "the kernels failed");
  return times ? read_times(model, times) : 0;
}

/* Take the model's lock, and make its context the current one. */
static int enter(tvmconv_model *model) {
  pthread_mutex_lock(&model->lock);
  CUresult result = model->cuda->cuCtxPushCurrent_v2(model->context);
  if (!result) return 0;
  pthread_mutex_unlock(&model->lock);
  return tvmconv_cuda_fail(TVMCONV_KERNEL_FAILED, result, model->name);
}

static int leave(tvmconv_model *model, int code) {
  if (code) model->cuda->cuStreamSynchronize(model->stream); /* nothing reads or writes the caller's memory now */
  model->cuda->cuCtxPopCurrent_v2(&(CUcontext){NULL});
  pthread_mutex_unlock(&model->lock);
  return code;
}

int tvmconv_model_run(tvmconv_model *model, const void *const inputs[], void *const outputs[], double *times) {
  int code = enter(model);
  return code ? code : leave(model, run_on_device(model, inputs, outputs, times));
}

/* Graphs one after the other between two events. */
static int replay(tvmconv_model *model, int runs, double *seconds) {
  int code = make_events(model);
  if (code) return code;
  const tvmconv_cuda_driver *cuda = model->cuda;
  CUevent begin = model->events[0], end = model->events[plan->step_count];
  float milliseconds = 0;
  TRY(cuda->cuEventRecord(begin, model->stream), TVMCONV_KERNEL_FAILED, "cannot take the time");
  for (int i = 0; i < runs; i++)
    TRY(cuda->cuGraphLaunch(model->graph, model->stream), TVMCONV_KERNEL_FAILED, "cannot start the kernels");
  TRY(cuda->cuEventRecord(end, model->stream), TVMCONV_KERNEL_FAILED, "cannot take the time");
  TRY(cuda->cuStreamSynchronize(model->stream), TVMCONV_KERNEL_FAILED, "the kernels failed");
  TRY(cuda->cuEventElapsedTime(&milliseconds, begin, end), TVMCONV_KERNEL_FAILED, "cannot take the time");
  *seconds = 1e-3 * (double)milliseconds / runs;
  return 0;
}

int tvmconv_replay(tvmconv_model *model, int runs, double *seconds) {
  if (!model || !seconds || runs < 1) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "nothing to replay, or no result");
  tvmconv_error_clear();
  *seconds = 0;
  if (!model->graph) return 0; /* the model launches nothing */
  int code = enter(model);
  return code ? code : leave(model, replay(model, runs, seconds));
}

tvmconv_signature tvmconv_model_signature(void) {
  return (tvmconv_signature){plan->inputs, plan->outputs, plan->input_count, plan->output_count, plan->metadata};
}
