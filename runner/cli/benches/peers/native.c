/* The work without any sandbox, under the protocol of protocol.rs: each task on a thread
 * of its own, or in a process of its own that says its output through a pipe.
 *
 *   native thread|fork FOLDER */
#include "../../../../guest-tasks/work/kernel.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 64

struct bytes {
  uint8_t *at;
  size_t length;
};

static const char *NAMES[] = {"small", "compute", "large", "count"};
static struct bytes inputs[4], expected[4];
static int forks;

static void fail(const char *what) {
  printf("error: %s\n", what);
  fflush(stdout);
  _exit(1);
}

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* A task that was started. */
struct task {
  const struct bytes *input;
  struct bytes output;
  pthread_t thread;
  pid_t child;
  int pipe;
};

static void *on_thread(void *given) {
  struct task *task = given;
  task->output.length = work_size(task->input->at, task->input->length);
  if (!(task->output.at = malloc(task->output.length + 1))) fail("no memory");
  work(task->input->at, task->input->length, task->output.at);
  return NULL;
}

static void start(struct task *task, const struct bytes *input) {
  memset(task, 0, sizeof *task);
  task->input = input;
  if (!forks) {
    if (pthread_create(&task->thread, NULL, on_thread, task)) fail("no thread");
    return;
  }
  int ends[2];
  if (pipe(ends)) fail("no pipe");
  task->child = fork();
  if (task->child < 0) fail("no process");
  if (task->child == 0) {
    on_thread(task);
    for (size_t at = 0; at < task->output.length;) {
      ssize_t put = write(ends[1], task->output.at + at, task->output.length - at);
      if (put <= 0) _exit(1);
      at += (size_t)put;
    }
    _exit(0);
  }
  close(ends[1]);
  task->pipe = ends[0];
}

static void finish(struct task *task) {
  if (!forks) {
    pthread_join(task->thread, NULL);
    return;
  }
  size_t room = 64;
  task->output.at = malloc(room);
  for (;;) {
    ssize_t got = read(task->pipe, task->output.at + task->output.length, room - task->output.length);
    if (got < 0) fail("a pipe broke");
    if (got == 0) break;
    task->output.length += (size_t)got;
    if (task->output.length == room) task->output.at = realloc(task->output.at, room *= 2);
    if (!task->output.at) fail("no memory");
  }
  close(task->pipe);
  int status;
  if (waitpid(task->child, &status, 0) != task->child || status) fail("a child failed");
}

static void check(struct task *task, int which) {
  if (task->output.length != expected[which].length ||
      memcmp(task->output.at, expected[which].at, task->output.length))
    fail("another output");
  free(task->output.at);
}

static void first(int which) {
  struct task task;
  start(&task, &inputs[which]);
  finish(&task);
  for (size_t at = 0; at < task.output.length; at++) printf("%02x", task.output.at[at]);
  printf("\n");
  free(expected[which].at);
  expected[which] = task.output;
}

static void latency(int which, long long milliseconds) {
  long long began = now(), before, after;
  do {
    struct task task;
    before = now();
    start(&task, &inputs[which]);
    finish(&task);
    after = now();
    check(&task, which);
    printf("%lld ", after - before);
  } while (after - began < milliseconds * 1000000);
  printf("\n");
}

static void throughput(int which, long long milliseconds, int in_flight) {
  static struct task tasks[MOST];
  long long began = now(), started = 0, finished = 0;
  for (;;) {
    int more = now() - began < milliseconds * 1000000;
    if (more && started - finished < in_flight)
      start(&tasks[started++ % MOST], &inputs[which]);
    else if (finished < started) {
      struct task *task = &tasks[finished++ % MOST];
      finish(task);
      check(task, which);
    } else
      break;
  }
  printf("%lld %lld\n", finished, now() - began);
}

static void *wait_on_thread(void *nothing) {
  for (;;) pause();
  return nothing;
}

static void hold(int count) {
  pid_t own = getpid();
  for (int i = 0; i < count; i++) {
    pthread_t thread;
    if (!forks) {
      if (pthread_create(&thread, NULL, wait_on_thread, NULL)) fail("no thread");
    } else {
      pid_t child = fork();
      if (child < 0) fail("no process");
      if (child == 0) {
        /* It ends with its parent, also one that ended before it could say so. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != own) _exit(0);
        wait_on_thread(NULL);
      }
    }
  }
  printf("held\n");
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  forks = !strcmp(argv[1], "fork");
  for (int i = 0; i < 4; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", argv[2], NAMES[i]);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("an input is missing");
    inputs[i].length = (size_t)ftell(file);
    rewind(file);
    if (!(inputs[i].at = malloc(inputs[i].length + 1))) fail("no memory");
    if (fread(inputs[i].at, 1, inputs[i].length, file) != inputs[i].length) fail("an input is short");
    fclose(file);
  }
  char line[256], order[16], name[16];
  while (fgets(line, sizeof line, stdin)) {
    long long milliseconds = 0;
    int in_flight = 0, which = 0;
    if (sscanf(line, "%15s %15s %lld %d", order, name, &milliseconds, &in_flight) < 2) fail("what?");
    while (which < 3 && strcmp(name, NAMES[which])) which++;
    if (in_flight > MOST) fail("too many at once");
    if (!strcmp(order, "first")) first(which);
    else if (!strcmp(order, "latency")) latency(which, milliseconds);
    else if (!strcmp(order, "throughput")) throughput(which, milliseconds, in_flight);
    else if (!strcmp(order, "hold")) hold(atoi(name));
    else fail("no such order");
    fflush(stdout);
  }
  return 0;
}
