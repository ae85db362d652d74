/* The parts of deq.h that join floors: a model is configuration + weights + tokenizer, an engine is a cell over it. */
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/deq.h"
#include "core/engine/engine.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"
#include "core/form/form.h"
#include "core/math/kern.h"
#include "core/text/tokenizer.h"

const char *deq_version(void)
{
    return DEQ_VERSION;
}

struct deq_model {
    struct deq_arch *arch;
    struct deq_weights *weights; /* packed */
    struct deq_tokenizer *tok;
    struct deq_spelling *spelling; /* NULL, like forms: no text is spelled by its tokens alone */
    struct deq_forms *forms;
    char fingerprint[17];
    struct deq_fact facts[DEQ_FACTS_MAX];
    size_t n_facts;
};

/* The kind's own keys of config.json, with their values. */
static void tell_facts(struct deq_model *m)
{
    const struct deq_opt_table *t = &m->arch->kind->config;
    for (size_t i = 0; i < t->n && m->n_facts < DEQ_FACTS_MAX; i++) {
        struct deq_fact *f = &m->facts[m->n_facts++];
        f->key = t->opt[i].name;
        const enum deq_opt_type type = t->opt[i].type;
        f->type = type == DEQ_OPT_BOOL ? DEQ_FACT_BOOL : type == DEQ_OPT_ENUM ? DEQ_FACT_TEXT : DEQ_FACT_NUMBER;
        deq_opt_text(&t->opt[i], m->arch, f->value, sizeof f->value);
        const size_t n = strlen(f->value);
        if (n > 1 && f->value[0] == '"') { /* YAML's quotes */
            memmove(f->value, f->value + 1, n - 2);
            f->value[n - 2] = 0;
        }
    }
}

/* Configuration and tokenizer of a model directory, and where its weights are [4096]. Architecture and tokenizer are
 * the caller's, also on failure (or NULL). */
