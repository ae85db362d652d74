#include "core/score/golden_loops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/score/caches.h"

/* How what a tensor has was computed. */
enum way { PRELUDE, STEPS, LOOPS, ZERO, STREAM, EPS };

struct run {
    enum way way;
    bool counted; /* the name has digits */
    unsigned n;
    bool logprobs; /* else states */
};

struct loops {
    const struct deq_plain *model;
    const struct deq_safetensors *file;
    const char *path;
    const uint32_t *tokens;
    size_t b, t;
    const struct deq_solver_opts *solver;
    struct deq_segment *segment;       /* all T positions */
    float *z, *begin, *expected, *logprobs; /* [N, S] twice, [N, max(S, D, V)], [N, V] */
    struct deq_golden_report *r;
};

/* Whether a tensor's name says that it is one of these. */
static bool parse(const char *name, struct run *ret)
{
    static const struct {
        const char *begin;
        enum way way;
    } ways[] = {{"backbone", PRELUDE}, {"steps", STEPS},   {"loop", LOOPS}, {"r", LOOPS},
                {"zero", ZERO},        {"stream", STREAM}, {"bf16eps", EPS}};
    for (size_t i = 0; i < DEQ_COUNT(ways); i++) {
        const size_t len = strlen(ways[i].begin);
        if (strncmp(name, ways[i].begin, len))
            continue;
        const size_t digits = strspn(name + len, "0123456789");
        const char *rest = name + len + digits;
        *ret = (struct run){.way = ways[i].way, .counted = digits, .logprobs = !strcmp(rest, ".logprobs"),
                            .n = digits && digits < 6 ? (unsigned)strtoul(name + len, NULL, 10) : 0};
        const bool may_count = ret->way != PRELUDE && ret->way != EPS,
                   must_count = ret->way == STEPS || ret->way == LOOPS;
        if (digits < 6 && (may_count || !digits) && (!must_count || digits) &&
            (ret->way == PRELUDE ? !*rest : ret->logprobs || !strcmp(rest, ".state")))
            return true;
    }
    return false;
}

static unsigned most_loops(const struct deq_safetensors *file)
{
    unsigned most = 0;
    for (size_t i = 0; i < deq_safetensors_count(file); i++) {
        struct run r;
        if (parse(deq_safetensors_at(file, i)->name, &r) && r.way == LOOPS)
            most = DEQ_MAX(most, r.n);
    }
    return most;
}

/* Tensor t [B, T, last] to c->expected. */
static enum deq_rc read_tensor(const struct loops *c, const struct deq_tensor *t, size_t last, struct deq_err *err)
{
    if (t->n_dims != 3 || t->shape[0] != c->b || t->shape[1] != c->t || t->shape[2] != last)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: expected shape [%zu, %zu, %zu]", c->path, t->name, c->b, c->t,
                        last);
    return deq_tensor_to_f32(c->file, t, c->expected, err);
}

/* c->z = the states that the name asks for, and c->segment those of the model as it asks for it. */
static enum deq_rc evaluate(struct loops *c, const struct run *run, struct deq_err *err)
{
    struct deq_seq *s = c->segment->seq;
    const struct deq_tensor *start = deq_safetensors_find(c->file, "start");
    s->ops->begin(s, c->model->weights, c->tokens, NULL);
    if (run->way == STREAM)
        return deq_caches_latest(s, run->n, c->begin, c->z, err);
    deq_seq_start(s, c->z);
    if (run->way == ZERO)
        memset(c->z, 0, s->n * s->state_dim * sizeof(float));
    if (run->way == LOOPS && start) {
        const enum deq_rc rc = read_tensor(c, start, s->state_dim, err);
        if (rc)
            return rc;
        memcpy(c->z, c->expected, s->n * s->state_dim * sizeof(float));
    }
    for (unsigned k = 0; k < run->n; k++)
        s->ops->forward(s, 0, c->z, c->z);
    return DEQ_OK;
}

