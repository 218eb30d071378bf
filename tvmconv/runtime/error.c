/* The calling thread's error message, and the hook through which TVM's kernels report theirs. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static _Thread_local char text[TVMCONV_ERROR_BYTES];

const char *tvmconv_error_text(void) { return text; }

void tvmconv_error_set(const char *message) {
  size_t length = strlen(message);
  if (length >= sizeof text) length = sizeof text - 1;
  memmove(text, message, length);
  text[length] = 0;
}

int tvmconv_error_clear(void) {
  text[0] = 0;
  return 0;
}

int tvmconv_fail(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return code;
}

/* The name is TVM's: a kernel calls it, then returns -1. The parts are joined into one line. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  size_t used = (size_t)snprintf(text, sizeof text, "%s: ", kind);
  for (int32_t i = 0; i < count; i++)
    for (const char *c = parts[i]; *c && used + 1 < sizeof text; c++) text[used++] = *c == '\n' ? ' ' : *c;
  text[used < sizeof text ? used : sizeof text - 1] = 0;
}
