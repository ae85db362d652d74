/* The sweep: one thing is varied after the other, each around the best setting so far, on little text; all points stay
 * candidates. Then the decision: text for the fastest that are undecided, rounds for those that are about as fast. */
#include <math.h>

#include "core/base/clock.h"
#include "models/cli/tune/tune.h"

/* Rounds of a setting's times: before it is chosen or much is read for it, since what looks fastest of many in a few
 * rounds was lucky as well; and of those that stay about as fast as each other. */
enum { ROUNDS_FIRM = 5, ROUNDS_MAX = 8 };

static bool same(const struct deq_serving *a, const struct deq_serving *b)
{
    const struct deq_solver_opts *s = &a->solver, *t = &b->solver;
    return s->method == t->method && s->tol == t->tol && s->memory == t->memory && s->beta == t->beta &&
           a->numeric == b->numeric && a->row_window == b->row_window &&
           deq_prefill_window(a->row_window, a->prefill_window) == deq_prefill_window(b->row_window, b->prefill_window);
}

static void add(struct tuning *t, const char *stage, const struct deq_serving *set)
{
    for (size_t i = TUNE_OWN; i < t->n; i++) /* the exact one is there to compare with */
        if (same(&t->point[i].set, set))
            return;
    if (t->n < TUNE_POINTS_MAX)
        t->point[t->n++] = (struct tune_point){.stage = stage, .set = *set};
}

/* --- Measuring --- */

static enum deq_rc go_on(const struct tuning *t, const char *what, size_t i, struct deq_err *err)
{
    const struct tune_opts *o = &t->opts;
    const unsigned s = (unsigned)(deq_now_s() - t->began_s), most = (unsigned)o->seconds;
    char line[160];
    if (o->stop && o->stop(o->ctx))
        return deq_fail(err, DEQ_ECANCELED, "tuning was stopped; the model's settings are as they were");
    snprintf(line, sizeof line, "tuning: %s, %s, setting %zu of %zu, %u:%02u of at most %u:%02u", t->point[i].stage,
             what, i + 1, t->n, s / 60, s % 60, most / 60, most % 60);
    if (o->progress)
        o->progress(o->ctx, line);
    return DEQ_OK;
}

/* Looks at the text: at 1, 2, 4, ... portions and all of it. */
static size_t looks(size_t portions)
{
    size_t n = 1;
    while (((size_t)1 << (n - 1)) < portions)
        n++;
    return n;
}

static double alpha_of(const struct tuning *t, const struct tune_point *p)
{
    return tune_alpha(looks(p->portions) - 1, looks(t->subject->n_portions));
}

static void judge(struct tuning *t, size_t i)
{
    t->verdict[i] = i == TUNE_EXACT ? TUNE_BEYOND /* never chosen */
                                    : tune_judge_point(&t->point[i], t->limit, alpha_of(t, &t->point[i]));
}

static enum deq_rc read_on(struct tuning *t, size_t i, size_t to, struct deq_err *err)
{
    enum deq_rc rc = go_on(t, "reading", i, err);
    if (!rc)
        rc = tune_score(t->subject, &t->point[TUNE_EXACT], true, to, err);
    if (!rc)
        rc = tune_score(t->subject, &t->point[i], i == TUNE_EXACT, to, err);
    if (rc)
        return rc;
    const size_t blocks = t->point[TUNE_EXACT].apart[0].n;
    t->exact = 0;
    for (size_t b = 0; b < blocks; b++)
        t->exact += t->subject->exact_block[b] / (double)blocks;
    t->limit = t->exact * t->opts.budget;
    judge(t, i);
    return isfinite(t->exact) ? DEQ_OK : deq_fail(err, DEQ_ENUMERIC, "the solver met values that are not finite");
}

static enum deq_rc time_one(struct tuning *t, size_t i, double *ret_s, struct deq_err *err)
{
    const enum deq_rc rc = go_on(t, "timing", i, err);
    return rc ? rc : tune_time(t->subject, &t->point[i], ret_s, err);
}

