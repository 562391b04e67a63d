/* Three of the tasks of ../talk/, in C without a libc: what they say to each other is
 * the same, so that a task of one language can be the worker of the other's.
 *
 *   ping ROUNDS SIZE            primes WORKERS BELOW BLOCK        sort WORKERS NUMBERS SEED
 *   pong                        work BELOW BLOCK                  part
 *
 * The sort is in place: the parts come back sorted, and this task merges them. */
#include "wrun.h"

#define MOST 15u
#define MESSAGE (262144u + 64) /* the data and the handles of any message */
#define WORKER "worker"

static bool same(const uint8_t *one, const uint8_t *other, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (one[i] != other[i]) return false;
  return true;
}

/* ---- words and numbers ---- */

/* The word at `*at`, which moves behind it; its length. */
static size_t word(const uint8_t **at, const uint8_t *end, const uint8_t **word) {
  while (*at < end && **at == ' ') ++*at;
  *word = *at;
  while (*at < end && **at != ' ' && **at != '\n') ++*at;
  return (size_t)(*at - *word);
}

static bool is(const uint8_t *word, size_t length, const char *name) {
  size_t i = 0;
  for (; i < length && name[i]; i++)
    if (word[i] != (uint8_t)name[i]) return false;
  return i == length && !name[i];
}

static bool parse(const uint8_t *word, size_t length, uint64_t *value) {
  *value = 0;
  for (size_t i = 0; i < length; i++) {
    if (word[i] < '0' || word[i] > '9' || *value > 1000000000000) return false;
    *value = *value * 10 + (word[i] - '0');
  }
  return length > 0;
}

static bool numbers(const uint8_t *at, const uint8_t *end, uint64_t *values, size_t count) {
  const uint8_t *found;
  for (size_t i = 0; i < count; i++) {
    size_t length = word(&at, end, &found);
    if (!parse(found, length, &values[i])) return false;
  }
  return word(&at, end, &found) == 0;
}

static uint8_t said[512];
static size_t said_length;

static void say(const char *words) {
  while (*words && said_length < sizeof said) said[said_length++] = (uint8_t)*words++;
}

static void say_number(uint64_t value) {
  char digits[21];
  size_t at = sizeof digits;
  digits[--at] = 0;
  do digits[--at] = (char)('0' + value % 10);
  while (value /= 10);
  say(&digits[at]);
}

static void say_bytes(const uint8_t *bytes, size_t length) {
  for (size_t i = 0; i < length && said_length < sizeof said; i++) said[said_length++] = bytes[i];
}

/* ---- ping, pong ---- */

static struct answer *ping(uint64_t rounds, uint64_t size) {
  if (size > 262144) return fail("SIZE is more than a message may have");
  child_t child;
  port_t port;
  if (!start(WORKER, "pong", 4, 1, &child, &port)) return fail("the worker cannot be started");
  uint8_t *ball = allocate(size, 8);
  struct sent sent;
  struct received received;
  for (uint64_t round = 0; round < rounds; round++) {
    for (size_t i = 0; i < 8 && i < size; i++) ball[i] = (uint8_t)(round >> (8 * i));
    scratch(MESSAGE);
    if (!port_send(port, ball, size, 0, &sent)) return fail("nobody takes it");
    if (!port_receive(port, &received)) return fail("nothing comes back");
    if (received.message.length != size || !same(received.message.data, ball, size))
      return fail("it came back as something else");
  }
  port_drop(port);
  struct outcome outcome;
  scratch(MESSAGE);
  child_wait(child, &outcome);
  if (outcome.kind != COMPLETED) return fail("the worker did not complete");
  say_number(rounds), say(" round trips of "), say_number(size), say(" bytes; ");
  say_bytes(outcome.bytes, outcome.length);
  return answer(said, said_length);
}

