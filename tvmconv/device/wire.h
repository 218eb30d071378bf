/* What the programs that run elsewhere share: files of arrays in, lines of text out.
 *
 * Text survives every connection. A line is words, or "=" and base64 of the data that the line before it announced;
 * the first line is WIRE_BEGIN, the last "end": without it, something is missing. */
#ifndef TVMCONV_WIRE_H
#define TVMCONV_WIRE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define WIRE_BEGIN "tvmconv 1"
#define WIRE_BYTES 57 /* of data in a line */
#define WIRE_ALIGNMENT 64

static double wire_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void wire_data(const void *memory, size_t bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const uint8_t *data = memory;
  for (size_t start = 0; start < bytes; start += WIRE_BYTES) {
    char line[WIRE_BYTES / 3 * 4 + 3], *to = line;
    size_t end = bytes - start < WIRE_BYTES ? bytes : start + WIRE_BYTES;
    *to++ = '=';
    for (size_t i = start; i < end; i += 3) {
      uint32_t bits = (uint32_t)data[i] << 16;
      if (i + 1 < end) bits |= (uint32_t)data[i + 1] << 8;
      if (i + 2 < end) bits |= data[i + 2];
      *to++ = digits[bits >> 18];
      *to++ = digits[bits >> 12 & 63];
      *to++ = i + 1 < end ? digits[bits >> 6 & 63] : '=';
      *to++ = i + 2 < end ? digits[bits & 63] : '=';
    }
    *to++ = '\n';
    fwrite(line, 1, (size_t)(to - line), stdout);
  }
}

/* A file in memory, aligned; its size in *bytes. Ends the program if it cannot be read. */
static uint8_t *wire_file(const char *path, size_t *bytes) {
  void *data = NULL;
  long size = -1;
  FILE *file = fopen(path, "rb");
  if (file && !fseek(file, 0, SEEK_END)) size = ftell(file);
  if (size < 0 || fseek(file, 0, SEEK_SET) || posix_memalign(&data, WIRE_ALIGNMENT, (size_t)size + 1) ||
      fread(data, 1, (size_t)size, file) != (size_t)size) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(3);
  }
  fclose(file);
  *bytes = (size_t)size;
  return data;
}

static size_t wire_aligned(size_t bytes) { return (bytes + WIRE_ALIGNMENT - 1) / WIRE_ALIGNMENT * WIRE_ALIGNMENT; }

static int wire_compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double wire_median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, wire_compare);
  return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Begin: the machine's name for itself. */
static inline void wire_begin(double limit_s) {
  struct utsname names;
  alarm((unsigned)limit_s + 1); /* whoever waits for this program has given up then */
  puts(WIRE_BEGIN);
  if (!uname(&names))
    printf("machine %s %s %s %ld\n", names.sysname, names.release, names.machine, sysconf(_SC_NPROCESSORS_ONLN));
}

static inline int wire_end(void) {
  puts("end");
  return fflush(stdout) ? 3 : 0;
}

#endif
