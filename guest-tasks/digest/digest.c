/* SHA-256 like sha256sum: of stdin, or of each file named (grant its directory
 * with --dir). Exits 1 when a file cannot be read, and goes on with the next. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static void block(uint32_t state[8], const uint8_t bytes[64]) {
  uint32_t w[64], s[8];
  for (int i = 0; i < 16; i++)
    w[i] = (uint32_t)bytes[4 * i] << 24 | (uint32_t)bytes[4 * i + 1] << 16 |
           (uint32_t)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
           (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
  }
  memcpy(s, state, sizeof s);
  for (int i = 0; i < 64; i++) {
    uint32_t choose = (s[4] & s[5]) ^ (~s[4] & s[6]);
    uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
    uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + choose + K[i] + w[i];
    uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + majority;
    memmove(s + 1, s, 7 * sizeof s[0]);
    s[4] += t1;
    s[0] = t1 + t2;
  }
  for (int i = 0; i < 8; i++) state[i] += s[i];
}

/* Reads to the end; returns 0, or -1 with errno. */
static int digest(int fd, uint32_t state[8]) {
  static const uint32_t START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  static uint8_t buffer[64 * 1024 + 128]; /* room for the padding */
  uint64_t total = 0;
  size_t held = 0;
  memcpy(state, START, sizeof START);
  for (;;) {
    ssize_t got = read(fd, buffer + held, 64 * 1024 - held);
    if (got < 0) return -1;
    total += (uint64_t)got;
    held += (size_t)got;
    if (got == 0) break;
    size_t whole = held & ~(size_t)63;
    for (size_t at = 0; at < whole; at += 64) block(state, buffer + at);
    memmove(buffer, buffer + whole, held -= whole);
  }
  buffer[held++] = 0x80;
  while (held % 64 != 56) buffer[held++] = 0;
  for (int shift = 56; shift >= 0; shift -= 8) buffer[held++] = (uint8_t)(total * 8 >> shift);
  for (size_t at = 0; at < held; at += 64) block(state, buffer + at);
  return 0;
}

static int print_digest(int fd, const char *name) {
  uint32_t state[8];
  if (digest(fd, state) != 0) return -1;
  for (int i = 0; i < 8; i++) printf("%08x", state[i]);
  printf("  %s\n", name);
  return 0;
}

int main(int argc, char **argv) {
  int status = 0;
  if (argc < 2 && print_digest(0, "-") != 0) {
    fprintf(stderr, "digest: -: %s\n", strerror(errno));
    status = 1;
  }
  for (int i = 1; i < argc; i++) {
    int fd = open(argv[i], O_RDONLY);
    if (fd < 0 || print_digest(fd, argv[i]) != 0) {
      fprintf(stderr, "digest: %s: %s\n", argv[i], strerror(errno));
      status = 1;
    }
    if (fd >= 0) close(fd);
  }
  return fflush(stdout) == 0 ? status : 1;
}
