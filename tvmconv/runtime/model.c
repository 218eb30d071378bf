/* An instance of the model and its step loop. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "internal.h"

#define HUGE_PAGE_BYTES (2u << 20)

struct tvmconv_model {
  pthread_mutex_t lock; /* one run at a time: the arena and the threads are the instance's */
  tvmconv_pool *pool;
  uint8_t *arena;
  DLTensor *tensors;    /* of all kernel steps, in order, and ... */
  TVMFFIAny *arguments; /* ... the arguments that point to them: a run builds nothing */
};

typedef struct {
  tvmconv_model *model;
  const void *const *inputs;
  void *const *outputs;
} call;

static const tvmconv_plan *const plan = &tvmconv_model_plan;

static uint8_t *locate(const call *c, const tvmconv_place *place) {
  uint8_t *base = NULL;
  switch (place->space) {
    case TVMCONV_ARENA: base = c->model->arena; break;
    case TVMCONV_WEIGHTS: base = (uint8_t *)(uintptr_t)plan->weights; break; /* only read */
    case TVMCONV_INPUT: base = (uint8_t *)(uintptr_t)c->inputs[place->index]; break;
    case TVMCONV_OUTPUT: base = c->outputs[place->index]; break;
  }
  return base + place->offset;
}

static int is_port(const tvmconv_place *place) {
  return place->space == TVMCONV_INPUT || place->space == TVMCONV_OUTPUT;
}

static void bind_tensors(tvmconv_model *model) {
  const call c = {model, NULL, NULL};
  DLTensor *tensor = model->tensors;
  TVMFFIAny *argument = model->arguments;
  for (int s = 0; s < plan->step_count; s++) {
    if (plan->steps[s].kind != TVMCONV_KERNEL) continue;
    const tvmconv_kernel_step *step = plan->steps[s].detail.kernel;
    for (int i = 0; i < step->count; i++, tensor++, argument++) {
      const tvmconv_tensor *from = &step->arguments[i];
      *tensor = (DLTensor){.data = is_port(&from->place) ? NULL : locate(&c, &from->place),
                           .device = {1, 0},
                           .ndim = from->ndim,
                           .dtype = from->dtype,
                           .shape = (int64_t *)(uintptr_t)from->shape};
      *argument = (TVMFFIAny){.type_index = TVMCONV_FFI_DLTENSOR, .value.pointer = tensor};
    }
  }
}

/* Kernels also read a caller's inputs, and write its outputs, where they lie. */
static void bind_ports(const call *c) {
  DLTensor *tensor = c->model->tensors;
  for (int s = 0; s < plan->step_count; s++) {
    if (plan->steps[s].kind != TVMCONV_KERNEL) continue;
    const tvmconv_kernel_step *step = plan->steps[s].detail.kernel;
    for (int i = 0; i < step->count; i++, tensor++)
      if (is_port(&step->arguments[i].place)) tensor->data = locate(c, &step->arguments[i].place);
  }
}

static uint8_t *new_arena(uint64_t bytes) {
  void *memory = NULL;
  size_t alignment = TVMCONV_ALIGNMENT;
  if (bytes >= HUGE_PAGE_BYTES / 4) { /* whole huge pages, if the system gives any */
    alignment = HUGE_PAGE_BYTES;
    bytes = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
  }
  if (bytes > SIZE_MAX / 2 || posix_memalign(&memory, alignment, bytes ? (size_t)bytes : 1)) return NULL;
#ifdef MADV_HUGEPAGE
  if (alignment == HUGE_PAGE_BYTES) madvise(memory, (size_t)bytes, MADV_HUGEPAGE); /* a hint: failure is harmless */
#endif
  return memory;
}

static int choose_threads(int wanted) {
  if (wanted > 0) return wanted;
  if (plan->threads <= 0) return tvmconv_cpus_physical();
  int allowed = tvmconv_cpus_allowed();
  return plan->threads < allowed ? plan->threads : allowed;
}

