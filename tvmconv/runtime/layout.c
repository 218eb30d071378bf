/* PACK, UNPACK, BORDER and COPY: between the caller's plain tensors and the arena's blocked ones.
 *
 * The work is cut into pieces of a row, some 16 KiB each, and the threads take equal runs of pieces. Only these
 * steps touch the caller's memory, and they assume nothing of its alignment. */
#include "internal.h"
#include "transpose.h"

#define PIECE_BYTES 16384
#define PARALLEL_BYTES 65536 /* below, waking the threads costs more than they save */

typedef struct job job;
typedef void (*piece_function)(const job *j, const int64_t at[5], int64_t end);

struct job {
  tvmconv_layout_step view; /* the step with as many axes merged as its strides allow */
  piece_function piece;
  uint8_t *plain, *blocked;
  const uint8_t *plain_end;
  int64_t blocks, pixels, piece_pixels; /* channel blocks; D * H * W; pixels of a piece */
};

/* The axes of a position: batch, channel block, depth, row, first pixel. */
enum { BATCH, BLOCK, DEPTH, ROW, PIXEL };

static int has_halo(const tvmconv_layout_step *s, int axis) { return s->low[axis] || s->high[axis]; }

/* Merge rows into one where no halo and no gap lies between them, then planes, then (block 1) channels and batch. */
static void merge(tvmconv_layout_step *s) {
  if (has_halo(s, 2) || has_halo(s, 1)) return;
  if (s->extent[1] > 1 && s->stride[3] != s->extent[2] * s->block) return;
  s->extent[2] *= s->extent[1], s->extent[1] = 1;
  if (has_halo(s, 0) || (s->extent[0] > 1 && s->stride[2] != s->extent[2] * s->block)) return;
  s->extent[2] *= s->extent[0], s->extent[0] = 1;
  if (s->block != 1 || (s->channels > 1 && s->stride[1] != s->extent[2])) return;
  s->extent[2] *= s->channels, s->channels = 1;
  if (s->batch > 1 && s->stride[0] != s->extent[2]) return;
  s->extent[2] *= s->batch, s->batch = 1;
}

/* Where a pixel of the interior lies in the blocked tensor, in bytes. */
static int64_t blocked_offset(const tvmconv_layout_step *s, const int64_t at[5]) {
  return (at[BATCH] * s->stride[0] + at[BLOCK] * s->stride[1] + (at[DEPTH] + s->low[0]) * s->stride[2] +
          (at[ROW] + s->low[1]) * s->stride[3] + (at[PIXEL] + s->low[2]) * s->block) *
         s->element_bytes;
}

static int64_t plain_offset(const job *j, const int64_t at[5]) {
  const tvmconv_layout_step *s = &j->view;
  int64_t channel = at[BATCH] * s->channels + at[BLOCK] * s->block;
  return (channel * j->pixels + (at[DEPTH] * s->extent[1] + at[ROW]) * s->extent[2] + at[PIXEL]) * s->element_bytes;
}

static void zero(uint8_t *to, int64_t bytes) {
  if (bytes > 0) memset(to, 0, (size_t)bytes);
}

static void fill(const tvmconv_layout_step *s, uint8_t *to, int64_t bytes) {
  if (bytes > 0) memset(to, s->fill, (size_t)bytes);
}

static void fill_rows(const tvmconv_layout_step *s, uint8_t *first, int64_t rows) {
  int64_t width = (s->low[2] + s->extent[2] + s->high[2]) * s->block * s->element_bytes;
  int64_t stride = s->stride[3] * s->element_bytes;
  if (stride == width) {
    fill(s, first, rows * width);
    return;
  }
  for (int64_t i = 0; i < rows; i++) fill(s, first + i * stride, width);
}

/* Fill the halo next to a piece: beside its row, and above and below if the row is the first or the last. */
static void fill_halo(const job *j, const int64_t at[5], int64_t end) {
  const tvmconv_layout_step *s = &j->view;
  int64_t pixel = (int64_t)s->block * s->element_bytes, row = s->stride[3] * s->element_bytes;
  int64_t plane = s->stride[2] * s->element_bytes, rows = s->low[1] + s->extent[1] + s->high[1];
  uint8_t *start = j->blocked + blocked_offset(s, at) - (at[PIXEL] + s->low[2]) * pixel; /* of the haloed row */
  int first = at[PIXEL] == 0, last = end == s->extent[2];
  if (first) fill(s, start, s->low[2] * pixel);
  if (last) fill(s, start + (s->low[2] + s->extent[2]) * pixel, s->high[2] * pixel);
  if (first && at[ROW] == 0) {
    uint8_t *corner = start - s->low[1] * row;
    fill_rows(s, corner, s->low[1]);
    if (at[DEPTH] == 0)
      for (int64_t i = 1; i <= s->low[0]; i++) fill_rows(s, corner - i * plane, rows);
  }
  if (last && at[ROW] == s->extent[1] - 1) {
    fill_rows(s, start + row, s->high[1]);
    if (at[DEPTH] == s->extent[0] - 1)
      for (int64_t i = 1; i <= s->high[0]; i++) fill_rows(s, start - (s->low[1] + at[ROW]) * row + i * plane, rows);
  }
}

