/* Tries the file system that it was granted.
 *
 *   files read PATH         prints the file
 *   files write PATH TEXT   creates or replaces it
 *   files append PATH TEXT  adds to it
 *   files copy FROM TO      reads one, writes another
 *   files list DIR          names, sorted, one a line
 *   files mkdir PATH · files remove PATH · files link TARGET PATH (symbolic)
 *
 * Exit codes: 0 done, 10 read failed, 11 write failed, 12 list failed, 13 any
 * other call failed, 2 usage. The errno's name goes to stderr. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *errno_name(int number) {
  switch (number) {
    case EACCES: return "EACCES";
    case EBADF: return "EBADF";
    case EEXIST: return "EEXIST";
    case EINVAL: return "EINVAL";
    case EISDIR: return "EISDIR";
    case ELOOP: return "ELOOP";
    case ENOENT: return "ENOENT";
    case ENOSPC: return "ENOSPC";
    case ENOTCAPABLE: return "ENOTCAPABLE";
    case ENOTDIR: return "ENOTDIR";
    case ENOTEMPTY: return "ENOTEMPTY";
    case ENOTSUP: return "ENOTSUP";
    case EPERM: return "EPERM";
    case EROFS: return "EROFS";
    default: return strerror(number);
  }
}

static int failed(int code, const char *what, const char *path) {
  fprintf(stderr, "files: %s %s: %s\n", what, path, errno_name(errno));
  return code;
}

/* Copies everything; -1 reading failed, -2 writing failed. */
static int pump(int from, int to) {
  char buffer[4096];
  ssize_t got;
  while ((got = read(from, buffer, sizeof buffer)) > 0)
    for (ssize_t done = 0, put; done < got; done += put)
      if ((put = write(to, buffer + done, (size_t)(got - done))) < 0) return -2;
  return got < 0 ? -1 : 0;
}

static int copy(const char *from, const char *to) {
  int in = open(from, O_RDONLY);
  if (in < 0) return failed(10, "read", from);
  int out = strcmp(to, "-") == 0 ? 1 : open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (out < 0) return failed(11, "write", to);
  switch (pump(in, out)) {
    case -1: return failed(10, "read", from);
    case -2: return failed(11, "write", to);
  }
  return 0;
}

static int put(const char *path, const char *text, int flag) {
  int out = open(path, O_WRONLY | O_CREAT | flag, 0644);
  if (out < 0 || write(out, text, strlen(text)) < 0) return failed(11, "write", path);
  return close(out) == 0 ? 0 : failed(11, "write", path);
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list(const char *path) {
  DIR *dir = opendir(path);
  if (!dir) return failed(12, "list", path);
  char **names = NULL;
  size_t count = 0;
  for (struct dirent *entry; (entry = readdir(dir));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    names = realloc(names, (count + 1) * sizeof *names);
    if (!names || !(names[count++] = strdup(entry->d_name))) return failed(12, "list", path);
  }
  /* sorted: the order of a directory is the host's business */
  if (count) qsort(names, count, sizeof *names, by_name);
  for (size_t i = 0; i < count; i++) puts(names[i]);
  return 0;
}

int main(int argc, char **argv) {
  const char *what = argc > 2 ? argv[1] : "";
  if (argc == 3 && strcmp(what, "read") == 0) return copy(argv[2], "-");
  if (argc == 3 && strcmp(what, "list") == 0) return list(argv[2]);
  if (argc == 3 && strcmp(what, "mkdir") == 0)
    return mkdir(argv[2], 0755) == 0 ? 0 : failed(13, what, argv[2]);
  if (argc == 3 && strcmp(what, "remove") == 0)
    return unlink(argv[2]) == 0 ? 0 : failed(13, what, argv[2]);
  if (argc == 4 && strcmp(what, "write") == 0) return put(argv[2], argv[3], O_TRUNC);
  if (argc == 4 && strcmp(what, "append") == 0) return put(argv[2], argv[3], O_APPEND);
  if (argc == 4 && strcmp(what, "copy") == 0) return copy(argv[2], argv[3]);
  if (argc == 4 && strcmp(what, "link") == 0)
    return symlink(argv[2], argv[3]) == 0 ? 0 : failed(13, what, argv[3]);
  fprintf(stderr, "usage: files read|list|mkdir|remove PATH, or write|append PATH TEXT, or copy FROM TO, or link TARGET PATH\n");
  return 2;
}
