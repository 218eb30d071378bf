/* Runs a model once: model THREADS INPUTS FILE...: inputs, then outputs, each a file of raw elements; the outputs exist, filled. */
#include <stdio.h>
#include <stdlib.h>

#include "tvmconv.h"

static void *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) exit(10);
  fseek(file, 0, SEEK_END);
  *bytes = (size_t)ftell(file);
  rewind(file);
  void *data = malloc(*bytes ? *bytes : 1);
  if (!data || fread(data, 1, *bytes, file) != *bytes) exit(11);
  fclose(file);
  return data;
}

int main(int count, char **names) {
  void *buffers[64];
  size_t bytes[64];
  tvmconv_model *model;
  int inputs = atoi(names[2]), ports = count - 3;
  for (int i = 0; i < ports; i++) buffers[i] = read_file(names[3 + i], &bytes[i]);
  int code = tvmconv_create(&model, atoi(names[1]));
  if (!code) code = tvmconv_run(model, (const void *const *)buffers, buffers + inputs);
  if (code) {
    fprintf(stderr, "%s\n", tvmconv_error());
    return code;
  }
  tvmconv_destroy(model);
  for (int i = inputs; i < ports; i++) {
    FILE *file = fopen(names[3 + i], "wb");
    if (!file || fwrite(buffers[i], 1, bytes[i], file) != bytes[i] || fclose(file)) return 12;
  }
  return 0;
}
