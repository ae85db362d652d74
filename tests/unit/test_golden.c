/* The authors' checkpoints (tests/golden/authors), imported, against the equilibria and log-probabilities that their
 * PyTorch code computed: joint solves of segments with memory by every solver, and the row engine token by token. */
#include "core/score/segment.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/data/safetensors.h"
#include "core/deq.h"
#include "core/import/import.h"
#include "tests/unit/test.h"

enum { B = 3, LENGTH = 24, SEGMENTS_MAX = 3 };

struct golden {
    char dir[128];
    struct deq_arch *arch;
    struct deq_weights *w;
    struct deq_safetensors *file;
    size_t b, t; /* sequences; positions of a segment */
    uint32_t tokens[B][LENGTH];
};

static void remove_model(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                                        "README.md"};
    char path[256];
    for (size_t i = 0; i < DEQ_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static bool open_golden(const char *name, struct golden *g)
{
    char checkpoint[128], config[128], path[160];
    struct stat is;
    struct deq_err err;
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "/tmp/deq-golden-%d-%s", (int)getpid(), name);
    snprintf(checkpoint, sizeof checkpoint, "tests/golden/authors/%s/checkpoint.pth", name);
    snprintf(config, sizeof config, "tests/golden/authors/%s/config.json", name);
    struct deq_import_opts o = {.checkpoint = checkpoint, .config = config, .out_dir = g->dir};
    if (stat(checkpoint, &is)) { /* a directory, as looped models come in */
        *strrchr(checkpoint, '/') = 0;
        o.config = NULL;
    }
    struct deq_import_report report;
    CHECK_MSG(deq_import(&o, &report, &err) == DEQ_OK, "%s", err.text);
    snprintf(path, sizeof path, "%s/config.json", g->dir);
    CHECK_MSG(deq_config_load(path, &g->arch, &err) == DEQ_OK, "%s", err.text);
    snprintf(path, sizeof path, "%s/model.safetensors", g->dir);
    CHECK_MSG(g->arch && deq_weights_load(path, g->arch, false, &g->w, &err) == DEQ_OK, "%s", err.text);
    snprintf(path, sizeof path, "tests/golden/authors/%s/golden.safetensors", name);
    CHECK_MSG(deq_safetensors_open(path, &g->file, &err) == DEQ_OK, "%s", err.text);
    const struct deq_tensor *t = g->file ? deq_safetensors_find(g->file, "tokens") : NULL;
    g->b = t ? t->count / LENGTH : 0;
    CHECK((g->b == B || g->b == 1) && t->count == g->b * LENGTH);
    for (size_t i = 0; i < DEQ_MIN(g->b, (size_t)B) * LENGTH; i++) {
        int64_t id = -1;
        CHECK(!deq_tensor_read(g->file, t, i, 1, &id, &err));
        g->tokens[i / LENGTH][i % LENGTH] = (uint32_t)id;
    }
    g->t = g->arch && g->arch->segment_len ? g->arch->segment_len : LENGTH;
    CHECK(g->t >= LENGTH / SEGMENTS_MAX && g->t <= LENGTH);
    return g->w && t && g->t;
}

static void close_golden(struct golden *g)
{
    deq_weights_free(g->w);
    deq_free(g->arch);
    deq_safetensors_close(g->file);
    remove_model(g->dir);
}

/* tensor name.what as floats [B, t, last]; free with deq_free */
static float *expected(const struct golden *g, const char *of, const char *what, size_t last)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", of, what);
    const struct deq_tensor *t = deq_safetensors_find(g->file, name);
    float *x = DEQ_NEW_ARRAY(float, g->b * g->t * last);
    CHECK(t && t->count == g->b * g->t * last && deq_tensor_to_f32(g->file, t, x, NULL) == DEQ_OK);
    return x;
}

static const char *const segment_name[SEGMENTS_MAX] = {"segment0", "segment1", "segment2"};

static double worst(const float *x, const float *y, size_t n)
{
    double w = 0;
    for (size_t i = 0; i < n; i++)
        w = worse(w, fabs((double)x[i] - (double)y[i]));
    return w;
}