/* A round: those that `wanted` names, each between two measurements of the model's own setting. */
static enum deq_rc time_round(struct tuning *t, const bool *wanted, struct deq_err *err)
{
    double before, s, after;
    enum deq_rc rc = time_one(t, TUNE_OWN, &before, err);
    for (size_t i = 0; i < t->n && !rc; i++) {
        if (i == TUNE_OWN || !wanted[i])
            continue;
        rc = time_one(t, i, &s, err);
        if (!rc)
            rc = time_one(t, TUNE_OWN, &after, err);
        if (!rc) {
            tune_add(&t->point[i].slower, log(2 * s / (before + after)));
            before = after;
        }
    }
    if (!rc)
        tune_add(&t->point[TUNE_OWN].slower, 0);
    return rc;
}

/* Past that share of the time. */
static bool late(struct tuning *t, double share)
{
    const bool is = deq_now_s() - t->began_s > share * t->opts.seconds;
    t->hurried = t->hurried || is;
    return is;
}

/* The points from `from` on: a look at the text, and rounds, more than one for those that may be chosen. Those for
 * which there is no time, which ends at `share` of all, are dropped. */
static enum deq_rc measure(struct tuning *t, size_t from, double share, struct deq_err *err)
{
    bool wanted[TUNE_POINTS_MAX] = {false};
    enum deq_rc rc = DEQ_OK;
    for (size_t i = from; i < t->n && !rc; i++) {
        if (i > TUNE_OWN && late(t, share))
            t->n = i;
        else
            rc = read_on(t, i, 1, err);
        wanted[i] = true;
    }
    for (unsigned round = 0; round < t->opts.rounds && from < t->n && !rc && !(round && late(t, share)); round++) {
        rc = time_round(t, wanted, err);
        for (size_t i = from; i < t->n; i++)
            wanted[i] = t->verdict[i] != TUNE_BEYOND;
    }
    return rc;
}

/* --- What is varied --- */

static const float tolerances[] = {1e-3f, 3e-3f, 1e-2f, 3e-2f, 6e-2f, 0.1f, 0.15f, 0.2f, 0.3f};

/* What all others are compared with: near the equilibrium, one position after the other, all digits. */
static void add_exact(struct tuning *t)
{
    struct deq_serving s = t->set;
    s.numeric = DEQ_CLASS_FLOAT32;
    s.solver.tol = 1e-4f;
    s.solver.max_iter = DEQ_MAX(s.solver.max_iter, 100u);
    s.row_window = 1;
    s.prefill_window = 0;
    add(t, "exact", &s);
}

static void add_own(struct tuning *t)
{
    add_exact(t);
    add(t, "as it is", &t->set);
}

/* What the next thing is varied around: the fastest whose loss seems to be within the budget. Not a decision. */
static const struct deq_serving *base(const struct tuning *t)
{
    size_t best = TUNE_OWN;
    bool found = false;
    for (size_t i = TUNE_OWN; i < t->n; i++) {
        const struct tune_point *p = &t->point[i];
        if (tune_worse(p)->mean <= t->limit && (!found || p->slower.mean < t->point[best].slower.mean)) {
            best = i;
            found = true;
        }
    }
    return &t->point[best].set;
}

static void add_solvers(struct tuning *t)
{
    struct deq_serving s = t->set;
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
    const struct deq_serving best = *base(t);
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
    struct deq_serving s = *base(t);
    for (int c = 0; c < DEQ_CLASS_COUNT; c++) {
        s.numeric = (enum deq_class)c;
        add(t, "numeric class", &s);
    }
}

static void add_windows(struct tuning *t)
{
    struct deq_serving s = *base(t);
    for (s.row_window = 1; s.row_window <= 16; s.row_window *= 2)
        add(t, "window", &s);
}

static void add_prefill_windows(struct tuning *t)
{
    struct deq_serving s = *base(t);
    for (s.prefill_window = 8; s.prefill_window <= DEQ_ROW_WINDOW_MAX; s.prefill_window *= 2)
        add(t, "prefill window", &s);
}

static void add_tolerances(struct tuning *t)
{
    struct deq_serving s = t->chosen < t->n ? t->point[t->chosen].set : *base(t);
    for (size_t i = 0; i < DEQ_COUNT(tolerances); i++) {
        s.solver.tol = tolerances[i];
        add(t, "tolerance", &s);
    }
}

/* --- The decision --- */