/* A tensor against the states c->z of a segment that has begun with the tokens. */
static enum deq_rc compare(struct loops *c, const struct deq_tensor *t, const struct run *run, struct deq_err *err)
{
    struct deq_seq *s = c->segment->seq;
    const size_t V = s->vocab.size;
    const float *have = run->way == PRELUDE ? s->prelude : c->z;
    size_t last = run->way == PRELUDE ? s->vocab.d_model : s->state_dim;
    if (!have)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: the model has no layers before its loop", c->path, t->name);
    if (run->logprobs) {
        const enum deq_rc rc = deq_seq_logprobs(s, c->z, c->logprobs, err);
        if (rc)
            return rc;
        have = c->logprobs;
        last = V;
    }
    const enum deq_rc rc = read_tensor(c, t, last, err);
    if (!rc)
        deq_golden_note(c->r, t->name, deq_golden_worst(0, c->expected, have, s->n * last));
    return rc;
}

static enum deq_rc open_segment(struct loops *c, const struct deq_arch *a, struct deq_err *err)
{
    const enum deq_rc rc = deq_segment_new(a, c->model->weights, c->b, c->t, 0, c->solver, &c->segment, err);
    if (!rc)
        deq_seq_wide(c->segment->seq);
    return rc;
}

/* The equilibrium of a model that differs in the epsilon of its qk-norm alone. */
static enum deq_rc compare_eps(struct loops *c, const struct deq_tensor *t, const struct run *run, struct deq_err *err)
{
    struct deq_segment *const own = c->segment;
    const struct deq_opt *eps = deq_opt_find(&c->model->arch->kind->config, "qk_norm_eps");
    struct deq_arch *a = deq_arch_copy(c->model->arch);
    struct deq_solve_report r;
    enum deq_rc rc = DEQ_OK;
    if (!a)
        return deq_fail(err, DEQ_ENOMEM, "no memory for an architecture");
    if (!eps)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: the model has no qk_norm_eps", c->path, t->name);
    else
        rc = deq_opt_set(eps, a, "0.0078125", 0, err);
    c->segment = NULL;
    if (!rc)
        rc = open_segment(c, a, err);
    if (!rc)
        rc = deq_segment_solve(c->segment, c->tokens, c->t, c->z, &r, err);
    if (!rc)
        rc = compare(c, t, run, err);
    deq_segment_free(c->segment);
    c->segment = own;
    deq_free(a);
    return rc;
}

static enum deq_rc compare_all(struct loops *c, struct deq_err *err)
{
    const unsigned most = most_loops(c->file);
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < deq_safetensors_count(c->file) && !rc; i++) {
        const struct deq_tensor *t = deq_safetensors_at(c->file, i);
        struct run run;
        if (!parse(t->name, &run))
            continue;
        if (!run.counted)
            run.n = run.way == ZERO || run.way == STREAM ? most : 0;
        if (run.way == EPS) {
            rc = compare_eps(c, t, &run, err);
            continue;
        }
        rc = evaluate(c, &run, err);
        if (!rc)
            rc = compare(c, t, &run, err);
    }
    return rc;
}

enum deq_rc deq_golden_loops(const struct deq_plain *model, const struct deq_safetensors *file, const char *path,
                             const uint32_t *tokens, size_t b, size_t t, const struct deq_solver_opts *o,
                             struct deq_golden_report *r, struct deq_err *err)
{
    struct loops c = {.model = model, .file = file, .path = path, .tokens = tokens, .b = b, .t = t, .solver = o,
                      .r = r};
    bool some = false;
    for (size_t i = 0; i < deq_safetensors_count(file) && !some; i++) {
        struct run run;
        some = parse(deq_safetensors_at(file, i)->name, &run);
    }
    if (!some)
        return DEQ_OK;
    enum deq_rc rc = open_segment(&c, model->arch, err);
    if (!rc) {
        const size_t N = b * t, S = c.segment->seq->state_dim, V = model->arch->vocab.size;
        c.z = DEQ_NEW_ARRAY(float, N * S);
        c.begin = DEQ_NEW_ARRAY(float, N * S);
        c.expected = DEQ_NEW_ARRAY(float, N * DEQ_MAX(DEQ_MAX(S, V), (size_t)model->arch->vocab.d_model));
        c.logprobs = DEQ_NEW_ARRAY(float, N * V);
        rc = c.z && c.begin && c.expected && c.logprobs
                 ? compare_all(&c, err)
                 : deq_fail(err, DEQ_ENOMEM, "no memory for %zu positions", N);
    }
    deq_segment_free(c.segment);
    deq_free(c.z);
    deq_free(c.begin);
    deq_free(c.expected);
    deq_free(c.logprobs);
    return rc;
}
