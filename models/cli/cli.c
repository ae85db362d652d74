#include "models/cli/cli.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void help(const struct cli_command *c)
{
    printf("usage: %s\n\n%s\n", c->usage, c->about);
    if (c->n_flags)
        printf("\n");
    for (size_t i = 0; i < c->n_flags; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", c->flags[i].name, c->flags[i].value ? " " : "", c->flags[i].value ? c->flags[i].value : "");
        printf("  %-24s %s\n", left, c->flags[i].help);
    }
    printf("  %-24s %s\n", "--help", "this text");
}

int cli_parse(const struct cli_command *c, int argc, char **argv, const char **args, size_t *ret_n)
{
    size_t n = 0;
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!only_args && !strcmp(a, "--")) {
            only_args = true;
            continue;
        }
        if (only_args || a[0] != '-' || !a[1]) {
            if (n == c->max_args) {
                fprintf(stderr, "unexpected argument \"%s\"\nusage: %s\n", a, c->usage);
                return CLI_USAGE;
            }
            args[n++] = a;
            continue;
        }
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            help(c);
            return CLI_OK;
        }
        const char *eq = strchr(a, '=');
        size_t len = eq ? (size_t)(eq - a) : strlen(a), f = 0;
        while (f < c->n_flags && (strlen(c->flags[f].name) != len || memcmp(c->flags[f].name, a, len)))
            f++;
        if (f == c->n_flags) {
            fprintf(stderr, "unknown flag %.*s; --help lists them\nusage: %s\n", (int)len, a, c->usage);
            return CLI_USAGE;
        }
        const struct cli_flag *flag = &c->flags[f];
        if (!flag->value) {
            if (eq) {
                fprintf(stderr, "%s takes no value\n", flag->name);
                return CLI_USAGE;
            }
            *flag->on = true;
            continue;
        }
        const char *value = eq ? eq + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!value) {
            fprintf(stderr, "%s needs a value: %s\n", flag->name, flag->value);
            return CLI_USAGE;
        }
        if (flag->list) {
            if (*flag->list_n == flag->list_max) {
                fprintf(stderr, "%s: given more than %zu times\n", flag->name, flag->list_max);
                return CLI_USAGE;
            }
            flag->list[(*flag->list_n)++] = value;
        } else {
            *flag->text = value;
        }
    }
    if (n < c->min_args) {
        fprintf(stderr, "usage: %s\n", c->usage);
        return CLI_USAGE;
    }
    *ret_n = n;
    return -1;
}

int cli_fail(const char *command, const char *message)
{
    cli_progress_end();
    fprintf(stderr, "deq %s: %s\n", command, message);
    return CLI_FAIL;
}

int cli_print_json(const char *command, json_t *r, size_t flags)
{
    char *text = r ? json_dumps(r, flags) : NULL;
    json_decref(r);
    if (!text)
        return cli_fail(command, "--json: out of memory, or a text that is not UTF-8");
    puts(text); /* main looks whether it arrived */
    free(text); /* jansson's */
    return CLI_OK;
}

bool cli_number(const char *flag, const char *text, double lo, double hi, double *ret)
{
    char *end;
    double d = strtod(text, &end);
    if (!*text || *end || !isfinite(d) || d < lo || d > hi) {
        fprintf(stderr, "%s: \"%s\" is not a number in %g..%g\n", flag, text, lo, hi);
        return false;
    }
    *ret = d;
    return true;
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
