/* Library for LD_PRELOAD: the n-th call about the files of one folder fails, and the calls that change files are recorded.

   A program arms it with `faults_arm`; `faults_count` says how many calls were eligible. Only glibc on Linux. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind { NONE, EIO_, ENOSPC_, SHORT_, EINTR_, HANG_ };
enum call { OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, CHANGE = 16, STAT = 32, CLOSE = 64 };

#define DESCRIPTORS 4096
static char root[PATH_MAX];
static size_t root_length;
static char *names[DESCRIPTORS];          /* paths of open descriptors below the root */
static char writable[DESCRIPTORS];
static volatile int armed, hanging;
static long countdown, counted, failed;
static int record = -1;                   /* descriptor of the record, outside of the root */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

void faults_root(const char *path) { snprintf(root, sizeof root, "%s", path); root_length = strlen(root); }
void faults_arm(int kind, long n) { countdown = n; counted = failed = 0; hanging = 1; armed = kind; }
long faults_disarm(void) { armed = NONE; hanging = 0; return counted; }
long faults_failed(void) { return failed; }
void faults_release(void) { hanging = 0; }
void faults_record(int descriptor) { record = descriptor; }

static int below(const char *path) {
    return root_length && path && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static const char *resolve(int folder, const char *path, char *buffer) {
    if (!path) return NULL;
    if (path[0] == '/') return path;
    if (folder >= 0 && folder < DESCRIPTORS && names[folder]) {
        snprintf(buffer, PATH_MAX, "%s/%s", names[folder], path);
        return buffer;
    }
    return NULL;
}

/* Return whether this call fails now, and set errno. `*size` becomes the size of a short read or write. */
static int fails(enum call call, size_t *size) {
    int kind = armed;
    if (kind == NONE) return 0;
    int eligible = kind == EIO_ ? call
        : kind == ENOSPC_ ? call & (WRITE | SYNC | CHANGE)
        : kind == SHORT_ ? (call & (READ | WRITE)) && size && *size > 1
        : kind == EINTR_ ? call & (OPEN | READ | WRITE | SYNC)
        : call & OPEN;
    if (!eligible) return 0;
    pthread_mutex_lock(&lock);
    counted++;
    int now = --countdown == 0;
    pthread_mutex_unlock(&lock);
    if (!now) return 0;
    failed++;
    switch (kind) {
    case SHORT_: *size = *size / 2; return 0;
    case HANG_: while (hanging) usleep(2000); return 0;
    case EIO_: errno = EIO; return 1;
    case ENOSPC_: errno = ENOSPC; return 1;
    default: errno = EINTR; return 1;
    }
}

static void put(const void *data, size_t size) {
    while (size) {
        ssize_t done = syscall(SYS_write, record, data, size);
        if (done <= 0) abort();
        data = (const char *)data + done;
        size -= done;
    }
}

/* Record a call: a letter, two strings and a number, each with its length. */
static void note(char what, const char *first, const void *second, size_t size, int64_t number) {
    if (record < 0) return;
    int before = errno;
    uint32_t lengths[2] = {first ? strlen(first) : 0, size};
    pthread_mutex_lock(&lock);
    put(&what, 1); put(lengths, sizeof lengths); put(&number, sizeof number);
    put(first, lengths[0]); put(second, size);
    pthread_mutex_unlock(&lock);
    errno = before;
}

static int tracked(int descriptor) { return descriptor >= 0 && descriptor < DESCRIPTORS && names[descriptor]; }

static void track(int descriptor, const char *path, int flags) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS) return;
    free(names[descriptor]);
    names[descriptor] = strdup(path);
    writable[descriptor] = (flags & O_ACCMODE) != O_RDONLY;
}

static int open_any(int folder, const char *path, int flags, mode_t mode, int (*real)(int, const char *, int, mode_t)) {
    char buffer[PATH_MAX];
    const char *whole = resolve(folder, path, buffer);
    if (!below(whole)) return real(folder, path, flags, mode);
    enum call call = OPEN | (flags & O_CREAT ? CHANGE : 0);
    if (fails(call, NULL)) return -1;
    int there = record >= 0 && (flags & O_CREAT) ? !faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW) : 1;
    int descriptor = real(folder, path, flags, mode);
    if (descriptor >= 0) {
        track(descriptor, whole, flags);
        if (!there) note('c', whole, NULL, 0, 0);
        else if (flags & O_TRUNC) note('t', whole, NULL, 0, 0);
    }
    return descriptor;
}

