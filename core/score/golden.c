#include "core/score/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/looped.h"
#include "core/data/safetensors.h"
#include "core/score/golden_loops.h"

struct golden {
    const char *path;
    const struct deq_plain *model;
    struct deq_safetensors *file;
    struct deq_segment *segment;
    uint32_t *tokens;  /* [B, T] */
    size_t B, T;
    struct deq_golden_report r;
};

/* segmentN.what [B, t, last], or NULL where there is none */
static enum deq_rc find(const struct golden *c, size_t n, const char *what, size_t last, const struct deq_tensor **ret,
                        struct deq_err *err)
{
    char name[64];
    snprintf(name, sizeof name, "segment%zu.%s", n, what);
    const struct deq_tensor *t = *ret = deq_safetensors_find(c->file, name);
    if (t && (t->n_dims != 3 || t->shape[0] != c->B || t->shape[2] != last || !t->shape[1]))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: expected shape [%zu, t, %zu]", c->path, name, c->B, last);
    return DEQ_OK;
}

static enum deq_rc read_tokens(struct golden *c, struct deq_err *err)
{
    const struct deq_tensor *t = deq_safetensors_find(c->file, "tokens");
    if (!t || t->n_dims != 2 || t->dtype != DEQ_I64 || !t->count)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor tokens: %s, expected [B, T] I64", c->path,
                        t ? "has another type or shape" : "missing");
    c->B = t->shape[0];
    c->T = t->shape[1];
    c->tokens = DEQ_NEW_ARRAY(uint32_t, t->count);
    if (!c->tokens)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory for its tokens", c->path);
    for (size_t i = 0; i < t->count; i++) {
        int64_t id;
        const enum deq_rc rc = deq_tensor_read(c->file, t, i, 1, &id, err);
        if (rc)
            return rc;
        if (id < 0 || id >= (int64_t)c->model->arch->vocab.size)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor tokens: element %zu is %lld, outside the vocabulary of %u",
                            c->path, i, (long long)id, c->model->arch->vocab.size);
        c->tokens[i] = (uint32_t)id;
    }
    return DEQ_OK;
}

double deq_golden_worst(double so_far, const float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)x[i] - (double)y[i]);
        if (!(d <= so_far))
            so_far = isnan(d) ? INFINITY : d;
    }
    return so_far;
}

void deq_golden_note(struct deq_golden_report *r, const char *name, double error)
{
    struct deq_golden_tensor *t = &r->tensor[r->n_tensors++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->error = error;
}

/* Segment n, whose first token is at `at`; *ret_t 0: there is none. */
static enum deq_rc compare_segment(struct golden *c, size_t n, size_t at, size_t *ret_t, struct deq_err *err)
{
    const struct deq_tensor *z, *p;
    const size_t V = c->model->arch->vocab.size, S = c->segment->seq->shown_dim;
    enum deq_rc rc = find(c, n, "equilibrium", c->segment->seq->shown_dim, &z, err);
    if (!rc)
        rc = find(c, n, "logprobs", V, &p, err);
    *ret_t = 0;
    if (rc || (!z && !p))
        return rc;
    if (!z || !p)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor segment%zu.%s: missing", c->path, n,
                        z ? "logprobs" : "equilibrium");
    const size_t t = z->shape[1], rows = c->B * t;
    if (p->shape[1] != t || at + t > c->T || t > c->segment->t_max)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: segment%zu: %zu positions do not fit the %zu tokens or the first segment's length",
                        c->path, n, t, c->T);
    uint32_t *tokens = DEQ_NEW_ARRAY(uint32_t, rows);
    float *expected = DEQ_NEW_ARRAY(float, rows * DEQ_MAX(V, S)), *shown = DEQ_NEW_ARRAY(float, rows * S),
          *logprobs = DEQ_NEW_ARRAY(float, rows * V);
    if (!tokens || !expected || !shown || !logprobs)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for segment %zu", n);
    for (size_t b = 0; b < c->B && !rc; b++)
        memcpy(tokens + b * t, c->tokens + b * c->T + at, t * sizeof *tokens);
    struct deq_solve_report r;
    if (!rc && (rc = deq_segment_solve(c->segment, tokens, t, shown, &r, err))) {
        char where[32];
        snprintf(where, sizeof where, "segment%zu", n);
        deq_fail_prefix(err, rc, where);
    }
    if (!rc)
        rc = deq_tensor_to_f32(c->file, z, expected, err);
    if (!rc) {
        const double error = deq_golden_worst(0, expected, shown, rows * S);
        deq_golden_note(&c->r, z->name, error);
        c->r.z_error = DEQ_MAX(c->r.z_error, error);
        rc = deq_seq_logprobs(c->segment->seq, c->segment->z, logprobs, err);
    }
    if (!rc)
        rc = deq_tensor_to_f32(c->file, p, expected, err);
    if (!rc) {
        const double error = deq_golden_worst(0, expected, logprobs, rows * V);
        deq_golden_note(&c->r, p->name, error);
        c->r.logprob_error = DEQ_MAX(c->r.logprob_error, error);
        c->r.evaluations = DEQ_MAX(c->r.evaluations, r.evaluations);
        c->r.evaluations_all += r.evaluations;
        c->r.residual_max = DEQ_MAX(c->r.residual_max, r.residual_max);
        *ret_t = t;
    }
    deq_free(tokens);
    deq_free(expected);
    deq_free(shown);
    deq_free(logprobs);
    return rc;
}

