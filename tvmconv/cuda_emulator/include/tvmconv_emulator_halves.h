// What half and nv_bfloat16 have in common: every operation is done in float and rounded once.
#pragma once

#define EMU_HALF_UNARY(T, name, function) \
    static inline T name(T a) { return function((float)a); }
#define EMU_HALF_ARITHMETIC(T)                                                   \
    static inline T operator+(T a, T b) { return (float)a + (float)b; }          \
    static inline T operator-(T a, T b) { return (float)a - (float)b; }          \
    static inline T operator*(T a, T b) { return (float)a * (float)b; }          \
    static inline T operator/(T a, T b) { return (float)a / (float)b; }          \
    static inline T operator-(T a) { return -(float)a; }                         \
    static inline bool operator<(T a, T b) { return (float)a < (float)b; }       \
    static inline bool operator<=(T a, T b) { return (float)a <= (float)b; }     \
    static inline bool operator>(T a, T b) { return (float)a > (float)b; }       \
    static inline bool operator>=(T a, T b) { return (float)a >= (float)b; }     \
    static inline bool operator==(T a, T b) { return (float)a == (float)b; }     \
    static inline bool operator!=(T a, T b) { return (float)a != (float)b; }     \
    static inline T __hadd(T a, T b) { return a + b; }                           \
    static inline T __hsub(T a, T b) { return a - b; }                           \
    static inline T __hmul(T a, T b) { return a * b; }                           \
    static inline T __hdiv(T a, T b) { return a / b; }                           \
    static inline T __hneg(T a) { return -a; }                                   \
    static inline T __habs(T a) { return __builtin_fabsf(a); }                   \
    static inline T __hmax(T a, T b) { return __builtin_fmaxf(a, b); }           \
    static inline T __hmin(T a, T b) { return __builtin_fminf(a, b); }           \
    static inline bool __hgt(T a, T b) { return a > b; }                         \
    static inline bool __hge(T a, T b) { return a >= b; }                        \
    static inline bool __hlt(T a, T b) { return a < b; }                         \
    static inline bool __hle(T a, T b) { return a <= b; }                        \
    static inline bool __heq(T a, T b) { return a == b; }                        \
    static inline bool __hne(T a, T b) { return a != b; }                        \
    static inline bool __hisnan(T a) { return __builtin_isnan((float)a); }       \
    EMU_HALF_UNARY(T, hexp, expf)                                                \
    EMU_HALF_UNARY(T, hexp2, exp2f)                                              \
    EMU_HALF_UNARY(T, hlog, logf)                                                \
    EMU_HALF_UNARY(T, hlog2, log2f)                                              \
    EMU_HALF_UNARY(T, hlog10, log10f)                                            \
    EMU_HALF_UNARY(T, hsqrt, sqrtf)                                              \
    EMU_HALF_UNARY(T, hrsqrt, rsqrtf)                                            \
    EMU_HALF_UNARY(T, hrcp, __frcp_rn)                                           \
    EMU_HALF_UNARY(T, hsin, sinf)                                                \
    EMU_HALF_UNARY(T, hcos, cosf)                                                \
    EMU_HALF_UNARY(T, htanh, tanhf)                                              \
    EMU_HALF_UNARY(T, hfloor, floorf)                                            \
    EMU_HALF_UNARY(T, hceil, ceilf)                                              \
    EMU_HALF_UNARY(T, htrunc, truncf)                                            \
    EMU_HALF_UNARY(T, hrint, rintf)
