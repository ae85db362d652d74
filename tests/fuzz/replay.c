/* Runs fuzz targets over files: seeds, and cases that were found once. No libFuzzer needed. Arguments: directories,
 * each named as a target; or --target NAME before files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/fuzz/fuzz.h"

static struct fuzz_target *first;
static char current[4096]; /* what to type to see it again */

void fuzz_register(struct fuzz_target *t)
{
    t->next = first;
    first = t;
}

static void on_end(int sig)
{
    static const char again[] = "\nfound by: ";
    (void)!write(STDERR_FILENO, again, sizeof again - 1);
    (void)!write(STDERR_FILENO, current, strlen(current));
    (void)!write(STDERR_FILENO, "\n", 1);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* AddressSanitizer calls this before it reports. */
void __asan_on_error(void);
void __asan_on_error(void)
{
    fprintf(stderr, "found by: %s\n", current);
}

static const struct fuzz_target *target_of(const char *name)
{
    const struct fuzz_target *t = first;
    while (t && strcmp(t->name, name))
        t = t->next;
    if (!t)
        fprintf(stderr, "%s: no such target\n", name);
    return t;
}

static bool run(const char *program, const struct fuzz_target *t, const char *path)
{
    struct deq_err err;
    char *data;
    size_t n;
    snprintf(current, sizeof current, "%s --target %s %s", program, t->name, path);
    if (deq_io_read(path, 1 << 20, &data, &n, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return false;
    }
    char *const exact = fuzz_copy((const uint8_t *)data, n);
    deq_free(data);
    t->one((const uint8_t *)exact, n);
    free(exact);
    return true;
}

static int not_hidden(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* In order of names; -1: something is not there. */
static int run_all(const char *program, const char *dir)
{
    const char *slash = strrchr(dir, '/');
    const struct fuzz_target *t = target_of(slash ? slash + 1 : dir);
    struct dirent **list;
    const int n = t ? scandir(dir, &list, not_hidden, alphasort) : -1;
    bool ok = n > 0;
    for (int i = 0; i < n; i++) {
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", dir, list[i]->d_name);
        ok = ok && run(program, t, path);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    if (t && n <= 0)
        fprintf(stderr, "%s: no inputs\n", dir);
    return ok ? n : -1;
}

int main(int argc, char **argv)
{
#ifdef __SANITIZE_ADDRESS__
    static const int ends[] = {SIGABRT}; /* the others are the sanitizer's */
#else
    static const int ends[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
#endif
    int inputs = 0, n = 0;
    for (size_t i = 0; i < DEQ_COUNT(ends); i++)
        signal(ends[i], on_end);
    if (argc > 2 && !strcmp(argv[1], "--target")) {
        const struct fuzz_target *t = target_of(argv[2]);
        for (int i = 3; t && i < argc; i++)
            if (!run(argv[0], t, argv[i]))
                return 1;
        return !t;
    }
    for (int i = 1; i < argc; i++, inputs += n)
        if ((n = run_all(argv[0], argv[i])) < 0)
            return 1;
    printf("%d targets, %d inputs\n", argc - 1, inputs);
    return argc < 2;
}