static int by_syscall(int folder, const char *path, int flags, mode_t mode) {
    long result = syscall(SYS_openat, folder, path, flags, mode);
    return (int)result;
}

#define MODE(flags) mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode, by_syscall); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode, by_syscall); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_any(folder, path, flags, mode, by_syscall); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_any(folder, path, flags, mode, by_syscall); }

int close(int descriptor) {
    REAL(close);
    int mine = tracked(descriptor) && writable[descriptor];
    if (tracked(descriptor)) { free(names[descriptor]); names[descriptor] = NULL; }
    int bad = mine && fails(CLOSE, NULL), reason = errno;
    int result = real(descriptor);
    if (bad) { errno = reason; return -1; }
    return result;
}

ssize_t read(int descriptor, void *data, size_t size) {
    REAL(read);
    if (tracked(descriptor) && fails(READ, &size)) return -1;
    return real(descriptor, data, size);
}
ssize_t pread64(int descriptor, void *data, size_t size, off64_t at) {
    REAL(pread64);
    if (tracked(descriptor) && fails(READ, &size)) return -1;
    return real(descriptor, data, size, at);
}
ssize_t pread(int descriptor, void *data, size_t size, off_t at) { return pread64(descriptor, data, size, at); }

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    if (!tracked(descriptor)) return real(descriptor, data, size);
    if (fails(WRITE, &size)) return -1;
    off_t at = lseek(descriptor, 0, fcntl(descriptor, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = real(descriptor, data, size);
    if (done > 0) note('w', names[descriptor], data, done, at);
    return done;
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!tracked(descriptor)) return real(descriptor, data, size, at);
    if (fails(WRITE, &size)) return -1;
    ssize_t done = real(descriptor, data, size, at);
    if (done > 0) note('w', names[descriptor], data, done, at);
    return done;
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) { return pwrite64(descriptor, data, size, at); }

int ftruncate64(int descriptor, off64_t size) {
    REAL(ftruncate64);
    if (!tracked(descriptor)) return real(descriptor, size);
    if (fails(CHANGE, NULL)) return -1;
    int result = real(descriptor, size);
    if (!result) note('t', names[descriptor], NULL, 0, size);
    return result;
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }

static int sync_any(int descriptor, int (*real)(int)) {
    if (!tracked(descriptor)) return real(descriptor);
    if (fails(SYNC, NULL)) return -1;
    int result = real(descriptor);
    if (!result) note('s', names[descriptor], NULL, 0, 0);
    return result;
}
int fsync(int descriptor) { REAL(fsync); return sync_any(descriptor, real); }
int fdatasync(int descriptor) { REAL(fdatasync); return sync_any(descriptor, real); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char first[PATH_MAX], second[PATH_MAX];
    const char *source = resolve(from_folder, from, first), *target = resolve(to_folder, to, second);
    int mine = below(source) || below(target);
    if (mine && fails(CHANGE, NULL)) return -1;
    int result = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (mine && !result) note(flags ? 'x' : 'r', source, target, strlen(target), 0);
    return result;
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) { return renameat2(from_folder, from, to_folder, to, 0); }

int unlinkat(int folder, const char *path, int flags) {
    char buffer[PATH_MAX];
    const char *whole = resolve(folder, path, buffer);
    if (below(whole) && fails(CHANGE, NULL)) return -1;
    int result = syscall(SYS_unlinkat, folder, path, flags);
    if (below(whole) && !result) note('u', whole, NULL, 0, flags);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char buffer[PATH_MAX];
    const char *whole = resolve(folder, path, buffer);
    if (below(whole) && fails(CHANGE, NULL)) return -1;
    int result = syscall(SYS_mkdirat, folder, path, mode);
    if (below(whole) && !result) note('m', whole, NULL, 0, 0);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

#define STATUS(name, argument, is_mine) \
    int name(argument, struct stat64 *status) { REAL(name); if ((is_mine) && fails(STAT, NULL)) return -1; return real(subject, status); }
STATUS(stat64, const char *subject, below(subject))
STATUS(lstat64, const char *subject, below(subject))
STATUS(fstat64, int subject, tracked(subject))

int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    if (below(path) && fails(CHANGE, NULL)) return -1;
    return real(path, mode);
}
