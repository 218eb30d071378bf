/* The static tables that describe one model to the runtime; the compiler writes them as plan.c. */
#ifndef TVMCONV_PLAN_H
#define TVMCONV_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "tvm_abi.h"

/* Where a tensor lives. The arena and the weights are aligned to 64 bytes; a caller's buffers to nothing. */
enum { TVMCONV_ARENA, TVMCONV_WEIGHTS, TVMCONV_INPUT, TVMCONV_OUTPUT };

typedef struct {
  int32_t space;
  int32_t index;   /* which input or output; 0 otherwise */
  uint64_t offset; /* bytes */
} tvmconv_place;

/* A compact tensor handed to a kernel. In the arena and among the weights it is aligned to 64 bytes, at a caller's to
 * nothing: the compiler knows which is which. */
typedef struct {
  tvmconv_place place;
  int32_t ndim;
  DLDataType dtype;
  const int64_t *shape;
} tvmconv_tensor;

typedef struct {
  tvmconv_kernel function;
  const tvmconv_tensor *arguments;
  int32_t count;
} tvmconv_kernel_step;

/* A plain tensor N,C,D,H,W and a blocked one [N][ceil(C/block)][D][H][W][block] with a halo around D, H, W.
 * PACK writes plain to blocked, fills the halo and zeroes the lanes past the last channel; UNPACK copies the
 * interior back; BORDER only fills the halo. `blocked` is the halo's first corner; block 1 is a plain layout. */
typedef struct {
  tvmconv_place plain, blocked;
  int32_t element_bytes, block;
  int64_t batch, channels;
  int64_t extent[3];        /* D, H, W without the halo */
  int64_t low[3], high[3];  /* halo before and after each */
  int64_t stride[4];        /* elements, of the blocked tensor: batch, channel block, plane, row */
  int32_t fill;             /* each byte of the halo */
} tvmconv_layout_step;

typedef struct {
  tvmconv_place source, destination;
  uint64_t bytes;
} tvmconv_copy_step;

enum { TVMCONV_KERNEL, TVMCONV_PACK, TVMCONV_UNPACK, TVMCONV_BORDER, TVMCONV_COPY };

typedef struct {
  int32_t kind;
  union {
    const tvmconv_kernel_step *kernel;
    const tvmconv_layout_step *layout; /* PACK, UNPACK, BORDER */
    const tvmconv_copy_step *copy;
  } detail;
} tvmconv_step;

#define TVMCONV_MAX_PORTS 256 /* inputs, and likewise outputs, of a model */

/* One input or output of the model. */
typedef struct {
  const char *name;
  uint64_t bytes;
  int32_t ndim;
  DLDataType dtype;
  const int64_t *shape;
} tvmconv_port;

typedef struct {
  uint64_t arena_bytes;
  const uint8_t *weights;
  const char *metadata;
  const tvmconv_port *inputs, *outputs;
  const tvmconv_step *steps;
  int32_t input_count, output_count, step_count, tensor_count; /* tensor_count: of all kernel steps together */
  int32_t threads;                                             /* compiled for; 0 if for any */
} tvmconv_plan;

extern const tvmconv_plan tvmconv_model_plan;

#endif
