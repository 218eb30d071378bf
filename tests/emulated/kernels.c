/* Runs one kernel of many: kernels FILE NUMBER. The file holds its buffers; the last is written back.
 *
 * A file is 64-bit words: how many buffers, and of each its bytes, its rank and its shape; then all data, each buffer
 * at a multiple of 64 bytes. They are 32-bit floats. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

extern const tvmconv_kernel kernels[];

int main(int count, char **names) {
  enum { MOST = 16 };
  static DLTensor tensors[MOST];
  static TVMFFIAny arguments[MOST];
  static int64_t shapes[MOST][16];
  int64_t bytes[MOST], buffers, rank;
  TVMFFIAny result = {0};
  FILE *file = count == 3 ? fopen(names[1], "r+b") : NULL;
  if (!file || fread(&buffers, 8, 1, file) != 1 || buffers > MOST) return 10;
  for (int i = 0; i < buffers; i++) {
    if (fread(&bytes[i], 8, 1, file) != 1 || fread(&rank, 8, 1, file) != 1 || rank > 16) return 11;
    if (fread(shapes[i], 8, (size_t)rank, file) != (size_t)rank) return 12;
    tensors[i] = (DLTensor){.device = {1, 0}, .ndim = (int32_t)rank, .dtype = {2, 32, 1}, .shape = shapes[i]};
  }
  for (int i = 0; i < buffers; i++) {
    if (fseek(file, (ftell(file) + 63) / 64 * 64, SEEK_SET)) return 13;
    if (posix_memalign(&tensors[i].data, 64, (size_t)bytes[i] + 64)) return 14;
    if (fread(tensors[i].data, 1, (size_t)bytes[i], file) != (size_t)bytes[i]) return 15;
    arguments[i].type_index = TVMCONV_FFI_DLTENSOR;
    arguments[i].value.pointer = &tensors[i];
  }
  void *before;
  tvmconv_pool *pool = tvmconv_pool_new(2);
  if (!pool || tvmconv_pool_enter(pool, &before)) return 16;
  int code = kernels[atoi(names[2])](NULL, arguments, (int32_t)buffers, &result);
  tvmconv_pool_leave(before);
  tvmconv_pool_delete(pool);
  if (code) fputs(tvmconv_error_text(), stderr);
  if (code) return 17;
  if (fseek(file, -(long)bytes[buffers - 1], SEEK_END)) return 18;
  if (fwrite(tensors[buffers - 1].data, 1, (size_t)bytes[buffers - 1], file) != (size_t)bytes[buffers - 1]) return 19;
  return fclose(file) ? 20 : 0;
}
