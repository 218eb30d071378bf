/* The emulated driver's modules: images are shared libraries that are loaded from memory. */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An image has no length of its own: the table of its sections ends it. */
static size_t image_bytes(const void *image)
{
    Elf64_Ehdr header;

    memcpy(&header, image, sizeof header);
    return header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
}

static void *open_image(const void *image, int *opened)
{
    size_t bytes = image_bytes(image), written = 0;
    char path[64];
    int file = *opened = (int)syscall(SYS_memfd_create, "kernels", 1u /* closed on exec */);

    if (file < 0) {
        return NULL;
    }
    while (written < bytes) {
        ssize_t done = write(file, (const char *)image + written, bytes - written);
        if (done <= 0) {
            return NULL;
        }
        written += (size_t)done;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static CUresult check_kernels(CUmodule module)
{
    for (uint32_t i = 0; i < module->count; i++) {
        const struct emu_kernel *kernel = module->functions[i].kernel;
        if (kernel->static_bytes > STATIC_SHARED) {
            return refuse(CUDA_ERROR_INVALID_IMAGE,
                "kernel %s: %u bytes of static shared memory, over %d", kernel->name,
                kernel->static_bytes, STATIC_SHARED);
        }
    }
    return CUDA_SUCCESS;
}

static CUresult read_module(CUmodule module)
{
    const struct emu_kernel *kernels = dlsym(module->library, "tvmconv_emulator_kernels");
    const uint32_t *count = dlsym(module->library, "tvmconv_emulator_kernel_count");
    void *run = dlsym(module->library, "tvmconv_emulator_run");

    if (!kernels || !count || !run) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "the image is a library without emulated kernels");
    }
    memcpy(&module->run, &run, sizeof run);
    module->functions = calloc(*count + 1, sizeof *module->functions);
    if (!module->functions) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->count = *count;
    for (uint32_t i = 0; i < *count; i++) {
        module->functions[i] = (struct CUfunc_st){&kernels[i], module, 0};
    }
    return check_kernels(module);
}

CUresult cuModuleLoadData(CUmodule *result, const void *image)
{
    const unsigned char *bytes = image;
    CUmodule module;

    if (usable()) {
        return usable();
    }
    if (memcmp(bytes, ELFMAG, SELFMAG)) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "the emulator takes no PTX, only its own images");
    }
    if (((const Elf64_Ehdr *)image)->e_machine == EM_CUDA) {
        return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "the emulator takes no cubin, only its own images");
    }
    module = calloc(1, sizeof *module);
    if (!module) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->library = open_image(image, &module->file);
    CUresult code = module->library ?
        read_module(module) : refuse(CUDA_ERROR_INVALID_IMAGE, "%s", dlerror());
    if (code) {
        cuModuleUnload(module);
        return code;
    }
    *result = module;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module)
{
    if (module->library) {
        dlclose(module->library);
    }
    if (module->file >= 0) {
        close(module->file);
    }
    free(module->functions);
    free(module);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    for (uint32_t i = 0; i < module->count; i++) {
        if (!strcmp(module->functions[i].kernel->name, name)) {
            *function = &module->functions[i];
            return CUDA_SUCCESS;
        }
    }
    return refuse(NOT_FOUND, "no kernel %s", name);
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
    const struct emu_kernel *kernel = function->kernel;

    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        return refuse(INVALID_VALUE, "the emulator has no function attribute %d", attribute);
    }
    if (value < 0 || (uint32_t)value + kernel->static_bytes > shared_limit()) {
        return refuse(INVALID_VALUE, "kernel %s: %d bytes of shared memory, sm_%d has %u",
            kernel->name, value + (int)kernel->static_bytes, device_sm(), shared_limit());
    }
    function->dynamic_limit = (uint32_t)value;
    return CUDA_SUCCESS;
}