/* wide false: the sums of the evaluation that is used for speed, in float. */
static void check_segments(const struct golden *g, const struct deq_solver_opts *o, bool wide, double z_max,
                           double p_max)
{
    const size_t V = g->arch->vocab.size, T = g->t, N = g->b * T;
    struct deq_segment *s = NULL;
    double z_error = 0, p_error = 0, nll_error = 0;
    REQUIRE(deq_segment_new(g->arch, g->w, g->b, T, g->arch->segment_memory, o, &s, NULL) == DEQ_OK);
    const size_t S = s->seq->shown_dim;
    if (wide)
        deq_seq_wide(s->seq);
    float *logprobs = DEQ_NEW_ARRAY(float, N * V), *shown = DEQ_NEW_ARRAY(float, N * S);
    for (size_t k = 0; k < LENGTH / T; k++) {
        struct deq_solve_report r;
        uint32_t x[B * LENGTH], targets[B * LENGTH];
        double nll[B * LENGTH];
        for (size_t i = 0; i < N; i++) {
            x[i] = g->tokens[i / T][k * T + i % T];
            targets[i] = (x[i] * 7 + (uint32_t)i * 13) % (uint32_t)V; /* from all clusters */
        }
        CHECK(deq_segment_solve(s, x, T, shown, &r, NULL) == DEQ_OK);
        CHECK(o->tol > 0 || r.evaluations == o->max_iter);
        CHECK(deq_seq_logprobs(s->seq, s->z, logprobs, NULL) == DEQ_OK);
        deq_seq_loss(s->seq, s->z, targets, 1, NULL, NULL, nll);
        float *z = expected(g, segment_name[k], "equilibrium", S), *p = expected(g, segment_name[k], "logprobs", V);
        z_error = worse(z_error, worst(z, shown, N * S));
        p_error = worse(p_error, worst(p, logprobs, N * V));
        for (size_t i = 0; i < N; i++)
            nll_error = worse(nll_error, fabs(nll[i] + (double)logprobs[i * V + targets[i]]));
        deq_free(z);
        deq_free(p);
    }
    CHECK_MSG(z_error < z_max && p_error < p_max, "%s: %s: equilibrium off by %g, log-probabilities by %g", g->dir,
              deq_solver_name(o->method), z_error, p_error);
    /* float sums over at most 100 words and 32 terms, of logits up to a hundred or (torchdeq) a thousand */
    CHECK_MSG(nll_error < (o->tol > 0 ? 1e-4 : 1e-3), "%s: one target's log-probability is off by %g", g->dir,
              nll_error);
    deq_free(logprobs);
    deq_free(shown);
    deq_segment_free(s);
}

/* The transformers contract by about 0.98 a step: a relative residual of 1e-7 leaves 5e-6 |z|, and float rounding as
 * much. Trellis networks contract faster. */
static void check_joint(const char *name)
{
    struct golden g;
    if (open_golden(name, &g))
        for (int method = 0; method < DEQ_SOLVER_COUNT; method++)
            for (int wide = 0; wide < 2; wide++) {
                struct deq_solver_opts o = g.arch->serving.solver;
                o.method = (enum deq_solver_method)method;
                o.tol = 1e-7f;
                o.max_iter = 3000;
                check_segments(&g, &o, wide, 1e-4, 2e-4);
            }
    close_golden(&g);
}

/* Exactly so many steps; of the transformers 12, after which states are near 300 and log-probabilities near -1,500: one
 * unit in the last place is 3e-5 and 1.2e-4. With sums in float ten times that is allowed. */
static void check_steps(const char *name)
{
    struct golden g;
    if (open_golden(name, &g)) {
        check_segments(&g, &g.arch->serving.solver, true, 1e-4, 2e-4);
        check_segments(&g, &g.arch->serving.solver, false, 3e-4, 2e-3);
    }
    close_golden(&g);
}

TEST(golden_locuslab_post) { check_joint("locuslab-postln-adaptive"); }
TEST(golden_locuslab_post_local) { check_joint("locuslab-postln-plain-local"); }
TEST(golden_locuslab_pre) { check_joint("locuslab-preln-adaptive"); }
TEST(golden_locuslab_pre_plain) { check_joint("locuslab-preln-plain"); }
TEST(golden_torchdeq) { check_steps("torchdeq-lm-adaptive"); }
TEST(golden_torchdeq_plain) { check_steps("torchdeq-lm-plain"); }
TEST(golden_trellis) { check_joint("trellis-plain"); }
TEST(golden_trellis_weight_norm) { check_joint("trellis-wnorm"); }
TEST(golden_trellis_clusters) { check_joint("trellis-split"); }
TEST(golden_trellis_levels) { check_steps("trellis-explicit"); }

