#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "core/deq.h"

_Noreturn void fuzz_broken(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

unsigned fuzz_letter(const uint8_t **data, size_t *n, unsigned most)
{
    if (!*n)
        return 0;
    const unsigned letter = **data - (unsigned)'A';
    ++*data;
    --*n;
    return letter % most;
}

char *fuzz_copy(const uint8_t *data, size_t n)
{
    char *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, data, n);
    return copy;
}

char *fuzz_text(const uint8_t *data, size_t n)
{
    char *text = malloc(n + 1);
    if (!text)
        abort();
    memcpy(text, data, n);
    text[n] = 0;
    return text;
}

size_t fuzz_split(const uint8_t *data, size_t n, const uint8_t **rest, size_t *ret_rest)
{
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    const size_t front = zero ? (size_t)(zero - data) : n;
    *rest = data + DEQ_MIN(front + 1, n);
    *ret_rest = n - DEQ_MIN(front + 1, n);
    return front;
}

const char *fuzz_file(const void *data, size_t n)
{
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET) || pwrite(fd, data, n, 0) != (ssize_t)n)
        abort();
    return path;
}

enum { DIRS_MAX = 8 };

static struct {
    const char *use;
    char path[64];
} dirs[DIRS_MAX];

void fuzz_empty(const char *use)
{
    char path[128];
    const char *dir = fuzz_dir(use);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%.60s", dir, e->d_name);
        if (e->d_name[0] != '.')
            (void)unlink(path);
    }
    if (d)
        closedir(d);
}

static void remove_dirs(void)
{
    for (size_t i = 0; i < DIRS_MAX && dirs[i].use; i++) {
        fuzz_empty(dirs[i].use);
        (void)rmdir(dirs[i].path);
    }
}

const char *fuzz_dir(const char *use)
{
    size_t i = 0;
    while (i < DIRS_MAX && dirs[i].use && strcmp(dirs[i].use, use))
        i++;
    FUZZ_HOLDS(i < DIRS_MAX);
    if (!dirs[i].use) {
        const bool shared = !access("/dev/shm", W_OK);
        snprintf(dirs[i].path, sizeof dirs[i].path, "%s/deq-fuzz-XXXXXX", shared ? "/dev/shm" : "/tmp");
        FUZZ_HOLDS(mkdtemp(dirs[i].path));
        if (!i)
            atexit(remove_dirs);
        dirs[i].use = use;
    }
    return dirs[i].path;
}

void fuzz_put(const char *use, const char *name, const void *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(use), name);
    FILE *f = fopen(path, "w");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f))
        abort();
}

struct deq_hash fuzz_saved_sum(const void *data, size_t n)
{
    enum { CHUNK = 1 << 16 };
    struct deq_hash h = {{0x6465712e73746174u, 0x652e707265666978u}};
    for (size_t at = 0; at < n; at += CHUNK)
        h = deq_siphash(&h, (const char *)data + at, DEQ_MIN((size_t)CHUNK, n - at));
    return h;
}

uint64_t fuzz_next(uint64_t *state)
{
    return deq_mix64(++*state * 0x9e3779b97f4a7c15u);
}

size_t fuzz_piece(uint64_t *state, size_t most, size_t left)
{
    const size_t n = 1 + fuzz_next(state) % most;
    return DEQ_MIN(n, left);
}

void fuzz_check_err(enum deq_rc rc, const struct deq_err *err)
{
    const size_t n = strnlen(err->text, sizeof err->text);
    FUZZ_HOLDS(rc < 0 && err->code == rc && rc != DEQ_ENOMEM);
    FUZZ_HOLDS(n && n < sizeof err->text && deq_utf8_valid(err->text, n));
    for (size_t i = 0; i < n; i++)
        FUZZ_HOLDS((unsigned char)err->text[i] >= 0x20 && err->text[i] != 0x7f);
}

const struct deq_model *fuzz_model(const char *name)
{
    static struct {
        const char *name;
        struct deq_model *model;
    } known[] = {{"tiny", NULL}, {"tiny-trellis", NULL}, {"tiny-looped", NULL}};
    char path[64];
    struct deq_err err;
    for (size_t i = 0; i < DEQ_COUNT(known); i++) {
        if (strcmp(known[i].name, name))
            continue;
        snprintf(path, sizeof path, "tests/golden/%s", name);
        if (!known[i].model && deq_model_load(path, NULL, &known[i].model, &err)) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        return known[i].model;
    }
    abort();
}
