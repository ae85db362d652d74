/* deq tune: finds the fastest settings of solving that lose next to nothing, and makes them the model's own.
 *
 * One thing is varied after the other, each around the best setting so far; all points stay candidates. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "core/base/cores.h"
#include "core/base/mem.h"
#include "core/deq.h"
#include "models/cli/cli.h"
#include "models/cli/tune/tune.h"

enum { POINTS_MAX = 96 };

struct flags {
    float budget; /* percent */
    uint32_t limit, repeat, threads; /* threads 0: all cores */
    const char *svg;
    bool dry_run, json;
};

#define AT(field) offsetof(struct flags, field)
static const struct deq_opt flags[] = {
    {"--budget", DEQ_OPT_FLOAT, AT(budget), 0, 100, "0.1", NULL, "loss that may be given for speed, in percent"},
    {"--limit", DEQ_OPT_U32, AT(limit), 512, 1 << 24, "16384", NULL, "tokens of the text that are read"},
    {"--repeat", DEQ_OPT_U32, AT(repeat), 1, 100, "2", NULL, "measurements of each setting, taken in turns"},
    {"--threads", DEQ_OPT_U32, AT(threads), 1, 256, NULL, NULL,
     "compute threads; else all cores. With 1 its CPU time counts, which others on the machine do not change"},
    {"--svg", DEQ_OPT_ARG, AT(svg), 0, 0, NULL, "FILE", "draw loss against time into a file too"},
    {"--dry-run", DEQ_OPT_BOOL, AT(dry_run), 0, 0, NULL, NULL, "leave config.json as it is"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq tune MODEL_DIR TEXT_FILE [flags]",
    .about = "Measures settings of solving on a text that the model was not trained on, and writes the fastest whose "
             "loss is within the budget\n"
             "into config.json, as the model's own.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 2,
    .max_args = 2,
};

struct tuning {
    struct tune_subject *subject;
    const struct flags *f;
    struct tune_point point[POINTS_MAX];
    size_t n, best;
    double exact, budget; /* nats a token; a share */
};

static bool same(const struct deq_serving *a, const struct deq_serving *b)
{
    const struct deq_solver_opts *s = &a->solver, *t = &b->solver;
    return s->method == t->method && s->tol == t->tol && s->memory == t->memory && s->beta == t->beta &&
           a->numeric == b->numeric && a->row_window == b->row_window && a->prefill_window == b->prefill_window;
}

static void add(struct tuning *t, const char *stage, const struct deq_serving *set)
{
    for (size_t i = 0; i < t->n; i++)
        if (same(&t->point[i].set, set))
            return;
    if (t->n < POINTS_MAX)
        t->point[t->n++] = (struct tune_point){.stage = stage, .set = *set};
}

/* The points from `from` on, in turns, and the best one so far with them. */
static enum deq_rc measure(struct tuning *t, size_t from, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    for (uint32_t turn = 0; turn < t->f->repeat; turn++) {
        for (size_t i = from; i < t->n && !rc; i++) {
            cli_progress("%s: setting %zu of %zu, turn %u of %u", t->point[i].stage, i - from + 1, t->n - from,
                         turn + 1, t->f->repeat);
            rc = tune_measure(t->subject, &t->point[i], err);
        }
        if (!rc && t->best < from)
            rc = tune_measure(t->subject, &t->point[t->best], err);
    }
    if (!rc && t->n) {
        t->exact = t->point[0].loss;
        t->best = tune_choose(t->point, t->n, t->exact, t->budget);
    }
    return rc;
}

/* --- What is varied --- */

static const float tolerances[] = {1e-3f, 3e-3f, 1e-2f, 3e-2f, 6e-2f, 0.1f, 0.15f, 0.2f, 0.3f};

/* What all others are compared with: near the equilibrium, one position after the other. */
static void add_exact(struct tuning *t)
{
    struct deq_serving s = t->subject->arch->serving;
    s.solver.tol = 1e-4f;
    s.solver.max_iter = DEQ_MAX(s.solver.max_iter, 100u);
    s.row_window = 1;
    s.prefill_window = 0;
    add(t, "exact", &s);
}

static void add_own(struct tuning *t)
{
    add(t, "as it is", &t->subject->arch->serving);
}

static void add_solvers(struct tuning *t)
{
    struct deq_serving s = t->subject->arch->serving;
    for (int method = 0; method < DEQ_SOLVER_COUNT; method++)
        for (size_t i = 2; i < DEQ_COUNT(tolerances); i += 2) {
            s.solver.method = (enum deq_solver_method)method;
            s.solver.tol = tolerances[i];
            add(t, "solver, tolerance", &s);
        }
}

static void add_mixing(struct tuning *t)
{
    static const float betas[] = {1, 0.9f, 0.8f};
    static const unsigned memories[] = {2, 3, 5};
    const struct deq_serving best = t->point[t->best].set;
    for (size_t i = 0; i < DEQ_COUNT(betas) && best.solver.method != DEQ_BROYDEN; i++) {
        struct deq_serving s = best;
        s.solver.beta = betas[i];
        add(t, "mixing", &s);
    }
    for (size_t i = 0; i < DEQ_COUNT(memories) && best.solver.method == DEQ_ANDERSON; i++) {
        struct deq_serving s = best;
        s.solver.memory = memories[i];
        add(t, "mixing", &s);
    }
}

static void add_classes(struct tuning *t)
{
    struct deq_serving s = t->point[t->best].set;
    for (int c = 0; c < DEQ_CLASS_COUNT; c++) {
        s.numeric = (enum deq_class)c;
        add(t, "numeric class", &s);
    }
}

static void add_windows(struct tuning *t)
{
    struct deq_serving s = t->point[t->best].set;
    for (s.row_window = 1; s.row_window <= 16; s.row_window *= 2)
        add(t, "window", &s);
}

static void add_prefill_windows(struct tuning *t)
{
    struct deq_serving s = t->point[t->best].set;
    for (s.prefill_window = 8; s.prefill_window <= DEQ_ROW_WINDOW_MAX; s.prefill_window *= 2)
        add(t, "prefill window", &s);
}

static void add_tolerances(struct tuning *t)
{
    struct deq_serving s = t->point[t->best].set;
    for (size_t i = 0; i < DEQ_COUNT(tolerances); i++) {
        s.solver.tol = tolerances[i];
        add(t, "tolerance", &s);
    }
}

static enum deq_rc sweep(struct tuning *t, struct deq_err *err)
{
    static void (*const stages[])(struct tuning *t) = {add_exact, add_own, add_solvers, add_mixing, add_classes,
                                                       add_windows, add_prefill_windows, add_tolerances};
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(stages) && !rc; i++) {
        const size_t from = t->n;
        stages[i](t);
        if (t->n > from)
            rc = measure(t, from, err);
    }
    if (!rc && !isfinite(t->exact))
        rc = deq_fail(err, DEQ_ENUMERIC, "the solver met values that are not finite");
    tune_mark_front(t->point, t->n);
    return rc;
}

