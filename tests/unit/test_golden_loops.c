/* core/score/golden_loops.c on a golden file of a random looped model: what agrees, what differs, and what is refused.
 * tests/e2e/imports.py compares imported checkpoints with what their authors' code computed. */
#include "core/score/golden_loops.h"

#include <unistd.h>

#include "core/base/mem.h"
#include "core/cell/looped.h"
#include "core/score/segment.h"
#include "tests/unit/seq_checks.h"
#include "tests/unit/test.h"

enum { B = 2, T = 5, D = 16, V = 11 };

struct model {
    struct deq_plain plain;
    struct deq_seq *seq;
    char path[64];
    int64_t ids[B * T];
    uint32_t tokens[B * T];
    float backbone[B * T * D], start[B * T * D], state[B * T * D], logprobs[B * T * V], equilibrium[B * T * D],
        rest[B * T * V];
};

/* Weights small enough to contract: a prelude, an additive loop, a coda. */
static bool open_model(struct model *m)
{
    memset(m, 0, sizeof *m);
    struct deq_looped_arch *a = (struct deq_looped_arch *)(void *)deq_arch_new(&deq_looped_kind);
    m->plain.arch = &a->base;
    a->base.vocab = (struct deq_vocab){.size = V, .d_model = D, .eos_id = 0};
    a->n_head = 2;
    a->d_head = 8;
    a->d_inner = 24;
    a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CORE] = a->n_layer[DEQ_CODA] = 1;
    a->max_positions = T;
    a->injection = DEQ_INJECT_DIAGONAL;
    a->core_output = a->qk_norm = true;
    m->plain.weights = random_weights(&a->base, 3);
    struct deq_layer_weights *core = deq_looped_weights(m->plain.weights)->layer[DEQ_CORE];
    for (size_t i = 0; i < D * D; i++)
        core->out_w[i] *= 0.2f;
    for (size_t i = 0; i < D * 24; i++)
        core->down_w[i] *= 0.2f;
    for (size_t i = 0; i < B * T; i++)
        m->ids[i] = m->tokens[i] = (uint32_t)(7 * i % V);
    snprintf(m->path, sizeof m->path, "/tmp/deq-golden-loops-%d", (int)getpid());
    const struct deq_seq_shape shape = {.b = B, .t = T, .n_tapes = 1};
    return !deq_seq_new(&a->base, &shape, &m->seq, NULL);
}

static void close_model(struct model *m)
{
    deq_seq_free(m->seq);
    deq_plain_close(&m->plain);
    unlink(m->path);
}

/* state, logprobs = those after n evaluations from `start` */
static void iterate(struct model *m, unsigned n)
{
    memcpy(m->state, m->start, sizeof m->state);
    for (unsigned i = 0; i < n; i++)
        m->seq->ops->forward(m->seq, 0, m->state, m->state);
    CHECK(!deq_seq_logprobs(m->seq, m->state, m->logprobs, NULL));
}

/* All that a file may have, of loops from a start of ones: three of them. */
static void compute(struct model *m)
{
    const struct deq_solver_opts o = {.method = DEQ_PICARD, .memory = 1, .max_iter = 400, .tol = 1e-7f, .beta = 1,
                                      .patience = 20};
    struct deq_segment *s = NULL;
    struct deq_solve_report r;
    CHECK(!deq_segment_new(m->plain.arch, m->plain.weights, B, T, 0, &o, &s, NULL));
    CHECK(!deq_segment_solve(s, m->tokens, T, m->equilibrium, &r, NULL));
    CHECK(!deq_seq_logprobs(s->seq, s->z, m->rest, NULL));
    deq_segment_free(s);
    m->seq->ops->begin(m->seq, m->plain.weights, m->tokens, NULL);
    memcpy(m->backbone, m->seq->prelude, sizeof m->backbone);
    for (size_t i = 0; i < B * T * D; i++)
        m->start[i] = 1;
    iterate(m, 3);
}

#define F32(n, last, x) {n, DEQ_F32, 3, {B, T, last}, x}

