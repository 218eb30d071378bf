/* The device of a model, and its code there. Both functions return 0 or a code of tvmconv.h, and set the error. */
#ifndef TVMCONV_CUDA_IMAGES_H
#define TVMCONV_CUDA_IMAGES_H

#include "cuda_driver.h"

#define TVMCONV_CUDA_NAME_BYTES 96

/* The first device that the file has code for; its name has TVMCONV_CUDA_NAME_BYTES. */
int tvmconv_cuda_choose_device(const tvmconv_cuda_driver *cuda, CUdevice *device, char *name);

/* Load the best image that the driver takes; the device's context is the current one. */
int tvmconv_cuda_load(const tvmconv_cuda_driver *cuda, CUdevice device, CUmodule *module);

#endif