/* The presets: of the chosen setting's tolerances the fastest that loses ten times the budget, and the loosest that
 * changes the loss by less than a tenth of it. */
static void name_tolerances(const struct tuning *t, struct deq_serving *ret)
{
    struct tune_point curve[POINTS_MAX];
    size_t n = 0;
    *ret = t->point[t->best].set;
    for (size_t i = 0; i < t->n; i++) {
        struct deq_serving s = t->point[i].set;
        s.solver.tol = ret->solver.tol;
        if (same(&s, ret))
            curve[n++] = t->point[i];
    }
    const float fast = curve[tune_choose(curve, n, t->exact, 10 * t->budget)].set.solver.tol,
                exact = tune_exact_tol(curve, n, t->exact, t->budget / 10);
    ret->tol_fast = DEQ_MAX(fast, ret->solver.tol);
    ret->tol_exact = DEQ_MIN(exact, ret->solver.tol);
}

/* --- What is said --- */

static void print_table(const struct tuning *t)
{
    printf("%-18s %-9s %7s %2s %4s %-8s %6s %7s  %7s %17s  %11s  %13s\n", "varied", "solver", "tol", "m", "beta",
           "class", "window", "prefill", "loss", "", "evaluations", "tokens/s");
    printf("%-18s %-9s %7s %2s %4s %-8s %6s %7s  %7s %17s  %5s %5s  %6s %6s\n", "", "", "", "", "", "", "", "", "", "",
           "read", "write", "read", "write");
    for (size_t i = 0; i < t->n; i++) {
        const struct tune_point *p = &t->point[i];
        const struct deq_serving *s = &p->set;
        printf("%-18s %-9s %7g %2u %4g %-8s %6u %7u  %7.4f %+7.3f%% +-%.3f%%  %5.2f %5.2f  %6.0f %6.0f %s\n", p->stage,
               deq_solver_name(s->solver.method), (double)s->solver.tol, s->solver.memory, (double)s->solver.beta,
               deq_class_name(s->numeric), s->row_window, s->prefill_window, p->loss,
               100 * (p->loss / t->exact - 1), 100 * p->error / t->exact, p->evaluations, p->written, 1 / p->read_s,
               1 / p->write_s,
               i == t->best ? "<- chosen" : p->front ? "*" : "");
    }
    printf("*: of no other setting are both loss and time less; prefill 0: as window\n");
}

