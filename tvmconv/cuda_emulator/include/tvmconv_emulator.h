// CUDA C++ for the CPU: what generated kernels use, without a GPU and without the C++ library.
//
// Included before everything else in a source that tvmconv/cuda_emulator/translate.py has rewritten:
// shared arrays are members of a region of the core's, inline PTX is calls of emu::ptx functions.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"
#include "interface.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict

#define threadIdx (emu_index(EMU_THREAD))
#define blockIdx (emu_index(EMU_BLOCK))
#define blockDim (emu_index(EMU_BLOCK_SIZE))
#define gridDim (emu_index(EMU_GRID_SIZE))
static const int warpSize = 32;

#define __syncthreads() emu_barrier(__LINE__)
#define __syncthreads_or(p) ((int)emu_barrier_vote(EMU_VOTE_ANY, (p) != 0, __LINE__))
#define __syncthreads_and(p) ((int)emu_barrier_vote(EMU_VOTE_ALL, (p) != 0, __LINE__))
#define __syncthreads_count(p) ((int)emu_barrier_vote(EMU_VOTE_BALLOT, (p) != 0, __LINE__))
#define __syncwarp(...) emu_warp_barrier(emu::mask(__VA_ARGS__), __LINE__)
#define __activemask() emu_active_mask(__LINE__)
#define __any_sync(mask, p) ((int)emu_warp_vote(EMU_VOTE_ANY, mask, (p) != 0, __LINE__))
#define __all_sync(mask, p) ((int)emu_warp_vote(EMU_VOTE_ALL, mask, (p) != 0, __LINE__))
#define __ballot_sync(mask, p) emu_warp_vote(EMU_VOTE_BALLOT, mask, (p) != 0, __LINE__)
#define EMU_SHUFFLE(mode, mask, ...) emu::shuffle(EMU_SHUFFLE_##mode, __LINE__, mask, __VA_ARGS__)
#define __shfl_sync(mask, ...) EMU_SHUFFLE(INDEX, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) EMU_SHUFFLE(UP, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) EMU_SHUFFLE(DOWN, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) EMU_SHUFFLE(XOR, mask, __VA_ARGS__)
#define __trap() emu_trap("__trap", __LINE__)
#define assert(c) ((c) ? (void)0 : emu_trap("assertion " #c " failed", __LINE__))

// Order among threads beyond what barriers give is not modelled.
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

namespace emu {
static inline uint32_t mask(uint32_t lanes = 0xFFFFFFFFu) { return lanes; }

template <class To, class From>
static inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "not the same size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

template <class T>
static inline T shuffle(
    emu_shuffle mode, int line, uint32_t mask, T value, int argument, int width = 32) {
    static_assert(sizeof(T) <= 8, "only values of up to 8 bytes can be shuffled");
    uint64_t raw = 0;
    __builtin_memcpy(&raw, &value, sizeof value);
    raw = emu_warp_shuffle(mode, mask, raw, argument, width, line);
    __builtin_memcpy(&value, &raw, sizeof value);
    return value;
}
}  // namespace emu

// Vector types, of CUDA's sizes and alignments.
#define EMU_VECTORS(T, name, a2, a4)                                                        \
    struct name##1 { T x; };                                                                \
    struct alignas(a2) name##2 { T x, y; };                                                 \
    struct name##3 { T x, y, z; };                                                          \
    struct alignas(a4) name##4 { T x, y, z, w; };                                           \
    static inline name##1 make_##name##1(T x) { return {x}; }                               \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }               \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)
#undef EMU_VECTORS
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

template <class T>
static inline T __ldg(const T* address) { return *address; }
template <class T>
static inline T __ldcg(const T* address) { return *address; }
template <class T>
static inline void __stcg(T* address, T value) { *address = value; }

// Integers and bits.
#define EMU_MIN_MAX(T)                                             \
    static inline T min(T a, T b) { return b < a ? b : a; }        \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(signed char)
EMU_MIN_MAX(unsigned char)
EMU_MIN_MAX(short)
EMU_MIN_MAX(unsigned short)
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
static inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
static inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
static inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
static inline long min(int a, long b) { return min((long)a, b); }
static inline long min(long a, int b) { return min(a, (long)b); }
static inline long max(int a, long b) { return max((long)a, b); }
static inline long max(long a, int b) { return max(a, (long)b); }
static inline float min(float a, float b) { return __builtin_fminf(a, b); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }
static inline double min(float a, double b) { return __builtin_fmin(a, b); }
static inline double max(float a, double b) { return __builtin_fmax(a, b); }
static inline double min(double a, float b) { return __builtin_fmin(a, b); }
static inline double max(double a, float b) { return __builtin_fmax(a, b); }
static inline float abs(float a) { return __builtin_fabsf(a); }
static inline double abs(double a) { return __builtin_fabs(a); }
static inline int abs(int a) { return a < 0 ? -a : a; }
static inline long abs(long a) { return a < 0 ? -a : a; }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
static inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
static inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline int __mul24(int a, int b) { return a * b; }
static inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)(((unsigned long long)a * b) >> 32);
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(signed char)(a >> i) * (signed char)(b >> i);
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
    return c;
}
static inline int __dp4a(unsigned a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(a >> i & 255) * (signed char)(b >> i);
    return c;
}
static inline int __dp4a(int a, unsigned b, int c) { return __dp4a(b, a, c); }