/* --- The row engine --- */

struct row_check {
    const struct golden *g;
    float *p[SEGMENTS_MAX]; /* expected log-probabilities */
    size_t b, V, seen;
    double worst, residual;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct row_check *r = ctx;
    if (e->kind != DEQ_EVENT_PROMPT)
        return DEQ_CONTINUE;
    const size_t T = r->g->t;
    const float *p = r->p[e->position / T] + (r->b * T + e->position % T) * r->V;
    const struct deq_log_normaliser n = deq_log_normaliser(e->logits, (uint32_t)r->V);
    for (uint32_t v = 0; v < r->V; v++)
        r->worst = worse(r->worst, fabs((double)p[v] - (double)deq_logprob(&n, e->logits[v])));
    r->residual = fmax(r->residual, (double)e->residual);
    r->seen++;
    return DEQ_CONTINUE;
}

/* The first n positions of every sequence, one row at a time or in a window; warm from the position before, as a user
 * would serve it. */
static void check_rows_in(enum deq_class numeric, const char *name, const char *const of[], size_t n, uint32_t window,
                          enum deq_warm warm, float tol, uint32_t max_iter, double at_most)
{
    struct golden g;
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_err err;
    if (!open_golden(name, &g))
        return;
    CHECK_MSG(deq_model_load(g.dir, &numeric, &model, &err) == DEQ_OK, "%s", err.text);
    CHECK(deq_engine_new(model, &(struct deq_engine_opts){.threads = 2, .max_sequences = 1}, &engine, &err) == DEQ_OK);
    struct row_check r = {.g = &g, .V = g.arch->vocab.size};
    for (size_t k = 0; k < LENGTH / g.t; k++)
        r.p[k] = expected(&g, of[k], "logprobs", r.V);
    for (r.b = 0; r.b < g.b; r.b++) {
        struct deq_request q = deq_request_defaults(model);
        q.prompt = g.tokens[r.b];
        q.n_prompt = n;
        q.max_tokens = 0;
        q.want_prompt = true;
        q.event = on_event;
        q.ctx = &r;
        q.solve.window = window;
        q.solve.prefill_window = 0; /* as wide */
        q.solve.warm_start = warm;
        q.solve.tol = tol;
        q.solve.max_iter = max_iter;
        CHECK_MSG(deq_submit(engine, &q, NULL, &err) == DEQ_OK, "%s", err.text);
        while (deq_active(engine))
            deq_step(engine);
    }
    CHECK_MSG(r.seen == g.b * n && r.worst < at_most,
              "%s, %s: %zu positions, log-probabilities off by %g at residuals up to %g", name,
              deq_class_name(numeric), r.seen, r.worst, r.residual);
    for (size_t k = 0; k < LENGTH / g.t; k++)
        deq_free(r.p[k]);
    deq_engine_free(engine);
    deq_model_free(model);
    close_golden(&g);
}

/* In the class that keeps the file's numbers, and in the one that imported equilibria are served in: 16 bits a factor
 * make a relative error of 5e-5 in an evaluation, which contraction by 0.98 lets grow 50 times at the worst, and where
 * steps are counted nothing holds it. */
static void check_rows(const char *name, size_t n, uint32_t window, enum deq_warm warm, float tol, uint32_t max_iter,
                       double at_most)
{
    check_rows_in(DEQ_CLASS_FLOAT32, name, segment_name, n, window, warm, tol, max_iter, at_most);
    if (tol > 0)
        check_rows_in(DEQ_CLASS_INT16, name, segment_name, n, window, warm, tol, max_iter, DEQ_MAX(at_most, 1e-3));
}

/* Segments 0 and 1 of 8 see every position before them, as rows do; with a window of 7 segment 2 does too. An
 * equilibrium known to a residual of 2e-6 is known to 1e-4 (contraction 0.98), and |z| and the rows of E are of
 * size 1. */
