/* deq: the command line of libdeq. Each command stands in its own file. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/installed.h"
#include "core/base/stdio.h"
#include "core/deq.h"
#include "core/math/gemm.h"
#include "models/cli/cli.h"

static const struct cli_command commands[] = {
    {"generate", cmd_generate, "continue a prompt"},
    {"eval", cmd_eval, "perplexity and bits per byte of a model on a text"},
    {"tune", cmd_tune, "find a model's fastest settings that lose next to nothing"},
    {"inspect", cmd_inspect, "what a model directory holds"},
    {"import", cmd_import, "make a model directory of a PyTorch checkpoint"},
    {"check", cmd_check, "compare a model with equilibria that other code computed"},
    {"train", cmd_train, "train a model from a recipe"},
    {"bench", cmd_bench, "measure kernels, engine or a server"},
    {"tokenizer", cmd_tokenizer, "train a tokenizer, encode, decode"},
};

static void more(FILE *out)
{
    fprintf(out, "\nEnvironment:\n");
    deq_help_row(out, "DEQ_CPU", "ref, avx2, avx512, vnni or amx: the instructions to compute with, else the best of "
                                 "this machine; all give the same bits");
    fprintf(out, "\nExit status:\n");
    deq_help_row(out, "0", "done");
    deq_help_row(out, "1", "failed, or what was compared or measured is not as it should be");
    deq_help_row(out, "2", "wrong usage; nothing was begun");
    char model[4096];
    if (!deq_installed("models/stories", model))
        snprintf(model, sizeof model, "models/stories");
    fprintf(out, "\nExamples:\n  %s generate %s \"Once upon a time\"\n", program_invocation_name, model);
}

static int run(int argc, char **argv)
{
    const char *level = getenv("DEQ_CPU");
    if (level && *level && !deq_kern_force(level)) {
        fprintf(stderr, "DEQ_CPU: \"%s\" is not a level of this machine (ref, avx2, avx512, vnni, amx)\n", level);
        return CLI_USAGE;
    }
    static const struct cli_choice all = {
        .name = "deq",
        .kind = "Command",
        .about = "Generates text with deep equilibrium language models, and trains, imports, measures and "
                 "inspects them. `deq COMMAND --help` tells more of a command.",
        .each = commands,
        .n = DEQ_COUNT(commands),
        .more = more,
    };
    return cli_choose(&all, argc, argv);
}

/* OpenBLAS chooses its kernels before main: where it chose badly, this program begins once more and says which. */
static void begin_again(char **argv)
{
    if (!getauxval(AT_BASE)) /* no loader beside it: `ld.so deq ...` runs, and /proc/self/exe is ld.so */
        return;
    const char *core = deq_blas_better_core();
    char self[4096];
    const ssize_t n = core && !getenv("OPENBLAS_CORETYPE") ? readlink("/proc/self/exe", self, sizeof self) : -1;
    if (n < 0 || (size_t)n == sizeof self || setenv("OPENBLAS_CORETYPE", core, 0))
        return;
    self[n] = '\0';
    execv(self, argv); /* by its name, which `ps` shows; where that fails it goes on, slower but the same */
}

int main(int argc, char **argv)
{
    begin_again(argv);
    struct deq_err err;
    deq_stdio_init();
    if (deq_fault_environment(&err))
        return fprintf(stderr, "deq: %s\n", err.text), CLI_USAGE;
    const int code = run(argc, argv);
    if (!deq_stdio_close(&err))
        return code;
    fprintf(stderr, "deq: %s\n", err.text);
    return code ? code : CLI_FAIL;
}
