/* Runs fuzz targets over files: seeds, and cases that were found once. No libFuzzer needed. Arguments: directories,
 * each named as a target; or --target NAME and files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "core/base/flags.h"
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

struct flags {
    const char *target;
};
static const struct deq_opt options[] = {
    {"--target", DEQ_OPT_ARG, offsetof(struct flags, target), 0, 0, NULL, "NAME", "what the files are inputs of"},
};
enum { PATHS_MAX = 4096 };
static const struct deq_command command = {
    "replay DIRECTORY... | --target NAME FILE...",
    "Runs fuzz targets over the files of directories that are named as they are, or over files.",
    {options, DEQ_COUNT(options)},
    1,
    PATHS_MAX,
};

int main(int argc, char **argv)
{
#ifdef __SANITIZE_ADDRESS__
    static const int ends[] = {SIGABRT}; /* the others are the sanitizer's */
#else
    static const int ends[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
#endif
    static const char *path[PATHS_MAX];
    struct flags f = {0};
    struct deq_err err;
    size_t paths, inputs = 0;
    bool help;
    if (deq_flags_parse(&command, argc, argv, &f, path, &paths, &help, &err))
        return fprintf(stderr, "replay: %s\n", err.text), 2;
    if (help)
        return deq_flags_help(&command, stdout), 0;
    for (size_t i = 0; i < DEQ_COUNT(ends); i++)
        signal(ends[i], on_end);
    const struct fuzz_target *const t = f.target ? target_of(f.target) : NULL;
    if (f.target && !t)
        return 1;
    for (size_t i = 0; i < paths; i++) {
        const int n = t ? (run(argv[0], t, path[i]) ? 1 : -1) : run_all(argv[0], path[i]);
        if (n < 0)
            return 1;
        inputs += (size_t)n;
    }
    if (!t)
        printf("%zu targets, %zu inputs\n", paths, inputs);
    return 0;
}
