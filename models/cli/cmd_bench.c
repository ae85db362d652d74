/* deq bench: what the machine can do, what the kernels and the engine make of it, and what a server's clients get. */
#include "models/cli/bench/bench.h"
#include "models/cli/cli.h"

int cmd_bench(int argc, char **argv)
{
    static const struct cli_command kinds[] = {
        {"kernels", bench_kernels, "the machine's limits, and matrix products against them"},
        {"engine", bench_engine, "evaluations, prompts, generation and training, against the same limits"},
        {"serve", bench_serve, "load a server and measure its streams"},
    };
    static const struct cli_choice all = {
        .name = "deq bench",
        .kind = "Kind",
        .about = "Measures what this machine can do, what libdeq makes of it, and what a server's clients get. "
                 "`deq bench KIND --help` tells more of a kind.",
        .each = kinds,
        .n = DEQ_COUNT(kinds),
    };
    return cli_choose(&all, argc, argv);
}
