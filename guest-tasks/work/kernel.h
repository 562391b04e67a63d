/* What the benchmark of peers has done by every side: on wrun, on wasmtime, on extism,
 * in Node and, compiled by the machine's own compiler, on native threads and processes.
 * Only what is around it differs.
 *
 * The first byte of the input says what to do:
 *   e  the input back
 *   m  the Mandelbrot set, a byte a pixel; "mWWWWHHHHLLLL": width, height, limit, four
 *      digits each
 *   s  the SHA-256 of the whole input, 32 bytes
 *   c  which call this is since this instance began, as a digit: shows what a task finds
 *      of the one before it
 * anything else has no output. */
#include <stddef.h>
#include <stdint.h>

static unsigned calls;

/* FIPS 180-4, 4.2.2: the cube roots of the first 64 primes. */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void block(uint32_t state[8], const uint8_t *bytes) {
  uint32_t w[64];
  for (int i = 0; i < 16; i++)
    w[i] = (uint32_t)bytes[4 * i] << 24 | (uint32_t)bytes[4 * i + 1] << 16 |
           (uint32_t)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
           (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
  }
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (int i = 0; i < 64; i++) {
    uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
    uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void sha256(const uint8_t *input, size_t length, uint8_t digest[32]) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  size_t at = 0;
  for (; length - at >= 64; at += 64) block(state, input + at);
  uint8_t last[128] = {0};
  size_t held = length - at, end = held < 56 ? 64 : 128;
  for (size_t i = 0; i < held; i++) last[i] = input[at + i];
  last[held] = 0x80;
  for (int i = 0; i < 8; i++) last[end - 1 - i] = (uint8_t)((uint64_t)length * 8 >> 8 * i);
  for (at = 0; at < end; at += 64) block(state, last + at);
  for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
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

/* Four digits; anything that is no digit counts as what its code says, so the result is
 * cut to what the pictures may be. */
static uint32_t four(const uint8_t *at) {
  uint32_t value = (at[0] - '0') * 1000u + (at[1] - '0') * 100u + (at[2] - '0') * 10u + (at[3] - '0');
  return value < 2 ? 2 : value > 2048 ? 2048 : value;
}

/* How many bytes of output there will be; `work` needs so many. */
static size_t work_size(const uint8_t *input, size_t length) {
  switch (length ? input[0] : 0) {
  case 'e': return length;
  case 'm': return length < 13 ? 0 : (size_t)four(input + 1) * four(input + 5);
  case 's': return 32;
  case 'c': return 1;
  default: return 0;
  }
}

static void work(const uint8_t *input, size_t length, uint8_t *output) {
  /* native threads share it */
  unsigned call = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
  size_t size = work_size(input, length);
  switch (size ? input[0] : 0) {
  case 'e':
    for (size_t i = 0; i < length; i++) output[i] = input[i];
    break;
  case 'm': {
    uint32_t width = four(input + 1), height = four(input + 5), limit = four(input + 9);
    for (uint32_t row = 0; row < height; row++)
      for (uint32_t column = 0; column < width; column++)
        *output++ = shade(-2.0 + 3.0 * column / (width - 1), -1.5 + 3.0 * row / (height - 1), limit);
    break;
  }
  case 's': sha256(input, length, output); break;
  case 'c': output[0] = (uint8_t)('0' + call % 10); break;
  }
}
