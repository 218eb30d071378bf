#pragma once
/* Products of bytes are in tvmconv_emulator.h. As under NVRTC, what TVM writes after this only declares them. */
#define __CUDACC_RTC__
