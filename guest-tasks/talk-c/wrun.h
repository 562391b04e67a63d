/* wrun's task ABI for C without a libc: what `wit/` says, by its canonical names, with
 * structs instead of offsets. Copy this file beside yours; include it once.
 *
 *   - `cabi_realloc`, and `allocate` for your own: memory is never freed, for a task
 *     is called once.
 *   - `answer` and `fail` end `run`.
 *   - `region_*`, `port_*`, `task_*`: calls of the interfaces, true where they were
 *     answered with a value, otherwise with `.error` set.
 *
 * An own handle that is sent in a message is gone; of what is not sent the handles in
 * `unsent` are the new ones. */
#ifndef WRUN_H
#define WRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 65536u
#define WRUN_EXPORT(name) __attribute__((export_name(name)))
#define WRUN_IMPORT(interface, name) \
  __attribute__((import_module("wrun:task/" interface "@0.1.0"), import_name(name)))

/* ---- memory ---- */

extern uint8_t __heap_base; /* placed by the linker after data and stack */
static uintptr_t wrun_heap_end;

static inline void *allocate(size_t size, size_t align) {
  if (wrun_heap_end == 0) wrun_heap_end = (uintptr_t)&__heap_base;
  uintptr_t at = (wrun_heap_end + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t end = at + size;
  if (at < wrun_heap_end || end < at) __builtin_trap();
  uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1)
    __builtin_trap();
  wrun_heap_end = end;
  return (void *)at;
}

/* What the host puts lists into. A task that receives messages for long sets this to
 * a block of its own, which is used again for each call: see `scratch`. */
static uint8_t *wrun_scratch;
static size_t wrun_scratch_size, wrun_scratch_used;

WRUN_EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  if (old != NULL || old_size != 0) __builtin_trap(); /* the host resizes nothing */
  if (wrun_scratch != NULL) {
    size_t at = (wrun_scratch_used + align - 1) & ~(align - 1);
    if (at <= wrun_scratch_size && size <= wrun_scratch_size - at) {
      wrun_scratch_used = at + size;
      return wrun_scratch + at;
    }
  }
  return allocate(size, align);
}

/* From now on what the host gives lies in the same `size` bytes, until the next call
 * of this; what is larger is allocated. */
static inline void scratch(size_t size) {
  if (wrun_scratch == NULL || wrun_scratch_size < size) {
    wrun_scratch = allocate(size, 16);
    wrun_scratch_size = size;
  }
  wrun_scratch_used = 0;
}

/* ---- the end ---- */

/* result<list<u8>, string> */
struct answer {
  uint8_t is_err;
  const void *bytes;
  size_t length;
};

static struct answer wrun_answer;

static inline struct answer *answer(const void *bytes, size_t length) {
  wrun_answer = (struct answer){0, bytes, length};
  return &wrun_answer;
}

static inline struct answer *fail(const char *words) {
  size_t length = 0;
  while (words[length]) length++;
  wrun_answer = (struct answer){1, words, length};
  return &wrun_answer;
}

/* ---- regions ---- */

typedef uint32_t region_t, mapping_t, port_t, child_t, pollable_t;

enum region_kind { EXCLUSIVE, FROZEN, SHARED };
enum region_error { OUT_OF_BOUNDS, MISALIGNED, REGION_BUSY, WRONG_KIND, REGION_LIMIT };
enum wait_result { WOKEN, NOT_EQUAL, TIMED_OUT };

/* result<handle or u32, region-error> */
struct region_u32 {
  uint8_t is_err;
  union {
    uint8_t error;
    uint32_t value;
  };
};
/* result<u64, region-error> */
struct region_u64 {
  uint8_t is_err;
  _Alignas(8) union {
    uint8_t error;
    uint64_t value;
  };
};
/* result<_, region-error> */
struct region_done {
  uint8_t is_err, error;
};
/* result<tuple<region, region>, region-error> */
struct region_pair {
  uint8_t is_err;
  union {
    uint8_t error;
    region_t parts[2];
  };
};
/* result<list<u8>, region-error> */
struct region_bytes {
  uint8_t is_err;
  union {
    uint8_t error;
    struct {
      uint8_t *bytes;
      size_t length;
    };
  };
};

#define REGIONS(name) WRUN_IMPORT("regions", name)

