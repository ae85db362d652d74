/* deq bench: what the machine can do, what the kernels and the engine make of it, and what a server's clients get. */
#include <stdio.h>
#include <string.h>

#include "core/base/base.h"
#include "models/cli/bench/bench.h"
#include "models/cli/cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} kinds[] = {
    {"kernels", bench_kernels, "the machine's limits, and matrix products against them"},
    {"engine", bench_engine, "evaluations, prompts, generation and training, against the same limits"},
    {"serve", bench_serve, "load a server and measure its streams"},
};

int cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") && strcmp(argv[1], "-h")) {
        for (size_t i = 0; i < DEQ_COUNT(kinds); i++)
            if (!strcmp(argv[1], kinds[i].name))
                return kinds[i].run(argc - 1, argv + 1);
        return cli_usage("bench", "unknown kind of bench \"%s\"; there are: kernels, engine, serve", argv[1]);
    }
    FILE *out = argc > 1 ? stdout : stderr;
    fprintf(out, "Usage: deq bench KIND [arguments]\n\n");
    deq_help_text(out, "Measures what this machine can do, what libdeq makes of it, and what a server's clients get. "
                       "`deq bench KIND --help` tells more of a kind.");
    fprintf(out, "\nKinds:\n");
    for (size_t i = 0; i < DEQ_COUNT(kinds); i++)
        deq_help_row(out, kinds[i].name, kinds[i].about);
    return argc > 1 ? CLI_OK : CLI_USAGE;
}
