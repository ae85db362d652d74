#include "core/train/predictor.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"
#include "core/train/adamw.h"

double deq_predictor_loss(const struct deq_predictor *p, const struct deq_weights *w, size_t D, size_t n,
                          const float *e, const float *z_prev, const float *target, float scale, float *hidden,
                          float *d_hidden, float *out, struct deq_weights *grads)
{
    const struct deq_kern *k = deq_kern();
    const size_t S = p->state_dim, Hp = p->hidden;
    double loss = 0;
    deq_gemm_xwt(n, Hp, D, e, D, p->tok_w, D, NULL, 0, hidden, Hp);
    deq_gemm_xwt(n, Hp, S, z_prev, S, p->state_w, S, hidden, Hp, hidden, Hp);
    for (size_t i = 0; i < n; i++)
        k->add_relu(hidden + i * Hp, p->b, Hp);
    deq_gemm_xwt(n, S, Hp, hidden, Hp, p->out_w, Hp, NULL, 0, out, S);
    for (size_t i = 0; i < n; i++) { /* out becomes d_out */
        float *o = out + i * S;
        const float size = k->dot(target + i * S, target + i * S, S) + 1e-9f;
        k->add(o, o, p->out_b, S);
        k->sub(o, o, target + i * S, S);
        loss += (double)(k->dot(o, o, S) / size);
        k->scale(o, 2.0f * scale / size, S);
    }
    if (!grads)
        return loss;
    deq_gemm_dytx(n, S, Hp, out, S, hidden, Hp, deq_weights_at(grads, w, p->out_w), Hp);
    deq_gemm_dyw(n, S, Hp, out, S, p->out_w, Hp, NULL, 0, d_hidden, Hp);
    for (size_t i = 0; i < n * Hp; i++)
        d_hidden[i] = hidden[i] > 0 ? d_hidden[i] : 0.0f;
    deq_gemm_dytx(n, Hp, D, d_hidden, Hp, e, D, deq_weights_at(grads, w, p->tok_w), D);
    deq_gemm_dytx(n, Hp, S, d_hidden, Hp, z_prev, S, deq_weights_at(grads, w, p->state_w), S);
    float *d_b = deq_weights_at(grads, w, p->b), *d_out_b = deq_weights_at(grads, w, p->out_b);
    for (size_t i = 0; i < n; i++) {
        k->add(d_out_b, d_out_b, out + i * S, S);
        k->add(d_b, d_b, d_hidden + i * Hp, Hp);
    }
    return loss;
}

size_t deq_predictor_floats(const struct deq_predictor *p, size_t rows)
{
    return rows * 2 * (p->hidden + p->state_dim);
}

double deq_predictor_shard(const struct deq_predictor *p, const struct deq_weights *w, const struct deq_seq *s,
                           const float *z, size_t count, float *scratch, struct deq_weights *grads)
{
    const size_t S = p->state_dim, Hp = p->hidden, N = s->n;
    const float share = 1.0f / (float)count;
    float *hidden = scratch, *d_hidden = hidden + N * Hp, *out = d_hidden + N * Hp, *prev = out + N * S;
    for (size_t i = 0; i < N; i++) /* a sequence's first position has no predecessor: zeros, as in the engine */
        if (i % s->t)
            memcpy(prev + i * S, z + (i - 1) * S, S * sizeof(float));
        else
            memset(prev + i * S, 0, S * sizeof(float));
    return (double)share * deq_predictor_loss(p, w, s->vocab.d_model, N, s->e, prev, z, share, hidden, d_hidden, out,
                                              grads);
}

struct fit {
    struct deq_weights *w;
    const struct deq_predictor *p;
    struct deq_grad_work *work;
    struct deq_solver_opts solver;
    const uint32_t *tokens; /* [shards * rows] */
    size_t rows, shards;
    struct deq_weights **grads; /* [shards], so that sums do not depend on the number of threads */
    float **scratch;            /* [threads] of deq_predictor_shard */
    double *loss;               /* [shards] */
};

static void fit_shard(struct fit *f, size_t shard, struct deq_grad_work *work, float *scratch)
{
    struct deq_solve_report rep;
    work->seq->ops->begin(work->seq, f->w, f->tokens + shard * f->rows, NULL);
    deq_grad_solve(work, &f->solver, &rep);
    memset(f->grads[shard]->data + f->w->n_main, 0, (f->w->n - f->w->n_main) * sizeof(float));
    f->loss[shard] = deq_predictor_shard(f->p, f->w, work->seq, work->z, f->rows * f->shards, scratch,
                                         f->grads[shard]);
}