static struct answer *pong(port_t port) {
  struct sent sent;
  struct received received;
  uint64_t count = 0;
  for (;; count++) {
    scratch(MESSAGE);
    if (!port_receive(port, &received)) break;
    if (!port_send(port, received.message.data, received.message.length, 0, &sent))
      return fail("nobody takes it");
  }
  if (received.error != PORT_CLOSED) return fail("nothing can be received");
  say_number(count), say(" answered\n");
  return answer(said, said_length);
}

/* ---- primes: a queue of jobs in a shared region, as in ../talk/src/work_queue.rs ---- */

enum { TAKEN = 0, PUT = 4, DONE = 8, PRIMES = 16, SLOTS_AT = 64, SLOTS = 16 };
#define CLOSED 0x80000000u

static void put(region_t queue, uint32_t job) {
  uint32_t number = load_u32(queue, PUT), taken;
  while (number - (taken = load_u32(queue, TAKEN)) >= SLOTS) wait_u32(queue, TAKEN, taken);
  store_u32(queue, SLOTS_AT + 4 * (number % SLOTS), job);
  store_u32(queue, PUT, number + 1);
  notify_u32(queue, PUT, 1);
}

static bool take(region_t queue, uint32_t *job) {
  for (;;) {
    uint32_t taken = load_u32(queue, TAKEN), number = load_u32(queue, PUT);
    if ((number & ~CLOSED) == taken) {
      if (number & CLOSED) return false;
      wait_u32(queue, PUT, number);
      continue;
    }
    /* Not overwritten if it can be taken: its slot is used again only then. */
    *job = load_u32(queue, SLOTS_AT + 4 * (taken % SLOTS));
    if (compare_exchange_u32(queue, TAKEN, taken, taken + 1)) {
      notify_u32(queue, TAKEN, 1);
      return true;
    }
  }
}

static struct answer *primes(uint64_t workers, uint64_t below, uint64_t block) {
  if (workers < 1 || workers > MOST || below < 1 || below > 10000000 || block < 1 || block > below)
    return fail("WORKERS from 1 to 15, BELOW to 10000000, BLOCK to BELOW");
  struct region_u32 made, other;
  wrun_region_create(4096, SHARED, &made);
  if (made.is_err) return fail("no region");
  region_t queue = made.value;
  child_t children[MOST];
  port_t ports[MOST];
  struct sent sent;
  say("work "), say_number(below), say(" "), say_number(block);
  for (uint64_t i = 0; i < workers; i++) {
    if (!start(WORKER, said, said_length, 1, &children[i], &ports[i]))
      return fail("a worker cannot be started");
    wrun_region_duplicate(queue, &other);
    if (other.is_err) return fail("no more handles");
    if (!port_send(ports[i], NULL, 0, other.value, &sent)) return fail("a worker is gone");
  }
  uint32_t jobs = (uint32_t)((below + block - 1) / block), done;
  for (uint32_t job = 0; job < jobs; job++) put(queue, job);
  or_u32(queue, PUT, CLOSED);
  notify_u32(queue, PUT, UINT32_MAX);
  while ((done = load_u32(queue, DONE)) != jobs) wait_u32(queue, DONE, done);
  uint64_t did = 0;
  for (uint64_t i = 0; i < workers; i++) {
    struct outcome outcome;
    child_wait(children[i], &outcome);
    uint64_t one;
    if (outcome.kind != COMPLETED || outcome.length < 1 ||
        !parse(outcome.bytes, outcome.length - 1, &one))
      return fail("a worker did not complete");
    did += one;
  }
  said_length = 0;
  say_number(load_u64(queue, PRIMES)), say(" primes below "), say_number(below), say(", ");
  say_number(did), say(" jobs, "), say_number(workers), say(" workers\n");
  return answer(said, said_length);
}

static bool is_prime(uint32_t number) {
  if (number < 4) return number > 1;
  for (uint32_t by = 3; by * by <= number; by += 2)
    if (number % by == 0) return false;
  return number % 2;
}