/* Whether it matters what point i loses: it would be chosen if it were within the budget. */
static bool matters(const struct tuning *t, size_t i, struct tune_noise noise)
{
    const struct tune_point *p = &t->point[i], *chosen = &t->point[t->chosen];
    return t->chosen == t->n || p->slower.mean < chosen->slower.mean ||
           (i == TUNE_OWN && !tune_faster(chosen, p, noise));
}

/* Undecided, would be chosen, with text left (`more`) or without: the fastest of these, or n. */
static size_t next_undecided(const struct tuning *t, bool more)
{
    const struct tune_noise noise = tune_noise(t->point, t->n);
    size_t best = t->n;
    for (size_t i = TUNE_OWN; i < t->n; i++)
        if (t->verdict[i] == TUNE_UNDECIDED && (t->point[i].portions < t->subject->n_portions) == more &&
            matters(t, i, noise) && (best == t->n || t->point[i].slower.mean < t->point[best].slower.mean))
            best = i;
    return best;
}

/* Those within the budget that are about as fast as the fastest of them.
 * True: they have rounds left. */
static bool tied(const struct tuning *t, bool *ret_wanted)
{
    const struct tune_noise noise = tune_noise(t->point, t->n);
    size_t fastest = t->n, n = 0, least = ROUNDS_MAX;
    for (size_t i = TUNE_OWN; i < t->n; i++)
        if (t->verdict[i] == TUNE_WITHIN &&
            (fastest == t->n || t->point[i].slower.mean < t->point[fastest].slower.mean))
            fastest = i;
    for (size_t i = 0; i < t->n; i++) {
        ret_wanted[i] = fastest < t->n && t->verdict[i] == TUNE_WITHIN &&
                        !tune_faster(&t->point[fastest], &t->point[i], noise);
        n += ret_wanted[i];
        if (ret_wanted[i] && i != TUNE_OWN)
            least = DEQ_MIN(least, t->point[i].slower.n);
    }
    return least < (n > 1 ? ROUNDS_MAX : ROUNDS_FIRM);
}

static enum deq_rc decide(struct tuning *t, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    while (!rc) {
        bool wanted[TUNE_POINTS_MAX];
        for (size_t i = 0; i < t->n; i++) /* the limit is known better now */
            judge(t, i);
        t->chosen = tune_choose(t->point, t->n, t->verdict, TUNE_OWN);
        const size_t i = next_undecided(t, true);
        const bool ties = tied(t, wanted);
        if ((i == t->n && !ties) || late(t, 0.8))
            return DEQ_OK;
        if (i < t->n && (i == TUNE_OWN || t->point[i].slower.n >= ROUNDS_FIRM)) {
            rc = read_on(t, i, DEQ_MIN(2 * t->point[i].portions, t->subject->n_portions), err);
        } else {
            if (i < t->n)
                wanted[i] = true;
            rc = time_round(t, wanted, err);
        }
    }
    return rc;
}

/* The points that differ from the choice by their tolerance only; at: their places among all. */
static size_t curve_of(const struct tuning *t, struct tune_point *ret, size_t *at)
{
    size_t n = 0;
    for (size_t i = TUNE_OWN; i < t->n; i++) {
        struct deq_serving s = t->point[i].set;
        s.solver.tol = t->set.solver.tol;
        if (!same(&s, &t->set))
            continue;
        at[n] = i;
        ret[n++] = t->point[i];
    }
    return n;
}

/* The tightest of the curve that is looser than `tol`; n: the choice is not looser. */
static size_t next_looser(const struct tuning *t, const struct tune_point *curve, size_t n, float tol)
{
    size_t best = n;
    for (size_t k = 0; k < n; k++) {
        const float own = curve[k].set.solver.tol;
        if (own > tol && own <= t->set.solver.tol && (best == n || own < curve[best].set.solver.tol))
            best = k;
    }
    return best;
}

/* The presets, of the chosen setting's tolerances: `fast` is the loosest that loses at most ten times the budget,
 * `exact` the loosest that changes the loss by at most a quarter of it, up or down; text is read for that. */
