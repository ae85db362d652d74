#include "core/train/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/pool.h"
#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/cell/config.h"
#include "core/math/kern.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer_config.h"
#include "core/train/adamw.h"
#include "core/train/dataset.h"
#include "core/train/implicit.h"
#include "core/train/muon.h"
#include "core/train/predictor.h"
#include "core/train/tokenizer.h"

enum { BAD_STEPS_MAX = 20 }; /* steps in a row that were not finite */

struct run {
    const struct deq_recipe *recipe;
    const struct deq_train_opts *opts;
    const struct deq_train_hooks *hooks;
    struct deq_arch *arch;
    struct deq_tokenizer *tok;
    struct deq_dataset *train;
    struct deq_tokens valid;
    uint64_t valid_bytes;
    struct deq_weights *w;
    float *m, *v; /* [n] AdamW's moments */
    struct deq_pool *pool;
    unsigned n_threads;
    struct deq_grad_work *work; /* [n_threads] */
    size_t n_shards;
    struct deq_weights **grads; /* [n_shards]; the sum ends in grads[0] */
    struct deq_grad_report *reports; /* [n_shards] */
    uint32_t *tokens, *targets; /* [batch, T] */
    struct deq_progress at;
    /* the step under way, read by the pool */
    struct deq_grad_opts grad_opts;
    struct deq_adamw adamw;
    float grad_scale, muon_lr;
    unsigned *owner;     /* [n_params] the thread that updates a tensor, dealt out by work */
    float **muon_scratch; /* [n_threads] */
    double *norm_parts; /* [n_params] */
    float *valid_nll;   /* [micro_batch * T] a thread */
    double *valid_sums; /* [n_threads] */
    size_t valid_chunks;
};

static void emit(struct run *r, struct deq_train_event e)
{
    if (r->hooks->event)
        r->hooks->event(r->hooks->ctx, &e);
}

static bool asked_to_stop(struct run *r)
{
    return r->hooks->stop && r->hooks->stop(r->hooks->ctx);
}

/* Matrices N(0, 1/fan_in), the two that write into the residual stream smaller, gains 1, everything else 0. With a tied head and E ~ N(0, 1/D)
 * embeddings have unit variance after the sqrt(D) and logits of a normed state have variance 1. */
void deq_train_init(struct deq_weights *w, size_t from, uint64_t seed)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        if (p->offset < from)
            continue;
        const double fan_in = sqrt((double)p->cols);
        const double std = p->role == DEQ_ROLE_RESIDUAL_OUT ? 0.5 / fan_in : deq_role_is_matrix(p->role) ? 1 / fan_in : 0;
        for (size_t j = 0; j < p->count; j++)
            w->data[p->offset + j] = p->role == DEQ_ROLE_GAIN ? 1.0f : std > 0 ? (float)(std * deq_rng_normal(seed, 1 + i, j)) : 0.0f;
    }
}

float deq_train_lr(const struct deq_recipe *r, uint64_t step)
{
    const double n = r->steps, s = (double)step;
    if (step < r->warmup)
        return (float)(r->lr * (s + 1) / r->warmup);
    if (r->schedule == DEQ_RECIPE_WSD) {
        const double decay = fmax(1, n * r->decay_share);
        return (float)(s < n - decay ? r->lr : r->lr_min + (r->lr - r->lr_min) * (n - s) / decay);
    }
    const double x = (s - r->warmup) / fmax(1, n - r->warmup);
    return (float)(r->lr_min + 0.5 * (r->lr - r->lr_min) * (1 + cos(3.141592653589793 * fmin(1, x))));
}

/* --- Setting up --- */

static void note(void *ctx, const char *text)
{
    emit(ctx, (struct deq_train_event){.kind = DEQ_TRAIN_NOTE, .note = text});
}