static int channels_here(const job *j, const int64_t at[5]) {
  int64_t left = j->view.channels - at[BLOCK] * j->view.block;
  return left < j->view.block ? (int)left : j->view.block;
}

/* Both directions for elements of any size: pixel by pixel, lane by lane. */
#define DEFINE_GENERIC(TYPE)                                                                                  \
  static void pack_##TYPE(const job *j, const int64_t at[5], int64_t end) {                                   \
    const uint8_t *plain = j->plain + plain_offset(j, at);                                                    \
    uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);                                             \
    int channels = channels_here(j, at), block = j->view.block;                                               \
    for (int64_t i = 0; i < end - at[PIXEL]; i++, blocked += (size_t)block * sizeof(TYPE)) {                  \
      for (int lane = 0; lane < channels; lane++)                                                             \
        memcpy(blocked + (size_t)lane * sizeof(TYPE), plain + (lane * j->pixels + i) * (int64_t)sizeof(TYPE), \
               sizeof(TYPE));                                                                                 \
      zero(blocked + (size_t)channels * sizeof(TYPE), (block - channels) * (int64_t)sizeof(TYPE));            \
    }                                                                                                         \
    fill_halo(j, at, end);                                                                                    \
  }                                                                                                           \
  static void unpack_##TYPE(const job *j, const int64_t at[5], int64_t end) {                                 \
    uint8_t *plain = j->plain + plain_offset(j, at);                                                          \
    const uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);                                       \
    int channels = channels_here(j, at), block = j->view.block;                                               \
    for (int64_t i = 0; i < end - at[PIXEL]; i++, blocked += (size_t)block * sizeof(TYPE))                    \
      for (int lane = 0; lane < channels; lane++)                                                             \
        memcpy(plain + (lane * j->pixels + i) * (int64_t)sizeof(TYPE), blocked + (size_t)lane * sizeof(TYPE), \
               sizeof(TYPE));                                                                                 \
  }

DEFINE_GENERIC(uint8_t)
DEFINE_GENERIC(uint16_t)
DEFINE_GENERIC(uint32_t)
DEFINE_GENERIC(uint64_t)

/* Both directions for elements of SIZE bytes and blocks of a multiple of N, in tiles of N channels x N pixels. The last
 * tile of a row starts early enough to be whole, and does some pixels again; only rows shorter than N have part of one.
 */
#define DEFINE_TILED(NAME, N, SIZE)                                                                   \
  DEFINE_TILE(NAME, N, SIZE)                                                                          \
  FULL_WIDTH static void pack_tiled##NAME(const job *j, const int64_t at[5], int64_t end) {           \
    const uint8_t *plain = j->plain + plain_offset(j, at);                                            \
    uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);                                     \
    const size_t stride = (size_t)j->pixels * SIZE, pixel = (size_t)j->view.block * SIZE;             \
    const int64_t width = end - at[PIXEL];                                                            \
    const int channels = channels_here(j, at), columns = width < N ? (int)width : N;                  \
    for (int64_t i = 0, x = 0; i < width; i += N, x = i + N > width && width > N ? width - N : i)     \
      for (int lane = 0; lane < j->view.block; lane += N) {                                           \
        const uint8_t *from = plain + (size_t)lane * stride + SIZE * x;                               \
        uint8_t *to = blocked + (size_t)x * pixel + SIZE * lane;                                      \
        int rows = channels - lane < N ? channels - lane : N;                                         \
        if (rows == N && columns == N)                                                                \
          pack_tile##NAME(from, stride, to, pixel, N, N, 1);                                          \
        else if (rows > 0 && (size_t)(j->plain_end - from) >= (size_t)(rows - 1) * stride + SIZE * N) \
          pack_tile##NAME(from, stride, to, pixel, rows, columns, 1);                                 \
        else                                                                                          \
          pack_tile##NAME(from, stride, to, pixel, rows, columns, 0);                                 \
      }                                                                                               \
    fill_halo(j, at, end);                                                                            \
  }                                                                                                   \
  FULL_WIDTH static void unpack_tiled##NAME(const job *j, const int64_t at[5], int64_t end) {         \
    uint8_t *plain = j->plain + plain_offset(j, at);                                                  \
    const uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);                               \
    const size_t stride = (size_t)j->pixels * SIZE, pixel = (size_t)j->view.block * SIZE;             \
    const int64_t width = end - at[PIXEL];                                                            \
    const int channels = channels_here(j, at), columns = width < N ? (int)width : N;                  \
    for (int64_t i = 0, x = 0; i < width; i += N, x = i + N > width && width > N ? width - N : i)     \
      for (int lane = 0; lane < channels; lane += N) {                                                \
        const uint8_t *from = blocked + (size_t)x * pixel + SIZE * lane;                              \
        uint8_t *to = plain + (size_t)lane * stride + SIZE * x;                                       \
        int rows = channels - lane < N ? channels - lane : N;                                         \
        if (rows == N && columns == N)                                                                \
          unpack_tile##NAME(from, pixel, to, stride, N, N);                                           \
        else                                                                                          \
          unpack_tile##NAME(from, pixel, to, stride, rows, columns);                                  \
      }                                                                                               \
  }

