/* Square transpositions in vector registers: of 4-byte elements 4 x 4, 8 x 8 with AVX, 16 x 16 with AVX-512; of bytes
 * 16 x 16.
 *
 * Clang's and GCC's generic vectors give good code on every CPU: unpacks on x86, zips on ARM. Loads and stores go
 * through memcpy, since neither side need be aligned. */
#ifndef TVMCONV_TRANSPOSE_H
#define TVMCONV_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define SHUFFLE __builtin_shufflevector

/* For some CPUs clang would split 512-bit vectors in two, which suits arithmetic but not these shuffles. */
#if defined(__clang__) && defined(__AVX512F__)
#define FULL_WIDTH __attribute__((min_vector_width(512)))
#else
#define FULL_WIDTH
#endif

typedef uint32_t vector4 __attribute__((vector_size(16)));

/* Rows a, b, c, d to columns, inside each 128-bit lane. */
#define LANES_4(LOW32, HIGH32, LOW64, HIGH64, v, a, b, c, d)                                  \
  do {                                                                                        \
    __typeof__(v[0]) t0 = LOW32(v[a], v[b]), t1 = HIGH32(v[a], v[b]);                         \
    __typeof__(v[0]) t2 = LOW32(v[c], v[d]), t3 = HIGH32(v[c], v[d]);                         \
    v[a] = LOW64(t0, t2), v[b] = HIGH64(t0, t2), v[c] = LOW64(t1, t3), v[d] = HIGH64(t1, t3); \
  } while (0)

#define LOW32_4(x, y) SHUFFLE(x, y, 0, 4, 1, 5)
#define HIGH32_4(x, y) SHUFFLE(x, y, 2, 6, 3, 7)
#define LOW64_4(x, y) SHUFFLE(x, y, 0, 1, 4, 5)
#define HIGH64_4(x, y) SHUFFLE(x, y, 2, 3, 6, 7)

INLINE void transpose4(vector4 v[4]) { LANES_4(LOW32_4, HIGH32_4, LOW64_4, HIGH64_4, v, 0, 1, 2, 3); }

#if defined(__AVX__)
typedef uint32_t vector8 __attribute__((vector_size(32)));

#define LOW32_8(x, y) SHUFFLE(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH32_8(x, y) SHUFFLE(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW64_8(x, y) SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH64_8(x, y) SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15)

