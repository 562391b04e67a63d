// Two of the workers of ../talk/, with the calls that copy: messages, and `region.read`.
// Nothing is mapped, which needs no pointers that are aligned to pages: so it goes in
// languages that have none as well.
//
//   pong   sends back what comes
//   map    counts words of a range of a text, which comes as a frozen region

@external("wrun:task/ports@0.1.0", "parent")
declare function ports_parent(answer: usize): void;
@external("wrun:task/ports@0.1.0", "[method]port.receive")
declare function port_receive(port: u32, answer: usize): void;
@external("wrun:task/ports@0.1.0", "[method]port.send")
declare function port_send(
  port: u32, data: usize, length: usize,
  regions: usize, regionsLength: usize, ports: usize, portsLength: usize,
  answer: usize): void;
@external("wrun:task/regions@0.1.0", "[method]region.len")
declare function region_len(region: u32): u64;
@external("wrun:task/regions@0.1.0", "[method]region.read")
declare function region_read(region: u32, offset: u64, length: u64, answer: usize): void;

// ---- memory: a bump allocator, and one block that the host's lists lie in ----

let free: usize = __heap_base;

function allocate(size: usize, align: usize): usize {
  const at = (free + align - 1) & ~(align - 1);
  free = at + size;
  const missing = <isize>free - (<isize>memory.size() << 16);
  if (missing > 0 && memory.grow(<i32>((missing + 0xffff) >> 16)) < 0) unreachable();
  return at;
}

const MESSAGE: usize = (256 << 10) + 64;
let scratch: usize = 0;
let used: usize = 0;

export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  if (scratch != 0) {
    const at = (scratch + used + align - 1) & ~(align - 1);
    if (at + size <= scratch + MESSAGE) {
      used = at + size - scratch;
      return at;
    }
  }
  return allocate(size, align);
}

// Where the host puts its answers: aligned, and larger than any of them.
const ANSWER: usize = memory.data(64, 8);
const RESULT: usize = memory.data(16, 4);

// ---- output ----

let out: usize = 0;
let outEnd: usize = 0;
let outRoom: usize = 0;

function say(at: usize, length: usize): void {
  if (outEnd + length > out + outRoom) {
    const room = (outRoom + length) * 2 + 4096;
    const to = allocate(room, 1);
    memory.copy(to, out, outEnd - out);
    outEnd = to + (outEnd - out);
    out = to;
    outRoom = room;
  }
  memory.copy(outEnd, at, length);
  outEnd += length;
}

const DIGITS: usize = memory.data(24);

function sayNumber(value: u64): void {
  let at = DIGITS + 24;
  do {
    at--;
    store<u8>(at, <u8>(48 + (value % 10)));
    value /= 10;
  } while (value != 0);
  say(at, DIGITS + 24 - at);
}

function sayByte(byte: u8): void {
  store<u8>(DIGITS, byte);
  say(DIGITS, 1);
}

// Where `result<list<u8>, string>` lies: 0 for ok or 1, a pointer, a length.
function result(isErr: u8): usize {
  store<u8>(RESULT, isErr);
  store<u32>(RESULT, <u32>out, 4);
  store<u32>(RESULT, <u32>(outEnd - out), 8);
  return RESULT;
}

function fail(words: usize, length: usize): usize {
  outEnd = out;
  say(words, length);
  return result(1);
}

// ---- pong ----

const ANSWERED: usize = memory.data<u8>([32, 97, 110, 115, 119, 101, 114, 101, 100, 10]); // " answered\n"
const GONE: usize = memory.data<u8>([110, 111, 98, 111, 100, 121, 32, 116, 104, 101, 114, 101]); // "nobody there"

function pong(port: u32): usize {
  let count: u64 = 0;
  scratch = allocate(MESSAGE, 8);
  for (;;) {
    used = 0;
    port_receive(port, ANSWER);
    if (load<u8>(ANSWER) != 0) {
      if (load<u8>(ANSWER, 4) != 0) return fail(GONE, 12); // not merely `closed`
      break;
    }
    port_send(port, load<u32>(ANSWER, 4), load<u32>(ANSWER, 8), 0, 0, 0, 0, ANSWER);
    if (load<u8>(ANSWER) != 0) return fail(GONE, 12);
    count++;
  }
  sayNumber(count);
  say(ANSWERED, 10);
  return result(0);
}

