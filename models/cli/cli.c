#include "models/cli/cli.h"

#include <ctype.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/json.h"

int cli_parse(const char *name, const struct deq_command *c, int argc, char **argv, void *values, const char **args,
              size_t *ret_n)
{
    struct deq_err err;
    bool help;
    if (deq_flags_parse(c, argc, argv, values, args, ret_n, &help, &err))
        return cli_usage(name, "%s", err.text);
    if (help)
        deq_flags_help(c, stdout);
    return help ? CLI_OK : -1;
}

int cli_usage(const char *name, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "deq %s: ", name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return CLI_USAGE;
}

static bool parse_counts(const char *text, struct cli_counts *ret)
{
    for (ret->n = 0;; text++) {
        char *end;
        const unsigned long x = isdigit((unsigned char)*text) ? strtoul(text, &end, 10) : ULONG_MAX;
        if (x > CLI_COUNT_MAX || ret->n == CLI_COUNTS_MAX || (*end && *end != ','))
            return false;
        ret->each[ret->n++] = (uint32_t)x;
        text = end;
        if (!*text)
            return true;
    }
}

bool cli_counts(const char *name, const char *flag, const char *text, struct cli_counts *ret)
{
    if (parse_counts(text, ret))
        return true;
    cli_usage(name, "%s: \"%s\" is not a list of at most %d integers in 0..%d", flag, text, CLI_COUNTS_MAX,
              CLI_COUNT_MAX);
    return false;
}

int cli_fail(const char *command, const char *message)
{
    cli_progress_end();
    fprintf(stderr, "deq %s: %s\n", command, message);
    return CLI_FAIL;
}

int cli_print_json(const char *command, json_t *r, size_t flags)
{
    char *text = deq_json_text(r, flags);
    json_decref(r);
    if (!text)
        return cli_fail(command, "--json: out of memory, or a text that is not UTF-8");
    puts(text); /* main looks whether it arrived */
    free(text); /* jansson's */
    return CLI_OK;
}

FILE *cli_report(const char *out)
{
    struct stat file, own;
    const bool same = !stat(out, &file) && !fstat(STDOUT_FILENO, &own) && file.st_dev == own.st_dev &&
                      file.st_ino == own.st_ino;
    return same ? stderr : stdout;
}

static bool line_open;

void cli_progress(const char *fmt, ...)
{
    if (!isatty(STDERR_FILENO))
        return;
    va_list ap;
    va_start(ap, fmt);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fflush(stderr);
    line_open = true;
}

void cli_progress_end(void)
{
    if (line_open)
        fputc('\n', stderr);
    line_open = false;
}
