/* deq check: a model against a golden file, equilibria and log-probabilities that other code computed. Segments are
 * solved jointly, each with the memory of those before (core/cell/segment.h): what the authors' evaluation does.
 *
 * Numbers are float32, sums of products double: states of a model that is run for a fixed number of steps grow to
 * hundreds, where one unit in the last place of a float is 3e-5, and the order of a float sum would show.
 *
 *     tokens [B, T] I64;  segmentN.equilibrium [B, t, S], segmentN.logprobs [B, t, V] F32, N = 0, 1, ...:
 *     the first t tokens, the next t, ... */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/cell/segment.h"
#include "core/data/safetensors.h"
#include "models/cli/cli.h"

struct check {
    const char *golden;
    struct deq_arch *arch;
    struct deq_weights *w;
    struct deq_safetensors *file;
    struct deq_segment *segment;
    uint32_t *tokens;  /* [B, T] */
    size_t B, T;
    double z_error, logprob_error;
    unsigned evaluations, evaluations_all; /* of the segment that took most; of all */
    float residual_max;
    size_t segments;
};

/* segmentN.what [B, t, last], or NULL where there is none */
static enum deq_rc find(const struct check *c, size_t n, const char *what, size_t last, const struct deq_tensor **ret,
                        struct deq_err *err)
{
    char name[64];
    snprintf(name, sizeof name, "segment%zu.%s", n, what);
    const struct deq_tensor *t = *ret = deq_safetensors_find(c->file, name);
    if (t && (t->n_dims != 3 || t->shape[0] != c->B || t->shape[2] != last || !t->shape[1]))
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: expected shape [%zu, t, %zu]", c->golden, name, c->B, last);
    return DEQ_OK;
}

static enum deq_rc read_tokens(struct check *c, struct deq_err *err)
{
    const struct deq_tensor *t = deq_safetensors_find(c->file, "tokens");
    if (!t || t->n_dims != 2 || t->dtype != DEQ_I64 || !t->count)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor tokens: %s, expected [B, T] I64", c->golden,
                        t ? "has another type or shape" : "missing");
    c->B = t->shape[0];
    c->T = t->shape[1];
    c->tokens = DEQ_NEW_ARRAY(uint32_t, t->count);
    if (!c->tokens)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory for its tokens", c->golden);
    for (size_t i = 0; i < t->count; i++) {
        int64_t id;
        const enum deq_rc rc = deq_tensor_read(c->file, t, i, 1, &id, err);
        if (rc)
            return rc;
        if (id < 0 || id >= (int64_t)c->arch->vocab.size)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor tokens: element %zu is %lld, outside the vocabulary of %u",
                            c->golden, i, (long long)id, c->arch->vocab.size);
        c->tokens[i] = (uint32_t)id;
    }
    return DEQ_OK;
}

/* max |x - y|; a NaN counts as infinity */
static double worst(double so_far, const float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)x[i] - (double)y[i]);
        if (!(d <= so_far))
            so_far = isnan(d) ? INFINITY : d;
    }
    return so_far;
}

/* Segment n, whose first token is at `at`; *ret_t 0: there is none. */
static enum deq_rc check_segment(struct check *c, size_t n, size_t at, size_t *ret_t, struct deq_err *err)
{
    const struct deq_tensor *z, *p;
    const size_t V = c->arch->vocab.size, S = c->segment->seq->shown_dim;
    enum deq_rc rc = find(c, n, "equilibrium", c->segment->seq->shown_dim, &z, err);
    if (!rc)
        rc = find(c, n, "logprobs", V, &p, err);
    *ret_t = 0;
    if (rc || (!z && !p))
        return rc;
    if (!z || !p)
        return deq_fail(err, DEQ_EFORMAT, "%s: tensor segment%zu.%s: missing", c->golden, n,
                        z ? "logprobs" : "equilibrium");
    const size_t t = z->shape[1], rows = c->B * t;
    if (p->shape[1] != t || at + t > c->T || t > c->segment->t_max)
        return deq_fail(err, DEQ_EFORMAT,
                        "%s: segment%zu: %zu positions do not fit the %zu tokens or the first segment's length",
                        c->golden, n, t, c->T);
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
        c->z_error = worst(c->z_error, expected, shown, rows * S);
        rc = deq_seq_logprobs(c->segment->seq, c->segment->z, logprobs, err);
    }
    if (!rc)
        rc = deq_tensor_to_f32(c->file, p, expected, err);
    if (!rc) {
        c->logprob_error = worst(c->logprob_error, expected, logprobs, rows * V);
        c->evaluations = DEQ_MAX(c->evaluations, r.evaluations);
        c->evaluations_all += r.evaluations;
        c->residual_max = DEQ_MAX(c->residual_max, r.residual_max);
        *ret_t = t;
    }
    deq_free(tokens);
    deq_free(expected);
    deq_free(shown);
    deq_free(logprobs);
    return rc;
}

/* Other tensors may stand there (targets), but no segment that was not read. */
static enum deq_rc none_left(const struct check *c, struct deq_err *err)
{
    /* the last two follow from the others: what a trellis network's tokens inject, and the last position's state */
    static const char *const parts[] = {"equilibrium", "logprobs", "inject", "memory"};
    for (size_t i = 0; i < deq_safetensors_count(c->file); i++) {
        const char *name = deq_safetensors_at(c->file, i)->name;
        size_t n, k = 0;
        int end = 0;
        if (strncmp(name, "segment", 7))
            continue;
        const bool read = sscanf(name, "segment%zu.%n", &n, &end) == 1 && n < c->segments;
        while (read && k < DEQ_COUNT(parts) && strcmp(name + end, parts[k]))
            k++;
        if (!read || k == DEQ_COUNT(parts))
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: not read, %zu segments are numbered from 0 without a gap",
                            c->golden, name, c->segments);
    }
    return DEQ_OK;
}

