// nv_bfloat16 and nv_bfloat162: every operation is done in float and rounded once, to nearest even.
#pragma once

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

static inline nv_bfloat16 operator+(nv_bfloat16 a, nv_bfloat16 b) { return (float)a + (float)b; }
static inline nv_bfloat16 operator-(nv_bfloat16 a, nv_bfloat16 b) { return (float)a - (float)b; }
static inline nv_bfloat16 operator*(nv_bfloat16 a, nv_bfloat16 b) { return (float)a * (float)b; }
static inline nv_bfloat16 operator/(nv_bfloat16 a, nv_bfloat16 b) { return (float)a / (float)b; }
static inline nv_bfloat16 operator-(nv_bfloat16 a) { return -(float)a; }
static inline bool operator<(nv_bfloat16 a, nv_bfloat16 b) { return (float)a < (float)b; }
static inline bool operator<=(nv_bfloat16 a, nv_bfloat16 b) { return (float)a <= (float)b; }
static inline bool operator>(nv_bfloat16 a, nv_bfloat16 b) { return (float)a > (float)b; }
static inline bool operator>=(nv_bfloat16 a, nv_bfloat16 b) { return (float)a >= (float)b; }
static inline bool operator==(nv_bfloat16 a, nv_bfloat16 b) { return (float)a == (float)b; }
static inline bool operator!=(nv_bfloat16 a, nv_bfloat16 b) { return (float)a != (float)b; }

static inline float __bfloat162float(nv_bfloat16 a) { return a; }
static inline nv_bfloat16 __float2bfloat16(float a) { return a; }
static inline nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
static inline float2 __bfloat1622float2(nv_bfloat162 a) { return make_float2(a.x, a.y); }
static inline nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
static inline nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
static inline unsigned short __bfloat16_as_ushort(nv_bfloat16 a) { return a.value; }
static inline nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return __nv_bfloat16_raw{a}; }
static inline nv_bfloat16 __hadd(nv_bfloat16 a, nv_bfloat16 b) { return a + b; }
static inline nv_bfloat16 __hsub(nv_bfloat16 a, nv_bfloat16 b) { return a - b; }
static inline nv_bfloat16 __hmul(nv_bfloat16 a, nv_bfloat16 b) { return a * b; }
static inline nv_bfloat16 __habs(nv_bfloat16 a) { return __builtin_fabsf(a); }
static inline nv_bfloat16 __hmax(nv_bfloat16 a, nv_bfloat16 b) { return __builtin_fmaxf(a, b); }
static inline nv_bfloat16 __hmin(nv_bfloat16 a, nv_bfloat16 b) { return __builtin_fminf(a, b); }
static inline bool __hgt(nv_bfloat16 a, nv_bfloat16 b) { return a > b; }
static inline bool __hlt(nv_bfloat16 a, nv_bfloat16 b) { return a < b; }
#define EMU_BFLOAT_UNARY(name, function) \
    static inline nv_bfloat16 name(nv_bfloat16 a) { return function((float)a); }
EMU_BFLOAT_UNARY(hexp, expf)
EMU_BFLOAT_UNARY(hlog, logf)
EMU_BFLOAT_UNARY(hsqrt, sqrtf)
EMU_BFLOAT_UNARY(hrsqrt, rsqrtf)
EMU_BFLOAT_UNARY(htanh, tanhf)
EMU_BFLOAT_UNARY(hfloor, floorf)
EMU_BFLOAT_UNARY(hceil, ceilf)
EMU_BFLOAT_UNARY(htrunc, truncf)
EMU_BFLOAT_UNARY(hrint, rintf)
#undef EMU_BFLOAT_UNARY