// Floats. The fast forms are as exact as the others here.
static inline int __float_as_int(float a) { return emu::bits<int>(a); }
static inline unsigned __float_as_uint(float a) { return emu::bits<unsigned>(a); }
static inline float __int_as_float(int a) { return emu::bits<float>(a); }
static inline float __uint_as_float(unsigned a) { return emu::bits<float>(a); }
static inline int __float2int_rn(float a) { return (int)__builtin_rintf(a); }
static inline int __float2int_rz(float a) { return (int)a; }
static inline int __float2int_rd(float a) { return (int)__builtin_floorf(a); }
static inline int __float2int_ru(float a) { return (int)__builtin_ceilf(a); }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __saturatef(float a) { return __builtin_fminf(__builtin_fmaxf(a, 0), 1); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
static inline float rsqrtf(float a) { return 1 / __builtin_sqrtf(a); }
static inline double rsqrt(double a) { return 1 / __builtin_sqrt(a); }
static inline float __expf(float a) { return expf(a); }
static inline float __exp10f(float a) { return powf(10, a); }
static inline float __logf(float a) { return logf(a); }
static inline float __log2f(float a) { return log2f(a); }
static inline float __log10f(float a) { return log10f(a); }
static inline float __powf(float a, float b) { return powf(a, b); }
static inline float __sinf(float a) { return sinf(a); }
static inline float __cosf(float a) { return cosf(a); }
static inline float __tanf(float a) { return tanf(a); }
#define EMU_UNARY(name) static inline float name(float a) { return name##f(a); }
EMU_UNARY(exp)
EMU_UNARY(exp2)
EMU_UNARY(log)
EMU_UNARY(log2)
EMU_UNARY(log10)
EMU_UNARY(sqrt)
EMU_UNARY(rsqrt)
EMU_UNARY(sin)
EMU_UNARY(cos)
EMU_UNARY(tan)
EMU_UNARY(tanh)
EMU_UNARY(erf)
EMU_UNARY(floor)
EMU_UNARY(ceil)
EMU_UNARY(trunc)
EMU_UNARY(round)
EMU_UNARY(rint)
EMU_UNARY(nearbyint)
EMU_UNARY(fabs)
#undef EMU_UNARY
static inline float pow(float a, float b) { return powf(a, b); }
static inline float fmod(float a, float b) { return fmodf(a, b); }
static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline bool isnan(float a) { return __builtin_isnan(a); }
static inline bool isnan(double a) { return __builtin_isnan(a); }
static inline bool isinf(float a) { return __builtin_isinf(a); }
static inline bool isinf(double a) { return __builtin_isinf(a); }
static inline bool isfinite(float a) { return __builtin_isfinite(a); }
static inline bool isfinite(double a) { return __builtin_isfinite(a); }
static inline bool signbit(float a) { return __builtin_signbit(a); }

static inline float atomicAdd(float* address, float value) {
    return emu_atomic_add_float(address, value);
}
static inline unsigned atomicAdd(unsigned* address, unsigned value) {
    return emu_atomic_add(address, value);
}
static inline int atomicAdd(int* address, int value) {
    return (int)emu_atomic_add((uint32_t*)address, (uint32_t)value);
}
static inline int atomicMax(int* address, int value) {
    return (int)emu_atomic_max(address, value);
}

// Pointers into shared memory as PTX has them: an offset, of 32 bits.
static inline size_t __cvta_generic_to_shared(const void* pointer) {
    return emu_shared_address(pointer);
}

#include "tvmconv_emulator_ptx.h"

// One kernel for the core: calls it with the arguments of a launch, and tells their types.
namespace emu {
template <int... I>
struct indices {};
template <int n, int... I>
struct count : count<n - 1, n - 1, I...> {};
template <int... I>
struct count<0, I...> { typedef indices<I...> type; };
template <class T>
struct is_pointer { static constexpr uint32_t value = 0; };
template <class T>
struct is_pointer<T*> { static constexpr uint32_t value = 1; };
template <class T>
struct value_of { typedef T type; };
template <class T>
struct value_of<const T> { typedef T type; };

template <auto function>
struct entry;
template <class... A, void (*function)(A...)>
struct entry<function> {
    // The arguments are the host's, so their reads are not checked.
    template <int... I>
    __attribute__((no_sanitize("thread"))) static void call_with(void** arguments, indices<I...>) {
        function(*(typename value_of<A>::type*)arguments[I]...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void** arguments) {
        call_with(arguments, typename count<sizeof...(A)>::type());
    }
    static constexpr uint32_t parameter_count = sizeof...(A);
    static constexpr uint32_t bytes[] = {sizeof(A)..., 0};
    static constexpr uint32_t pointers[] = {is_pointer<A>::value..., 0};
};
}  // namespace emu