static enum deq_rc name_tolerances(struct tuning *t, struct deq_err *err)
{
    struct tune_point curve[TUNE_POINTS_MAX];
    size_t at[TUNE_POINTS_MAX], n = curve_of(t, curve, at);
    const size_t all = t->subject->n_portions;
    const float chosen = t->set.solver.tol, tightest = curve[next_looser(t, curve, n, 0)].set.solver.tol;
    float exact = tune_loosest(curve, n, t->limit / 4, true);
    while (!late(t, 1)) {
        const size_t k = next_looser(t, curve, n, exact);
        if (k == n || curve[k].portions == all ||
            tune_judge_distance(tune_worse(&curve[k]), t->limit / 4, TUNE_LEVEL) != TUNE_UNDECIDED)
            break;
        const enum deq_rc rc = read_on(t, at[k], DEQ_MIN(2 * curve[k].portions, all), err);
        if (rc)
            return rc;
        curve[k] = t->point[at[k]];
        exact = tune_loosest(curve, n, t->limit / 4, true);
    }
    t->set.tol_fast = fmaxf(tune_loosest(curve, n, 10 * t->limit, false), chosen);
    t->set.tol_exact = exact > 0 ? fminf(exact, chosen) : tightest < chosen ? tightest : 0; /* 0: serving's default */
    return DEQ_OK;
}

static void conclude(struct tuning *t)
{
    tune_mark_front(t->point, t->n);
    t->open = next_undecided(t, false);
    if (t->open < t->n) {
        const struct tune_point *p = &t->point[t->open];
        t->tokens_needed = TUNE_BLOCK * tune_blocks_needed(tune_worse(p), t->limit, alpha_of(t, p));
    }
    t->seconds = deq_now_s() - t->began_s;
}

enum deq_rc tune_run(struct tune_subject *s, const struct tune_opts *o, struct tuning *t, struct deq_err *err)
{
    static void (*const stages[])(struct tuning *t) = {add_own, add_solvers, add_mixing, add_classes, add_windows,
                                                       add_prefill_windows};
    t->subject = s;
    t->opts = *o;
    t->began_s = deq_now_s();
    t->set = s->arch->serving;
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(stages) && !rc; i++) {
        const size_t from = t->n;
        stages[i](t);
        rc = measure(t, from, 0.6, err);
    }
    if (!rc)
        rc = decide(t, err);
    const size_t from = t->n;
    if (!rc) {
        add_tolerances(t); /* around what was decided; with them it is decided again */
        rc = measure(t, from, 1, err);
    }
    if (!rc)
        rc = decide(t, err);
    if (rc)
        return rc;
    if (t->chosen < t->n) {
        t->set = t->point[t->chosen].set;
        rc = name_tolerances(t, err);
    }
    conclude(t);
    return rc;
}

/* --- What came of it --- */

static void print_loss(FILE *out, const struct tuning *t, const struct tune_point *p)
{
    const struct tune_sample *loss = tune_worse(p);
    fprintf(out, "loses %.3f %% +-%.3f, on %zu tokens", 100 * loss->mean / t->exact, 100 * tune_error(loss) / t->exact,
            loss->n * TUNE_BLOCK);
}

void tune_print_result(FILE *out, const struct tuning *t)
{
    const struct deq_serving *s = &t->set;
    if (t->chosen < t->n) {
        fprintf(out, "chosen: %s to %g, class %s, window %u, a prompt's %u; fast %g, exact %g\n        ",
                deq_solver_name(s->solver.method), (double)s->solver.tol, deq_class_name(s->numeric), s->row_window,
                deq_prefill_window(s->row_window, s->prefill_window), (double)s->tol_fast, (double)s->tol_exact);
        print_loss(out, t, &t->point[t->chosen]);
        fprintf(out, ", and takes %+.1f %% of time against the settings before\n",
                100 * expm1(t->point[t->chosen].slower.mean));
    } else {
        fprintf(out, "no setting is known to lose at most %g %%\n", 100 * t->opts.budget);
    }
    if (t->open < t->n) {
        const struct tune_point *p = &t->point[t->open];
        fprintf(out, "the text is too short to tell of others, as fast or faster: %s to %g, window %u ",
                deq_solver_name(p->set.solver.method), (double)p->set.solver.tol, p->set.row_window);
        print_loss(out, t, p);
        if (t->tokens_needed < 1e8)
            fprintf(out, "; about %.2g would do", t->tokens_needed);
        fputc('\n', out);
    }
    fprintf(out, "tuned in %.0f s%s\n", t->seconds,
            t->hurried ? ", the time that was given: more might find more" : "");
}
