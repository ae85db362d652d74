#include "core/base/flags.h"

#include <string.h>

static enum deq_rc unknown(const struct deq_command *c, const char *name, struct deq_err *err)
{
    const char *near = deq_opt_nearest(&c->flags, name);
    return deq_fail(err, DEQ_EINVAL, "unknown flag %s%s%s%s", name, near ? " (did you mean " : "; --help lists them",
                    near ? near : "", near ? "?)" : "");
}

/* argv[*at] begins with '-'; moves *at to what was read last. */
static enum deq_rc take_flag(const struct deq_command *c, int argc, char **argv, int *at, void *values,
                             struct deq_err *err)
{
    const char *a = argv[*at], *eq = strchr(a, '=');
    char name[64];
    snprintf(name, sizeof name, "%.*s", eq ? (int)DEQ_MIN(eq - a, 63) : 63, a);
    const struct deq_opt *o = deq_opt_find(&c->flags, name);
    if (!o)
        return unknown(c, name, err);
    if (o->type == DEQ_OPT_BOOL)
        return eq ? deq_fail(err, DEQ_EINVAL, "%s takes no value", name) : deq_opt_set(o, values, "true", 0, err);
    const char *value = eq ? eq + 1 : *at + 1 < argc ? argv[++*at] : NULL;
    /* "--out --json": a flag was forgotten to be given its value; a text that is a flag's
     * name is written --out=--json */
    if (!value || (!eq && !strncmp(value, "--", 2) && deq_opt_find(&c->flags, value)))
        return deq_fail(err, DEQ_EINVAL, "%s needs a value", name);
    return deq_opt_set(o, values, value, 0, err);
}

enum deq_rc deq_flags_parse(const struct deq_command *c, int argc, char **argv, void *values, const char **args,
                            size_t *ret_n, bool *ret_help, struct deq_err *err)
{
    size_t n = 0;
    bool only_args = false;
    enum deq_rc rc = deq_opt_defaults(&c->flags, values, err);
    *ret_help = false;
    for (int i = 1; i < argc && !rc; i++) {
        const char *a = argv[i];
        if (!only_args && !strcmp(a, "--")) {
            only_args = true;
        } else if (only_args || a[0] != '-' || !a[1]) {
            if (n == c->max_args)
                rc = deq_fail(err, DEQ_EINVAL, "unexpected argument \"%s\"; usage: %s", a, c->usage);
            else
                args[n++] = a;
        } else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            *ret_help = true;
            return DEQ_OK;
        } else {
            rc = take_flag(c, argc, argv, &i, values, err);
        }
    }
    if (!rc && n < c->min_args)
        rc = deq_fail(err, DEQ_EINVAL, "%zu of %zu arguments are missing; usage: %s", c->min_args - n, c->min_args,
                      c->usage);
    *ret_n = n;
    return rc;
}

/* Columns of a terminal, and the one at which the text of a row begins. */
enum { HELP_WIDTH = 80, HELP_COLUMN = 27 };

/* text, broken at blanks where a line would be too long; the first line has begun, `used` columns of it, the others
 * begin at column `indent`. */
static void put_wrapped(FILE *out, size_t used, size_t indent, const char *text)
{
    for (size_t n; *text; text += n) {
        n = strcspn(text, " \n");
        if (used > indent && used + 1 + n > HELP_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            used = indent;
        }
        used += (size_t)fprintf(out, "%s%.*s", used > indent ? " " : "", (int)n, text);
        text += n;
        n = strspn(text, " ");
        if (text[n] == '\n') {
            fprintf(out, "\n%*s", (int)indent, "");
            used = indent;
            n++;
        }
    }
    fputc('\n', out);
}

void deq_help_text(FILE *out, const char *text)
{
    put_wrapped(out, 0, 0, text);
}

void deq_help_row(FILE *out, const char *left, const char *text)
{
    const bool beside = strlen(left) < HELP_COLUMN - 3; /* two blanks before it, and two behind */
    fprintf(out, "  %-*s%s", beside ? HELP_COLUMN - 2 : 0, left, beside ? "" : "\n");
    if (!beside)
        fprintf(out, "%*s", HELP_COLUMN, "");
    put_wrapped(out, HELP_COLUMN, HELP_COLUMN, text);
}

/* What may stand there and what stands there otherwise: " (1..64; default: 8)". */
static void limits(const struct deq_opt *o, const char *choices, char ret[256])
{
    const bool real = o->type == DEQ_OPT_FLOAT || o->type == DEQ_OPT_DOUBLE;
    const bool number = real || o->type == DEQ_OPT_U32 || o->type == DEQ_OPT_U64 || o->type == DEQ_OPT_BYTES;
    const bool def = o->def && *o->def;
    char range[48] = "";
    if (number)
        snprintf(range, sizeof range, "%.16g..%.16g", o->min, o->max);
    const char *which = choices ? choices : range;
    ret[0] = 0;
    if (*which || def)
        snprintf(ret, 256, " (%s%s%s%s)", which, *which && def ? "; " : "", def ? "default: " : "", def ? o->def : "");
}

void deq_help_option(FILE *out, const struct deq_opt *o, const char *left, const char *choices)
{
    char right[256], text[1024];
    limits(o, choices, right);
    snprintf(text, sizeof text, "%s%s", o->help, right);
    deq_help_row(out, left, text);
}

void deq_flags_help(const struct deq_command *c, FILE *out)
{
    fprintf(out, "Usage: %s\n\n", c->usage);
    deq_help_text(out, c->about);
    fprintf(out, "\nOptions:\n");
    for (size_t i = 0; i < c->flags.n; i++) {
        const struct deq_opt *o = &c->flags.opt[i];
        char left[96];
        const char *value = o->type == DEQ_OPT_BOOL                                 ? ""
                            : o->choices                                            ? o->choices
                            : o->type == DEQ_OPT_FLOAT || o->type == DEQ_OPT_DOUBLE ? "X"
                                                                                    : "N";
        snprintf(left, sizeof left, "%s%s%s", o->name, *value ? " " : "", value);
        deq_help_option(out, o, left, NULL);
    }
    deq_help_row(out, "--help", "print this text and stop");
}