int tvmconv_create(tvmconv_model **result, int threads) {
  if (!result) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "tvmconv_create: the model pointer is NULL");
  *result = NULL;
  const char *missing = tvmconv_missing_feature();
  if (missing) return tvmconv_fail(TVMCONV_WRONG_CPU, "the model needs %s, which this CPU does not have", missing);
  tvmconv_error_clear();
  tvmconv_model *model = calloc(1, sizeof *model);
  if (!model) return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for a model");
  if (pthread_mutex_init(&model->lock, NULL)) {
    free(model);
    return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for a lock");
  }
  size_t tensors = plan->tensor_count > 0 ? (size_t)plan->tensor_count : 1;
  model->arena = new_arena(plan->arena_bytes);
  model->tensors = calloc(tensors, sizeof *model->tensors);
  model->arguments = calloc(tensors, sizeof *model->arguments);
  if (model->arena && model->tensors && model->arguments)
    model->pool = tvmconv_pool_new(choose_threads(threads));
  else
    tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for %llu bytes of activations", (unsigned long long)plan->arena_bytes);
  if (!model->pool) {
    tvmconv_destroy(model);
    return TVMCONV_NO_MEMORY;
  }
  bind_tensors(model);
  *result = model;
  return 0;
}

void tvmconv_destroy(tvmconv_model *model) {
  if (!model) return;
  tvmconv_pool_delete(model->pool);
  pthread_mutex_destroy(&model->lock);
  free(model->arguments);
  free(model->tensors);
  free(model->arena);
  free(model);
}

static int run_kernel(const tvmconv_kernel_step *step, const TVMFFIAny *arguments) {
  TVMFFIAny result = {.type_index = TVMCONV_FFI_NONE};
  return step->function(NULL, arguments, step->count, &result);
}

static int run_native(const call *c, const tvmconv_step *step) {
  const tvmconv_layout_step *layout = step->detail.layout;
  const tvmconv_copy_step *copy = step->detail.copy;
  switch (step->kind) {
    case TVMCONV_PACK: return tvmconv_pack(layout, locate(c, &layout->plain), locate(c, &layout->blocked));
    case TVMCONV_UNPACK: return tvmconv_unpack(layout, locate(c, &layout->blocked), locate(c, &layout->plain));
    case TVMCONV_BORDER: return tvmconv_border(layout, locate(c, &layout->blocked));
    case TVMCONV_COPY: return tvmconv_copy(locate(c, &copy->source), locate(c, &copy->destination), copy->bytes);
    default: return tvmconv_fail(-1, "step kind %d is not known", step->kind);
  }
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int run_steps(const call *c, double *times) {
  const TVMFFIAny *arguments = c->model->arguments;
  double start = times ? seconds() : 0;
  for (int s = 0; s < plan->step_count; s++) {
    const tvmconv_step *step = &plan->steps[s];
    int code;
    if (step->kind == TVMCONV_KERNEL) {
      code = run_kernel(step->detail.kernel, arguments);
      arguments += step->detail.kernel->count;
    } else {
      code = run_native(c, step);
    }
    if (code) {
      if (!tvmconv_error_text()[0]) tvmconv_fail(code, "step %d returned %d", s, code);
      return TVMCONV_KERNEL_FAILED;
    }
    if (times) {
      double end = seconds();
      times[s] = end - start;
      start = end;
    }
  }
  return 0;
}

int tvmconv_model_run(tvmconv_model *model, const void *const inputs[], void *const outputs[], double *times) {
  const call c = {model, inputs, outputs};
  void *previous;
  pthread_mutex_lock(&model->lock);
  int code = tvmconv_pool_enter(model->pool, &previous);
  if (!code) {
    bind_ports(&c);
    code = run_steps(&c, times);
    tvmconv_pool_leave(previous);
  }
  pthread_mutex_unlock(&model->lock);
  return code;
}

tvmconv_signature tvmconv_model_signature(void) {
  return (tvmconv_signature){plan->inputs, plan->outputs, plan->input_count, plan->output_count, plan->metadata};
}
