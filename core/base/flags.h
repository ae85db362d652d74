/* The flags of a command, from a table of options (options.h) whose names are "--max-tokens": one parser, one --help
 * and one kind of message for every command of deq and for deqd. A bool is a switch without a value; "--" ends the
 * flags. Nothing is printed but by deq_flags_help and what it is made of: 80 columns, in the form that help2man makes
 * man pages of (etc/man.sh). */
#ifndef DEQ_BASE_FLAGS_H
#define DEQ_BASE_FLAGS_H

#include "core/base/options.h"

struct deq_command {
    const char *usage; /* "deq eval MODEL_DIR TEXT_FILE [options]" */
    const char *about; /* one or two sentences */
    struct deq_opt_table flags;
    size_t min_args, max_args; /* positional */
};

/* Defaults, then argv[1..): flags into values, the rest into args [max_args]. The message names flag, value and what
 * was expected. *ret_help: --help was among them, and nothing else counts. */
enum deq_rc deq_flags_parse(const struct deq_command *c, int argc, char **argv, void *values, const char **args,
                            size_t *ret_n, bool *ret_help, struct deq_err *err);
void deq_flags_help(const struct deq_command *c, FILE *out);
/* A paragraph; "\n" begins a new line of it. */
void deq_help_text(FILE *out, const char *text);
/* "  left    text", the text in a column of its own. */
void deq_help_row(FILE *out, const char *left, const char *text);
/* The same of an option: its help, and in parentheses choices (NULL: left has them) or range, and default. */
void deq_help_option(FILE *out, const struct deq_opt *o, const char *left, const char *choices);

#endif