/* What can be seen to be wrong before anything costs time or is written. */
static enum deq_rc look_at_files(const struct run *r, struct deq_err *err)
{
    char path[4096];
    enum deq_rc rc = deq_dataset_check(r->opts->data_dir, r->recipe->train_files, err);
    if (!rc)
        rc = deq_dataset_check(r->opts->data_dir, r->recipe->valid_file, err);
    if (!rc && !deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
        rc = deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
    if (!rc && r->opts->resume && !deq_io_exists(path))
        rc = deq_fail(err, DEQ_ENOTFOUND, "%s: missing; there is nothing to go on from", path);
    return rc;
}

/* Once everything that a run begins with is known to be good. */
static enum deq_rc save_tokenizer(const struct run *r, const struct deq_buf *json, struct deq_err *err)
{
    char path[4096];
    enum deq_rc rc = DEQ_OK;
    deq_io_join(path, sizeof path, r->opts->out_dir, "tokenizer_config.json"); /* look_at_files has shown that names fit */
    const bool told = deq_io_exists(path);
    deq_io_join(path, sizeof path, r->opts->out_dir, "tokenizer.json");
    if (json->len)
        rc = deq_io_replace(path, &(struct deq_part){json->data, json->len}, 1, err);
    return rc || (told && !json->len) ? rc : deq_tokenizer_config_save(path, r->arch->vocab.eos_id, -1, err);
}

/* Which token ends a document: the tokenizer's own, wherever that comes from. One just trained needs no file: what is there was another's. */
static enum deq_rc find_end(struct run *r, bool new_tokenizer, struct deq_err *err)
{
    const char *dir = new_tokenizer && r->opts->init ? r->opts->init : r->opts->out_dir;
    if (new_tokenizer && !r->opts->init) {
        r->arch->vocab.eos_id = deq_tokenizer_id(r->tok, DEQ_DOCUMENT_END);
        return DEQ_OK;
    }
    const enum deq_rc rc = deq_tokenizer_config_eos(dir, r->tok, &r->arch->vocab.eos_id, err);
    if (rc || r->arch->vocab.eos_id >= 0)
        return rc;
    return deq_fail(err, DEQ_EFORMAT, "%s/tokenizer.json has no token that ends a document: name one as eos_token in tokenizer_config.json beside it", dir);
}

/* data.valid, or what is held back of the training files. */
static enum deq_rc load_valid(struct run *r, struct deq_err *err)
{
    const float held_back = deq_recipe_held_back(r->recipe);
    const char *files = held_back > 0 ? r->recipe->train_files : r->recipe->valid_file;
    char path[4096] = "", *text;
    size_t len;
    enum deq_rc rc = DEQ_OK;
    if (!deq_tokens_push(&r->valid, (uint32_t)r->arch->vocab.eos_id))
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for the validation text");
    while (!rc && *files) {
        uint64_t bytes = 0;
        if ((rc = deq_dataset_path(r->opts->data_dir, &files, path, err)) || (rc = deq_dataset_read(path, held_back, held_back > 0, &text, &len, err)))
            return rc;
        rc = deq_corpus_encode(r->tok, r->arch->vocab.eos_id, text, len, &r->valid, &bytes, err);
        r->valid_bytes += bytes;
        deq_free(text);
    }
    if (!rc && r->valid.n < r->recipe->seq_len + 1)
        rc = deq_fail(err, DEQ_EINVAL, "%s: %zu tokens for validation are fewer than one sequence of %u", path, r->valid.n, r->recipe->seq_len);
    return rc;
}

/* Matrices inside the cell, those stacked in a tensor one by one. The injection is an embedding's image and stays with AdamW. */
static size_t muon_parts(const struct run *r, const struct deq_param *p)
{
    const bool inner = p->role == DEQ_ROLE_MATRIX || p->role == DEQ_ROLE_RESIDUAL_OUT;
    return r->recipe->optimizer == DEQ_RECIPE_MUON && inner ? p->parts : 0;
}

static enum deq_rc prepare_memory(struct run *r, struct deq_err *err)
{
    const struct deq_recipe *c = r->recipe;
    const bool unroll = c->grad == DEQ_RECIPE_UNROLL;
    /* tapes: what the recorded evaluations need, and one for the perturbed evaluation of the penalty */
    const unsigned tapes = DEQ_MAX(c->shallow_depth, DEQ_MAX(unroll ? c->unroll : 1u, 1u) + 1);
    struct deq_grad_opts widest = {.forward = deq_recipe_solver(c), .adjoint = deq_recipe_adjoint(c)};
    r->n_shards = c->batch / c->micro_batch;
    r->n_threads = (unsigned)DEQ_MIN((size_t)r->opts->threads, r->n_shards);
    enum deq_rc rc = deq_pool_new(r->n_threads, &r->pool, err);
    if (!rc)
        rc = deq_weights_new(r->arch, &r->w, err);
    if (rc)
        return rc;
    r->m = DEQ_NEW_ARRAY(float, r->w->n);
    r->v = DEQ_NEW_ARRAY(float, r->w->n);
    r->work = DEQ_NEW_ARRAY(struct deq_grad_work, r->n_threads);
    r->grads = DEQ_NEW_ARRAY(struct deq_weights *, r->n_shards);
    r->reports = DEQ_NEW_ARRAY(struct deq_grad_report, r->n_shards);
    r->tokens = DEQ_NEW_ARRAY(uint32_t, (size_t)c->batch * c->seq_len);
    r->targets = DEQ_NEW_ARRAY(uint32_t, (size_t)c->batch * c->seq_len);
    r->norm_parts = DEQ_NEW_ARRAY(double, r->w->n_params);
    r->valid_nll = DEQ_NEW_ARRAY(float, (size_t)r->n_threads * c->micro_batch * c->seq_len);
    r->valid_sums = DEQ_NEW_ARRAY(double, r->n_threads);
    r->owner = DEQ_NEW_ARRAY(unsigned, r->w->n_params);
    r->muon_scratch = DEQ_NEW_ARRAY(float *, r->n_threads);
    if (!r->m || !r->v || !r->owner || !r->muon_scratch || !r->work || !r->grads || !r->reports || !r->tokens || !r->targets || !r->norm_parts || !r->valid_nll ||
        !r->valid_sums)
        return deq_fail(err, DEQ_ENOMEM, "no memory for training");
    size_t largest = 0;
    double load[256] = {0}; /* the pool has at most 256 threads */
    for (size_t i = 0; i < r->w->n_params; i++) {
        const struct deq_param *p = &r->w->params[i];
        largest = DEQ_MAX(largest, deq_muon_floats(DEQ_MAX(p->rows, (size_t)1), p->cols));
        const size_t parts = muon_parts(r, p), small = DEQ_MIN(parts ? p->rows / parts : 0, p->cols);
        unsigned least = 0;
        for (unsigned t = 1; t < r->n_threads; t++)
            least = load[t] < load[least] ? t : least;
        r->owner[i] = least;
        load[least] += (double)p->count * (1.0 + (double)small);
    }
    for (unsigned i = 0; i < r->n_threads && c->optimizer == DEQ_RECIPE_MUON; i++)
        if (!(r->muon_scratch[i] = DEQ_NEW_ARRAY(float, largest)))
            return deq_fail(err, DEQ_ENOMEM, "no memory for training");
    for (unsigned i = 0; i < r->n_threads && !rc; i++)
        rc = deq_grad_work_new(r->arch, c->micro_batch, c->seq_len, &widest, tapes, c->dropout > 0 || c->weight_dropout > 0, &r->work[i], err);
    for (size_t i = 0; i < r->n_shards && !rc; i++)
        rc = deq_weights_new(r->arch, &r->grads[i], err);
    return rc;
}

/* --- One optimiser step --- */

static void shards_of_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct run *r = ctx;
    const size_t rows = (size_t)r->recipe->micro_batch * r->recipe->seq_len, count = rows * r->n_shards;
    for (size_t i = thread; i < r->n_shards; i += n_threads) {
        memset(r->grads[i]->data, 0, r->w->n * sizeof(float));
        deq_grad_shard(&r->work[thread], &r->grad_opts, r->w, r->tokens + i * rows, r->targets + i * rows, count, r->recipe->seed,
                       r->at.step, i, r->grads[i], &r->reports[i]);
    }
}

