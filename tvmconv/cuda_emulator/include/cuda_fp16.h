// half and half2.
#pragma once

#include "tvmconv_emulator_halves.h"

struct __half_raw { unsigned short x; };

struct __half {
    _Float16 value;
    __half() = default;
    __half(float a) : value((_Float16)a) {}
    __half(double a) : value((_Float16)a) {}
    __half(int a) : value((_Float16)a) {}
    __half(unsigned a) : value((_Float16)a) {}
    __half(long a) : value((_Float16)a) {}
    __half(short a) : value((_Float16)a) {}
    __half(unsigned short a) : value((_Float16)a) {}
    __half(signed char a) : value((_Float16)a) {}
    __half(unsigned char a) : value((_Float16)a) {}
    __half(bool a) : value((_Float16)a) {}
    __half(__half_raw a) : value(emu::bits<_Float16>(a.x)) {}
    operator float() const { return (float)value; }
    __half& operator+=(__half b) { return *this = (float)value + (float)b.value; }
    __half& operator-=(__half b) { return *this = (float)value - (float)b.value; }
    __half& operator*=(__half b) { return *this = (float)value * (float)b.value; }
    __half& operator/=(__half b) { return *this = (float)value / (float)b.value; }
};
typedef __half half;
struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half x, __half y) : x(x), y(y) {}
};
typedef __half2 half2;
static inline half2 make_half2(half x, half y) { return half2(x, y); }

EMU_HALF_ARITHMETIC(half)

static inline float __half2float(half a) { return (float)a; }
static inline half __float2half(float a) { return a; }
static inline half __float2half_rn(float a) { return a; }
static inline half __double2half(double a) { return a; }
static inline half __int2half_rn(int a) { return a; }
static inline int __half2int_rn(half a) { return (int)__builtin_rintf(a); }
static inline int __half2int_rz(half a) { return (int)(float)a; }
static inline unsigned short __half_as_ushort(half a) { return emu::bits<unsigned short>(a.value); }
static inline half __ushort_as_half(unsigned short a) { return __half_raw{a}; }
static inline float2 __half22float2(half2 a) { return make_float2(a.x, a.y); }
static inline half2 __float22half2_rn(float2 a) { return half2(a.x, a.y); }
static inline half2 __floats2half2_rn(float a, float b) { return half2(a, b); }
static inline half2 __halves2half2(half a, half b) { return half2(a, b); }
static inline half2 __half2half2(half a) { return half2(a, a); }
static inline half __low2half(half2 a) { return a.x; }
static inline half __high2half(half2 a) { return a.y; }

static inline half __hfma(half a, half b, half c) { return __builtin_fma((double)(float)a, (double)(float)b, (double)(float)c); }
static inline half2 __hadd2(half2 a, half2 b) { return half2(a.x + b.x, a.y + b.y); }
static inline half2 __hsub2(half2 a, half2 b) { return half2(a.x - b.x, a.y - b.y); }
static inline half2 __hmul2(half2 a, half2 b) { return half2(a.x * b.x, a.y * b.y); }
static inline half2 __hfma2(half2 a, half2 b, half2 c) {
    return half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
static inline half2 __hmax2(half2 a, half2 b) { return half2(__hmax(a.x, b.x), __hmax(a.y, b.y)); }
static inline half2 __hmin2(half2 a, half2 b) { return half2(__hmin(a.x, b.x), __hmin(a.y, b.y)); }
