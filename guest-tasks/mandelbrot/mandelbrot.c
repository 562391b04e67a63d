/* The Mandelbrot set as a PGM picture: a compute kernel without a libc, as a
 * core module that exports the task ABI by its canonical names.
 *
 * Input: three numbers as text, "WIDTH HEIGHT ITERATIONS"; empty is 256 256 200. */
#include <stddef.h>
#include <stdint.h>

#define PAGE 65536u
#define EXPORT(name) __attribute__((export_name(name)))

extern uint8_t __heap_base; /* placed by the linker after data and stack */
static uintptr_t heap_end;

/* A bump allocator: one call per instance, so nothing is ever freed. */
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  if (old != NULL || old_size != 0) __builtin_trap(); /* the host resizes nothing */
  if (heap_end == 0) heap_end = (uintptr_t)&__heap_base;
  uintptr_t at = (heap_end + align - 1) & ~(align - 1);
  uintptr_t end = at + size;
  if (end < at) __builtin_trap();
  uintptr_t have = __builtin_wasm_memory_size(0) * PAGE;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1)
    __builtin_trap();
  heap_end = end;
  return (void *)at;
}

/* result<list<u8>, string>, as the canonical ABI lays it out */
struct answer {
  uint8_t is_err;
  const void *bytes;
  size_t length;
};

static struct answer answer;

static struct answer *say(uint8_t is_err, const void *bytes, size_t length) {
  answer = (struct answer){is_err, bytes, length};
  return &answer;
}

static struct answer *fail(const char *words) {
  size_t length = 0;
  while (words[length]) length++;
  return say(1, words, length);
}

static const uint8_t *number(const uint8_t *at, const uint8_t *end, uint32_t *value) {
  while (at < end && (*at == ' ' || *at == '\n')) at++;
  if (at == end || *at < '0' || *at > '9') return NULL;
  for (*value = 0; at < end && *at >= '0' && *at <= '9'; at++)
    if ((*value = *value * 10 + (*at - '0')) > 1000000) return NULL;
  return at;
}

static uint8_t *decimal(uint8_t *at, uint32_t value) {
  if (value >= 10) at = decimal(at, value / 10);
  *at = (uint8_t)('0' + value % 10);
  return at + 1;
}

static uint8_t shade(double re, double im, uint32_t limit) {
  double x = 0, y = 0;
  for (uint32_t i = 0; i < limit; i++) {
    double xx = x * x, yy = y * y;
    if (xx + yy > 4) return (uint8_t)(255 - i * 255 / limit);
    y = 2 * x * y + im;
    x = xx - yy + re;
  }
  return 0;
}

EXPORT("run")
struct answer *run(const uint8_t *input, size_t length) {
  uint32_t width = 256, height = 256, limit = 200;
  if (length > 0) {
    const uint8_t *at = input, *end = input + length;
    if (!(at = number(at, end, &width)) || !(at = number(at, end, &height)) ||
        !(at = number(at, end, &limit)))
      return fail("the input is not WIDTH HEIGHT ITERATIONS");
  }
  if (width < 2 || height < 2 || width > 4096 || height > 4096 || limit < 1)
    return fail("a side is from 2 to 4096, and iterations are at least 1");

  uint8_t *picture = cabi_realloc(NULL, 0, 1, 32 + width * height), *at = picture;
  *at++ = 'P', *at++ = '5', *at++ = '\n';
  at = decimal(at, width), *at++ = ' ';
  at = decimal(at, height), *at++ = '\n';
  *at++ = '2', *at++ = '5', *at++ = '5', *at++ = '\n';
  for (uint32_t row = 0; row < height; row++)
    for (uint32_t column = 0; column < width; column++)
      *at++ = shade(-2.0 + 3.0 * column / (width - 1), -1.5 + 3.0 * row / (height - 1), limit);
  return say(0, picture, (size_t)(at - picture));
}