static enum deq_rc check_all(struct check *c, const struct deq_solver_opts *o, const size_t *memory,
                             struct deq_err *err)
{
    const struct deq_tensor *first = deq_safetensors_find(c->file, "segment0.equilibrium");
    enum deq_rc rc = read_tokens(c, err);
    if (!rc && (!first || first->n_dims != 3 || !first->shape[1] || first->shape[1] > c->T))
        rc = deq_fail(err, DEQ_EFORMAT,
                      "%s: tensor segment0.equilibrium: %s, expected shape [%zu, t, S] with t at most %zu", c->golden,
                      first ? "has another shape" : "missing", c->B, c->T);
    if (!rc) {
        const size_t own = c->arch->segment_len ? c->arch->segment_memory : first->shape[1];
        rc = deq_segment_new(c->arch, c->w, c->B, first->shape[1], memory ? *memory : own, o, &c->segment, err);
    }
    if (!rc)
        deq_seq_wide(c->segment->seq);
    for (size_t at = 0, t = 1; !rc && t; at += t) {
        rc = check_segment(c, c->segments, at, &t, err);
        c->segments += !rc && t;
        if (t)
            cli_progress("segment %zu: equilibrium %.2e, log-probabilities %.2e", c->segments, c->z_error,
                         c->logprob_error);
    }
    cli_progress_end();
    return rc ? rc : none_left(c, err);
}

struct flags {
    float tol;         /* -1: not given */
    double atol;       /* -1 */
    uint32_t max_iter; /* 0 */
    uint32_t mem_len;  /* UINT32_MAX */
    int solver;        /* -1 */
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
     "positions of memory; else the model's segment_memory, or without it the first segment's length"},
    {"--atol", DEQ_OPT_DOUBLE, AT(atol), 0, 1e9, NULL, NULL,
     "largest absolute difference allowed; else 1e-4 for equilibria, 2e-4 for log-probabilities"},
    {"--json", DEQ_OPT_BOOL, AT(json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq check MODEL_DIR GOLDEN.safetensors [flags]",
    .about = "Compares a model with equilibria and log-probabilities that other code computed for the same "
             "tokens, segment by\n"
             "segment with memory. Exit code 1 when they differ by more than --atol.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 2,
    .max_args = 2,
};

static struct deq_solver_opts solver_of(const struct deq_arch *a, const struct flags *f)
{
    struct deq_solver_opts o = a->serving.solver;
    if (o.tol > 0) {
        o.tol = 1e-7f;
        o.max_iter = 5000;
    }
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

static void print(const struct check *c, const struct deq_solver_opts *o, double z_max, double logprob_max, bool agree,
                  bool json)
{
    if (json)
        printf("{\"equilibrium_max_abs_error\": %.9g, \"logprob_max_abs_error\": %.9g, \"evaluations\": %u, "
               "\"evaluations_total\": %u, \"segments\": %zu, \"sequences\": %zu, \"residual_max\": %.6g, "
               "\"solver\": \"%s\", \"tol\": %g, \"max_iter\": %u, \"agree\": %s}\n",
               c->z_error, c->logprob_error, c->evaluations, c->evaluations_all, c->segments, c->B,
               (double)c->residual_max, deq_solver_name(o->method), (double)o->tol, o->max_iter,
               agree ? "true" : "false");
    else
        printf("equilibrium        %.2e (at most %g)\nlog-probabilities  %.2e (at most %g)\n"
               "evaluations        %u a segment at most, %u over %zu segments; "
               "%s, residual %.2e\n%s\n",
               c->z_error, z_max, c->logprob_error, logprob_max, c->evaluations, c->evaluations_all, c->segments,
               deq_solver_name(o->method), (double)c->residual_max, agree ? "agrees" : "DIFFERS");
}

int cmd_check(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct flags f = {.tol = -1, .atol = -1, .mem_len = UINT32_MAX, .solver = -1};
    int code = cli_parse("check", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct check c = {.golden = args[1]};
    struct deq_err err;
    char path[4096];
    const size_t memory = f.mem_len;
    enum deq_rc rc = deq_io_join(path, sizeof path, args[0], "config.json")
                         ? deq_config_load(path, &c.arch, &err)
                         : deq_fail(&err, DEQ_EINVAL, "%s: path too long", args[0]);
    struct deq_solver_opts o = {0};
    if (!rc)
        o = solver_of(c.arch, &f);
    if (!rc && !deq_io_join(path, sizeof path, args[0], "model.safetensors"))
        rc = deq_fail(&err, DEQ_EINVAL, "%s: path too long", args[0]);
    if (!rc)
        rc = deq_weights_load(path, c.arch, false, &c.w, &err);
    if (!rc)
        rc = deq_safetensors_open(args[1], &c.file, &err);
    if (!rc)
        rc = check_all(&c, &o, f.mem_len == UINT32_MAX ? NULL : &memory, &err);
    const double z_max = f.atol >= 0 ? f.atol : 1e-4, logprob_max = f.atol >= 0 ? f.atol : 2e-4;
    const bool agree = !rc && c.z_error <= z_max && c.logprob_error <= logprob_max;
    if (rc)
        cli_fail("check", err.text);
    else
        print(&c, &o, z_max, logprob_max, agree, f.json);
    deq_segment_free(c.segment);
    deq_safetensors_close(c.file);
    deq_weights_free(c.w);
    deq_free(c.arch);
    deq_free(c.tokens);
    return agree ? CLI_OK : CLI_FAIL;
}