static struct answer *work(port_t port, uint64_t below, uint64_t block) {
  struct received received;
  if (!port_receive(port, &received) || received.message.regions.length != 1)
    return fail("no region came");
  region_t queue = received.message.regions.at[0];
  uint64_t jobs = 0;
  for (uint32_t job; take(queue, &job); jobs++) {
    uint64_t first = job * block, end = below < first + block ? below : first + block, count = 0;
    for (uint64_t number = first; number < end; number++) count += is_prime((uint32_t)number);
    add_u64(queue, PRIMES, count);
    add_u32(queue, DONE, 1);
    notify_u32(queue, DONE, UINT32_MAX);
  }
  say_number(jobs), say("\n");
  return answer(said, said_length);
}

/* ---- sort: parts of an exclusive region, mapped and sorted in place ---- */

/* Least significant byte first, four passes: `other` has as much room. */
static void radix_sort(uint32_t *at, uint32_t *other, size_t count) {
  for (uint32_t shift = 0; shift < 32; shift += 8) {
    size_t starts[257] = {0};
    for (size_t i = 0; i < count; i++) starts[(at[i] >> shift & 255) + 1]++;
    for (size_t i = 1; i < 257; i++) starts[i] += starts[i - 1];
    for (size_t i = 0; i < count; i++) other[starts[at[i] >> shift & 255]++] = at[i];
    uint32_t *swap = at;
    at = other, other = swap;
  }
}

/* A window is whole pages that nothing else lies in. A region's last page may reach
 * beyond its end, as far as the host's own pages do: multiples of 4 KiB. */
static uint8_t *window_of(uint64_t length) { return allocate((length + PAGE - 1) & ~(PAGE - 1), PAGE); }

static bool map(region_t region, uint8_t *window, mapping_t *mapping) {
  struct region_u32 mapped;
  wrun_region_map(region, 0, window, (region_len(region) + 4095) & ~(uint64_t)4095, &mapped);
  *mapping = mapped.value;
  return !mapped.is_err;
}

static struct answer *part(port_t port) {
  struct received received;
  struct sent sent;
  uint8_t *window = NULL;
  uint32_t *other = NULL;
  size_t room = 0;
  for (;;) {
    scratch(MESSAGE);
    if (!port_receive(port, &received)) break;
    if (received.message.regions.length != 1) return fail("only `sort` with one region, please");
    region_t region = received.message.regions.at[0];
    uint64_t length = region_len(region);
    if (length > room) window = window_of(length), other = allocate(length, 4), room = length;
    mapping_t mapping;
    if (!map(region, window, &mapping)) return fail("the part cannot be mapped");
    radix_sort((uint32_t *)window, other, length / 4);
    mapping_drop(mapping);
    if (!port_send(port, NULL, 0, region, &sent)) return fail("nobody takes it back");
  }
  return received.error == PORT_CLOSED ? answer(said, 0) : fail("nothing can be received");
}

/* The number with this index: splitmix64, by Steele, Lea and Flood. */
static uint32_t number_of(uint64_t seed, uint64_t index) {
  uint64_t mixed = seed + (index + 1) * 0x9e3779b97f4a7c15;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return (uint32_t)(mixed >> 32);
}

static uint64_t fold(uint64_t digest, uint64_t word) { return (digest ^ word) * 0x100000001b3; }
#define DIGEST 0xcbf29ce484222325

static struct answer *sort(uint64_t workers, uint64_t count, uint64_t seed) {
  if (workers < 1 || workers > MOST || count < 1 || count > 16 << 20)
    return fail("WORKERS from 1 to 15, NUMBERS from 1 to 16777216");
  uint64_t length = count * 4, pages = (length + PAGE - 1) / PAGE;
  if (workers > pages) workers = pages;
  struct region_u32 made;
  struct region_done done;
  wrun_region_create(length, EXCLUSIVE, &made);
  if (made.is_err) return fail("no region");
  region_t rest = made.value;
  uint8_t *window = window_of(length);
  mapping_t mapping;
  if (!map(rest, window, &mapping)) return fail("the region cannot be mapped");
  uint32_t *all = (uint32_t *)window;
  for (uint64_t i = 0; i < count; i++) all[i] = number_of(seed, i);
  mapping_drop(mapping);

