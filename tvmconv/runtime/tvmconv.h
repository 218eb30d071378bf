/* The C interface of a compiled model: one shared library (or archive) holds one model.
 *
 * A model owns its scratch memory and its threads; the weights stay in the library. Several models can be open in
 * one process (load each library with dlopen: they all export these names), a library can be opened several times,
 * and models run concurrently. tvmconv_run may be called for the same model from several threads; the calls then
 * take turns.
 *
 * Tensors are dense and row-major, in the order, shapes and element types that tvmconv_metadata() lists, each
 * at an address that is a multiple of its elements' size. An output must not overlap an input or another output.
 *
 * A model for CUDA runs on the first device that the file has code for. It takes the same pointers to the CPU's
 * memory, or pointers to that device's memory.
 */
#ifndef TVMCONV_H
#define TVMCONV_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TVMCONV_API __attribute__((visibility("default")))
#else
#define TVMCONV_API
#endif

/* What the functions below return other than 0. */
enum {
  TVMCONV_BAD_ARGUMENT = 1,  /* a null pointer */
  TVMCONV_NO_MEMORY = 2,     /* memory or a thread could not be had */
  TVMCONV_KERNEL_FAILED = 3, /* a step of the model reported an error */
  TVMCONV_WRONG_CPU = 4,     /* the model needs instructions that this CPU does not have */
  TVMCONV_NO_DEVICE = 5,     /* the model runs on a GPU, and there is no driver or no device */
  TVMCONV_WRONG_DEVICE = 6   /* the file has no code for any device of this machine */
};

typedef struct tvmconv_model tvmconv_model;

/* Make an instance that runs on `threads` threads, the calling one included.
 * threads <= 0: the count the model was compiled for, or else one a physical core; never more than the CPUs that
 * this process may use (affinity mask, cgroup quota). A positive count is taken as it is, even if that means more
 * threads than CPUs: waiting threads then sleep at once instead of spinning.
 * Returns 0, or a code above and sets *model to NULL; tvmconv_error() has the text. */
TVMCONV_API int tvmconv_create(tvmconv_model **model, int threads);

/* Run the model on inputs[0..] and write outputs[0..], as many as the metadata lists. Returns 0 or a code above. */
TVMCONV_API int tvmconv_run(tvmconv_model *model, const void *const inputs[], void *const outputs[]);

/* End the instance's threads and release its memory. NULL is allowed; no run may be under way. */
TVMCONV_API void tvmconv_destroy(tvmconv_model *model);

/* JSON: names, shapes, dtypes, target, versions, source hash, peak memory. Lives as long as the library. */
TVMCONV_API const char *tvmconv_metadata(void);

/* What went wrong in the calling thread's latest failed call; "" if nothing did. */
TVMCONV_API const char *tvmconv_error(void);

/* As tvmconv_run, and seconds_per_step[i] receives the wall-clock time of step i. The metadata's "steps" has one
 * entry a step, in the same order. */
TVMCONV_API int tvmconv_profile(tvmconv_model *model, const void *const inputs[], void *const outputs[],
                                double *seconds_per_step);

/* Of a model for a GPU alone: *seconds receives the time of one of so many runs in a row, by the device's clock, on the
 * inputs of the latest run and without copying them or the outputs. */
TVMCONV_API int tvmconv_replay(tvmconv_model *model, int runs, double *seconds);

#ifdef __cplusplus
}
#endif
#endif
