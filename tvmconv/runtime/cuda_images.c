/* Which device a model runs on, and which of its images of code is loaded there. */
#include "cuda_images.h"

#include <stdio.h>
#include <stdlib.h>

#include "cuda_plan.h"
#include "internal.h"

static const tvmconv_cuda_plan *const plan = &tvmconv_cuda_model_plan;

static int capability(const tvmconv_cuda_driver *cuda, CUdevice device) {
  int major = 0, minor = 0;
  if (cuda->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device) ||
      cuda->cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
    return 0;
  return 10 * major + minor;
}

/* Machine code runs on later devices of its generation, but for those of Jetson; PTX on all later ones. */
static int fits(const tvmconv_image *image, int sm) {
  const int embedded = sm == 72 || sm == 87 || sm == 101;
  if (!image->sm || image->sm == sm) return 1;
  if (image->sm > sm) return 0;
  return image->is_ptx || (image->sm / 10 == sm / 10 && !embedded);
}

/* The better of two images that fit: machine code before PTX, later before earlier. */
static int better(const tvmconv_image *one, const tvmconv_image *other) {
  if (one->is_ptx != other->is_ptx) return !one->is_ptx;
  return one->sm > other->sm;
}

/* The best image for a device among those that `tried` does not have; -1 if there is none. */
static int choose_image(int sm, const char *tried) {
  int best = -1;
  for (int i = 0; i < plan->image_count; i++)
    if (!tried[i] && fits(&plan->images[i], sm) && (best < 0 || better(&plan->images[i], &plan->images[best])))
      best = i;
  return best;
}

static size_t append(char *text, size_t used, const char *format, const char *what, int number) {
  if (used >= TVMCONV_ERROR_BYTES) return used;
  int written = snprintf(text + used, TVMCONV_ERROR_BYTES - used, format, what, number);
  return written > 0 ? used + (size_t)written : used;
}

static int no_code(const tvmconv_cuda_driver *cuda, int devices) {
  char text[TVMCONV_ERROR_BYTES] = "", name[TVMCONV_CUDA_NAME_BYTES];
  const char *kind = plan->images[0].is_ptx ? "PTX" : "code";
  size_t used = append(text, 0, "the file has %s for sm_%d", kind, plan->images[0].sm);
  for (int i = 1; i < plan->image_count; i++)
    used = append(text, used, ", %ssm_%d", plan->images[i].is_ptx ? "PTX for " : "", plan->images[i].sm);
  for (int i = 0; i < devices; i++) {
    CUdevice device = 0;
    if (cuda->cuDeviceGet(&device, i) || cuda->cuDeviceGetName(name, sizeof name, device)) continue;
    used = append(text, used, i ? ", %s (sm_%d)" : "; this machine has %s (sm_%d)", name, capability(cuda, device));
  }
  tvmconv_error_set(text);
  return TVMCONV_WRONG_DEVICE;
}

int tvmconv_cuda_choose_device(const tvmconv_cuda_driver *cuda, CUdevice *device, char *name) {
  int count = 0;
  TRY(cuda->cuDeviceGetCount(&count), TVMCONV_NO_DEVICE, "cannot count the CUDA devices");
  if (!count) return tvmconv_fail(TVMCONV_NO_DEVICE, "no CUDA device");
  for (int i = 0; i < count; i++) {
    TRY(cuda->cuDeviceGet(device, i), TVMCONV_NO_DEVICE, "cannot open a CUDA device");
    int sm = capability(cuda, *device);
    int found = !plan->image_count; /* nothing to launch */
    for (int k = 0; k < plan->image_count && !found; k++) found = fits(&plan->images[k], sm);
    if (!found) continue;
    TRY(cuda->cuDeviceGetName(name, TVMCONV_CUDA_NAME_BYTES, *device), TVMCONV_NO_DEVICE, "a CUDA device's name");
    return 0;
  }
  return no_code(cuda, count);
}

/* Whether the driver refused an image for what it is, so that another one may do. */
static int is_refusal(CUresult result) {
  return result == CUDA_ERROR_INVALID_IMAGE || result == CUDA_ERROR_NO_BINARY_FOR_GPU ||
         result == CUDA_ERROR_INVALID_PTX || result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
}

int tvmconv_cuda_load(const tvmconv_cuda_driver *cuda, CUdevice device, CUmodule *module) {
  const int sm = capability(cuda, device);
  if (!plan->image_count) return 0;
  char *tried = calloc((size_t)plan->image_count, 1);
  if (!tried) return tvmconv_fail(TVMCONV_NO_MEMORY, "no memory for a list");
  CUresult result = CUDA_ERROR_NO_BINARY_FOR_GPU;
  for (int i; is_refusal(result) && (i = choose_image(sm, tried)) >= 0; tried[i] = 1)
    result = cuda->cuModuleLoadData(module, plan->images[i].data);
  free(tried);
  TRY(result, TVMCONV_WRONG_DEVICE, "the driver does not take the file's code");
  return 0;
}