static enum deq_rc open_dir(const char *dir, const enum deq_class *numeric, struct deq_arch **ret_arch,
                            struct deq_tokenizer **ret_tok, char *ret_weights_path, struct deq_err *err)
{
    char path[4096];
    if (!deq_io_is_dir(dir))
        return deq_fail(err, DEQ_ENOTFOUND,
                        "%s: not a directory; expected one with config.json, model.safetensors, tokenizer.json",
                        *dir ? dir : "\"\"");
    if (!deq_io_join(ret_weights_path, sizeof path, dir, "model.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    deq_io_join(path, sizeof path, dir, "config.json"); /* shorter than the name above */
    enum deq_rc rc = deq_config_load(path, ret_arch, err);
    if (!rc && numeric)
        (*ret_arch)->serving.numeric = *numeric;
    if (!rc)
        rc = deq_tokenizer_load(dir, ret_tok, err);
    if (!rc && deq_tokenizer_vocab_size(*ret_tok) > (*ret_arch)->vocab.size)
        rc = deq_fail(err, DEQ_EFORMAT, "%s/tokenizer.json: token ids up to %u, but config.json's vocab_size is %u",
                      dir, deq_tokenizer_vocab_size(*ret_tok) - 1, (*ret_arch)->vocab.size);
    return rc;
}

/* What a token adds to a text that fits a form. */
static const char *spell(const void *ctx, uint32_t id, size_t *ret_len)
{
    const struct deq_model *m = ctx;
    return (int64_t)id == m->arch->vocab.eos_id ? NULL : deq_tokenizer_text(m->tok, -1, id, ret_len);
}

static enum deq_rc open_forms(struct deq_model *m, struct deq_err *err)
{
    if (deq_tokenizer_has_words(m->tok))
        return DEQ_OK;
    const enum deq_rc rc = deq_spelling_new(m->arch->vocab.size, spell, m, &m->spelling, err);
    return rc ? rc : deq_forms_new(m->spelling, m->arch->vocab.eos_id, &m->forms, err);
}

enum deq_rc deq_model_load(const char *dir, const enum deq_class *numeric, struct deq_model **ret, struct deq_err *err)
{
    return deq_model_load_until(dir, numeric, &(struct deq_stop){0}, ret, err);
}

enum deq_rc deq_model_load_until(const char *dir, const enum deq_class *numeric, const struct deq_stop *stop,
                                 struct deq_model **ret, struct deq_err *err)
{
    char weights_path[4096];
    struct deq_model *m = DEQ_NEW(struct deq_model);
    if (!m)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a model");
    enum deq_rc rc = open_dir(dir, numeric, &m->arch, &m->tok, weights_path, err);
    if (!rc)
        rc = deq_weights_load_until(weights_path, m->arch, stop, &m->weights, err);
    if (!rc)
        rc = open_forms(m, err);
    if (!rc)
        snprintf(m->fingerprint, sizeof m->fingerprint, "%016llx", (unsigned long long)m->weights->fingerprint);
    if (rc) {
        deq_model_free(m);
        return rc;
    }
    tell_facts(m);
    *ret = m;
    return DEQ_OK;
}

void deq_model_free(struct deq_model *m)
{
    if (!m)
        return;
    deq_forms_free(m->forms);
    deq_spelling_free(m->spelling);
    deq_weights_free(m->weights);
    deq_free(m->arch);
    deq_tokenizer_free(m->tok);
    deq_free(m);
}

struct deq_model_info deq_model_info(const struct deq_model *m)
{
    const struct deq_arch *a = m->arch;
    const struct deq_cell shape = a->kind->shape(a, 0, 0, 1);
    return (struct deq_model_info){.vocab_size = a->vocab.size,
                                   .d_model = a->vocab.d_model,
                                   .model_type = a->kind->model_type,
                                   .facts = m->facts,
                                   .n_facts = m->n_facts,
                                   .lookback = shape.lookback,
                                   .max_positions = shape.max_positions,
                                   .state_dim = (uint32_t)shape.state_dim,
                                   .parameters = m->weights->parameters,
                                   .non_embedding_parameters = m->weights->share[DEQ_SHARE_CELL],
                                   .predictor_parameters = m->weights->share[DEQ_SHARE_PREDICTOR],
                                   .step_madds = shape.step_madds,
                                   .weight_bytes = m->weights->bytes,
                                   .cache_bytes_per_token = shape.page_bytes / shape.page_tok,
                                   .eos_id = a->vocab.eos_id,
                                   .bos_id = deq_vocab_bos(&a->vocab),
                                   .start_id = a->vocab.has_bos ? deq_vocab_bos(&a->vocab) : a->vocab.eos_id,
                                   .dtype = m->weights->bf16 ? "bf16" : "f32",
                                   .numeric = a->serving.numeric,
                                   .kernels = deq_kern()->name,
                                   .solver = a->serving.solver.method,
                                   .warm_start = a->serving.warm,
                                   .stop = a->serving.stop,
                                   .tol = a->serving.solver.tol,
                                   .tol_fast = deq_serving_tol_fast(&a->serving),
                                   .tol_exact = deq_serving_tol_exact(&a->serving),
                                   .max_iter = a->serving.solver.max_iter,
                                   .memory = a->serving.solver.memory,
                                   .window = a->serving.row_window,
                                   .prefill_window =
                                       deq_prefill_window(a->serving.row_window, a->serving.prefill_window),
                                   .has_predictor = a->predictor_hidden != 0,
                                   .has_proposal = deq_arch_proposes(a),
                                   .fingerprint = m->fingerprint,
                                   .chat_begin = a->chat.begin,
                                   .chat_message = a->chat.message,
                                   .chat_reply = a->chat.reply,
                                   .chat_stop = a->chat.stop};
}

enum deq_rc deq_encode(const struct deq_model *m, const char *text, size_t len, bool parse_special,
                       struct deq_tokens *out, struct deq_err *err)
{
    return deq_tokenizer_encode(m->tok, text, len, parse_special, out, err);
}

enum deq_rc deq_encode_ranges(const struct deq_model *m, const char *text, size_t len, const struct deq_range *special,
                              size_t n, struct deq_tokens *out, struct deq_err *err)
{
    return deq_tokenizer_encode_ranges(m->tok, text, len, special, n, out, err);
}

bool deq_begin_text(const struct deq_model *m, struct deq_tokens *text)
{
    const int64_t bos = deq_vocab_bos(&m->arch->vocab);
    if (bos < 0 || (text->n && text->ids[0] == (uint32_t)bos))
        return true;
    if (!deq_tokens_push(text, 0))
        return false;
    memmove(text->ids + 1, text->ids, (text->n - 1) * sizeof *text->ids);
    text->ids[0] = (uint32_t)bos;
    return true;
}

const char *deq_token_bytes(const struct deq_model *m, uint32_t id, size_t *ret_len)
{
    return deq_tokenizer_bytes(m->tok, id, ret_len);
}

const char *deq_token_text(const struct deq_model *m, int64_t prev, uint32_t id, size_t *ret_len)
{
    return deq_tokenizer_text(m->tok, prev, id, ret_len);
}

bool deq_token_is_special(const struct deq_model *m, uint32_t id)
{
    return deq_tokenizer_is_special(m->tok, id);
}

enum deq_rc deq_form_new(const struct deq_model *m, enum deq_form_kind kind, const char *text, size_t len,
                         struct deq_form **ret, struct deq_err *err)
{
    return m->forms ? deq_forms_get(m->forms, kind, text, len, ret, err)
                    : deq_fail(err, DEQ_EINVAL, "this model's tokens are whole words, which spell no form");
}

struct deq_form_stats deq_form_stats(const struct deq_model *m)
{
    return m->forms ? deq_forms_stats(m->forms) : (struct deq_form_stats){0};
}

struct deq_request deq_request_defaults(const struct deq_model *m)
{
    const struct deq_arch *a = m->arch;
    return (struct deq_request){.max_tokens = 16,
                                .sampling = {.top_p = 1},
                                .solve = {.solver = a->serving.solver.method,
                                          .warm_start = a->serving.warm,
                                          .stop = a->serving.stop,
                                          .tol = a->serving.solver.tol,
                                          .max_iter = a->serving.solver.max_iter,
                                          .min_iter = a->serving.solver.min_iter,
                                          .window = a->serving.row_window,
                                          .prefill_window = a->serving.prefill_window}};
}

enum deq_rc deq_check(const char *dir, const enum deq_class *numeric, const struct deq_engine_opts *opts,
                      struct deq_memory *ret, struct deq_err *err)
{
    char weights_path[4096];
    struct deq_arch *arch = NULL;
    struct deq_tokenizer *tok = NULL;
    struct deq_engine_opts o;
    uint64_t bytes = 0, load = 0;
    enum deq_rc rc = open_dir(dir, numeric, &arch, &tok, weights_path, err);
    if (!rc)
        rc = deq_weights_measure(weights_path, arch, &bytes, &load, err);
    struct deq_cell shape = {0};
    if (!rc) {
        shape = arch->kind->shape(arch, 0, 0, 1);
        rc = deq_engine_opts_fill(&shape, opts, &o, err);
    }
    if (!rc) {
        shape = arch->kind->shape(arch, o.max_rows, deq_engine_pages(&shape, &o), o.threads);
        *ret = (struct deq_memory){.weight_bytes = bytes, .load_bytes = load,
                                   .engine_bytes = deq_engine_memory_bytes(&arch->serving, &o, &shape)};
    }
    deq_tokenizer_free(tok);
    deq_free(arch);
    return rc;
}

enum deq_rc deq_engine_new(const struct deq_model *m, const struct deq_engine_opts *opts, struct deq_engine **ret,
                           struct deq_err *err)
{
    struct deq_engine_opts o;
    struct deq_pool *pool;
    struct deq_cell *cell;
    const struct deq_cell shape = m->arch->kind->shape(m->arch, 0, 0, 1);
    enum deq_rc rc = deq_engine_opts_fill(&shape, opts, &o, err);
    if (!rc)
        rc = deq_pool_new(o.threads, &pool, err);
    if (rc)
        return rc;
    deq_pool_bind(pool, o.pin);
    rc = m->arch->kind->open(m->weights, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, err);
    if (!rc && (rc = deq_engine_open(cell, &m->arch->vocab, &m->arch->serving, pool, &o, ret, err)))
        cell->ops->free(cell);
    if (rc)
        deq_pool_free(pool);
    return rc;
}

/* --- States (core/engine/state.h) --- */

/* block: of a prefix cache, positions of its blocks; else 0 */
static struct deq_saved_of saved_of(const struct deq_model *m, const char *format, uint32_t block)
{
    static const struct deq_hash fixed = {{1, 2}};
    const struct deq_solver_opts *o = &m->arch->serving.solver;
    struct deq_saved_of of = {.format = format,
                              .model_type = m->arch->kind->model_type,
                              .numeric_class = deq_class_name(m->arch->serving.numeric),
                              .fingerprint = m->fingerprint};
    /* what is asked of the solver is a request's or in a cache's keys; the rest of it is the model's */
    char solver[160];
    snprintf(solver, sizeof solver, "%d %u %.9g %.9g %u", (int)o->stop, o->memory, (double)o->beta, (double)o->reg,
             block);
    struct deq_hash h = deq_siphash(&fixed, solver, strlen(solver));
    for (size_t i = 0; i < m->n_facts; i++) {
        h = deq_siphash(&h, m->facts[i].key, strlen(m->facts[i].key));
        h = deq_siphash(&h, m->facts[i].value, strlen(m->facts[i].value));
    }
    snprintf(of.configuration, sizeof of.configuration, "%016llx%016llx", (unsigned long long)h.h[0],
             (unsigned long long)h.h[1]);
    return of;
}

static struct deq_saved_of state_of(const struct deq_model *m)
{
    return saved_of(m, "deq.state", 0);
}

static struct deq_cell shape_of(const struct deq_model *m)
{
    return m->arch->kind->shape(m->arch, 0, 0, 1);
}

enum deq_rc deq_state_new(const struct deq_model *m, size_t n_tokens, struct deq_state **ret, struct deq_err *err)
{
    const struct deq_cell shape = shape_of(m);
    return deq_state_make(&shape, n_tokens, ret, err);
}

uint64_t deq_state_bytes(const struct deq_model *m, size_t n_tokens)
{
    const struct deq_cell shape = shape_of(m);
    return deq_state_size(&shape, n_tokens) + DEQ_SAVED_HEAD_MAX;
}

enum deq_rc deq_state_save(const struct deq_model *m, const struct deq_state *state, const char *path,
                           struct deq_err *err)
{
    const struct deq_saved_of of = state_of(m);
    return deq_state_write(&of, state, path, err);
}

enum deq_rc deq_state_print(const struct deq_model *m, const struct deq_state *state, struct deq_buf *out,
                            struct deq_err *err)
{
    const struct deq_saved_of of = state_of(m);
    return deq_state_write_buf(&of, state, out, err);
}

enum deq_rc deq_state_load(const struct deq_model *m, const char *path, uint64_t max_bytes, struct deq_state **ret,
                           struct deq_err *err)
{
    const struct deq_saved_of of = state_of(m);
    const struct deq_cell shape = shape_of(m);
    return deq_state_read(&of, &shape, NULL, max_bytes, path, ret, err);
}

enum deq_rc deq_state_parse(const struct deq_model *m, const void *bytes, size_t len, const char *name,
                            struct deq_state **ret, struct deq_err *err)
{
    const struct deq_saved_of of = state_of(m);
    const struct deq_cell shape = shape_of(m);
    return deq_state_read(&of, &shape, bytes, len, name, ret, err);
}

enum deq_rc deq_prefix_copy_save(const struct deq_model *m, struct deq_prefix_copy *c, const char *path,
                                 struct deq_err *err)
{
    const struct deq_saved_of of = saved_of(m, "deq.prefix", deq_prefix_copy_block(c));
    return deq_prefix_copy_write(&of, c, path, err);
}

enum deq_rc deq_prefix_save(const struct deq_model *m, const struct deq_engine *e, const char *path,
                            struct deq_err *err)
{
    const struct deq_saved_of of = saved_of(m, "deq.prefix", e->opts.prefill_block);
    return deq_prefix_write(&of, e, path, err);
}

enum deq_rc deq_prefix_restore(const struct deq_model *m, struct deq_engine *e, const char *path, size_t *ret_blocks,
                               struct deq_err *err)
{
    const struct deq_saved_of of = saved_of(m, "deq.prefix", e->opts.prefill_block);
    return deq_prefix_read(&of, e, path, ret_blocks, err);
}