DEFINE_TILED(_bytes, 16, 1)
DEFINE_TILED(4, 4, 4)
#if defined(__AVX__)
DEFINE_TILED(8, 8, 4)
#endif
#if defined(__AVX512F__)
DEFINE_TILED(16, 16, 4)
#endif

/* Bytes of up to four channels to words, 16 at a time; the last ones of a row as pack_tiled has it. */
static void pack_to_words(const job *j, const int64_t at[5], int64_t end) {
  const uint8_t *plain = j->plain + plain_offset(j, at);
  uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);
  const int64_t width = end - at[PIXEL];
  for (int64_t i = 0, x = 0; i < width; i += 16, x = i + 16 > width ? width - 16 : i)
    pack_words(plain + x, (size_t)j->pixels, blocked + 4 * x, channels_here(j, at));
  fill_halo(j, at, end);
}

/* Block 1, and tensors of one pixel: what is contiguous on one side is contiguous on the other. */
static void pack_run(const job *j, const int64_t at[5], int64_t end) {
  int64_t size = j->view.element_bytes, lanes = j->view.block == 1 ? end - at[PIXEL] : channels_here(j, at);
  uint8_t *blocked = j->blocked + blocked_offset(&j->view, at);
  memcpy(blocked, j->plain + plain_offset(j, at), (size_t)(lanes * size));
  if (j->view.block != 1) zero(blocked + lanes * size, (j->view.block - lanes) * size);
  fill_halo(j, at, end);
}

static void unpack_run(const job *j, const int64_t at[5], int64_t end) {
  int64_t lanes = j->view.block == 1 ? end - at[PIXEL] : channels_here(j, at);
  memcpy(j->plain + plain_offset(j, at), j->blocked + blocked_offset(&j->view, at),
         (size_t)(lanes * j->view.element_bytes));
}

static piece_function choose(const job *j, int pack) {
  int block = j->view.block;
  if (block == 1 || j->pixels == 1) return pack ? pack_run : unpack_run;
  const int tail = (int)(j->view.extent[2] % j->piece_pixels), least = tail ? tail : 16;
  switch (j->view.element_bytes) {
    case 1:
      if (block % 16 == 0) return pack ? pack_tiled_bytes : unpack_tiled_bytes;
      if (block == 4 && pack && least >= 16) return pack_to_words;
      return pack ? pack_uint8_t : unpack_uint8_t;
    case 2: return pack ? pack_uint16_t : unpack_uint16_t;
    case 8: return pack ? pack_uint64_t : unpack_uint64_t;
    default: break;
  }
#if defined(__AVX512F__)
  if (block % 16 == 0 && j->view.extent[2] >= 16) return pack ? pack_tiled16 : unpack_tiled16;
#endif
#if defined(__AVX__)
  if (block % 8 == 0 && j->view.extent[2] >= 8) return pack ? pack_tiled8 : unpack_tiled8;
#endif
  if (block % 4 == 0) return pack ? pack_tiled4 : unpack_tiled4;
  return pack ? pack_uint32_t : unpack_uint32_t;
}