TEST(golden_rows_post) { check_rows("locuslab-postln-adaptive", 16, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_post_local)
{
    check_rows("locuslab-postln-plain-local", 24, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4);
}
TEST(golden_rows_pre) { check_rows("locuslab-preln-adaptive", 16, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_pre_plain) { check_rows("locuslab-preln-plain", 16, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_window) { check_rows("locuslab-preln-adaptive", 16, 8, DEQ_WARM_ZERO, 1e-6f, 3000, 2e-4); }
/* Tokens before a segment are none to a trellis network: rows, which have no segments, agree with the first. */
TEST(golden_rows_trellis) { check_rows("trellis-plain", 24, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_trellis_window) { check_rows("trellis-plain", 24, 8, DEQ_WARM_ZERO, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_trellis_weight_norm) { check_rows("trellis-wnorm", 8, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
TEST(golden_rows_trellis_clusters) { check_rows("trellis-split", 12, 1, DEQ_WARM_PREVIOUS, 1e-6f, 3000, 2e-4); }
/* At a tolerance as one serves with the error follows it. */
TEST(golden_rows_loose) { check_rows("locuslab-postln-adaptive", 16, 1, DEQ_WARM_PREVIOUS, 1e-3f, 64, 0.2); }
/* Steps of a position that nothing stands before are the same in a segment and in a row; of the others they are not,
 * since there a row's neighbours are final and in a segment they are on their way. Float sums: as above. */
TEST(golden_rows_steps) { check_rows("torchdeq-lm-adaptive", 1, 1, DEQ_WARM_ZERO, 0, 12, 2e-3); }
TEST(golden_rows_steps_plain) { check_rows("torchdeq-lm-plain", 1, 1, DEQ_WARM_ZERO, 0, 12, 2e-3); }
TEST(golden_rows_steps_trellis) { check_rows("trellis-explicit", 1, 1, DEQ_WARM_ZERO, 0, 7, 2e-4); }

/* --- Looped models in the row engine --- */

/* At the fixed point a position's keys and values are those of its last evaluation, whatever the others' depth. The
 * cores contract by about 0.8. In 16 bits more products follow each other than in the cells above: of the prelude, the
 * core, which lets an error grow five times, and the coda. */
static void check_equilibrium(const char *name, uint32_t window, enum deq_warm warm)
{
    check_rows_in(DEQ_CLASS_FLOAT32, name, segment_name, 24, window, warm, 1e-6f, 300, 2e-4);
    check_rows_in(DEQ_CLASS_INT16, name, segment_name, 24, window, warm, 1e-6f, 300, 3e-3);
}

TEST(golden_rows_attractor) { check_equilibrium("attractor-small", 1, DEQ_WARM_PROPOSAL); }
TEST(golden_rows_attractor_window) { check_equilibrium("attractor-small", 8, DEQ_WARM_PREVIOUS); }
TEST(golden_rows_parcae) { check_equilibrium("parcae-diagonal", 1, DEQ_WARM_PREVIOUS); }
TEST(golden_rows_parcae_window) { check_equilibrium("parcae-diagonal", 8, DEQ_WARM_ZERO); }
TEST(golden_rows_huginn) { check_equilibrium("huginn-zero", 1, DEQ_WARM_ZERO); }

/* Exactly so many evaluations, a token at a time, with one set of keys and values a layer: what the authors' caches
 * that keep the last loop alone compute. */
static void check_loops(const char *name, const char *of, size_t n, enum deq_warm start, uint32_t loops)
{
    check_rows_in(DEQ_CLASS_FLOAT32, name, &of, n, 1, start, 0, loops, 2e-4);
}

TEST(golden_rows_parcae_loops) { check_loops("parcae-diagonal", "stream", 24, DEQ_WARM_ZERO, 4); }
TEST(golden_rows_huginn_loops) { check_loops("huginn-zero", "stream8", 24, DEQ_WARM_ZERO, 8); }
/* The proposal alone; and evaluations of a position that nothing stands before, since the authors' are in lockstep. */
TEST(golden_rows_attractor_proposal) { check_loops("attractor-small", "steps0", 24, DEQ_WARM_PROPOSAL, 0); }
TEST(golden_rows_attractor_step) { check_loops("attractor-small", "steps1", 1, DEQ_WARM_PROPOSAL, 1); }
TEST(golden_rows_attractor_two_steps) { check_loops("attractor-small", "steps2", 1, DEQ_WARM_PROPOSAL, 2); }

/* Unless a request says otherwise, as their authors' code does. */
TEST(golden_looped_models_start_where_they_were_trained_to)
{
    struct golden g;
    if (open_golden("attractor-small", &g))
        CHECK(g.arch->serving.warm == DEQ_WARM_PROPOSAL);
    close_golden(&g);
    if (open_golden("parcae-diagonal", &g))
        CHECK(g.arch->serving.warm == DEQ_WARM_ZERO);
    close_golden(&g);
}
