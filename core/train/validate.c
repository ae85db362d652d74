/* Validation: consecutive pieces of T, each from an empty context (so a little worse than deq eval's one stream). */
#include <math.h>
#include <string.h>

#include "core/train/train_impl.h"

/* The last step that was taken, from 0. */
static uint64_t last_step(const struct deq_train *r)
{
    return r->at.step ? r->at.step - 1 : 0;
}

static void validate_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_train *r = ctx;
    const struct deq_recipe *c = r->recipe;
    struct deq_grad_work *work = &r->work[thread];
    const size_t T = c->seq_len, rows = c->micro_batch * T;
    struct deq_solver_opts o = deq_recipe_solver(c);
    uint32_t *tokens = r->tokens + thread * rows, *targets = r->targets + thread * rows;
    struct deq_solve_report rep;
    const unsigned depth = deq_recipe_depth(c, last_step(r));
    r->valid_sums[thread] = 0;
    o.max_iter *= 2;
    o.tol *= 0.3f;
    for (size_t chunk = (size_t)thread * c->micro_batch; chunk < r->valid_chunks;
         chunk += (size_t)n_threads * c->micro_batch) {
        const size_t have = DEQ_MIN((size_t)c->micro_batch, r->valid_chunks - chunk);
        for (size_t b = 0; b < c->micro_batch; b++)
            for (size_t t = 0; t < T; t++) {
                const size_t p = (chunk + DEQ_MIN(b, have - 1)) * T + t;
                tokens[b * T + t] = r->valid.ids[p];
                targets[b * T + t] = b < have ? r->valid.ids[p + 1] : UINT32_MAX;
            }
        work->seq->ops->begin(work->seq, r->w, tokens, NULL);
        if (depth) { /* no equilibrium model, or not yet: the network that was trained */
            deq_seq_start(work->seq, work->f);
            for (unsigned i = 0; i < depth; i++)
                work->seq->ops->forward(work->seq, 0, work->f, work->f);
        } else {
            deq_grad_solve(work, &o, &rep); /* the tolerance is part of the number: tighter than in training */
        }
        r->valid_sums[thread] += deq_seq_loss(work->seq, work->f, targets, 1, NULL, NULL, NULL);
    }
}

struct deq_train_event deq_train_validate(struct deq_train *r, size_t max_tokens)
{
    const size_t T = r->recipe->seq_len, all = (r->valid.n - 1) / T;
    r->valid_chunks = max_tokens ? DEQ_MIN(all, DEQ_MAX(max_tokens / T, (size_t)1)) : all;
    deq_pool_run(r->pool, validate_thread, r);
    double nats = 0;
    for (unsigned i = 0; i < r->n_threads; i++)
        nats += r->valid_sums[i];
    const double tokens = (double)(r->valid_chunks * T),
                 bytes = (double)r->valid_bytes * tokens / (double)(r->valid.n - 1);
    return (struct deq_train_event){.kind = DEQ_TRAIN_VALID,
                                     .step = r->at.step,
                                     .steps = r->recipe->steps,
                                     .phase = deq_recipe_phase(r->recipe, last_step(r)),
                                     .loss = nats / tokens,
                                     .perplexity = exp(nats / tokens),
                                     .bits_per_byte = nats / log(2.0) / bytes,
                                     .tokens = r->at.tokens,
                                     .seconds = r->at.seconds,
                                     .cpu_seconds = r->at.cpu_seconds};
}