  uint64_t ends[MOST + 1] = {0};
  child_t children[MOST];
  port_t ports[MOST];
  struct sent sent;
  for (uint64_t i = 0; i < workers; i++) {
    ends[i + 1] = (i + 1) * pages / workers * PAGE;
    if (ends[i + 1] > length) ends[i + 1] = length;
    region_t first = rest;
    if (i + 1 < workers) {
      struct region_pair parts;
      wrun_region_split(rest, ends[i + 1] - ends[i], &parts);
      if (parts.is_err) return fail("the region cannot be split");
      region_drop(rest);
      first = parts.parts[0], rest = parts.parts[1];
    }
    if (!start(WORKER, "part", 4, 1, &children[i], &ports[i]))
      return fail("a worker cannot be started");
    if (!port_send(ports[i], "sort", 4, first, &sent)) return fail("a worker is gone");
  }
  region_t whole = 0;
  for (uint64_t i = 0; i < workers; i++) {
    struct received received;
    if (!port_receive(ports[i], &received) || received.message.regions.length != 1)
      return fail("a part does not come back");
    region_t came = received.message.regions.at[0];
    if (i == 0) {
      whole = came;
      continue;
    }
    wrun_region_join(whole, came, &done);
    if (done.is_err) return fail("the parts do not fit");
    region_drop(came);
  }
  if (!map(whole, window, &mapping)) return fail("the region cannot be mapped");

  /* Merged as they are read: nothing needs a second copy of them. */
  say_number(count), say(" numbers");
  uint64_t at[MOST], digest = DIGEST, page = DIGEST, tenth = 0;
  uint32_t before = 0;
  for (uint64_t i = 0; i < workers; i++) at[i] = ends[i] / 4;
  for (uint64_t n = 0; n < count; n++) {
    uint64_t least = MOST;
    for (uint64_t i = 0; i < workers; i++)
      if (at[i] < ends[i + 1] / 4 && (least == MOST || all[at[i]] < all[at[least]])) least = i;
    if (least == MOST) return fail("numbers are missing");
    uint32_t number = all[at[least]++];
    if (number < before) return fail("they are not sorted");
    before = number;
    page = fold(page, number);
    if ((n + 1) % (PAGE / 4) == 0 || n + 1 == count) digest = fold(digest, page), page = DIGEST;
    for (; tenth <= 10 && (count - 1) * tenth / 10 == n; tenth++) say(" "), say_number(number);
  }
  mapping_drop(mapping);
  say(" ");
  for (int shift = 60; shift >= 0; shift -= 4) {
    char digit[2] = {"0123456789abcdef"[digest >> shift & 15], 0};
    say(digit);
  }
  say("\n");
  return answer(said, said_length);
}

/* ---- which of them ---- */

WRUN_EXPORT("run")
struct answer *run(const uint8_t *input, size_t length) {
  const uint8_t *at = input, *end = input + length, *name;
  size_t name_length = word(&at, end, &name);
  uint64_t n[3];
  if (is(name, name_length, "ping") && numbers(at, end, n, 2)) return ping(n[0], n[1]);
  if (is(name, name_length, "primes") && numbers(at, end, n, 3)) return primes(n[0], n[1], n[2]);
  if (is(name, name_length, "sort") && numbers(at, end, n, 3)) return sort(n[0], n[1], n[2]);
  struct parent parent;
  wrun_parent(&parent);
  if (!parent.is_some) return fail("ping, primes or sort; others only as a worker");
  if (is(name, name_length, "pong")) return pong(parent.port);
  if (is(name, name_length, "work") && numbers(at, end, n, 2)) return work(parent.port, n[0], n[1]);
  if (is(name, name_length, "part")) return part(parent.port);
  return fail("pong, work or part");
}
