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

/* What may stand there and what stands there otherwise: " (1..64; default: 8)". */
static void limits(const struct deq_opt *o, char ret[96])
{
    const bool number = o->type == DEQ_OPT_U32 || o->type == DEQ_OPT_U64 || o->type == DEQ_OPT_FLOAT ||
                        o->type == DEQ_OPT_DOUBLE;
    const bool def = o->def && o->type != DEQ_OPT_BOOL;
    char range[48] = "";
    if (number)
        snprintf(range, sizeof range, "%.16g..%.16g", o->min, o->max);
    ret[0] = 0;
    if (number || def)
        snprintf(ret, 96, " (%s%s%s%s)", range, number && def ? "; " : "", def ? "default: " : "", def ? o->def : "");
}

void deq_flags_help(const struct deq_command *c, FILE *out)
{
    fprintf(out, "usage: %s\n\n%s\n%s", c->usage, c->about, c->flags.n ? "\n" : "");
    for (size_t i = 0; i < c->flags.n; i++) {
        const struct deq_opt *o = &c->flags.opt[i];
        char left[96], right[96];
        const char *value = o->type == DEQ_OPT_BOOL                                 ? ""
                            : o->choices                                            ? o->choices
                            : o->type == DEQ_OPT_FLOAT || o->type == DEQ_OPT_DOUBLE ? "X"
                                                                                    : "N";
        snprintf(left, sizeof left, "%s%s%s", o->name, *value ? " " : "", value);
        limits(o, right);
        if (strlen(left) > 24)
            fprintf(out, "  %s\n  %-24s %s%s\n", left, "", o->help, right);
        else
            fprintf(out, "  %-24s %s%s\n", left, o->help, right);
    }
    fprintf(out, "  %-24s %s\n", "--help", "this text");
}
