// The C library's functions that kernels use. Its own header, in C++, would be the C++ library's.
#pragma once

#define EMU_MATH(name) extern "C" double name(double) noexcept; extern "C" float name##f(float) noexcept;
EMU_MATH(exp)
EMU_MATH(exp2)
EMU_MATH(expm1)
EMU_MATH(log)
EMU_MATH(log2)
EMU_MATH(log10)
EMU_MATH(log1p)
EMU_MATH(sqrt)
EMU_MATH(cbrt)
EMU_MATH(sin)
EMU_MATH(cos)
EMU_MATH(tan)
EMU_MATH(asin)
EMU_MATH(acos)
EMU_MATH(atan)
EMU_MATH(sinh)
EMU_MATH(cosh)
EMU_MATH(tanh)
EMU_MATH(asinh)
EMU_MATH(acosh)
EMU_MATH(atanh)
EMU_MATH(erf)
EMU_MATH(erfc)
EMU_MATH(floor)
EMU_MATH(ceil)
EMU_MATH(trunc)
EMU_MATH(round)
EMU_MATH(rint)
EMU_MATH(nearbyint)
EMU_MATH(fabs)
#undef EMU_MATH
#define EMU_MATH(name)                                  \
    extern "C" double name(double, double) noexcept;    \
    extern "C" float name##f(float, float) noexcept;
EMU_MATH(pow)
EMU_MATH(fmod)
EMU_MATH(fmin)
EMU_MATH(fmax)
EMU_MATH(atan2)
EMU_MATH(copysign)
EMU_MATH(hypot)
#undef EMU_MATH
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