REGIONS("[static]region.create")
void wrun_region_create(uint64_t len, uint32_t kind, struct region_u32 *);
REGIONS("[method]region.len") uint64_t region_len(region_t);
REGIONS("[method]region.kind") uint32_t region_kind(region_t);
REGIONS("[method]region.duplicate") void wrun_region_duplicate(region_t, struct region_u32 *);
REGIONS("[method]region.read")
void wrun_region_read(region_t, uint64_t offset, uint64_t len, struct region_bytes *);
REGIONS("[method]region.write")
void wrun_region_write(region_t, uint64_t offset, const void *bytes, size_t len,
                       struct region_done *);
REGIONS("[method]region.map")
void wrun_region_map(region_t, uint64_t offset, void *window, size_t len, struct region_u32 *);
REGIONS("[method]region.freeze") void wrun_region_freeze(region_t, struct region_done *);
REGIONS("[method]region.split")
void wrun_region_split(region_t, uint64_t at, struct region_pair *);
REGIONS("[method]region.join")
void wrun_region_join(region_t, region_t next, struct region_done *);
REGIONS("[resource-drop]region") void region_drop(region_t);
/* Unmaps: the window reads as zeros then. */
REGIONS("[resource-drop]mapping") void mapping_drop(mapping_t);

#define REGION_WORD(bits) \
  REGIONS("[method]region.load-u" #bits) \
  void wrun_load_u##bits(region_t, uint64_t offset, struct region_u##bits *); \
  REGIONS("[method]region.store-u" #bits) \
  void wrun_store_u##bits(region_t, uint64_t offset, uint##bits##_t, struct region_done *); \
  REGIONS("[method]region.add-u" #bits) \
  void wrun_add_u##bits(region_t, uint64_t offset, uint##bits##_t, struct region_u##bits *); \
  REGIONS("[method]region.or-u" #bits) \
  void wrun_or_u##bits(region_t, uint64_t offset, uint##bits##_t, struct region_u##bits *); \
  REGIONS("[method]region.exchange-u" #bits) \
  void wrun_exchange_u##bits(region_t, uint64_t offset, uint##bits##_t, struct region_u##bits *); \
  REGIONS("[method]region.compare-exchange-u" #bits) \
  void wrun_compare_exchange_u##bits(region_t, uint64_t offset, uint##bits##_t expected, \
                                     uint##bits##_t value, struct region_u##bits *); \
  /* The words that a task agreed on with others are there: anything else is a mistake of \
   * its own, and a trap. */ \
  static inline uint##bits##_t load_u##bits(region_t region, uint64_t offset) { \
    struct region_u##bits got; \
    wrun_load_u##bits(region, offset, &got); \
    if (got.is_err) __builtin_trap(); \
    return got.value; \
  } \
  static inline void store_u##bits(region_t region, uint64_t offset, uint##bits##_t value) { \
    struct region_done got; \
    wrun_store_u##bits(region, offset, value, &got); \
    if (got.is_err) __builtin_trap(); \
  } \
  static inline uint##bits##_t add_u##bits(region_t region, uint64_t offset, \
                                           uint##bits##_t value) { \
    struct region_u##bits got; \
    wrun_add_u##bits(region, offset, value, &got); \
    if (got.is_err) __builtin_trap(); \
    return got.value; \
  } \
  static inline uint##bits##_t or_u##bits(region_t region, uint64_t offset, \
                                          uint##bits##_t value) { \
    struct region_u##bits got; \
    wrun_or_u##bits(region, offset, value, &got); \
    if (got.is_err) __builtin_trap(); \
    return got.value; \
  } \
  static inline bool compare_exchange_u##bits(region_t region, uint64_t offset, \
                                              uint##bits##_t expected, uint##bits##_t value) { \
    struct region_u##bits got; \
    wrun_compare_exchange_u##bits(region, offset, expected, value, &got); \
    if (got.is_err) __builtin_trap(); \
    return got.value == expected; \
  }
REGION_WORD(32)
REGION_WORD(64)

REGIONS("[method]region.wait")
void wrun_region_wait(region_t, uint64_t offset, uint32_t expected, uint32_t has_timeout,
                      uint64_t timeout_ns, struct region_done *);
REGIONS("[method]region.notify")
void wrun_region_notify(region_t, uint64_t offset, uint32_t count, struct region_u32 *);

/* Waits while the word is `expected`; it can return early. */
static inline void wait_u32(region_t region, uint64_t offset, uint32_t expected) {
  struct region_done got;
  wrun_region_wait(region, offset, expected, 0, 0, &got);
  if (got.is_err) __builtin_trap();
}

static inline uint32_t notify_u32(region_t region, uint64_t offset, uint32_t count) {
  struct region_u32 got;
  wrun_region_notify(region, offset, count, &got);
  if (got.is_err) __builtin_trap();
  return got.value;
}

/* ---- ports ---- */

enum port_error { PORT_CLOSED, WOULD_BLOCK, TOO_LARGE, PORT_BUSY, PORT_LIMIT, PORT_CANCELLED };

/* Handles, as a list. */
struct handles {
  uint32_t *at;
  size_t length;
};

struct message {
  uint8_t *data;
  size_t length;
  struct handles regions, ports;
};

/* result<_, unsent> */
struct sent {
  uint8_t is_err;
  struct {
    _Alignas(4) uint8_t error;
    struct handles regions, ports;
  } unsent;
};

/* result<message, port-error> */
struct received {
  uint8_t is_err;
  union {
    uint8_t error;
    struct message message;
  };
};

/* result<tuple<port, port>, port-error> */
struct channel {
  uint8_t is_err;
  union {
    uint8_t error;
    port_t ends[2];
  };
};

/* option<port> */
struct parent {
  uint8_t is_some;
  port_t port;
};

#define PORTS(name) WRUN_IMPORT("ports", name)

PORTS("channel") void wrun_channel(uint32_t capacity, struct channel *);
PORTS("parent") void wrun_parent(struct parent *);
PORTS("[method]port.send")
void wrun_port_send(port_t, const void *data, size_t length, const region_t *regions,
                    size_t regions_length, const port_t *ports, size_t ports_length,
                    struct sent *);
PORTS("[method]port.receive") void wrun_port_receive(port_t, struct received *);
PORTS("[method]port.close") void port_close(port_t);
PORTS("[resource-drop]port") void port_drop(port_t);

/* Bytes, and a region unless it is 0. */
static inline bool port_send(port_t port, const void *data, size_t length, region_t region,
                             struct sent *sent) {
  wrun_port_send(port, data, length, &region, region != 0, NULL, 0, sent);
  return !sent->is_err;
}

static inline bool port_receive(port_t port, struct received *received) {
  wrun_port_receive(port, received);
  return !received->is_err;
}

/* ---- tasks ---- */

enum spawn_error { NOT_GRANTED, SPAWN_LIMIT, INPUT_TOO_LARGE, SPAWN_BUSY };
enum outcome_kind { COMPLETED, FAILED, EXITED, TRAPPED, LIMIT_EXCEEDED, CRASHED, CANCELLED };

/* variant outcome: bytes or words, or an exit code */
struct outcome {
  uint8_t kind;
  union {
    uint8_t code;
    struct {
      uint8_t *bytes;
      size_t length;
    };
  };
};

/* result<child, unstarted>; the port comes back */
struct spawned {
  uint8_t is_err;
  union {
    struct {
      uint8_t error;
      struct parent unstarted;
    };
    child_t child;
  };
};

#define TASKS(name) WRUN_IMPORT("tasks", name)

TASKS("spawn")
void wrun_spawn(const char *name, size_t name_length, const void *input, size_t length,
                uint32_t has_port, port_t port, struct spawned *);
TASKS("[method]child.wait") void child_wait(child_t, struct outcome *);
TASKS("[method]child.kill") void child_kill(child_t);
TASKS("[resource-drop]child") void child_drop(child_t);

/* Starts `name`; `*port` is this task's end of a new channel to it. */
static inline bool start(const char *name, const void *input, size_t length, uint32_t capacity,
                         child_t *child, port_t *port) {
  size_t name_length = 0;
  while (name[name_length]) name_length++;
  struct channel ends;
  wrun_channel(capacity, &ends);
  if (ends.is_err) return false;
  struct spawned spawned;
  wrun_spawn(name, name_length, input, length, 1, ends.ends[1], &spawned);
  if (spawned.is_err) {
    if (spawned.unstarted.is_some) port_drop(spawned.unstarted.port);
    port_drop(ends.ends[0]);
    return false;
  }
  *child = spawned.child, *port = ends.ends[0];
  return true;
}

#endif