static enum deq_rc compare(struct model *m, const struct deq_tensor_out *more, struct deq_golden_report *r,
                           struct deq_err *err)
{
    const struct deq_solver_opts o = {.method = DEQ_ANDERSON, .memory = 3, .max_iter = 400, .tol = 1e-7f, .beta = 1,
                                      .reg = 1e-4f, .patience = 50};
    struct deq_tensor_out t[] = {{"tokens", DEQ_I64, 2, {B, T}, m->ids},
                                 F32("segment0.equilibrium", D, m->equilibrium), F32("segment0.logprobs", V, m->rest),
                                 F32("backbone", D, m->backbone), F32("start", D, m->start),
                                 F32("loop3.state", D, m->state), F32("loop3.logprobs", V, m->logprobs),
                                 F32("loops.state", D, m->backbone), *more};
    CHECK(!deq_safetensors_write(m->path, t, DEQ_COUNT(t), NULL, NULL));
    return deq_golden_compare(&m->plain, m->path, &o, NULL, NULL, r, err);
}

static double error_of(const struct deq_golden_report *r, const char *name)
{
    for (size_t i = 0; i < r->n_tensors; i++)
        if (!strcmp(r->tensor[i].name, name))
            return r->tensor[i].error;
    return -1;
}

TEST(golden_loops)
{
    struct model m;
    struct deq_golden_report r;
    struct deq_err err;
    REQUIRE(open_model(&m));
    compute(&m);
    m.logprobs[4] += 0.25f;
    float *stream = DEQ_NEW_ARRAY(float, B * T * V);
    const struct deq_tensor_out streamed = F32("stream.logprobs", V, stream);
    CHECK_MSG(compare(&m, &streamed, &r, &err) == DEQ_OK, "%s", err.text);
    /* float sums here, double ones there: of a few terms of size one, grown by a contraction of a half at most */
    CHECK(error_of(&r, "backbone") < 1e-5 && error_of(&r, "loop3.state") < 1e-5);
    CHECK(error_of(&r, "segment0.equilibrium") < 1e-5 && error_of(&r, "segment0.logprobs") < 1e-5);
    CHECK(fabs(error_of(&r, "loop3.logprobs") - 0.25) < 1e-5);
    CHECK(error_of(&r, "stream.logprobs") > 0.5); /* zeros are no log-probabilities of eleven tokens */
    CHECK(error_of(&r, "start") == -1 && error_of(&r, "loops.state") == -1);
    deq_golden_report_free(&r);
    deq_free(stream);
    close_model(&m);
}

/* A position at a time is the lockstep for the first position, and for all when no earlier one is looked at. */
TEST(golden_loops_zero_and_stream)
{
    struct model m;
    struct deq_golden_report r;
    struct deq_err err;
    REQUIRE(open_model(&m));
    struct deq_layer_weights *core = deq_looped_weights(m.plain.weights)->layer[DEQ_CORE];
    memset(core->out_w, 0, D * D * sizeof(float));
    compute(&m);
    memset(m.start, 0, sizeof m.start);
    iterate(&m, 3);
    static const char *const names[] = {"zero.logprobs", "stream.logprobs", "zero3.logprobs", "stream3.logprobs",
                                        "r3.logprobs", "steps3.logprobs"};
    for (size_t i = 0; i < DEQ_COUNT(names); i++) {
        const struct deq_tensor_out more = F32(names[i], V, m.logprobs);
        CHECK_MSG(compare(&m, &more, &r, &err) == DEQ_OK, "%s", err.text);
        CHECK_MSG(error_of(&r, names[i]) >= 0 && error_of(&r, names[i]) < 1e-5, "%s: %g", names[i],
                  error_of(&r, names[i]));
        deq_golden_report_free(&r);
    }
    const struct deq_solver_opts o = {.method = DEQ_PICARD, .memory = 1, .max_iter = 400, .tol = 1e-7f, .beta = 1};
    const uint32_t depths[] = {3, 60};
    struct deq_cache_gaps gaps[2];
    CHECK_MSG(!deq_golden_caches(&m.plain, m.path, &o, depths, 2, gaps, &err), "%s", err.text);
    CHECK(gaps[0].full_latest == 0 && gaps[0].full_equilibrium == gaps[0].latest_equilibrium);
    CHECK(gaps[0].full_equilibrium > 1e-3 && gaps[1].full_equilibrium < 1e-5); /* a contraction */
    close_model(&m);
}

TEST(golden_loops_refused)
{
    struct model m;
    struct deq_golden_report r;
    struct deq_err err;
    REQUIRE(open_model(&m));
    compute(&m);
    const struct deq_tensor_out narrow = F32("steps1.state", D - 1, m.backbone);
    CHECK(compare(&m, &narrow, &r, &err) == DEQ_EFORMAT && strstr(err.text, "steps1.state: expected shape [2, 5, 16]"));
    close_model(&m);
}
