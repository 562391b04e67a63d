/* The work of the benchmark of peers, as a plug-in for extism: input and output lie in
 * memory that extism owns, and are read and written through its functions. wrun refuses
 * it, naming an import. */
#include "../work/kernel.h"

#define PAGE 65536u
#define IMPORT(name) __attribute__((import_module("extism:host/env"), import_name(name)))

IMPORT("input_length") uint64_t input_length(void);
IMPORT("input_load_u8") uint32_t input_load_u8(uint64_t at);
IMPORT("input_load_u64") uint64_t input_load_u64(uint64_t at);
IMPORT("alloc") uint64_t extism_alloc(uint64_t size);
IMPORT("store_u8") void store_u8(uint64_t at, uint32_t byte);
IMPORT("store_u64") void store_u64(uint64_t at, uint64_t bytes);
IMPORT("output_set") void output_set(uint64_t at, uint64_t length);

extern uint8_t __heap_base; /* placed by the linker after data and stack */

/* Input and output one after the other, from the same place at every call: a plug-in may
 * be called again. */
static uint8_t *room_for(size_t size) {
  uintptr_t at = ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7, end = at + size;
  uintptr_t have = __builtin_wasm_memory_size(0) * PAGE;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1)
    __builtin_trap();
  return (uint8_t *)at;
}

__attribute__((export_name("run")))
int32_t run(void) {
  size_t length = (size_t)input_length(), whole = (length + 7) & ~(size_t)7;
  uint8_t *input = room_for(whole);
  size_t at = 0;
  for (; at + 8 <= length; at += 8) *(uint64_t *)(input + at) = input_load_u64(at);
  for (; at < length; at++) input[at] = (uint8_t)input_load_u8(at);
  size_t size = work_size(input, length);
  uint8_t *output = room_for(whole + size + 8) + whole;
  work(input, length, output);
  uint64_t out = extism_alloc(size);
  for (at = 0; at + 8 <= size; at += 8) store_u64(out + at, *(uint64_t *)(output + at));
  for (; at < size; at++) store_u8(out + at, output[at]);
  output_set(out, size);
  return 0;
}
