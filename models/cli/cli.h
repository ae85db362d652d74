/* What the commands of `deq` share: flags (each has its table), progress, exit codes. */
#ifndef DEQ_MODELS_CLI_CLI_H
#define DEQ_MODELS_CLI_CLI_H

#include "core/base/flags.h"

enum { CLI_OK = 0, CLI_FAIL = 1, CLI_USAGE = 2 };

/* Parses argv[1..) into values and args [max_args]. Returns -1 to go on, else the exit code:
 * help or an error was printed. */
int cli_parse(const char *name, const struct deq_command *c, int argc, char **argv, void *values, const char **args,
              size_t *ret_n);
/* A command that is a choice of others: deq itself, deq bench, deq tokenizer. */
struct cli_command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
};
struct cli_choice {
    const char *name; /* "deq bench" */
    const char *kind; /* "Kind": what is chosen, as the help calls it */
    const char *about;
    const struct cli_command *each;
    size_t n;
    void (*more)(FILE *out); /* of its help, or NULL */
};
/* Runs the one that argv[1] names, or prints --help or --version. Returns the exit code. */
int cli_choose(const struct cli_choice *c, int argc, char **argv);
/* Prints "deq NAME: message" and returns CLI_USAGE: what was asked for makes no sense. */
int cli_usage(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A flag's list of numbers of evaluations, "1,2,4". False: a message was printed. */
enum { CLI_COUNTS_MAX = 32, CLI_COUNT_MAX = 100000 };
struct cli_counts {
    uint32_t each[CLI_COUNTS_MAX];
    size_t n;
};
bool cli_counts(const char *name, const char *flag, const char *text, struct cli_counts *ret);
/* Prints "deq NAME: message" and returns CLI_FAIL. */
int cli_fail(const char *command, const char *message);
/* Prints r, which is given away, as one JSON text; flags: jansson's. CLI_FAIL, with a message,
 * when r could not be made. */
struct json_t;
int cli_print_json(const char *command, struct json_t *r, size_t flags);
/* Where the command that writes the file `out` reports: standard error where out is standard output itself. To be
 * asked before it is written. */
FILE *cli_report(const char *out);
/* One line that replaces the last one on a terminal; nothing elsewhere. */
void cli_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void cli_progress_end(void);

int cmd_tokenizer(int argc, char **argv);
int cmd_tokenizer_words(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif
