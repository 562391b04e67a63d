/* Copies stdin to stdout, 64 KiB at a time: how fast bytes stream through. */
#include <unistd.h>

static char buffer[64 * 1024];

int main(void) {
  for (;;) {
    ssize_t got = read(0, buffer, sizeof buffer);
    if (got <= 0) return got == 0 ? 0 : 1;
    /* write may take less than it is given */
    for (ssize_t done = 0; done < got;) {
      ssize_t put = write(1, buffer + done, (size_t)(got - done));
      if (put < 0) return 2;
      done += put;
    }
  }
}
