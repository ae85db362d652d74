/* Options from one table: name, type, range, default, help. The same table reads YAML files, environment variables and
 * flags (flags.h), prints help, and writes the options back as YAML. The daemon's directives, the training recipe and
 * the flags of every command are such tables. Values live in a plain struct of the caller's; strings are char arrays
 * inside it, so nothing is owned. Integers are decimal digits and nothing else; numbers are decimal and finite. What is
 * left open (no default, not given) stays as the caller had it. */
#ifndef DEQ_BASE_OPTIONS_H
#define DEQ_BASE_OPTIONS_H

#include <stdio.h>

#include "core/base/base.h"
#include "core/base/err.h"

enum deq_opt_type {
    DEQ_OPT_U32,   /* uint32_t */
    DEQ_OPT_U64,   /* uint64_t */
    DEQ_OPT_FLOAT, /* float */
    DEQ_OPT_DOUBLE, /* double; "inf" too when max is INFINITY */
    DEQ_OPT_BOOL,  /* bool: true, false */
    DEQ_OPT_STR,   /* char[max] */
    DEQ_OPT_LIST,  /* char[max]: items separated by '\n' */
    DEQ_OPT_BYTES, /* uint64_t: number with an optional K, M, G (powers of 1024) */
    DEQ_OPT_ENUM,  /* int, or an enum: the place of the text in choices, from 0 */
    DEQ_OPT_ARG,   /* const char *: the text itself, which must stay; flags only */
    DEQ_OPT_ARGS,  /* struct deq_args, for a flag that may be repeated; flags only */
};

enum { DEQ_ARGS_MAX = 64 };
struct deq_args {
    const char *item[DEQ_ARGS_MAX];
    const char *flag[DEQ_ARGS_MAX]; /* each item's: several flags may share the list, so that the last one
                                     * given is the last one in it */
    size_t n;
};

struct deq_opt {
    const char *name;    /* dotted: "server.listen" */
    enum deq_opt_type type;
    size_t offset;       /* into the struct */
    double min, max;     /* of numbers; max: size of the char array of strings, how many of DEQ_OPT_ARGS */
    const char *def;     /* default as text, or NULL */
    const char *choices; /* strings: "a|b|c", or NULL for any; DEQ_OPT_ARG, DEQ_OPT_ARGS: what
                          * help calls the value, "FILE" */
    const char *help;    /* one sentence, with the unit */
};

struct deq_opt_table {
    const struct deq_opt *opt;
    size_t n;
};

enum deq_rc deq_opt_defaults(const struct deq_opt_table *t, void *values, struct deq_err *err);
const struct deq_opt *deq_opt_find(const struct deq_opt_table *t, const char *name);
/* The name that is nearest to a mistyped one, or NULL. */
const char *deq_opt_nearest(const struct deq_opt_table *t, const char *name);
/* Parses one value; the message names the option and what was expected. item > 0 appends to
 * a list, else it replaces. */
enum deq_rc deq_opt_set(const struct deq_opt *o, void *values, const char *text, int item, struct deq_err *err);
/* "KEY=VALUE", as flags have it. A list takes an item, or YAML's [a, b]; for others null and ~ are the default. An
 * unknown key is an error with the nearest one. */
enum deq_rc deq_opt_assign(const struct deq_opt_table *t, void *values, const char *text, struct deq_err *err);
/* Reads a YAML file; an unknown key or bad value is an error with line and column. A null is as if its key were not
 * there, an empty section too. */
enum deq_rc deq_opt_load(const struct deq_opt_table *t, void *values, const char *path, struct deq_err *err);
enum deq_rc deq_opt_parse(const struct deq_opt_table *t, void *values, const char *text, size_t len, const char *name,
                          struct deq_err *err);
/* DEQD_SERVER_LISTEN for "server.listen" with prefix "DEQD_". A variable that is empty is as if it were not set.
 * One that begins with prefix and is no option's is an error, unless `others` (which gets the name without
 * prefix) says that it is known. */
typedef bool (*deq_opt_others)(const char *name, const char *value);
enum deq_rc deq_opt_env(const struct deq_opt_table *t, void *values, const char *prefix, deq_opt_others others,
                        struct deq_err *err);
/* The value as text, as it would stand in YAML. */
void deq_opt_text(const struct deq_opt *o, const void *values, char *out, size_t cap);
/* YAML with every option, its help as a comment above it. */
void deq_opt_dump(const struct deq_opt_table *t, const void *values, bool comments, FILE *out);

#endif
