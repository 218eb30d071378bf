/* Those functions of the C interface that are the same for a CPU and for CUDA. */
#include "internal.h"

static int check(const tvmconv_model *model, const void *const inputs[], void *const outputs[]) {
  const tvmconv_signature signature = tvmconv_model_signature();
  if (!model) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "the model is NULL");
  if ((!inputs && signature.input_count) || (!outputs && signature.output_count))
    return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "the array of %s is NULL", inputs ? "outputs" : "inputs");
  for (int i = 0; i < signature.input_count; i++)
    if (!inputs[i]) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "input '%s' is NULL", signature.inputs[i].name);
  for (int i = 0; i < signature.output_count; i++)
    if (!outputs[i]) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "output '%s' is NULL", signature.outputs[i].name);
  return tvmconv_error_clear();
}

int tvmconv_run(tvmconv_model *model, const void *const inputs[], void *const outputs[]) {
  int code = check(model, inputs, outputs);
  return code ? code : tvmconv_model_run(model, inputs, outputs, NULL);
}

int tvmconv_profile(tvmconv_model *model, const void *const inputs[], void *const outputs[], double *times) {
  if (!times) return tvmconv_fail(TVMCONV_BAD_ARGUMENT, "the array of times is NULL");
  int code = check(model, inputs, outputs);
  return code ? code : tvmconv_model_run(model, inputs, outputs, times);
}

const char *tvmconv_metadata(void) { return tvmconv_model_signature().metadata; }

const char *tvmconv_error(void) { return tvmconv_error_text(); }