INLINE void transpose8(vector8 v[8]) {
  LANES_4(LOW32_8, HIGH32_8, LOW64_8, HIGH64_8, v, 0, 1, 2, 3);
  LANES_4(LOW32_8, HIGH32_8, LOW64_8, HIGH64_8, v, 4, 5, 6, 7);
  for (int i = 0; i < 4; i++) { /* exchange 128-bit lanes between the two halves */
    vector8 a = v[i], b = v[i + 4];
    v[i] = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#endif

#if defined(__AVX512F__)
typedef uint32_t vector16 __attribute__((vector_size(64)));

#define LOW32_16(x, y) SHUFFLE(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH32_16(x, y) SHUFFLE(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW64_16(x, y) SHUFFLE(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH64_16(x, y) SHUFFLE(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define EVEN128(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD128(x, y) SHUFFLE(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)

INLINE void transpose16(vector16 v[16]) {
  for (int i = 0; i < 16; i += 4) LANES_4(LOW32_16, HIGH32_16, LOW64_16, HIGH64_16, v, i, i + 1, i + 2, i + 3);
  for (int i = 0; i < 4; i++) { /* a 4 x 4 transposition of 128-bit lanes */
    vector16 a = EVEN128(v[i], v[i + 4]), b = EVEN128(v[i + 8], v[i + 12]);
    vector16 c = ODD128(v[i], v[i + 4]), d = ODD128(v[i + 8], v[i + 12]);
    v[i] = EVEN128(a, b), v[i + 8] = ODD128(a, b), v[i + 4] = EVEN128(c, d), v[i + 12] = ODD128(c, d);
  }
}
#endif

typedef uint8_t vector_bytes __attribute__((vector_size(16)));

#define LOW8(x, y) SHUFFLE(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH8(x, y) SHUFFLE(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW16(x, y) SHUFFLE(x, y, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23)
#define HIGH16(x, y) SHUFFLE(x, y, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31)

/* Four rounds that interleave the rows of the two halves: each is one bit of the row's number turned over to the
 * column's. */
INLINE void transpose_bytes(vector_bytes v[16]) {
  vector_bytes t[16];
  for (int i = 0; i < 8; i++) t[2 * i] = LOW8(v[i], v[i + 8]), t[2 * i + 1] = HIGH8(v[i], v[i + 8]);
  for (int i = 0; i < 8; i++) v[2 * i] = LOW8(t[i], t[i + 8]), v[2 * i + 1] = HIGH8(t[i], t[i + 8]);
  for (int i = 0; i < 8; i++) t[2 * i] = LOW8(v[i], v[i + 8]), t[2 * i + 1] = HIGH8(v[i], v[i + 8]);
  for (int i = 0; i < 8; i++) v[2 * i] = LOW8(t[i], t[i + 8]), v[2 * i + 1] = HIGH8(t[i], t[i + 8]);
}

/* 16 pixels of `channels` <= 4 channels of bytes from plain to 16 words, of which missing channels are zero. */
INLINE void pack_words(const uint8_t *plain, size_t plain_stride, uint8_t *blocked, int channels) {
  vector_bytes v[4];
  for (int i = 0; i < 4; i++) {
    v[i] = (vector_bytes){0};
    if (i < channels) memcpy(&v[i], plain + (size_t)i * plain_stride, sizeof v[i]);
  }
  vector_bytes a = LOW8(v[0], v[1]), b = LOW8(v[2], v[3]), c = HIGH8(v[0], v[1]), d = HIGH8(v[2], v[3]);
  vector_bytes words[4] = {LOW16(a, b), HIGH16(a, b), LOW16(c, d), HIGH16(c, d)};
  memcpy(blocked, words, sizeof words);
}

/* Copy `count` < 16 elements without touching anything past them: a few moves of fixed size. */
#define COPY_IF(N, SIZE)                      \
  if (count & (N)) {                          \
    memcpy(to, from, (SIZE) * (N));           \
    to += (SIZE) * (N), from += (SIZE) * (N); \
  }
#define DEFINE_COPY(SIZE)                                                   \
  INLINE void copy_few##SIZE(uint8_t *to, const uint8_t *from, int count) { \
    COPY_IF(8, SIZE)                                                        \
    COPY_IF(4, SIZE)                                                        \
    COPY_IF(2, SIZE)                                                        \
    COPY_IF(1, SIZE)                                                        \
  }
DEFINE_COPY(1)
DEFINE_COPY(4)

/* N channels x N pixels of SIZE bytes, from plain (a channel every plain_stride bytes) to blocked (a pixel every
 * blocked_stride bytes) and back. `channels` and `pixels` <= N exist: missing channels are packed as zero and not
 * unpacked, missing pixels are not written; pack reads them only if `slack` says that the memory is there. */
#define DEFINE_TILE(NAME, N, SIZE)                                                                                  \
  INLINE void pack_tile##NAME(const uint8_t *plain, size_t plain_stride, uint8_t *blocked, size_t blocked_stride,   \
                           int channels, int pixels, int slack) {                                                   \
    vector##NAME v[N];                                                                                              \
    for (int i = 0; i < N; i++) {                                                                                   \
      v[i] = (vector##NAME){0};                                                                                     \
      if (i >= channels) continue;                                                                                  \
      if (pixels == N || slack)                                                                                     \
        memcpy(&v[i], plain + (size_t)i * plain_stride, sizeof v[i]);                                               \
      else                                                                                                          \
        copy_few##SIZE((uint8_t *)&v[i], plain + (size_t)i * plain_stride, pixels);                                 \
    }                                                                                                               \
    transpose##NAME(v);                                                                                             \
    for (int i = 0; i < N; i++)                                                                                     \
      if (i < pixels) memcpy(blocked + (size_t)i * blocked_stride, &v[i], sizeof v[i]);                             \
  }                                                                                                                 \
  INLINE void unpack_tile##NAME(const uint8_t *blocked, size_t blocked_stride, uint8_t *plain, size_t plain_stride, \
                             int channels, int pixels) {                                                            \
    vector##NAME v[N];                                                                                              \
    for (int i = 0; i < N; i++) {                                                                                   \
      v[i] = (vector##NAME){0};                                                                                     \
      if (i < pixels) memcpy(&v[i], blocked + (size_t)i * blocked_stride, sizeof v[i]);                             \
    }                                                                                                               \
    transpose##NAME(v);                                                                                             \
    for (int i = 0; i < N; i++) {                                                                                   \
      if (i >= channels) continue;                                                                                  \
      if (pixels == N)                                                                                              \
        memcpy(plain + (size_t)i * plain_stride, &v[i], sizeof v[i]);                                               \
      else                                                                                                          \
        copy_few##SIZE(plain + (size_t)i * plain_stride, (const uint8_t *)&v[i], pixels);                           \
    }                                                                                                               \
  }

#endif