/* Parameters are dealt out whole, so each tensor's sums are made in one order whatever the number of threads. */
static void sum_grads(void *ctx, unsigned thread, unsigned n_threads)
{
    struct run *r = ctx;
    const struct deq_kern *k = deq_kern();
    for (size_t i = thread; i < r->w->n_params; i += n_threads) {
        const struct deq_param *p = &r->w->params[i];
        float *sum = r->grads[0]->data + p->offset;
        for (size_t s = 1; s < r->n_shards; s++)
            k->add(sum, sum, r->grads[s]->data + p->offset, p->count);
        r->norm_parts[i] = k->dot(sum, sum, p->count);
    }
}

static void update(void *ctx, unsigned thread, unsigned n_threads)
{
    struct run *r = ctx;
    (void)n_threads;
    for (size_t i = 0; i < r->w->n_params; i++) {
        const struct deq_param *p = &r->w->params[i];
        if (r->owner[i] != thread || p->offset >= r->w->n_main)
            continue; /* the predictor is fitted apart */
        const size_t parts = muon_parts(r, p);
        for (size_t k = 0; k < parts; k++) {
            const size_t rows = p->rows / parts, at = p->offset + k * rows * p->cols;
            deq_muon_update(r->muon_lr, r->recipe->muon_momentum, r->recipe->weight_decay, r->w->data + at, r->m + at, r->grads[0]->data + at,
                            r->grad_scale, rows, p->cols, r->muon_scratch[thread]);
        }
        if (parts)
            continue;
        const bool decay = deq_role_is_matrix(p->role);
        deq_adamw_update(&r->adamw, r->w->data + p->offset, r->m + p->offset, r->v + p->offset, r->grads[0]->data + p->offset,
                         r->grad_scale, decay, p->count);
    }
}

