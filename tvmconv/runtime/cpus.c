/* How many CPUs this process may use. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define MASK_BYTES 1024 /* 8192 CPUs: above the kernel's limit, so that sched_getaffinity cannot fail for size */

static int read_file(const char *path, char *text, size_t bytes) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t length = read(file, text, bytes - 1);
  close(file);
  if (length <= 0) return 0;
  text[length] = 0;
  return 1;
}

/* CPUs that a container's quota is worth, rounded up; a large number where there is none. */
static int cgroup_cpus(void) {
  char text[64], *end;
  if (!read_file("/sys/fs/cgroup/cpu.max", text, sizeof text)) return MASK_BYTES * 8;
  long quota = strtol(text, &end, 10), period = strtol(end, NULL, 10);
  if (quota <= 0 || period <= 0) return MASK_BYTES * 8; /* "max 100000" */
  long cpus = (quota + period - 1) / period;
  return cpus < MASK_BYTES * 8 ? (int)cpus : MASK_BYTES * 8;
}

static int affinity(unsigned char mask[MASK_BYTES]) {
  memset(mask, 0, MASK_BYTES);
  return sched_getaffinity(0, MASK_BYTES, (cpu_set_t *)(void *)mask) == 0;
}

static int set_has(const unsigned char mask[MASK_BYTES], long cpu) {
  /* the kernel's words are longs; on a little-endian machine that is the same as bytes */
  return cpu >= 0 && cpu < MASK_BYTES * 8 && (mask[cpu / 8] >> (cpu % 8) & 1);
}

static int clamp(int cpus) {
  int quota = cgroup_cpus();
  if (cpus > quota) cpus = quota;
  return cpus < 1 ? 1 : cpus;
}

static void set_affinity(pthread_t thread, unsigned char mask[MASK_BYTES]) {
  pthread_setaffinity_np(thread, MASK_BYTES, (cpu_set_t *)(void *)mask); /* refused if the mask is empty */
}

void tvmconv_keep_off(pthread_t thread, int cpu) {
  _Alignas(long) unsigned char mask[MASK_BYTES];
  if (!affinity(mask) || cpu >= MASK_BYTES * 8) return;
  mask[cpu / 8] &= (unsigned char)~(1u << cpu % 8);
  set_affinity(thread, mask);
}

void tvmconv_move_to(pthread_t thread, int cpu, int steps) {
  _Alignas(long) unsigned char mask[MASK_BYTES], one[MASK_BYTES] = {0};
  if (!affinity(mask)) return;
  for (long tried = 0; steps > 0 && tried < MASK_BYTES * 8; tried++) {
    cpu = (cpu + 1) % (MASK_BYTES * 8);
    steps -= set_has(mask, cpu);
  }
  if (steps) return;
  one[cpu / 8] = (unsigned char)(1u << cpu % 8);
  set_affinity(thread, one);
}

int tvmconv_cpus_in_mask(void) {
  _Alignas(long) unsigned char mask[MASK_BYTES];
  if (!affinity(mask)) return 1;
  int count = 0;
  for (long cpu = 0; cpu < MASK_BYTES * 8; cpu++) count += set_has(mask, cpu);
  return count;
}

int tvmconv_cpus_allowed(void) { return clamp(tvmconv_cpus_in_mask()); }

int tvmconv_cpus_physical(void) {
  _Alignas(long) unsigned char mask[MASK_BYTES], leaders[MASK_BYTES] = {0};
  if (!affinity(mask)) return 1;
  int count = 0;
  for (long cpu = 0; cpu < MASK_BYTES * 8; cpu++) {
    if (!set_has(mask, cpu)) continue;
    char path[96], text[32];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%ld/topology/thread_siblings_list", cpu);
    long leader = read_file(path, text, sizeof text) ? strtol(text, NULL, 10) : cpu;
    if (leader < 0 || leader >= MASK_BYTES * 8) leader = cpu;
    count += !set_has(leaders, leader);
    leaders[leader / 8] |= (unsigned char)(1u << (leader % 8));
  }
  return clamp(count);
}
