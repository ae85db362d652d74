#include "core/train/predictor.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"
#include "core/train/adamw.h"

double deq_predictor_loss(const struct deq_weights *w, size_t n, const float *e, const float *z_prev, const float *target, float scale,
                          float *hidden, float *d_hidden, float *out, struct deq_weights *g)
{
    const struct deq_kern *k = deq_kern();
    const size_t D = w->arch.vocab.d_model, Hp = w->arch.predictor_hidden;
    double loss = 0;
    deq_gemm_xwt(n, Hp, D, e, D, w->pred_tok_w, D, 0, hidden, Hp);
    deq_gemm_xwt(n, Hp, D, z_prev, D, w->pred_state_w, D, 1, hidden, Hp);
    for (size_t i = 0; i < n; i++)
        k->add_relu(hidden + i * Hp, w->pred_b, Hp);
    deq_gemm_xwt(n, D, Hp, hidden, Hp, w->pred_out_w, Hp, 0, out, D);
    for (size_t i = 0; i < n; i++) { /* out becomes d_out */
        float *o = out + i * D;
        const float size = k->dot(target + i * D, target + i * D, D) + 1e-9f;
        k->add(o, o, w->pred_out_b, D);
        k->sub(o, o, target + i * D, D);
        loss += (double)(k->dot(o, o, D) / size);
        k->scale(o, 2.0f * scale / size, D);
    }
    if (!g)
        return loss;
    deq_gemm_dytx(n, D, Hp, out, D, hidden, Hp, g->pred_out_w, Hp);
    deq_gemm_dyw(n, D, Hp, out, D, w->pred_out_w, Hp, 0, d_hidden, Hp);
    for (size_t i = 0; i < n * Hp; i++)
        d_hidden[i] = hidden[i] > 0 ? d_hidden[i] : 0.0f;
    deq_gemm_dytx(n, Hp, D, d_hidden, Hp, e, D, g->pred_tok_w, D);
    deq_gemm_dytx(n, Hp, D, d_hidden, Hp, z_prev, D, g->pred_state_w, D);
    for (size_t i = 0; i < n; i++) {
        k->add(g->pred_out_b, g->pred_out_b, out + i * D, D);
        k->add(g->pred_b, g->pred_b, d_hidden + i * Hp, Hp);
    }
    return loss;
}

struct fit {
    struct deq_weights *w;
    struct deq_grad_work *work;
    struct deq_solver_opts solver;
    const uint32_t *tokens; /* [shards * rows] */
    size_t rows, shards;
    struct deq_weights **grads; /* [shards], so that sums do not depend on the number of threads */
    float **scratch;            /* [threads] hidden, d_hidden, out, prev */
    double *loss;               /* [shards] */
};

static void fit_shard(struct fit *f, size_t shard, struct deq_grad_work *work, float *scratch)
{
    const size_t D = f->w->arch.vocab.d_model, Hp = f->w->arch.predictor_hidden, T = work->seq->t;
    const float share = 1.0f / (float)(f->rows * f->shards);
    float *hidden = scratch, *d_hidden = hidden + f->rows * Hp, *out = d_hidden + f->rows * Hp, *prev = out + f->rows * D;
    struct deq_solve_report rep;
    deq_seq_begin(work->seq, f->w, f->tokens + shard * f->rows, 0, 0, 0);
    deq_grad_solve(work, &f->solver, &rep);
    for (size_t i = 0; i < f->rows; i++) /* a sequence's first position has no predecessor: zeros, as in the engine */
        if (i % T)
            memcpy(prev + i * D, work->z + (i - 1) * D, D * sizeof(float));
        else
            memset(prev + i * D, 0, D * sizeof(float));
    memset(f->grads[shard]->data + f->w->n_main, 0, (f->w->n - f->w->n_main) * sizeof(float));
    f->loss[shard] = share * deq_predictor_loss(f->w, f->rows, work->seq->e, prev, work->z, share, hidden, d_hidden, out, f->grads[shard]);
}

static void fit_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct fit *f = ctx;
    for (size_t i = thread; i < f->shards; i += n_threads)
        fit_shard(f, i, &f->work[thread], f->scratch[thread]);
}

enum deq_rc deq_predictor_fit(const struct deq_predictor_fit *fit, struct deq_weights *w, struct deq_dataset *data, struct deq_pool *pool,
                              struct deq_grad_work *work, size_t micro_batch, size_t shards, const struct deq_solver_opts *solver,
                              struct deq_err *err)
{
    const unsigned threads = deq_pool_threads(pool);
    const size_t D = w->arch.vocab.d_model, Hp = w->arch.predictor_hidden, rows = micro_batch * data->seq_len, n = w->n - w->n_main;
    struct fit f = {.w = w, .work = work, .rows = rows, .shards = shards, .solver = *solver};
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
        rc = deq_weights_new(&w->arch, &f.grads[i], err);
    for (unsigned i = 0; i < threads && !rc; i++) {
        if (!(f.scratch[i] = DEQ_NEW_ARRAY(float, rows * (2 * Hp + 2 * D))))
            rc = deq_fail(err, DEQ_ENOMEM, "no memory to fit the predictor");
    }
    double mean = 0;
    for (unsigned step = 0; step < fit->steps && !rc; step++) {
        if (fit->stop && fit->stop(fit->ctx)) {
            rc = deq_fail(err, DEQ_ECANCELED, "stopped while the predictor was fitted; resume fits it again");
            break;
        }
        deq_dataset_batch(data, fit->first_step + step, micro_batch * shards, tokens, targets);
        deq_pool_run(pool, fit_thread, &f);
        double loss = 0;
        for (size_t i = 0; i < shards; i++) {
            loss += f.loss[i];
            if (i)
                deq_kern()->add(f.grads[0]->data + w->n_main, f.grads[0]->data + w->n_main, f.grads[i]->data + w->n_main, n);
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
