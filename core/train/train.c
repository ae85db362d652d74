#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/cell/config.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer_config.h"
#include "core/train/overlap.h"
#include "core/train/predictor.h"
#include "core/train/tokenizer.h"
#include "core/train/train_impl.h"

enum { BAD_STEPS_MAX = 20 }; /* steps in a row that were not finite */

static void emit(struct deq_train *r, struct deq_train_event e)
{
    if (r->hooks->event)
        r->hooks->event(r->hooks->ctx, &e);
}

static bool asked_to_stop(struct deq_train *r)
{
    return r->hooks->stop && r->hooks->stop(r->hooks->ctx);
}

/* --- Setting up --- */

static void note(void *ctx, const char *text)
{
    emit(ctx, (struct deq_train_event){.kind = DEQ_TRAIN_NOTE, .note = text});
}

/* The file is often the recipe's and not the user's: then the message is where the way without one is looked for. */
static enum deq_rc fail_valid(struct deq_err *err, enum deq_rc rc)
{
    const struct deq_err why = err ? *err : (struct deq_err){0};
    return deq_fail(err, rc,
                    "data.valid: %.*s; --set data.valid=null --set data.valid_share=0.1 holds back a tenth of the "
                    "training text instead",
                    (int)sizeof why.text - 160, why.text);
}

/* What can be seen to be wrong before anything costs time or is written. */
static enum deq_rc look_at_files(struct deq_train *r, struct deq_err *err)
{
    char path[4096];
    enum deq_rc rc = deq_dataset_check(r->opts->data_dir, r->recipe->train_files, err);
    if (rc)
        return deq_fail_prefix(err, rc, "data.train");
    if ((rc = deq_dataset_check(r->opts->data_dir, r->recipe->valid_file, err)))
        return fail_valid(err, rc);
    if (deq_recipe_tunes(r->recipe) && (rc = deq_dataset_check(r->opts->data_dir, r->recipe->tune_text, err)))
        return deq_fail_prefix(err, rc, "tune.text");
    if (!deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
    if (r->opts->resume && !deq_io_exists(path))
        return deq_fail(err, DEQ_ENOTFOUND, "%s: missing; there is nothing to go on from", path);
    return r->opts->resume ? deq_train_compare_recipes(r, path, note, err) : DEQ_OK;
}

/* Once everything that a run begins with is known to be good. */
static enum deq_rc save_tokenizer(const struct deq_train *r, const struct deq_buf *json, struct deq_err *err)
{
    char path[4096];
    enum deq_rc rc = DEQ_OK;
    /* look_at_files has shown that names fit */
    deq_io_join(path, sizeof path, r->opts->out_dir, "tokenizer_config.json");
    const bool told = deq_io_exists(path);
    deq_io_join(path, sizeof path, r->opts->out_dir, "tokenizer.json");
    if (json->len)
        rc = deq_io_replace(path, &(struct deq_part){json->data, json->len}, 1, err);
    return rc || (told && !json->len) ? rc : deq_tokenizer_config_save(path, -1, r->arch->vocab.eos_id, -1, err);
}

/* Which token ends a document: the tokenizer's own, wherever that comes from. One just trained needs no file:
 * what is there was another's. */
static enum deq_rc find_end(struct deq_train *r, bool new_tokenizer, struct deq_err *err)
{
    const char *dir = new_tokenizer && r->opts->init ? r->opts->init : r->opts->out_dir;
    if (new_tokenizer && !r->opts->init) {
        r->arch->vocab.eos_id = deq_tokenizer_id(r->tok, DEQ_DOCUMENT_END);
        return DEQ_OK;
    }
    int64_t bos, eos; /* a bos is the model's that the run starts from; models made here have none */
    const enum deq_rc rc = deq_tokenizer_config_ends(dir, r->tok, &bos, &eos, err);
    if (rc)
        return rc;
    if (eos >= 0 || !r->recipe->of_model) /* else config.json may have told it */
        r->arch->vocab.eos_id = eos;
    if (r->arch->vocab.eos_id >= 0)
        return DEQ_OK;
    return deq_fail(err, DEQ_EFORMAT,
                    "%s/tokenizer.json has no token that ends a document: name one as eos_token in "
                    "tokenizer_config.json beside it",
                    dir);
}

/* data.valid, or what is held back of the training files. */
static enum deq_rc load_valid(struct deq_train *r, struct deq_err *err)
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
        if ((rc = deq_dataset_path(r->opts->data_dir, &files, path, err)) ||
            (rc = deq_dataset_read(path, held_back, held_back > 0, &text, &len, err)))
            return rc;
        rc = deq_corpus_encode(r->tok, deq_vocab_bos(&r->arch->vocab), r->arch->vocab.eos_id, text, len, &r->valid,
                               &bytes, err);
        r->valid_bytes += bytes;
        deq_free(text);
    }
    if (!rc && r->valid.n < r->recipe->seq_len + 1)
        rc = deq_fail(err, DEQ_EINVAL,
                      "%s: %zu tokens for validation are fewer than one sequence of %u: lower train.seq_len, or take "
                      "more text",
                      path, r->valid.n, r->recipe->seq_len);
    return rc;
}