static int64_t count_pieces(const job *j) {
  const tvmconv_layout_step *s = &j->view;
  int64_t in_row = (s->extent[2] + j->piece_pixels - 1) / j->piece_pixels;
  return s->batch * j->blocks * s->extent[0] * s->extent[1] * in_row;
}

static int run_pieces(int32_t task, TVMParallelGroupEnv *env, void *data) {
  const job *j = data;
  const tvmconv_layout_step *s = &j->view;
  const int64_t in_row = (s->extent[2] + j->piece_pixels - 1) / j->piece_pixels, total = count_pieces(j);
  const int64_t size[5] = {s->batch, j->blocks, s->extent[0], s->extent[1], in_row};
  int64_t begin = total * task / env->num_task, at[5], rest = begin;
  for (int axis = 4; axis >= 0; rest /= size[axis], axis--) at[axis] = rest % size[axis];
  for (int64_t left = total * (task + 1) / env->num_task - begin; left > 0; left--) {
    int64_t position[5] = {at[BATCH], at[BLOCK], at[DEPTH], at[ROW], at[PIXEL] * j->piece_pixels};
    int64_t end = position[PIXEL] + j->piece_pixels;
    j->piece(j, position, end < s->extent[2] ? end : s->extent[2]);
    for (int axis = 4; axis >= 0 && ++at[axis] == size[axis]; axis--) at[axis] = 0;
  }
  return 0;
}

static int dispatch(tvmconv_task task, void *data, int64_t bytes) {
  TVMParallelGroupEnv alone = {NULL, 1};
  if (bytes < PARALLEL_BYTES) return task(0, &alone, data);
  int64_t pieces = bytes / PIECE_BYTES;
  tvmconv_expect_iterations(pieces < INT32_MAX ? (int32_t)pieces : INT32_MAX);
  return tvmconv_launch(task, data, 0);
}

static int run_layout(job *j) {
  const tvmconv_layout_step *s = &j->view;
  j->blocks = (s->channels + s->block - 1) / s->block;
  int64_t pixel_bytes = (int64_t)s->block * s->element_bytes;
  return dispatch(run_pieces, j, s->batch * j->blocks * j->pixels * pixel_bytes);
}

static job new_job(const tvmconv_layout_step *step, const uint8_t *plain, const uint8_t *blocked) {
  job j = {.view = *step, .plain = (uint8_t *)(uintptr_t)plain, .blocked = (uint8_t *)(uintptr_t)blocked};
  merge(&j.view);
  j.pixels = j.view.extent[0] * j.view.extent[1] * j.view.extent[2];
  int64_t pixel_bytes = (int64_t)step->block * step->element_bytes;
  j.piece_pixels = pixel_bytes < PIECE_BYTES / 16 ? PIECE_BYTES / pixel_bytes / 16 * 16 : 16;
  j.plain_end = plain ? plain + j.view.batch * j.view.channels * j.pixels * j.view.element_bytes : NULL;
  return j;
}

int tvmconv_pack(const tvmconv_layout_step *step, const uint8_t *plain, uint8_t *blocked) {
  job j = new_job(step, plain, blocked);
  j.piece = choose(&j, 1);
  return run_layout(&j);
}

int tvmconv_unpack(const tvmconv_layout_step *step, const uint8_t *blocked, uint8_t *plain) {
  job j = new_job(step, plain, blocked);
  j.piece = choose(&j, 0);
  return run_layout(&j);
}

int tvmconv_border(const tvmconv_layout_step *step, uint8_t *blocked) {
  job j = new_job(step, NULL, blocked);
  if (!has_halo(&j.view, 0) && !has_halo(&j.view, 1) && !has_halo(&j.view, 2)) return 0;
  j.piece = fill_halo;
  j.piece_pixels = j.view.extent[2];
  return run_layout(&j);
}

typedef struct {
  const uint8_t *source;
  uint8_t *destination;
  uint64_t bytes;
} copy_job;

static int copy_share(int32_t task, TVMParallelGroupEnv *env, void *data) {
  const copy_job *j = data;
  uint64_t share = (j->bytes / (uint64_t)env->num_task + 63) / 64 * 64, begin = share * (uint64_t)task;
  if (begin >= j->bytes) return 0;
  uint64_t left = j->bytes - begin;
  memcpy(j->destination + begin, j->source + begin, (size_t)(left < share || task + 1 == env->num_task ? left : share));
  return 0;
}

int tvmconv_copy(const uint8_t *source, uint8_t *destination, uint64_t bytes) {
  copy_job j = {source, destination, bytes};
  return dispatch(copy_share, &j, (int64_t)bytes);
}