static void fit_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct fit *f = ctx;
    for (size_t i = thread; i < f->shards; i += n_threads)
        fit_shard(f, i, &f->work[thread], f->scratch[thread]);
}

enum deq_rc deq_predictor_fit(const struct deq_predictor_fit *fit, const struct deq_arch *arch, struct deq_weights *w,
                              struct deq_dataset *data, struct deq_pool *pool, struct deq_grad_work *work,
                              size_t micro_batch, size_t shards, const struct deq_solver_opts *solver,
                              bool *ret_stopped, struct deq_err *err)
{
    const unsigned threads = deq_pool_threads(pool);
    const struct deq_predictor *p = arch->kind->predictor(w);
    const size_t rows = micro_batch * data->seq_len, n = w->n - w->n_main;
    struct fit f = {.w = w, .p = p, .work = work, .rows = rows, .shards = shards, .solver = *solver};
    enum deq_rc rc = DEQ_OK;
    f.solver.tol = fit->tol;
    f.solver.max_iter = 64;
    uint32_t *tokens = DEQ_NEW_ARRAY(uint32_t, rows * shards), *targets = DEQ_NEW_ARRAY(uint32_t, rows * shards);
    float *m = DEQ_NEW_ARRAY(float, n), *v = DEQ_NEW_ARRAY(float, n);
    f.grads = DEQ_NEW_ARRAY(struct deq_weights *, shards);
    f.scratch = DEQ_NEW_ARRAY(float *, threads);
    f.loss = DEQ_NEW_ARRAY(double, shards);
    f.tokens = tokens;
    if (!tokens || !targets || !m || !v || !f.grads || !f.scratch || !f.loss) {
        rc = deq_fail(err, DEQ_ENOMEM, "no memory to fit the predictor");
        goto out;
    }
    for (size_t i = 0; i < shards && !rc; i++)
        rc = deq_weights_new(arch, &f.grads[i], err);
    for (unsigned i = 0; i < threads && !rc; i++) {
        if (!(f.scratch[i] = DEQ_NEW_ARRAY(float, deq_predictor_floats(p, rows))))
            rc = deq_fail(err, DEQ_ENOMEM, "no memory to fit the predictor");
    }
    double mean = 0;
    *ret_stopped = false;
    for (unsigned step = 0; step < fit->steps && !rc && !(*ret_stopped = fit->stop && fit->stop(fit->ctx)); step++) {
        deq_dataset_batch(data, fit->first_step + step, micro_batch * shards, tokens, targets);
        deq_pool_run(pool, fit_thread, &f);
        double loss = 0;
        for (size_t i = 0; i < shards; i++) {
            loss += f.loss[i];
            if (i)
                deq_kern()->add(f.grads[0]->data + w->n_main, f.grads[0]->data + w->n_main,
                                f.grads[i]->data + w->n_main, n);
        }
        const float lr = fit->lr * DEQ_MIN(1.0f, (float)(step + 1) / 20.0f) * 0.5f *
                         (1.0f + cosf(3.14159265f * (float)step / (float)fit->steps));
        const struct deq_adamw a = {lr, 0.9f, 0.98f, 1e-8f, 0, step + 1};
        deq_adamw_update(&a, w->data + w->n_main, m, v, f.grads[0]->data + w->n_main, 1.0f, false, n);
        mean = step ? 0.95 * mean + 0.05 * sqrt(loss) : sqrt(loss);
        if (fit->progress && ((step + 1) % 20 == 0 || step + 1 == fit->steps))
            fit->progress(fit->ctx, step + 1, fit->steps, mean);
    }
out:
    for (size_t i = 0; f.grads && i < shards; i++)
        deq_weights_free(f.grads[i]);
    for (unsigned i = 0; f.scratch && i < threads; i++)
        deq_free(f.scratch[i]);
    deq_free(f.grads);
    deq_free(f.scratch);
    deq_free(f.loss);
    deq_free(tokens);
    deq_free(targets);
    deq_free(m);
    deq_free(v);
    return rc;
}
