/* The flags of a command, from a table of options (options.h) whose names are "--max-tokens": one parser, one --help
 * and one kind of message for every command of deq and for deqd. A bool is a switch without a value; "--" ends the
 * flags. Nothing is printed but by deq_flags_help. */
#ifndef DEQ_BASE_FLAGS_H
#define DEQ_BASE_FLAGS_H

#include "core/base/options.h"

struct deq_command {
    const char *usage; /* "deq eval MODEL_DIR TEXT_FILE [flags]" */
    const char *about; /* one or two sentences */
    struct deq_opt_table flags;
    size_t min_args, max_args; /* positional */
};

/* Defaults, then argv[1..): flags into values, the rest into args [max_args]. The message names flag, value and what
 * was expected. *ret_help: --help was among them, and nothing else counts. */
enum deq_rc deq_flags_parse(const struct deq_command *c, int argc, char **argv, void *values, const char **args,
                            size_t *ret_n, bool *ret_help, struct deq_err *err);
void deq_flags_help(const struct deq_command *c, FILE *out);

#endif
