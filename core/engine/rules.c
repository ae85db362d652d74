/* When a row has converged: the residual that its tolerance is of, or a rule of recurrent-depth models (Geiping et al.
 * 2025, generate_with_adaptive_compute), by which their authors let a token leave the loop. */
#include <math.h>
#include <string.h>

#include "core/engine/engine_impl.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

enum { ARGMAX_STABLE = 5 }; /* evaluations whose best word is that of the one before, in a row */

/* ||x - x'|| / ||x|| < tol: x what this evaluation gave, x' what the one before gave, or the start */
static bool latent_rests(const struct deq_engine *e, const struct sequence *s, struct row *r)
{
    const size_t D = e->cell->state_dim;
    const float *before = r->evaluations == 1 ? r->z : r->before;
    const float change = sqrtf(deq_kern()->diff_sumsq(r->fz, before, D)),
                norm = sqrtf(deq_kern()->dot(r->fz, r->fz, D)) + 1e-9f;
    memcpy(r->before, r->fz, D * sizeof(float));
    return change / norm < deq_row_tol(s, r);
}

bool deq_rule_rests(const struct deq_engine *e, const struct sequence *s, struct row *r)
{
    switch (s->req.solve.stop) {
    case DEQ_STOP_AT_RESIDUAL: return r->residual < deq_row_tol(s, r);
    case DEQ_STOP_AT_LATENT: return latent_rests(e, s, r);
    default: return false; /* once its logits are there */
    }
}

/* KL(p' || p) < tol: p the distribution of this evaluation, p' of the one before, at first the uniform one */
static bool distribution_rests(const struct deq_engine *e, const struct sequence *s, const struct row *r)
{
    const uint32_t V = (uint32_t)e->cell->vocab_size;
    const struct deq_log_normaliser n = deq_log_normaliser(r->logits, V);
    const float uniform = -(float)deq_log((double)V);
    double kl = 0;
    for (uint32_t i = 0; i < V; i++) {
        const float before = r->evaluations == 1 ? uniform : s->logprob[i], now = deq_logprob(&n, r->logits[i]);
        const double p = deq_exp((double)before);
        kl += p > 0 ? p * ((double)before - (double)now) : 0;
        s->logprob[i] = now;
    }
    return kl < (double)deq_row_tol(s, r);
}

static bool best_word_rests(const struct deq_engine *e, const struct sequence *s, struct row *r)
{
    const uint32_t best = deq_sample_is_argmax(&s->req.sampling) ? r->guess
                                                                 : deq_argmax(r->logits, (uint32_t)e->cell->vocab_size);
    r->stable = r->evaluations > 1 && best == r->best_word ? r->stable + 1 : 0;
    r->best_word = best;
    return r->stable >= ARGMAX_STABLE;
}

static void stage_judge(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_engine *e = ctx;
    for (size_t i = e->n_judged * thread / n_threads; i < e->n_judged * (thread + 1) / n_threads; i++) {
        struct row *r = e->judged[i];
        const struct sequence *s = e->judged_seq[i];
        const bool rests = s->req.solve.stop == DEQ_STOP_AT_KL ? distribution_rests(e, s, r) : best_word_rests(e, s, r);
        r->converged = rests && r->evaluations >= s->solver.min_iter;
    }
}

void deq_rule_judge(struct deq_engine *e)
{
    if (e->n_judged)
        deq_pool_stage(e->pool, stage_judge, e, 8 * e->n_judged * e->cell->vocab_size);
}