/* Other tensors may stand there (targets), but no segment that was not read. */
static enum deq_rc none_left(const struct golden *c, struct deq_err *err)
{
    /* the last two follow from the others: what a trellis network's tokens inject, and the last position's state */
    static const char *const parts[] = {"equilibrium", "logprobs", "inject", "memory"};
    for (size_t i = 0; i < deq_safetensors_count(c->file); i++) {
        const char *name = deq_safetensors_at(c->file, i)->name;
        size_t n, k = 0;
        int end = 0;
        if (strncmp(name, "segment", 7))
            continue;
        /* NOLINTNEXTLINE(cert-err34-c): of too large a number glibc makes the largest, which is refused */
        const bool read = sscanf(name, "segment%zu.%n", &n, &end) == 1 && n < c->r.segments;
        while (read && k < DEQ_COUNT(parts) && strcmp(name + end, parts[k]))
            k++;
        if (!read || k == DEQ_COUNT(parts))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: not read, %zu segments are numbered from 0 without a gap",
                            c->path, name, c->r.segments);
    }
    return DEQ_OK;
}

static enum deq_rc compare(struct golden *c, const struct deq_solver_opts *o, const size_t *memory,
                           void (*progress)(const struct deq_golden_report *so_far), struct deq_err *err)
{
    const struct deq_arch *a = c->model->arch;
    const struct deq_tensor *first = deq_safetensors_find(c->file, "segment0.equilibrium");
    enum deq_rc rc = read_tokens(c, err);
    if (!rc && (!first || first->n_dims != 3 || !first->shape[1] || first->shape[1] > c->T))
        rc = deq_fail(err, DEQ_EFORMAT,
                      "%s: tensor segment0.equilibrium: %s, expected shape [%zu, t, S] with t at most %zu", c->path,
                      first ? "has another shape" : "missing", c->B, c->T);
    if (!rc && !(c->r.tensor = DEQ_NEW_ARRAY(struct deq_golden_tensor, deq_safetensors_count(c->file))))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for a report", c->path);
    if (!rc) {
        const size_t own = a->segment_len ? a->segment_memory : first->shape[1];
        rc = deq_segment_new(a, c->model->weights, c->B, first->shape[1], memory ? *memory : own, o, &c->segment, err);
    }
    if (!rc)
        deq_seq_wide(c->segment->seq);
    for (size_t at = 0, t = 1; !rc && t; at += t) {
        rc = compare_segment(c, c->r.segments, at, &t, err);
        c->r.segments += !rc && t;
        if (t && progress)
            progress(&c->r);
    }
    if (!rc)
        rc = none_left(c, err);
    return rc ? rc : deq_golden_loops(c->model, c->file, c->path, c->tokens, c->B, c->T, o, &c->r, err);
}

struct deq_solver_opts deq_golden_solver(const struct deq_arch *a)
{
    struct deq_solver_opts o = a->serving.solver;
    if (o.tol > 0 || a->kind == &deq_looped_kind) { /* a looped model's states after N steps have names of their own */
        o.tol = 1e-7f;
        o.max_iter = 5000;
        o.patience = 100;
    }
    return o;
}

enum deq_rc deq_golden_compare(const struct deq_plain *model, const char *path, const struct deq_solver_opts *o,
                               const size_t *memory, void (*progress)(const struct deq_golden_report *so_far),
                               struct deq_golden_report *ret, struct deq_err *err)
{
    struct golden c = {.path = path, .model = model};
    enum deq_rc rc = deq_safetensors_open(path, &c.file, err);
    if (!rc)
        rc = compare(&c, o, memory, progress, err);
    c.r.sequences = c.B;
    deq_segment_free(c.segment);
    deq_safetensors_close(c.file);
    deq_free(c.tokens);
    if (rc)
        deq_golden_report_free(&c.r);
    else
        *ret = c.r;
    return rc;
}

enum deq_rc deq_golden_caches(const struct deq_plain *model, const char *path, const struct deq_solver_opts *o,
                              const uint32_t *depths, size_t n_depths, struct deq_cache_gaps *gaps, struct deq_err *err)
{
    struct golden c = {.path = path, .model = model};
    if (model->arch->kind != &deq_looped_kind)
        return deq_fail(err, DEQ_EINVAL, "a %s keeps no keys and values of numbered evaluations",
                        model->arch->kind->model_type);
    enum deq_rc rc = deq_safetensors_open(path, &c.file, err);
    if (!rc)
        rc = read_tokens(&c, err);
    if (!rc)
        rc = deq_segment_new(model->arch, model->weights, c.B, c.T, 0, o, &c.segment, err);
    if (!rc)
        rc = deq_caches_compare(c.segment, c.tokens, depths, n_depths, gaps, err);
    deq_segment_free(c.segment);
    deq_safetensors_close(c.file);
    deq_free(c.tokens);
    return rc;
}

void deq_golden_report_free(struct deq_golden_report *r)
{
    deq_free(r->tensor);
    *r = (struct deq_golden_report){0};
}