static json_t *point_json(const struct tuning *t, const struct tune_point *p)
{
    const struct deq_serving *s = &p->set;
    return json_pack("{s:s, s:s, s:f, s:i, s:f, s:s, s:i, s:i, s:o, s:o, s:f, s:f, s:f, s:f, s:b, s:b}", "varied",
                     p->stage, "solver", deq_solver_name(s->solver.method), "tol", (double)s->solver.tol, "memory",
                     (int)s->solver.memory, "beta", (double)s->solver.beta, "numeric_class", deq_class_name(s->numeric),
                     "window", (int)s->row_window, "prefill_window", (int)s->prefill_window, "nll_per_token",
                     isfinite(p->loss) ? json_real(p->loss) : json_null(), "error",
                     isfinite(p->error) ? json_real(p->error) : json_null(), "evaluations_read", p->evaluations,
                     "evaluations_write", p->written, "tokens_per_second_read", 1 / p->read_s,
                     "tokens_per_second_write", 1 / p->write_s, "front", p->front, "chosen",
                     p == &t->point[t->best]);
}

static int print_json(const struct tuning *t, const struct deq_serving *set, bool written)
{
    json_t *points = json_array();
    for (size_t i = 0; i < t->n; i++)
        json_array_append_new(points, point_json(t, &t->point[i]));
    return cli_print_json("tune",
                          json_pack("{s:i, s:f, s:f, s:b, s:{s:f, s:f}, s:o}", "tokens",
                                    (int)t->subject->tokens.n - 1, "exact", t->exact, "budget_percent",
                                    100 * t->budget, "written", written, "presets", "fast", (double)set->tol_fast,
                                    "exact", (double)set->tol_exact, "points", points),
                          JSON_INDENT(2) | JSON_REAL_PRECISION(7));
}

static int report(const struct tuning *t, struct deq_err *err)
{
    const struct flags *f = t->f;
    struct deq_serving set;
    name_tolerances(t, &set);
    if (f->svg && tune_plot_svg(f->svg, t->point, t->n, t->best, t->exact, t->budget, err))
        return cli_fail("tune", err->text);
    if (!f->dry_run && tune_save(t->subject, &set, err))
        return cli_fail("tune", err->text);
    if (f->json)
        return print_json(t, &set, !f->dry_run);
    print_table(t);
    tune_plot_text(stdout, t->point, t->n, t->best, t->exact, t->budget);
    printf("chosen: tol %g, fast %g, exact %g\n%s: %s\n", (double)set.solver.tol, (double)set.tol_fast,
           (double)set.tol_exact, t->subject->config_path,
           f->dry_run ? "left as it is" : "has the chosen settings now");
    return CLI_OK;
}

int cmd_tune(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {0};
    struct deq_err err;
    int code = cli_parse("tune", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct tuning *t = DEQ_NEW(struct tuning);
    if (!t)
        return cli_fail("tune", "no memory");
    t->f = &f;
    t->budget = (double)f.budget / 100;
    enum deq_rc rc = tune_open(args[0], args[1], f.limit, f.threads ? f.threads : deq_cores(), &t->subject, &err);
    if (!rc && !f.dry_run && access(args[0], W_OK))
        rc = deq_fail(&err, DEQ_EIO, "%s: cannot be written to, and config.json is replaced in it; --dry-run only "
                                     "measures", args[0]);
    if (!rc)
        rc = sweep(t, &err);
    cli_progress_end();
    code = rc ? cli_fail("tune", err.text) : report(t, &err);
    tune_close(t->subject);
    deq_free(t);
    return code;
}