// ---- map ----

const NO_TEXT: usize = memory.data<u8>([110, 111, 32, 116, 101, 120, 116]); // "no text"
const TOO_MANY: usize = memory.data<u8>([116, 111, 111, 32, 109, 97, 110, 121]); // "too many"

// Words by their hash: where it is, its length, its count; open addressing.
const SLOTS: usize = 1 << 16;
const MOST: usize = SLOTS / 4 * 3;
const SLOT: usize = 16;

function isLetter(byte: u8): bool {
  return (byte >= 48 && byte <= 57) || (byte >= 65 && byte <= 90) || (byte >= 97 && byte <= 122) || byte >= 0x80;
}

// A copy of the text from `start` on, with the whole of the last word that begins
// before `end`. Its length; `copied` is where it lies; 0 where there is none.
let copied: usize = 0;

function read(region: u32, start: u64, end: u64): usize {
  const length = region_len(region);
  if (start >= end || end > length) return 0;
  let more: u64 = 64;
  while (true) {
    const until = min(end + more, length);
    region_read(region, start, until - start, ANSWER);
    if (load<u8>(ANSWER) != 0) return 0;
    copied = load<u32>(ANSWER, 4);
    const got: usize = load<u32>(ANSWER, 8);
    if (until == length || !isLetter(load<u8>(copied + got - 1))) return got;
    more *= 8;
  }
}

function map(port: u32): usize {
  port_receive(port, ANSWER);
  if (load<u8>(ANSWER) != 0 || load<u32>(ANSWER, 8) != 16 || load<u32>(ANSWER, 16) != 1) return fail(NO_TEXT, 7);
  const data: usize = load<u32>(ANSWER, 4);
  const start = load<u64>(data);
  const end = load<u64>(data, 8);
  const region = load<u32>(load<u32>(ANSWER, 12));
  // With the byte before, which tells whether the first word is another task's.
  const first = start > 0 ? start - 1 : 0;
  const length = read(region, first, end);
  if (length == 0) return start == end ? result(0) : fail(NO_TEXT, 7);

  const table = allocate(SLOTS * SLOT, 8);
  let different: usize = 0;
  const stop = copied + length;
  const last = copied + <usize>(end - first);
  let at = copied;
  if (start > 0) {
    while (at < stop && isLetter(load<u8>(at))) at++;
    // No letter before the range: the word that begins with it is this task's.
    if (at == copied) at++;
  }
  while (at < last) {
    if (!isLetter(load<u8>(at))) {
      at++;
      continue;
    }
    const word = at;
    let hash: u32 = 0x811c9dc5;
    for (; at < stop && isLetter(load<u8>(at)); at++) hash = (hash ^ load<u8>(at)) * 0x01000193;
    const size: u32 = <u32>(at - word);
    for (let slot: usize = hash; ; slot++) {
      const entry = table + (slot & (SLOTS - 1)) * SLOT;
      const known: usize = load<u32>(entry);
      if (known == 0) {
        if (++different > MOST) return fail(TOO_MANY, 8);
        store<u32>(entry, <u32>word);
        store<u32>(entry, size, 4);
        store<u64>(entry, 1, 8);
        break;
      }
      if (load<u32>(entry, 4) == size && memory.compare(known, word, size) == 0) {
        store<u64>(entry, load<u64>(entry, 8) + 1, 8);
        break;
      }
    }
  }
  for (let slot: usize = 0; slot < SLOTS; slot++) {
    const entry = table + slot * SLOT;
    const word: usize = load<u32>(entry);
    if (word == 0) continue;
    sayNumber(load<u64>(entry, 8));
    sayByte(32);
    say(word, load<u32>(entry, 4));
    sayByte(10);
  }
  return result(0);
}

// "pong" or "map"
const USAGE: usize = memory.data<u8>([112, 111, 110, 103, 32, 111, 114, 32, 109, 97, 112]);

export function run(input: usize, length: usize): usize {
  ports_parent(ANSWER);
  if (load<u8>(ANSWER) == 0) return fail(GONE, 12);
  const port = load<u32>(ANSWER, 4);
  if (length == 4 && memory.compare(input, USAGE, 4) == 0) return pong(port);
  if (length == 3 && memory.compare(input, USAGE + 8, 3) == 0) return map(port);
  return fail(USAGE, 11);
}
