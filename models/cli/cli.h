/* What the commands of `deq` share: flags, progress, exit codes. */
#ifndef DEQ_MODELS_CLI_CLI_H
#define DEQ_MODELS_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>

enum { CLI_OK = 0, CLI_FAIL = 1, CLI_USAGE = 2 };

struct cli_flag {
    const char *name;   /* "--tol" */
    const char *value;  /* what it takes, for help ("X"), NULL for a switch */
    const char *help;
    const char **text;  /* receives the value */
    bool *on;           /* receives true for a switch */
    const char **list;  /* receives every value of a repeatable flag, in order */
    size_t list_max, *list_n;
};

struct cli_command {
    const char *usage; /* "deq eval MODEL_DIR TEXT_FILE [flags]" */
    const char *about; /* one or two sentences */
    const struct cli_flag *flags;
    size_t n_flags;
    size_t min_args, max_args; /* positional */
};

/* Parses argv[1..); positional arguments go to args. Returns -1 to go on, else the exit code (help was printed, or an error). */
int cli_parse(const struct cli_command *c, int argc, char **argv, const char **args, size_t *ret_n);
/* Prints "deq NAME: message" and returns CLI_FAIL. */
int cli_fail(const char *command, const char *message);
/* Prints r, which is given away, as one JSON text; flags: jansson's. CLI_FAIL, with a message, when r could not be made. */
struct json_t;
int cli_print_json(const char *command, struct json_t *r, size_t flags);
/* A number within [lo, hi], or an error that names the flag. */
bool cli_number(const char *flag, const char *text, double lo, double hi, double *ret);
/* One line that replaces the last one on a terminal; nothing elsewhere. */
void cli_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void cli_progress_end(void);

int cmd_tokenizer(int argc, char **argv);
int cmd_tokenizer_words(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif
