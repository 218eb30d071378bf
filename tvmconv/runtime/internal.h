/* What the runtime's own files share. Every name here is hidden: several models live in one process. */
#ifndef TVMCONV_INTERNAL_H
#define TVMCONV_INTERNAL_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"
#include "tvmconv.h"

#define TVMCONV_ALIGNMENT 64 /* what TVM's kernels assume of every buffer */
#define TVMCONV_ERROR_BYTES 512

/* model.c or cuda_model.c: what interface.c has to know of a model, and a run of it with arguments that were checked;
 * times: NULL, or a place for the seconds of each step. */
typedef struct {
  const tvmconv_port *inputs, *outputs;
  int32_t input_count, output_count;
  const char *metadata;
} tvmconv_signature;

tvmconv_signature tvmconv_model_signature(void);
int tvmconv_model_run(tvmconv_model *model, const void *const inputs[], void *const outputs[], double *times);

/* error.c: the calling thread's message. */
const char *tvmconv_error_text(void);
void tvmconv_error_set(const char *text);
int tvmconv_error_clear(void); /* returns 0 */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int tvmconv_fail(int code, const char *format, ...); /* returns code */

/* features.c: an instruction set that the model needs and this CPU lacks, or NULL. */
const char *tvmconv_missing_feature(void);

/* cpus.c */
void tvmconv_keep_off(pthread_t thread, int cpu); /* let a thread run where the caller may, but not on that CPU */
void tvmconv_move_to(pthread_t thread, int cpu, int steps); /* onto the so many-th that the caller may use after it */
int tvmconv_cpus_in_mask(void);  /* the affinity mask alone */
int tvmconv_cpus_allowed(void);  /* affinity mask and cgroup quota; at least 1 */
int tvmconv_cpus_physical(void); /* of those, one a core */

/* workspace.c: scratch memory of one thread, taken and given back as a stack. */
typedef struct {
  uint8_t *base;
  size_t capacity, used, wanted;
  struct tvmconv_block *top;
} tvmconv_workspace;

void *tvmconv_workspace_take(tvmconv_workspace *space, uint64_t bytes); /* NULL: out of memory */
void tvmconv_workspace_give(tvmconv_workspace *space, void *memory);
void tvmconv_workspace_release(tvmconv_workspace *space);

/* pool.c */
typedef struct tvmconv_pool tvmconv_pool;

tvmconv_pool *tvmconv_pool_new(int threads); /* NULL: see the error text */
void tvmconv_pool_delete(tvmconv_pool *pool);
int tvmconv_pool_threads(const tvmconv_pool *pool);

/* Make the pool the calling thread's current one until leave(); the caller is the pool's thread 0 meanwhile and
 * must hold the model's lock. Returns 0 or TVMCONV_NO_MEMORY (after a fork, threads are started anew). */
int tvmconv_pool_enter(tvmconv_pool *pool, void **previous);
void tvmconv_pool_leave(void *previous);

/* Called before a parallel loop is launched: how many iterations it has. Returns 0. */
int32_t tvmconv_expect_iterations(int32_t iterations);

/* Run task(0..count-1) on the current pool, each once, on any thread; count <= 0: one for each iteration of the loop
 * that was announced, or for several; one a thread if none was.
 * Inside a task, or without a current pool, the caller runs everything itself. Returns 0 or a task's code. */
int tvmconv_launch(tvmconv_task task, void *data, int count);
tvmconv_workspace *tvmconv_current_workspace(void); /* NULL outside enter/leave */

/* layout.c: the bodies of the native steps. */
int tvmconv_pack(const tvmconv_layout_step *step, const uint8_t *plain, uint8_t *blocked);
int tvmconv_unpack(const tvmconv_layout_step *step, const uint8_t *blocked, uint8_t *plain);
int tvmconv_border(const tvmconv_layout_step *step, uint8_t *blocked);
int tvmconv_copy(const uint8_t *source, uint8_t *destination, uint64_t bytes);

#endif
