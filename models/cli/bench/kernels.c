/* deq bench kernels: what instructions and memory do at most on this machine, at the CPU level in use, and how much of
 * that the products of a model's matrices get. */
#include "models/cli/bench/bench.h"
#include "models/cli/bench/products.h"

static const struct deq_opt flags[] = {BENCH_FLAGS};

static const struct deq_command command = {
    .usage = "deq bench kernels [SHAPE|MODEL_DIR]... [options]",
    .about = "Measures what the multiply-add instructions and the memory of this machine do at most, and the matrix "
             "products of models against it.\n" BENCH_SUBJECTS,
    .flags = {flags, DEQ_COUNT(flags)},
    .max_args = BENCH_SUBJECTS_MAX,
};

static enum deq_rc measure(struct bench_machine *m, struct bench_subject *s, const void *values, json_t *report,
                           struct deq_err *err)
{
    const struct bench_flags *f = values;
    const enum deq_rc rc = bench_subject_weights(s, err);
    return rc ? rc
              : bench_add(f, s, "products", "y = x W^T on so many rows", bench_products(m, s, f->quick, err), report,
                          err);
}

int bench_kernels(int argc, char **argv)
{
    struct bench_flags f = {0};
    return bench_subjects("bench kernels", &command, argc, argv, &f, NULL, measure);
}
