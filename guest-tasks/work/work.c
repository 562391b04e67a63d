/* The work of the benchmark of peers, as a core module that exports the task ABI by its
 * canonical names: for wrun, for a bare wasmtime, for Node. */
#include "kernel.h"

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
static struct {
  uint8_t is_err;
  const void *bytes;
  size_t length;
} answer;

EXPORT("run")
const void *run(const uint8_t *input, size_t length) {
  size_t size = work_size(input, length);
  uint8_t *output = cabi_realloc(NULL, 0, 1, size);
  work(input, length, output);
  answer.bytes = output;
  answer.length = size;
  return &answer;
}
