/* Whether this CPU has the instructions that the model was compiled for.
 *
 * This file is compiled with the model's own flags, so the compiler's macros say what is needed. It runs before
 * everything else, because the alternative is a program that dies of an illegal instruction. */
#include <stddef.h>

#include "internal.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };

typedef struct {
  const char *name;
  unsigned leaf, subleaf;
  int word, bit; /* in what CPUID returns */
} feature;

static const feature needed[] = {
    {"cpuid", 0, 0, EBX, -1}, /* always there; the table must not be empty */
#ifdef __SSE4_2__
    {"SSE4.2", 1, 0, ECX, 20},
#endif
#ifdef __AVX__
    {"AVX", 1, 0, ECX, 28},
#endif
#ifdef __FMA__
    {"FMA", 1, 0, ECX, 12},
#endif
#ifdef __F16C__
    {"F16C", 1, 0, ECX, 29},
#endif
#ifdef __AVX2__
    {"AVX2", 7, 0, EBX, 5},
#endif
#ifdef __BMI2__
    {"BMI2", 7, 0, EBX, 8},
#endif
#ifdef __AVX512F__
    {"AVX-512F", 7, 0, EBX, 16},
#endif
#ifdef __AVX512DQ__
    {"AVX-512DQ", 7, 0, EBX, 17},
#endif
#ifdef __AVX512BW__
    {"AVX-512BW", 7, 0, EBX, 30},
#endif
#ifdef __AVX512VL__
    {"AVX-512VL", 7, 0, EBX, 31},
#endif
#ifdef __AVX512VBMI__
    {"AVX-512VBMI", 7, 0, ECX, 1},
#endif
#ifdef __AVX512VNNI__
    {"AVX-512VNNI", 7, 0, ECX, 11},
#endif
#ifdef __AVX512BF16__
    {"AVX-512BF16", 7, 1, EAX, 5},
#endif
#ifdef __AVX512FP16__
    {"AVX-512FP16", 7, 0, EDX, 23},
#endif
#ifdef __AVXVNNI__
    {"AVX-VNNI", 7, 1, EAX, 4},
#endif
};

#ifdef __AVX512F__
#define REGISTER_STATE 0xe6u /* XMM, YMM, and the three parts of AVX-512 */
#elif defined(__AVX__)
#define REGISTER_STATE 0x06u
#else
#define REGISTER_STATE 0u
#endif

/* Whether the operating system saves the vector registers. */
static int state_saved(void) {
  unsigned a, b, c, d, low, high;
  if (!REGISTER_STATE) return 1;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & REGISTER_STATE) == REGISTER_STATE;
}

const char *tvmconv_missing_feature(void) {
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    unsigned words[4] = {0};
    const feature *f = &needed[i];
    if (f->bit < 0) continue;
    if (!__get_cpuid_count(f->leaf, f->subleaf, &words[0], &words[1], &words[2], &words[3]) ||
        !(words[f->word] >> f->bit & 1))
      return f->name;
  }
  return state_saved() ? NULL : "operating-system support for AVX";
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2, fixed by Linux's arm64 interface. */
static const struct {
  const char *name;
  unsigned long entry, bit;
} needed[] = {
    {"NEON", AT_HWCAP, 1},
#ifdef __ARM_FEATURE_ATOMICS
    {"LSE atomics", AT_HWCAP, 8},
#endif
#ifdef __ARM_FEATURE_FP16_VECTOR_ARITHMETIC
    {"FP16 arithmetic", AT_HWCAP, 10},
#endif
#ifdef __ARM_FEATURE_DOTPROD
    {"dot product", AT_HWCAP, 20},
#endif
#ifdef __ARM_FEATURE_SVE
    {"SVE", AT_HWCAP, 22},
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
    {"I8MM", 26 /* AT_HWCAP2 */, 13},
#endif
};

const char *tvmconv_missing_feature(void) {
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!(getauxval(needed[i].entry) >> needed[i].bit & 1)) return needed[i].name;
  return NULL;
}

#else
const char *tvmconv_missing_feature(void) { return NULL; }
#endif