/* Returns false when the step was skipped because something was not finite. */
static bool train_step(struct run *r, struct deq_train_event *e)
{
    const struct deq_recipe *c = r->recipe;
    const bool shallow = r->at.step < c->shallow_steps;
    deq_dataset_batch(r->train, r->at.step, c->batch, r->tokens, r->targets);
    r->grad_opts = (struct deq_grad_opts){
        .mode = shallow ? DEQ_GRAD_SHALLOW : c->grad == DEQ_RECIPE_UNROLL ? DEQ_GRAD_UNROLL : DEQ_GRAD_IMPLICIT,
        .depth = shallow ? c->shallow_depth : c->unroll,
        .forward = deq_recipe_solver(c),
        .adjoint = deq_recipe_adjoint(c),
        .jac_weight = !shallow && c->jac_every && r->at.step % c->jac_every == 0 ? c->jac_weight : 0,
        .jac_step = c->jac_step,
        .dropout = c->dropout,
    };
    deq_pool_run(r->pool, shards_of_thread, r);
    deq_pool_run(r->pool, sum_grads, r);
    double norm = 0;
    bool finite = true;
    *e = (struct deq_train_event){.kind = DEQ_TRAIN_STEP, .phase = shallow ? "shallow" : "deq"};
    for (size_t i = 0; i < r->w->n_params; i++)
        norm += r->norm_parts[i];
    norm = sqrt(norm);
    for (size_t i = 0; i < r->n_shards; i++) {
        const struct deq_grad_report *p = &r->reports[i];
        const double share = 1.0 / (double)r->n_shards;
        finite = finite && p->finite;
        e->loss += p->loss;
        e->evaluations += p->evaluations * share;
        e->adjoint_evaluations += p->adjoint_evaluations * share;
        e->residual += p->residual * share;
        e->jac += p->jac * share;
    }
    e->grad_norm = (float)norm;
    e->lr = deq_train_lr(c, r->at.step);
    finite = finite && isfinite(norm);
    if (finite) {
        r->grad_scale = c->clip > 0 && norm > c->clip ? (float)(c->clip / norm) : 1.0f;
        r->muon_lr = c->muon_lr * e->lr / c->lr; /* the same schedule */
        r->adamw = (struct deq_adamw){e->lr, c->beta1, c->beta2, c->eps, c->weight_decay, r->at.step + 1 - r->at.skipped};
        deq_pool_run(r->pool, update, r);
    } else {
        r->at.skipped++;
    }
    r->at.step++;
    r->at.tokens += (uint64_t)c->batch * c->seq_len;
    return finite;
}

/* --- Validation: consecutive pieces of T, each from an empty context (so a little worse than deq eval's one stream) --- */

