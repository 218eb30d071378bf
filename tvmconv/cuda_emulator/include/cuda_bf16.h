// nv_bfloat16 and nv_bfloat162; rounding is to nearest even.
#pragma once

#include "tvmconv_emulator_halves.h"

struct __nv_bfloat16_raw { unsigned short x; };

struct __nv_bfloat16 {
    unsigned short value;
    static unsigned short rounded(float a) {
        uint32_t raw = emu::bits<uint32_t>(a);
        if ((raw & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;  // the device's NaN
        return (unsigned short)((raw + 0x7FFFu + (raw >> 16 & 1)) >> 16);
    }
    __nv_bfloat16() = default;
    __nv_bfloat16(float a) : value(rounded(a)) {}
    __nv_bfloat16(double a) : value(rounded((float)a)) {}
    __nv_bfloat16(int a) : value(rounded((float)a)) {}
    __nv_bfloat16(unsigned a) : value(rounded((float)a)) {}
    __nv_bfloat16(long a) : value(rounded((float)a)) {}
    __nv_bfloat16(bool a) : value(rounded((float)a)) {}
    __nv_bfloat16(__nv_bfloat16_raw a) : value(a.x) {}
    operator float() const { return emu::bits<float>((uint32_t)value << 16); }
    __nv_bfloat16& operator+=(__nv_bfloat16 b) { return *this = (float)*this + (float)b; }
    __nv_bfloat16& operator-=(__nv_bfloat16 b) { return *this = (float)*this - (float)b; }
    __nv_bfloat16& operator*=(__nv_bfloat16 b) { return *this = (float)*this * (float)b; }
    __nv_bfloat16& operator/=(__nv_bfloat16 b) { return *this = (float)*this / (float)b; }
};
typedef __nv_bfloat16 nv_bfloat16;
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
typedef __nv_bfloat162 nv_bfloat162;
static inline nv_bfloat162 make_bfloat162(nv_bfloat16 x, nv_bfloat16 y) { return {x, y}; }

EMU_HALF_ARITHMETIC(nv_bfloat16)

static inline float __bfloat162float(nv_bfloat16 a) { return a; }
static inline nv_bfloat16 __float2bfloat16(float a) { return a; }
static inline nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
static inline float2 __bfloat1622float2(nv_bfloat162 a) { return make_float2(a.x, a.y); }
static inline nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
static inline nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
static inline unsigned short __bfloat16_as_ushort(nv_bfloat16 a) { return a.value; }
static inline nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return __nv_bfloat16_raw{a}; }