/* A validation file that has seen the training text says too much good of the model; the run goes on. */
static enum deq_rc tell_overlap(struct deq_train *r, struct deq_err *err)
{
    const char *valid = r->recipe->valid_file;
    char line[1400];
    struct deq_overlap o = {0};
    const enum deq_rc rc =
        valid[0] ? deq_overlap_find(r->opts->data_dir, valid, r->recipe->train_files, &o, err) : DEQ_OK;
    if (rc || !o.shared)
        return rc;
    snprintf(line, sizeof line,
             "data.valid: %s shares %zu of its %zu documents with the training text, the first at line %zu: of those "
             "its loss is one of training", valid, o.shared, o.documents, o.line);
    note(r, line);
    return DEQ_OK;
}

static enum deq_rc prepare_memory(struct deq_train *r, struct deq_err *err)
{
    const struct deq_recipe *c = r->recipe;
    struct deq_grad_opts ways[2];
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
    r->valid_sums = DEQ_NEW_ARRAY(double, r->n_threads);
    if (!r->m || !r->v || !r->work || !r->grads || !r->reports || !r->tokens || !r->targets || !r->valid_sums)
        return deq_fail(err, DEQ_ENOMEM, "no memory for training");
    if (!rc)
        rc = deq_train_step_prepare(r, err);
    if (!rc && c->recompute)
        rc = deq_grad_best_segment(r->arch, c->micro_batch, c->seq_len, c->max_iter, &r->segment, err);
    deq_train_grad_ways(r, ways);
    for (unsigned i = 0; i < r->n_threads && !rc; i++)
        rc = deq_grad_work_new(r->arch, c->micro_batch, c->seq_len, ways, 2, &r->work[i], err);
    for (size_t i = 0; i < r->n_shards && !rc; i++)
        rc = deq_weights_new(r->arch, &r->grads[i], err);
    return rc;
}

/* --- Saving --- */

