#include "models/cli/cli.h"

#include <ctype.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static const struct deq_opt choice_flags[] = {
    {.name = "--version", .type = DEQ_OPT_BOOL, .help = "print the version and stop"},
};

static void choice_help(const struct cli_choice *c, FILE *out)
{
    char kind[16] = "";
    for (size_t i = 0; c->kind[i] && i + 1 < sizeof kind; i++)
        kind[i] = (char)toupper((unsigned char)c->kind[i]);
    fprintf(out, "Usage: %s %s [arguments]\n\n", c->name, kind);
    deq_help_text(out, c->about);
    fprintf(out, "\n%ss:\n", c->kind);
    for (size_t i = 0; i < c->n; i++)
        deq_help_row(out, c->each[i].name, c->each[i].about);
    fprintf(out, "\nOptions:\n");
    for (size_t i = 0; i < DEQ_COUNT(choice_flags); i++)
        deq_help_option(out, &choice_flags[i], choice_flags[i].name, NULL);
    deq_help_row(out, "--help", "print this text and stop");
    if (c->more)
        c->more(out);
}

static const char *nearest(const struct cli_choice *c, const char *name)
{
    struct deq_opt names[16];
    size_t n = 0;
    for (; n < c->n && n < DEQ_COUNT(names); n++)
        names[n] = (struct deq_opt){.name = c->each[n].name};
    return deq_opt_nearest(&(struct deq_opt_table){names, n}, name);
}

int cli_choose(const struct cli_choice *c, int argc, char **argv)
{
    const char *const asked = argc > 1 ? argv[1] : "";
    const struct deq_command flags = {.usage = c->name, .flags = {choice_flags, DEQ_COUNT(choice_flags)}};
    bool version = false, help = !strcmp(asked, "help");
    struct deq_err err = {0};
    size_t n;
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(asked, c->each[i].name))
            return c->each[i].run(argc - 1, argv + 1);
    const bool wrong = *asked == '-' && deq_flags_parse(&flags, 2, argv, &version, NULL, &n, &help, &err);
    if (help || (version && !wrong)) {
        if (help)
            choice_help(c, stdout);
        else
            printf("deq %s\n", DEQ_VERSION);
        return CLI_OK;
    }
    const char *const near = nearest(c, asked);
    if (wrong)
        fprintf(stderr, "%s: %s\n\n", c->name, err.text);
    else if (*asked)
        fprintf(stderr, "%s: unknown %c%s \"%s\"%s%s%s\n\n", c->name, tolower((unsigned char)*c->kind), c->kind + 1,
                asked, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
    choice_help(c, stderr);
    return CLI_USAGE;
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
