/* The static tables that describe one model to the CUDA runtime; the compiler writes them as plan.c. */
#ifndef TVMCONV_CUDA_PLAN_H
#define TVMCONV_CUDA_PLAN_H

#include "plan.h"

/* Machine code, or PTX with its final zero, for devices of compute capability sm (90 for 9.0). 0: any device. */
typedef struct {
  int32_t sm;
  int32_t is_ptx;
  const uint8_t *data;
} tvmconv_image;

typedef struct {
  const char *name;
  uint32_t dynamic_bytes; /* the most shared memory that a launch asks for */
} tvmconv_function;

/* A device address: of the arena (which also has the inputs, the outputs and the kernels' scratch) or the weights. */
typedef struct {
  int32_t space; /* TVMCONV_ARENA or TVMCONV_WEIGHTS */
  uint64_t offset;
} tvmconv_address;

typedef struct {
  int32_t function, step; /* step: which of the metadata's; launches of one step stand together, in order */
  uint32_t grid[3], block[3], dynamic_bytes;
  const tvmconv_address *arguments;
  int32_t count;
} tvmconv_cuda_launch;

/* Bytes of the arena that are not zero when a run first sees them. */
typedef struct {
  uint64_t offset, bytes;
  int32_t value;
} tvmconv_fill;

#define TVMCONV_MAX_ARGUMENTS 128 /* of a launch */

typedef struct {
  uint64_t arena_bytes, weight_bytes;
  const uint8_t *weights;
  const char *metadata;
  const tvmconv_port *inputs, *outputs;
  const uint64_t *input_offsets, *output_offsets; /* in the arena */
  const tvmconv_image *images;
  const tvmconv_function *functions;
  const tvmconv_cuda_launch *launches;
  const tvmconv_fill *fills;
  int32_t input_count, output_count, image_count, function_count, launch_count, fill_count, step_count;
} tvmconv_cuda_plan;

extern const tvmconv_cuda_plan tvmconv_cuda_model_plan;

#endif