static void validate_thread(void *ctx, unsigned thread, unsigned n_threads)
{
    struct run *r = ctx;
    const struct deq_recipe *c = r->recipe;
    struct deq_grad_work *work = &r->work[thread];
    const size_t T = c->seq_len, rows = c->micro_batch * T;
    struct deq_solver_opts o = deq_recipe_solver(c);
    float *nll = r->valid_nll + thread * rows;
    uint32_t *tokens = r->tokens + thread * rows, *targets = r->targets + thread * rows;
    struct deq_solve_report rep;
    r->valid_sums[thread] = 0;
    o.max_iter *= 2;
    o.tol *= 0.3f;
    for (size_t chunk = (size_t)thread * c->micro_batch; chunk < r->valid_chunks; chunk += (size_t)n_threads * c->micro_batch) {
        const size_t have = DEQ_MIN((size_t)c->micro_batch, r->valid_chunks - chunk);
        for (size_t b = 0; b < c->micro_batch; b++)
            for (size_t t = 0; t < T; t++) {
                const size_t p = (chunk + DEQ_MIN(b, have - 1)) * T + t;
                tokens[b * T + t] = r->valid.ids[p];
                targets[b * T + t] = b < have ? r->valid.ids[p + 1] : UINT32_MAX;
            }
        work->seq->ops->begin(work->seq, r->w, tokens, NULL);
        if (r->at.step <= c->shallow_steps) { /* not yet an equilibrium model: the network that was trained */
            memset(work->z, 0, rows * work->seq->state_dim * sizeof(float));
            for (unsigned i = 0; i < c->shallow_depth; i++)
                work->seq->ops->forward(work->seq, 0, work->z, work->z);
        } else {
            /* the tolerance is part of the number: tighter than in training */
            deq_grad_solve(work, &o, &rep);
            work->seq->ops->forward(work->seq, 0, work->z, work->z);
        }
        r->valid_sums[thread] += deq_seq_loss(work->seq, work->z, targets, 1, NULL, NULL, nll);
    }
}

static void validate(struct run *r, size_t max_tokens)
{
    const size_t T = r->recipe->seq_len, all = (r->valid.n - 1) / T;
    r->valid_chunks = max_tokens ? DEQ_MIN(all, DEQ_MAX(max_tokens / T, (size_t)1)) : all;
    deq_pool_run(r->pool, validate_thread, r);
    double nats = 0;
    for (unsigned i = 0; i < r->n_threads; i++)
        nats += r->valid_sums[i];
    const double tokens = (double)(r->valid_chunks * T), bytes = (double)r->valid_bytes * tokens / (double)(r->valid.n - 1);
    emit(r, (struct deq_train_event){.kind = DEQ_TRAIN_VALID,
                                     .step = r->at.step,
                                     .steps = r->recipe->steps,
                                     .phase = r->at.step <= r->recipe->shallow_steps ? "shallow" : "deq",
                                     .loss = nats / tokens,
                                     .perplexity = exp(nats / tokens),
                                     .bits_per_byte = nats / log(2.0) / bytes,
                                     .tokens = r->at.tokens,
                                     .seconds = r->at.seconds});
}

/* --- Saving --- */

