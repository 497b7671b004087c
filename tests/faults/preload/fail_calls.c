/*
 * Fail, or kill the process, at the k-th system call that changes something under $FAULT_DIR (for LD_PRELOAD).
 *
 *   FAULT_DIR      an absolute path; only calls on paths inside it count
 *   FAULT_AT       number of the failing call, from 0; without it no call fails
 *   FAULT_ERRNO    the error; 0 kills the process before the call instead
 *   FAULT_FOR_GOOD 1: all later calls fail too
 *   FAULT_LOG      a file outside FAULT_DIR that receives one line for each call, with its name and path
 *   CLOCK_BACK_AT  number of the reading of the wall clock from which on the clock is ten years behind
 *
 * Writes of C's buffered streams are not seen, because they call the kernel from inside the library. Writes of Python,
 * Rust and C++ through plain descriptors are seen. The variables are read at each call, so a process may set them
 * before it forks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define TEN_YEARS (10L * 365 * 24 * 3600)

static long count, clock_readings;

static long number_of(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* Make `path`, relative to `folder`, absolute; with a NULL path return the path of the descriptor `folder`. */
static void absolute(int folder, const char *path, char *out) {
    char link[64], base[PATH_MAX] = "";
    if (path != NULL && path[0] == '/') {
        snprintf(out, 2 * PATH_MAX, "%s", path);
        return;
    }
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    snprintf(out, 2 * PATH_MAX, path == NULL ? "%s" : "%s/%s", base, path);
}

/* Return whether the call must fail, and set errno in that case. */
static int fails(const char *call, int folder, const char *path) {
    const char *root = getenv("FAULT_DIR"), *log = getenv("FAULT_LOG");
    char where[2 * PATH_MAX], line[2 * PATH_MAX + 64];
    int before = errno;
    absolute(folder, path, where);
    errno = before;
    size_t length = root ? strlen(root) : 0;
    if (root == NULL || strncmp(where, root, length) != 0 || (where[length] != '/' && where[length] != 0)) return 0;
    long number = count++, at = number_of("FAULT_AT", -1), error = number_of("FAULT_ERRNO", ENOSPC);
    if (log != NULL) {
        int size = snprintf(line, sizeof line, "%s %s\n", call, where);
        int descriptor = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        syscall(SYS_write, descriptor, line, size);
        syscall(SYS_close, descriptor);
    }
    if (at < 0 || number < at || (number > at && !number_of("FAULT_FOR_GOOD", 0))) return 0;
    if (error == 0) raise(SIGKILL);
    errno = (int)error;
    return 1;
}

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC)) != 0; }

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                        \
        va_end(rest);                                                                    \
        return changes(flags) && fails("open", AT_FDCWD, path) ? -1 : NEXT(name)(path, flags, mode); \
    }
#define OPENAT(name)                                                                     \
    int name(int folder, const char *path, int flags, ...) {                             \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                        \
        va_end(rest);                                                                    \
        return changes(flags) && fails("open", folder, path) ? -1 : NEXT(name)(folder, path, flags, mode); \
    }
#define CALL(result, name, parameters, arguments, call, folder, path)                    \
    result name parameters { return fails(call, folder, path) ? -1 : NEXT(name) arguments; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), "write", fd, NULL)
CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), "write", fd, NULL)
CALL(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), "write", fd, NULL)
CALL(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), "write", fd, NULL)
CALL(int, fsync, (int fd), (fd), "fsync", fd, NULL)
CALL(int, fdatasync, (int fd), (fd), "fsync", fd, NULL)
CALL(int, ftruncate, (int fd, off_t size), (fd, size), "truncate", fd, NULL)
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), "truncate", fd, NULL)
CALL(int, truncate, (const char *path, off_t size), (path, size), "truncate", AT_FDCWD, path)
CALL(int, rename, (const char *from, const char *to), (from, to), "rename", AT_FDCWD, from)
CALL(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), "rename", a, from)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), "mkdir", AT_FDCWD, path)
CALL(int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), "mkdir", folder, path)
CALL(int, unlink, (const char *path), (path), "remove", AT_FDCWD, path)
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), "remove", folder, path)
CALL(int, rmdir, (const char *path), (path), "remove", AT_FDCWD, path)
CALL(int, link, (const char *from, const char *to), (from, to), "link", AT_FDCWD, to)
CALL(int, symlink, (const char *from, const char *to), (from, to), "link", AT_FDCWD, to)

static long slow_by(void) {
    long from = number_of("CLOCK_BACK_AT", -1);
    return from >= 0 && clock_readings++ >= from ? TEN_YEARS : 0;
}

int clock_gettime(clockid_t id, struct timespec *out) {
    int result = NEXT(clock_gettime)(id, out);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) out->tv_sec -= slow_by();
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) { /* out is never NULL */
    int result = NEXT(gettimeofday)(out, zone);
    if (result == 0) out->tv_sec -= slow_by();
    return result;
}

time_t time(time_t *out) {
    time_t now = NEXT(time)(NULL) - slow_by();
    if (out != NULL) *out = now;
    return now;
}
