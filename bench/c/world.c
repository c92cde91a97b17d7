/* Another world for one program, by LD_PRELOAD: its wall clock is off by some seconds, and the names under chaos.test
   are this machine, or don't resolve. CHAOS_WORLD names a file of two doubles, mapped, so that both change while it runs:
   seconds to add, and whether names are gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const double *world(void) {
  static const double *mapped;
  if (!mapped) {
    static const double usual[2];
    const char *path = getenv("CHAOS_WORLD");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, sizeof usual, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    mapped = at == MAP_FAILED ? usual : at;
  }
  return mapped;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, out);
  if (!failed && clock == CLOCK_REALTIME) out->tv_sec += (time_t)world()[0];
  return failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
  if (name && strlen(name) >= 10 && !strcmp(name + strlen(name) - 10, "chaos.test")) {
    if (world()[1] != 0) return EAI_AGAIN;
    name = "127.0.0.1";
  }
  return real(name, service, hints, found);
}
