/* deq check: a model against a golden file that other code computed. The work is core/score/golden.c's. */
#include <stdio.h>
#include <string.h>

#include "core/score/golden.h"
#include "models/cli/cli.h"

struct flags {
    float tol;         /* -1: not given */
    double atol;       /* -1 */
    uint32_t max_iter; /* 0 */
    uint32_t mem_len;  /* UINT32_MAX */
    int solver;        /* -1 */
    const char *caches; /* NULL */
    bool json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--solver", DEQ_OPT_ENUM, AT(solver), 0, 0, NULL, DEQ_SOLVER_CHOICES, "root finder; else the model's"},
    {"--tol", DEQ_OPT_FLOAT, AT(tol), 0, 10, NULL, NULL,
     "relative residual of a sequence at which it stops; 0: take all N steps; else 1e-7, or the model's 0"},
    {"--max-iter", DEQ_OPT_U32, AT(max_iter), 1, 100000, NULL, NULL,
     "evaluations of a segment at most; else 5000, or the model's steps"},
    {"--mem-len", DEQ_OPT_U32, AT(mem_len), 0, 65536, NULL, NULL,
     "positions that a transformer remembers; else the model's segment_memory, or without it the first segment's "
     "length"},
    {"--atol", DEQ_OPT_DOUBLE, AT(atol), 0, 1e9, NULL, NULL,
     "largest absolute difference allowed; else 1e-4 for equilibria, 2e-4 for all else"},
    {"--caches", DEQ_OPT_ARG, AT(caches), 0, 0, NULL, "N,N,...",
     "of a looped model after N evaluations a position: how far log-probabilities are from each other when the core's "
     "keys and values are kept of every evaluation (full), of the last (latest), of the fixed point (equilibrium)"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq check MODEL_DIR GOLDEN.safetensors [options]",
    .about = "Compares a model with equilibria and log-probabilities that other code computed for the same "
             "tokens, segment by segment with memory, and a looped model's states after numbers of evaluations. Exit "
             "status 1 when they differ by more than --atol.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 2,
    .max_args = 2,
};

static struct deq_solver_opts solver_of(const struct deq_arch *a, const struct flags *f)
{
    struct deq_solver_opts o = deq_golden_solver(a);
    if (f->tol >= 0)
        o.tol = f->tol;
    if (f->max_iter) {
        o.max_iter = f->max_iter;
        o.min_iter = DEQ_MIN(o.min_iter, o.max_iter);
    }
    if (f->solver >= 0)
        o.method = (enum deq_solver_method)f->solver;
    return o;
}

/* Of a tensor of the golden file. */
static double most_of(const char *name, const struct flags *f)
{
    const char *dot = strchr(name, '.');
    return f->atol >= 0 ? f->atol : dot && !strcmp(dot, ".equilibrium") ? 1e-4 : 2e-4;
}

static bool agrees(const struct deq_golden_report *r, const struct flags *f)
{
    for (size_t i = 0; i < r->n_tensors; i++)
        if (!(r->tensor[i].error <= most_of(r->tensor[i].name, f)))
            return false;
    return true;
}

static void print_json(const struct deq_golden_report *r, const struct deq_solver_opts *o,
                       const struct cli_counts *depths, const struct deq_cache_gaps *gaps, bool agree)
{
    printf("{\"equilibrium_max_abs_error\": %.9g, \"logprob_max_abs_error\": %.9g, ", r->z_error, r->logprob_error);
    for (size_t i = 0; i < r->n_tensors; i++)
        printf("\"%s_max_abs_error\": %.9g, ", r->tensor[i].name, r->tensor[i].error);
    printf("\"evaluations\": %u, \"evaluations_total\": %u, \"segments\": %zu, \"sequences\": %zu, "
           "\"residual_max\": %.6g, \"solver\": \"%s\", \"tol\": %g, \"max_iter\": %u, \"agree\": %s",
           r->evaluations, r->evaluations_all, r->segments, r->sequences, (double)r->residual_max,
           deq_solver_name(o->method), (double)o->tol, o->max_iter, agree ? "true" : "false");
    for (size_t i = 0; i < depths->n; i++)
        printf("%s{\"evaluations\": %u, \"full_latest_max_abs\": %.9g, \"full_equilibrium_max_abs\": %.9g, "
               "\"latest_equilibrium_max_abs\": %.9g}", i ? ", " : ", \"caches\": [", depths->each[i],
               gaps[i].full_latest, gaps[i].full_equilibrium, gaps[i].latest_equilibrium);
    puts(depths->n ? "]}" : "}");
}

static void print_caches(const struct cli_counts *depths, const struct deq_cache_gaps *gaps)
{
    if (depths->n)
        printf("\nlargest differences of log-probabilities by what is kept of the core\n"
               "evaluations  full-latest  full-equilibrium  latest-equilibrium\n");
    for (size_t i = 0; i < depths->n; i++)
        printf("%11u  %11.1e  %16.1e  %18.1e\n", depths->each[i], gaps[i].full_latest, gaps[i].full_equilibrium,
               gaps[i].latest_equilibrium);
}

static void print(const struct deq_golden_report *r, const struct deq_solver_opts *o, const struct flags *f, bool agree)
{
    printf("equilibrium        %.2e (at most %g)\nlog-probabilities  %.2e (at most %g)\n", r->z_error,
           most_of(".equilibrium", f), r->logprob_error, most_of(".logprobs", f));
    for (size_t i = 0; i < r->n_tensors; i++)
        if (strncmp(r->tensor[i].name, "segment", 7))
            printf("%-17s  %.2e (at most %g)\n", r->tensor[i].name, r->tensor[i].error, most_of(r->tensor[i].name, f));
    printf("evaluations        %u a segment at most, %u over %zu segments; %s, residual %.2e\n%s\n", r->evaluations,
           r->evaluations_all, r->segments, deq_solver_name(o->method), (double)r->residual_max,
           agree ? "agrees" : "DIFFERS");
}

static void show(const struct deq_golden_report *r)
{
    cli_progress("segment %zu: equilibrium %.2e, log-probabilities %.2e", r->segments, r->z_error, r->logprob_error);
}

int cmd_check(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {.tol = -1, .atol = -1, .mem_len = UINT32_MAX, .solver = -1};
    int code = cli_parse("check", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct cli_counts depths = {.n = 0};
    if (f.caches && !cli_counts("check", "--caches", f.caches, &depths))
        return CLI_USAGE;
    struct deq_plain model;
    struct deq_golden_report r = {0};
    struct deq_cache_gaps gaps[CLI_COUNTS_MAX];
    struct deq_solver_opts o;
    struct deq_err err;
    const size_t memory = f.mem_len;
    enum deq_rc rc = deq_plain_open(args[0], false, &model, &err);
    if (!rc) {
        o = solver_of(model.arch, &f);
        rc = deq_golden_compare(&model, args[1], &o, f.mem_len == UINT32_MAX ? NULL : &memory, show, &r, &err);
        cli_progress_end();
    }
    if (!rc && depths.n)
        rc = deq_golden_caches(&model, args[1], &o, depths.each, depths.n, gaps, &err);
    const bool agree = !rc && agrees(&r, &f);
    if (rc)
        cli_fail("check", err.text);
    else if (f.json)
        print_json(&r, &o, &depths, gaps, agree);
    else {
        print(&r, &o, &f, agree);
        print_caches(&depths, gaps);
    }
    deq_golden_report_free(&r);
    deq_plain_close(&model);
    return agree ? CLI_OK : CLI_FAIL;
}