static enum deq_rc save_checkpoint(struct deq_train *r, struct deq_err *err)
{
    char path[4096];
    if (!deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
    enum deq_rc rc = deq_checkpoint_save(path, r->w, r->m, r->v, &r->at, r->recipe_text, err);
    if (rc)
        return rc;
    r->saved = r->at.step;
    emit(r, (struct deq_train_event){.kind = DEQ_TRAIN_SAVED, .step = r->at.step, .steps = r->recipe->steps,
                                     .note = path});
    return DEQ_OK;
}

/* The run ends here; what was saved stays as it is. */
static enum deq_rc diverged(const struct deq_train *r, struct deq_err *err)
{
    char last[4200] = "no checkpoint was saved", path[4096];
    if (r->saved && deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
        snprintf(last, sizeof last, "the last good checkpoint is %s, of step %llu", path, (unsigned long long)r->saved);
    return deq_fail(err, DEQ_ENUMERIC, "step %llu: %d steps in a row gave values that are not finite; %s",
                    (unsigned long long)r->at.step, BAD_STEPS_MAX, last);
}

static enum deq_rc save_model(struct deq_train *r, struct deq_err *err)
{
    char path[4096], training[512];
    snprintf(training, sizeof training,
             "{\"steps\": %llu, \"tokens\": %llu, \"seconds\": %.0f, \"seed\": %llu, \"grad\": \"%s\"}",
             (unsigned long long)r->at.step, (unsigned long long)r->at.tokens, r->at.seconds,
             (unsigned long long)r->recipe->seed, deq_recipe_grad_name(r->recipe));
    /* save_checkpoint has shown that names fit */
    deq_io_join(path, sizeof path, r->opts->out_dir, "model.safetensors");
    enum deq_rc rc = deq_weights_save(path, r->w, r->opts->bf16, err);
    if (rc)
        return rc;
    deq_io_join(path, sizeof path, r->opts->out_dir, "config.json");
    return deq_config_save(path, r->arch, training, err);
}

static enum deq_rc start_state(struct deq_train *r, struct deq_err *err)
{
    char path[4096];
    if (r->opts->resume) {
        if (!deq_io_join(path, sizeof path, r->opts->out_dir, "checkpoint.safetensors"))
            return deq_fail(err, DEQ_EINVAL, "%s: path too long", r->opts->out_dir);
        enum deq_rc rc = deq_checkpoint_load(path, r->w, r->m, r->v, &r->at, err);
        if (!rc && r->at.step > r->recipe->steps)
            rc = deq_fail(err, DEQ_EINVAL, "%s: __metadata__.step: %llu, but the recipe's train.steps are %u", path,
                          (unsigned long long)r->at.step, r->recipe->steps);
        r->saved = r->at.step;
        return rc;
    }
    deq_train_init(r->w, 0, r->recipe->seed);
    if (!r->opts->init)
        return DEQ_OK;
    return deq_train_init_from(r->opts->init, r->w, r->recipe->predictor_joint || r->recipe->predictor_steps > 0, err);
}

static void on_predictor(void *ctx, unsigned step, unsigned steps, double error)
{
    emit(ctx, (struct deq_train_event){.kind = DEQ_TRAIN_PREDICTOR, .phase = "predictor", .step = step, .steps = steps,
                                       .loss = error});
}

static bool predictor_stop(void *ctx)
{
    return asked_to_stop(ctx);
}

/* Behind the last step, and afresh, so that a run that was stopped here or had come to its end gives the same model. */
static enum deq_rc fit_predictor(struct deq_train *r, bool *ret_stopped, struct deq_err *err)
{
    const struct deq_recipe *c = r->recipe;
    const struct deq_predictor_fit fit = {.steps = c->predictor_steps,
                                          .lr = c->predictor_lr,
                                          .tol = c->predictor_tol,
                                          .seed = c->seed,
                                          .first_step = r->at.step,
                                          .progress = on_predictor,
                                          .stop = predictor_stop,
                                          .ctx = r};
    const struct deq_solver_opts solver = deq_recipe_solver(c);
    deq_train_init(r->w, r->w->n_main, c->seed);
    const enum deq_rc rc = deq_predictor_fit(&fit, r->arch, r->w, r->train, r->pool, r->work, c->micro_batch,
                                             r->n_shards, &solver, ret_stopped, err);
    return rc || *ret_stopped ? rc : save_checkpoint(r, err); /* with the predictor in it */
}

static enum deq_rc train_loop(struct deq_train *r, bool *ret_stopped, struct deq_err *err)
{
    const struct deq_recipe *c = r->recipe;
    const double began = deq_now_s() - r->at.seconds, cpu_began = deq_process_cpu_s() - r->at.cpu_seconds;
    double t_log = deq_now_s(), sums[5] = {0}, n = 0; /* loss, evaluations, adjoint, residual, the predictor's error,
                                                       * since the last line */
    unsigned bad = 0;
    enum deq_rc rc = DEQ_OK;
    while (r->at.step < c->steps && !(*ret_stopped = asked_to_stop(r))) {
        struct deq_train_event e;
        const bool ok = deq_train_step(r, &e);
        r->at.seconds = deq_now_s() - began;
        r->at.cpu_seconds = deq_process_cpu_s() - cpu_began;
        bad = ok ? 0 : bad + 1;
        if (bad == BAD_STEPS_MAX)
            return diverged(r, err);
        if (!ok)
            continue;
        sums[0] += e.loss;
        sums[1] += e.evaluations;
        sums[2] += e.adjoint_evaluations;
        sums[3] += e.residual;
        sums[4] += e.predictor;
        n++;
        if (r->at.step % c->log_every == 0 || r->at.step == c->steps) {
            const double now = deq_now_s(), rate = n * c->batch * c->seq_len / (now - t_log);
            e.step = r->at.step;
            e.steps = c->steps;
            e.loss = sums[0] / n;
            e.evaluations = sums[1] / n;
            e.adjoint_evaluations = sums[2] / n;
            e.residual = sums[3] / n;
            e.predictor = sums[4] / n;
            e.tokens = r->at.tokens;
            e.seconds = r->at.seconds;
            e.cpu_seconds = r->at.cpu_seconds;
            e.tokens_per_second = rate;
            e.eta_seconds = (double)(c->steps - r->at.step) * c->batch * c->seq_len / rate;
            emit(r, e);
            memset(sums, 0, sizeof sums);
            n = 0;
            t_log = now;
        }
        if (c->eval_every && r->at.step % c->eval_every == 0 && r->at.step < c->steps)
            emit(r, deq_train_validate(r, c->eval_tokens));
        if (c->checkpoint_every && r->at.step % c->checkpoint_every == 0 && (rc = save_checkpoint(r, err)))
            return rc;
    }
    return save_checkpoint(r, err);
}

/* What the run is and holds, told before its first step. */
static void tell_start(struct deq_train *r)
{
    const struct deq_recipe *c = r->recipe;
    const uint64_t cell = r->w->share[DEQ_SHARE_CELL], copies = 3 + r->n_shards; /* weights, moments, gradients */
    struct deq_train_size size = {.grad = deq_recipe_grad_name(c),
                                  .depth = deq_recipe_depth(c, UINT64_MAX),
                                  .segment = r->segment,
                                  .threads = r->n_threads,
                                  .parameters = r->w->parameters,
                                  .non_embedding = cell,
                                  .predictor = r->w->share[DEQ_SHARE_PREDICTOR],
                                  .parameter_bytes = cell * copies * sizeof(float)};
    for (unsigned i = 0; i < r->n_threads; i++)
        size.activation_bytes += r->work[i].activation_bytes;
    emit(r, (struct deq_train_event){.kind = DEQ_TRAIN_START, .step = r->at.step, .steps = c->steps, .size = &size});
}

static void run_free(struct deq_train *r)
{
    for (unsigned i = 0; r->work && i < r->n_threads; i++)
        deq_grad_work_free(&r->work[i]);
    for (size_t i = 0; r->grads && i < r->n_shards; i++)
        deq_weights_free(r->grads[i]);
    deq_train_step_free(r);
    deq_free(r->work);
    deq_free(r->grads);
    deq_free(r->reports);
    deq_free(r->tokens);
    deq_free(r->targets);
    deq_free(r->valid_sums);
    deq_free(r->m);
    deq_free(r->v);
    deq_weights_free(r->w);
    deq_free(r->arch);
    deq_free(r->recipe_text);
    deq_tokens_free(&r->valid);
    deq_dataset_free(r->train);
    deq_tokenizer_free(r->tok);
    deq_pool_free(r->pool);
}

/* Everything a run begins with. Files are written when all of it is there, so that a failed start leaves nothing
 * for the next one to find. */
static enum deq_rc prepare(struct deq_train *r, struct deq_err *err)
{
    struct deq_buf new_tokenizer;
    const bool made = !deq_io_exists(r->opts->out_dir);
    deq_buf_init(&new_tokenizer, DEQ_TOKENIZER_MAX_FILE_BYTES);
    enum deq_rc rc = deq_recipe_check(r->recipe, err);
    if (!rc)
        rc = look_at_files(r, err);
    if (!rc)
        rc = deq_train_recipe_text(r->recipe, &r->recipe_text, err);
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
        rc = deq_dataset_load(r->tok, deq_vocab_bos(&r->arch->vocab), r->arch->vocab.eos_id, r->opts->data_dir,
                              r->recipe->train_files, deq_recipe_held_back(r->recipe), r->recipe->seq_len,
                              r->recipe->seed, &r->train, err);
    }
    if (!rc)
        rc = load_valid(r, err);
    if (!rc)
        rc = tell_overlap(r, err);
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

enum deq_rc deq_train_run(const struct deq_recipe *recipe, const struct deq_train_opts *o,
                          const struct deq_train_hooks *hooks, struct deq_err *err)
{
    struct deq_train r = {.recipe = recipe, .opts = o, .hooks = hooks};
    bool stopped = false;
    enum deq_rc rc = prepare(&r, err);
    if (rc)
        goto out;
    char line[160];
    snprintf(line, sizeof line, "%llu parameters, %zu training tokens, %.2f bytes a token, step %llu of %u",
             (unsigned long long)r.w->parameters, r.train->tokens.n,
             (double)r.train->text_bytes / (double)r.train->tokens.n, (unsigned long long)r.at.step, recipe->steps);
    note(&r, line);
    tell_start(&r);
    rc = train_loop(&r, &stopped, err);
    if (rc || stopped)
        goto out;
    emit(&r, deq_train_validate(&r, 0));
    if (r.arch->predictor_hidden && recipe->predictor_steps && !recipe->predictor_joint)
        rc = fit_predictor(&r, &stopped, err);
    if (!rc && !stopped)
        rc = save_model(&r, err);
out:
    run_free(&r);
    return rc;
}