static enum deq_rc save_checkpoint(struct run *r, struct deq_err *err)
{
    char path[4096];
    if (!deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
    enum deq_rc rc = deq_checkpoint_save(path, r->w, r->m, r->v, &r->at, err);
    if (!rc)
        emit(r, (struct deq_train_event){.kind = DEQ_TRAIN_SAVED, .step = r->at.step, .steps = r->recipe->steps, .note = path});
    return rc;
}

static enum deq_rc save_model(struct run *r, struct deq_err *err)
{
    char path[4096], training[512];
    snprintf(training, sizeof training, "{\"steps\": %llu, \"tokens\": %llu, \"seconds\": %.0f, \"seed\": %llu, \"grad\": \"%s\"}",
             (unsigned long long)r->at.step, (unsigned long long)r->at.tokens, r->at.seconds, (unsigned long long)r->recipe->seed,
             r->recipe->grad == DEQ_RECIPE_UNROLL ? "unroll" : "implicit");
    deq_io_join(path, sizeof path, r->opts->out_dir, "model.safetensors"); /* save_checkpoint has shown that names fit */
    enum deq_rc rc = deq_weights_save(path, r->w, r->opts->bf16, err);
    if (rc)
        return rc;
    deq_io_join(path, sizeof path, r->opts->out_dir, "config.json");
    return deq_config_save(path, r->arch, training, err);
}

static enum deq_rc start_state(struct run *r, struct deq_err *err)
{
    char path[4096];
    if (r->opts->resume) {
        if (!deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
            return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
        enum deq_rc rc = deq_checkpoint_load(path, r->w, r->m, r->v, &r->at, err);
        if (!rc && r->at.step > r->recipe->steps)
            rc = deq_fail(err, DEQ_EINVAL, "%s: __metadata__.step: %llu, but the recipe's train.steps are %u", path, (unsigned long long)r->at.step,
                          r->recipe->steps);
        return rc;
    }
    deq_train_init(r->w, 0, r->recipe->seed);
    if (!r->opts->init)
        return DEQ_OK;
    struct deq_weights *w;
    if (!deq_io_join(path, sizeof path, r->opts->init, "model.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->init);
    enum deq_rc rc = deq_weights_load(path, r->arch, false, &w, err);
    if (!rc)
        memcpy(r->w->data, w->data, w->n * sizeof(float));
    if (!rc)
        deq_weights_free(w);
    return rc;
}

static void on_predictor(void *ctx, unsigned step, unsigned steps, double error)
{
    emit(ctx, (struct deq_train_event){.kind = DEQ_TRAIN_PREDICTOR, .phase = "predictor", .step = step, .steps = steps, .loss = error});
}

static bool predictor_stop(void *ctx)
{
    return asked_to_stop(ctx);
}

static enum deq_rc train_loop(struct run *r, bool *ret_stopped, struct deq_err *err)
{
    const struct deq_recipe *c = r->recipe;
    const double began = deq_now_s() - r->at.seconds;
    double t_log = deq_now_s(), sums[4] = {0}, n = 0; /* loss, evaluations, adjoint, residual since the last line */
    unsigned bad = 0;
    enum deq_rc rc = DEQ_OK;
    while (r->at.step < c->steps && !(*ret_stopped = asked_to_stop(r))) {
        struct deq_train_event e;
        const bool ok = train_step(r, &e);
        r->at.seconds = deq_now_s() - began;
        bad = ok ? 0 : bad + 1;
        if (bad == BAD_STEPS_MAX)
            return deq_fail(err, DEQ_ENUMERIC, "step %llu: %d steps in a row gave values that are not finite; the last checkpoint is intact",
                            (unsigned long long)r->at.step, BAD_STEPS_MAX);
        if (!ok)
            continue;
        sums[0] += e.loss;
        sums[1] += e.evaluations;
        sums[2] += e.adjoint_evaluations;
        sums[3] += e.residual;
        n++;
        if (r->at.step % c->log_every == 0 || r->at.step == c->steps) {
            const double now = deq_now_s(), rate = n * c->batch * c->seq_len / (now - t_log);
            e.step = r->at.step;
            e.steps = c->steps;
            e.loss = sums[0] / n;
            e.evaluations = sums[1] / n;
            e.adjoint_evaluations = sums[2] / n;
            e.residual = sums[3] / n;
            e.tokens = r->at.tokens;
            e.seconds = r->at.seconds;
            e.tokens_per_second = rate;
            e.eta_seconds = (double)(c->steps - r->at.step) * c->batch * c->seq_len / rate;
            emit(r, e);
            memset(sums, 0, sizeof sums);
            n = 0;
            t_log = now;
        }
        if (c->eval_every && r->at.step % c->eval_every == 0 && r->at.step < c->steps)
            validate(r, c->eval_tokens);
        if (c->checkpoint_every && r->at.step % c->checkpoint_every == 0 && (rc = save_checkpoint(r, err)))
            return rc;
    }
    return save_checkpoint(r, err);
}

static void run_free(struct run *r)
{
    for (unsigned i = 0; r->work && i < r->n_threads; i++)
        deq_grad_work_free(&r->work[i]);
    for (size_t i = 0; r->grads && i < r->n_shards; i++)
        deq_weights_free(r->grads[i]);
    for (unsigned i = 0; r->muon_scratch && i < r->n_threads; i++)
        deq_free(r->muon_scratch[i]);
    deq_free(r->muon_scratch);
    deq_free(r->owner);
    deq_free(r->work);
    deq_free(r->grads);
    deq_free(r->reports);
    deq_free(r->tokens);
    deq_free(r->targets);
    deq_free(r->norm_parts);
    deq_free(r->valid_nll);
    deq_free(r->valid_sums);
    deq_free(r->m);
    deq_free(r->v);
    deq_weights_free(r->w);
    deq_free(r->arch);
    deq_tokens_free(&r->valid);
    deq_dataset_free(r->train);
    deq_tokenizer_free(r->tok);
    deq_pool_free(r->pool);
}

/* Everything a run begins with. Files are written when all of it is there, so that a failed start leaves nothing for the next one to find. */
static enum deq_rc prepare(struct run *r, struct deq_err *err)
{
    struct deq_buf new_tokenizer;
    const bool made = !deq_io_exists(r->opts->out_dir);
    deq_buf_init(&new_tokenizer, DEQ_TOKENIZER_MAX_FILE_BYTES);
    enum deq_rc rc = deq_recipe_check(r->recipe, err);
    if (!rc)
        rc = look_at_files(r, err);
    if (!rc)
        rc = deq_io_mkdir(r->opts->out_dir, err);
    if (!rc)
        rc = deq_train_tokenizer(r->recipe, r->opts, note, r, &r->tok, &new_tokenizer, err);
    if (!rc)
        rc = deq_recipe_arch(r->recipe, deq_tokenizer_vocab_size(r->tok), &r->arch, err);
    if (!rc)
        rc = find_end(r, new_tokenizer.len > 0, err);
    if (!rc) {
        note(r, "reading and encoding the text");
        rc = deq_dataset_load(r->tok, r->arch->vocab.eos_id, r->opts->data_dir, r->recipe->train_files, deq_recipe_held_back(r->recipe),
                              r->recipe->seq_len, r->recipe->seed, &r->train, err);
    }
    if (!rc)
        rc = load_valid(r, err);
    if (!rc)
        rc = prepare_memory(r, err);
    if (!rc)
        rc = start_state(r, err);
    if (!rc)
        rc = save_tokenizer(r, &new_tokenizer, err);
    if (rc && made)
        (void)rmdir(r->opts->out_dir); /* only if it is empty */
    deq_buf_free(&new_tokenizer);
    return rc;
}

enum deq_rc deq_train_run(const struct deq_recipe *recipe, const struct deq_train_opts *o, const struct deq_train_hooks *hooks,
                          struct deq_err *err)
{
    struct run r = {.recipe = recipe, .opts = o, .hooks = hooks};
    bool stopped = false;
    enum deq_rc rc = prepare(&r, err);
    if (rc)
        goto out;
    char line[160];
    snprintf(line, sizeof line, "%zu parameters, %zu training tokens, %.2f bytes a token, step %llu of %u", r.w->n, r.train->tokens.n,
             (double)r.train->text_bytes / (double)r.train->tokens.n, (unsigned long long)r.at.step, recipe->steps);
    note(&r, line);
    rc = train_loop(&r, &stopped, err);
    if (rc || stopped)
        goto out;
    validate(&r, 0);
    if (recipe->predictor_hidden && recipe->predictor_steps) {
        struct deq_predictor_fit fit = {.steps = recipe->predictor_steps,
                                        .lr = recipe->predictor_lr,
                                        .tol = recipe->predictor_tol,
                                        .seed = recipe->seed,
                                        .first_step = r.at.step,
                                        .progress = on_predictor,
                                        .stop = predictor_stop,
                                        .ctx = &r};
        struct deq_solver_opts solver = deq_recipe_solver(recipe);
        deq_train_init(r.w, r.w->n_main, recipe->seed); /* afresh, so that resuming a finished run gives the same model */
        rc = deq_predictor_fit(&fit, r.arch, r.w, r.train, r.pool, r.work, recipe->micro_batch, r.n_shards, &solver, err);
        if (!rc)
            rc = save_checkpoint(&r, err); /* with the predictor in it */
    }
    if (!rc)
        rc = save_model(&r, err);
out:
    run_free(&r);
    return rc;
}
