/* Scratch memory of one thread: blocks are taken and given back as a stack, almost always without malloc.
 *
 * What does not fit comes from the heap, and the next time that the stack is empty it grows to what was wanted. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "internal.h"

typedef struct tvmconv_block {
  struct tvmconv_block *below; /* the block taken before this one */
  size_t start;                /* `used` before it was taken */
  int heap, live;
} tvmconv_block;

_Static_assert(sizeof(tvmconv_block) <= TVMCONV_ALIGNMENT, "a block's header fills one alignment unit");

static void *aligned(size_t bytes) {
  void *memory = NULL;
  return posix_memalign(&memory, TVMCONV_ALIGNMENT, bytes) ? NULL : memory;
}

static void grow(tvmconv_workspace *space) {
  if (space->top || space->wanted <= space->capacity) return;
  free(space->base);
  space->base = aligned(space->wanted);
  space->capacity = space->base ? space->wanted : 0;
}

void *tvmconv_workspace_take(tvmconv_workspace *space, uint64_t bytes) {
  if (bytes > SIZE_MAX / 4) return NULL;
  size_t size = TVMCONV_ALIGNMENT + ((size_t)bytes + TVMCONV_ALIGNMENT - 1) / TVMCONV_ALIGNMENT * TVMCONV_ALIGNMENT;
  if (space->used + size > space->wanted) space->wanted = space->used + size;
  grow(space);
  int heap = size > space->capacity || space->used > space->capacity - size;
  uint8_t *memory = heap ? aligned(size) : space->base + space->used;
  if (!memory) return NULL;
  tvmconv_block *block = (tvmconv_block *)(void *)memory;
  *block = (tvmconv_block){space->top, space->used, heap, 1};
  space->top = block;
  space->used += size; /* counts heap blocks too, so that `wanted` is the depth of the whole stack */
  return memory + TVMCONV_ALIGNMENT;
}

void tvmconv_workspace_give(tvmconv_workspace *space, void *memory) {
  ((tvmconv_block *)(void *)((uint8_t *)memory - TVMCONV_ALIGNMENT))->live = 0;
  while (space->top && !space->top->live) { /* a block below a live one waits for it */
    tvmconv_block *block = space->top;
    space->top = block->below;
    space->used = block->start;
    if (block->heap) free(block);
  }
}

void tvmconv_workspace_release(tvmconv_workspace *space) {
  while (space->top) {
    tvmconv_block *block = space->top;
    space->top = block->below;
    if (block->heap) free(block);
  }
  free(space->base);
  *space = (tvmconv_workspace){0};
}
