#include "core/data/config.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/text.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

static const char *const norms[] = {[DEQ_NORM_POST] = "post", [DEQ_NORM_PRE] = "pre", [DEQ_NORM_PRE_SUB] = "pre_sub", [DEQ_NORM_PRE_LN] = "pre_ln"};

const char *deq_norm_name(enum deq_norm n)
{
    return norms[n];
}

static bool by_name(const char *const *names, size_t n, const char *name, int *ret)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(name, names[i])) {
            *ret = (int)i;
            return true;
        }
    return false;
}

/* Reads keys of one object; remembers the first error, and refuses keys that nobody asked for. */
struct reader {
    const json_t *obj;
    const char *file, *prefix;
    const char *seen[40];
    size_t n_seen;
    enum deq_rc rc;
    struct deq_err *err;
};

static const json_t *take(struct reader *r, const char *key, bool required)
{
    if (r->n_seen < DEQ_COUNT(r->seen))
        r->seen[r->n_seen++] = key;
    const json_t *v = json_object_get(r->obj, key);
    if (!v && required && !r->rc)
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: missing", r->file, r->prefix, key);
    return r->rc ? NULL : v;
}

static void take_u32(struct reader *r, const char *key, bool required, uint32_t lo, uint32_t hi, uint32_t *ret)
{
    const json_t *v = take(r, key, required);
    if (!v)
        return;
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: expected an integer in %u..%u", r->file, r->prefix, key, lo, hi);
    else
        *ret = (uint32_t)json_integer_value(v);
}

static void take_float(struct reader *r, const char *key, float lo, float hi, float *ret)
{
    const json_t *v = take(r, key, false);
    if (!v)
        return;
    const float d = (float)json_number_value(v); /* a bound that was written as a float is inside */
    if (!json_is_number(v) || !(d >= lo && d <= hi))
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: expected a number in %g..%g", r->file, r->prefix, key, (double)lo, (double)hi);
    else
        *ret = d;
}

static void take_bool(struct reader *r, const char *key, bool *ret)
{
    const json_t *v = take(r, key, false);
    if (!v)
        return;
    if (!json_is_boolean(v))
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: expected true or false", r->file, r->prefix, key);
    else
        *ret = json_is_true(v);
}

static void take_name(struct reader *r, const char *key, bool required, const char *const *names, size_t n, int *ret)
{
    const json_t *v = take(r, key, required);
    if (!v)
        return;
    const char *s = json_string_value(v);
    if (!s || !by_name(names, n, s, ret)) {
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: %s is not one of %s, %s%s%s%s%s", r->file, r->prefix, key, s ? s : "(not a string)",
                         names[0], names[1], n > 2 ? ", " : "", n > 2 ? names[2] : "", n > 3 ? ", " : "", n > 3 ? names[3] : "");
    }
}

static void take_text(struct reader *r, const char *key, bool required, char *ret, size_t size)
{
    const json_t *v = take(r, key, required);
    if (!v)
        return;
    if (!json_is_string(v) || json_string_length(v) >= size)
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: expected a string of at most %zu bytes", r->file, r->prefix,
                         key, size - 1);
    else
        memcpy(ret, json_string_value(v), json_string_length(v) + 1);
}

static void take_model_type(struct reader *r)
{
    const json_t *v = take(r, "model_type", true);
    const char *s = json_string_value(v);
    if (v && (!s || strcmp(s, "deq_transformer")))
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: model_type: expected \"deq_transformer\", not %s%.40s%s; only deep equilibrium models are served, and checkpoints "
                         "of locuslab/deq and torchdeq after deq import", r->file, s ? "\"" : "", s ? s : "a value that is no text", s ? "\"" : "");
}

/* The vocabulary's clusters and the head. */
static void take_clusters(struct reader *r, struct deq_arch *a)
{
    const json_t *cuts = take(r, "cutoffs", false), *projs = take(r, "tie_projections", false), *v;
    bool tied = true;
    size_t i;
    take_u32(r, "embedding_size", false, 1, 1 << 14, &a->vocab.d_embed);
    take_u32(r, "div_val", false, 1, 1 << 10, &a->vocab.div_val);
    take_bool(r, "tie_word_embeddings", &tied);
    take_bool(r, "head_bias", &a->vocab.head_bias);
    a->vocab.head_untied = !tied;
    if (cuts && (!json_is_array(cuts) || json_array_size(cuts) > DEQ_CUTOFFS_MAX)) {
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: cutoffs: expected an array of at most %d integers", r->file, DEQ_CUTOFFS_MAX);
        return;
    }
    json_array_foreach((json_t *)cuts, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) >= a->vocab.size) {
            r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: cutoffs[%zu]: expected an integer in 1..%u", r->file, i, a->vocab.size - 1);
            return;
        }
        a->vocab.cutoffs[a->vocab.n_cutoffs++] = (uint32_t)json_integer_value(v);
    }
    if (projs && (!json_is_array(projs) || json_array_size(projs) != deq_clusters(&a->vocab))) {
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: tie_projections: expected an array of %u booleans, one a cluster", r->file, deq_clusters(&a->vocab));
        return;
    }
    json_array_foreach((json_t *)projs, i, v) {
        if (!json_is_boolean(v)) {
            r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: tie_projections[%zu]: expected true or false", r->file, i);
            return;
        }
        a->vocab.proj_untied[i] = json_is_false(v);
    }
}

static void no_others(struct reader *r)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)r->obj, key, v) {
        bool known = false;
        for (size_t i = 0; i < r->n_seen && !known; i++)
            known = !strcmp(key, r->seen[i]);
        if (!known && !r->rc)
            r->rc = deq_fail(r->err, DEQ_EFORMAT, "%s: %s%s: unknown key", r->file, r->prefix, key);
    }
}

static void take_chat(struct reader *outer, struct deq_arch *a)
{
    const json_t *chat = take(outer, "chat", false);
    struct reader r = {.obj = chat, .file = outer->file, .prefix = "chat.", .err = outer->err};
    if (!chat)
        return;
    if (!json_is_object(chat)) {
        outer->rc = deq_fail(outer->err, DEQ_EFORMAT, "%s: chat: expected an object", outer->file);
        return;
    }
    take_text(&r, "message", true, a->chat_message, sizeof a->chat_message);
    take_text(&r, "reply", false, a->chat_reply, sizeof a->chat_reply);
    take_text(&r, "stop", false, a->chat_stop, sizeof a->chat_stop);
    no_others(&r);
    if (!r.rc && !strstr(a->chat_message, "{content}"))
        r.rc = deq_fail(r.err, DEQ_EFORMAT, "%s: chat.message: must hold {content}", r.file);
    outer->rc = r.rc;
}

enum deq_rc deq_arch_check(const struct deq_arch *a, const char *where, struct deq_err *err)
{
    struct {
        const char *name;
        uint32_t value, lo, hi;
    } const ranges[] = {
        {"num_attention_heads", a->n_head, 1, 1024},  {"head_dim", a->d_head, 1, 1024},
        {"intermediate_size", a->d_inner, 1, 1 << 18}, {"num_blocks", a->n_block, 1, 16},
        {"attention_window", a->attn_window, 1, 1 << 16}, {"predictor_hidden_size", a->predictor_hidden, 0, 1 << 16},
        {"segment_length", a->segment_len, 0, 1 << 16}, {"segment_memory", a->segment_memory, 0, 1 << 16},
    };
    for (size_t i = 0; i < DEQ_COUNT(ranges); i++)
        if (ranges[i].value < ranges[i].lo || ranges[i].value > ranges[i].hi)
            return deq_fail(err, DEQ_EFORMAT, "%s: %s: %u is outside %u..%u", where, ranges[i].name, ranges[i].value, ranges[i].lo,
                            ranges[i].hi);
    enum deq_rc rc = deq_vocab_check(&a->vocab, where, err);
    if (!rc)
        rc = deq_serving_check(&a->serving, a->predictor_hidden, where, err);
    if (rc)
        return rc;
    if (a->vocab.d_model % 2)
        return deq_fail(err, DEQ_EFORMAT, "%s: hidden_size: %u is odd; half of it are sines, half cosines", where, a->vocab.d_model);
    return DEQ_OK;
}

enum deq_rc deq_config_parse(const char *text, size_t len, const char *name, struct deq_arch *ret, struct deq_err *err)
{
    json_error_t je;
    json_t *root = NULL;
    if (deq_json_parse(text, len, JSON_REJECT_DUPLICATES, &root, &je) == DEQ_ENOMEM)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", name);
    if (!json_is_object(root)) {
        json_decref(root);
        return deq_fail(err, DEQ_EFORMAT, "%s: line %d column %d: %s", name, root ? 1 : je.line, root ? 1 : je.column,
                        root ? "expected an object" : je.text);
    }
    struct deq_arch a = {.norm = DEQ_NORM_PRE, .norm_affine = true, .norm_eps = 1e-5f, .vocab.eos_id = -1, .serving.solver = deq_solver_defaults(),
                         .serving.row_window = 8, .n_block = 1, .serving.warm = DEQ_WARM_ZERO};
    struct reader r = {.obj = root, .file = name, .prefix = "", .err = err};
    int pick;
    uint32_t eos = UINT32_MAX, version = 1;
    take_model_type(&r);
    take_u32(&r, "format_version", false, 1, 1, &version);
    take_u32(&r, "vocab_size", true, 2, 1 << 22, &a.vocab.size);
    take_u32(&r, "hidden_size", true, 1, 1 << 14, &a.vocab.d_model);
    take_u32(&r, "num_attention_heads", true, 1, 1024, &a.n_head);
    take_u32(&r, "head_dim", true, 1, 1024, &a.d_head);
    take_u32(&r, "intermediate_size", true, 1, 1 << 18, &a.d_inner);
    take_u32(&r, "num_blocks", false, 1, 16, &a.n_block);
    take_u32(&r, "attention_window", true, 1, 1 << 16, &a.attn_window);
    take_u32(&r, "predictor_hidden_size", false, 0, 1 << 16, &a.predictor_hidden);
    take_u32(&r, "eos_token_id", false, 0, 1 << 22, &eos);
    take_u32(&r, "segment_length", false, 0, 1 << 16, &a.segment_len);
    take_u32(&r, "segment_memory", false, 0, 1 << 16, &a.segment_memory);
    pick = a.norm;
    take_name(&r, "norm", true, norms, DEQ_COUNT(norms), &pick);
    a.norm = (enum deq_norm)pick;
    take_bool(&r, "norm_affine", &a.norm_affine);
    take_bool(&r, "inject_residual", &a.inject_residual);
    take_bool(&r, "final_norm", &a.final_norm);
    take_clusters(&r, &a);
    take_chat(&r, &a);
    take_float(&r, "norm_eps", 1e-12f, 1e-1f, &a.norm_eps);
    a.vocab.eos_id = eos == UINT32_MAX ? -1 : (int64_t)eos;
    const json_t *deq = take(&r, "deq", false);
    (void)take(&r, "training", false); /* provenance: any object */
    no_others(&r);
    if (!r.rc && deq && !json_is_object(deq))
        r.rc = deq_fail(err, DEQ_EFORMAT, "%s: deq: expected an object", name);
    if (!r.rc && deq) {
        static const char *const methods[] = {"picard", "anderson", "broyden"}, *const stops[] = {"rel", "abs"},
                                 *const warms[] = {"zero", "previous", "predictor"};
        struct reader d = {.obj = deq, .file = name, .prefix = "deq.", .err = err};
        pick = a.serving.solver.method;
        take_name(&d, "solver", false, methods, DEQ_COUNT(methods), &pick);
        a.serving.solver.method = (enum deq_solver_method)pick;
        pick = a.serving.solver.stop;
        take_name(&d, "stop_mode", false, stops, DEQ_COUNT(stops), &pick);
        a.serving.solver.stop = (enum deq_stop_mode)pick;
        pick = a.serving.warm;
        take_name(&d, "warm_start", false, warms, DEQ_COUNT(warms), &pick);
        a.serving.warm = (enum deq_warm)pick;
        take_u32(&d, "max_iter", false, 1, 100000, &a.serving.solver.max_iter);
        take_u32(&d, "min_iter", false, 0, 100000, &a.serving.solver.min_iter);
        take_u32(&d, "memory", false, 1, DEQ_SOLVER_MEMORY_MAX, &a.serving.solver.memory);
        take_u32(&d, "window", false, 1, DEQ_ROW_WINDOW_MAX, &a.serving.row_window);
        take_float(&d, "tol", 0, 10, &a.serving.solver.tol);
        take_float(&d, "beta", 1e-3f, 1, &a.serving.solver.beta);
        take_float(&d, "reg", 0, 1, &a.serving.solver.reg);
        no_others(&d);
        r.rc = d.rc;
    }
    json_decref(root);
    if (!r.rc)
        r.rc = deq_arch_check(&a, name, err);
    if (!r.rc)
        *ret = a;
    return r.rc;
}

enum deq_rc deq_config_load(const char *path, struct deq_arch *ret, struct deq_err *err)
{
    char *text;
    size_t len;
    enum deq_rc rc = deq_text_read(path, CONFIG_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    rc = deq_config_parse(text, len, path, ret, err);
    deq_free(text);
    return rc;
}

enum deq_rc deq_config_save(const char *path, const struct deq_arch *a, const char *training_json, struct deq_err *err)
{
    json_t *training = training_json ? json_loads(training_json, 0, NULL) : json_object();
    json_t *root = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:b, s:b, s:f, s:b, s:b, s:b, s:i}", "model_type", "deq_transformer", "format_version",
        1, "vocab_size", (int)a->vocab.size, "hidden_size", (int)a->vocab.d_model, "num_attention_heads", (int)a->n_head, "head_dim",
        (int)a->d_head, "intermediate_size", (int)a->d_inner, "num_blocks", (int)a->n_block, "attention_window", (int)a->attn_window,
        "norm", deq_norm_name(a->norm), "inject_residual", (int)a->inject_residual, "norm_affine", (int)a->norm_affine, "norm_eps", (double)a->norm_eps, "final_norm",
        (int)a->final_norm, "tie_word_embeddings", (int)!a->vocab.head_untied, "head_bias", (int)a->vocab.head_bias, "predictor_hidden_size", (int)a->predictor_hidden);
    json_t *deq = json_pack("{s:s, s:s, s:f, s:i, s:i, s:i, s:f, s:f, s:i, s:s}", "solver", deq_solver_name(a->serving.solver.method), "stop_mode",
                            a->serving.solver.stop == DEQ_STOP_ABS ? "abs" : "rel", "tol", (double)a->serving.solver.tol, "max_iter",
                            (int)a->serving.solver.max_iter, "min_iter", (int)a->serving.solver.min_iter, "memory", (int)a->serving.solver.memory, "beta",
                            (double)a->serving.solver.beta, "reg", (double)a->serving.solver.reg, "window", (int)a->serving.row_window, "warm_start",
                            deq_warm_name(a->serving.warm));
    char *text = NULL;
    enum deq_rc rc = DEQ_OK;
    if (!root || !deq || !training) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    if (a->vocab.eos_id >= 0)
        json_object_set_new(root, "eos_token_id", json_integer(a->vocab.eos_id));
    if (a->segment_len || a->segment_memory) {
        json_object_set_new(root, "segment_length", json_integer(a->segment_len));
        json_object_set_new(root, "segment_memory", json_integer(a->segment_memory));
    }
    if (a->vocab.n_cutoffs || deq_projects(&a->vocab)) {
        json_t *cuts = json_array(), *projs = json_array();
        for (uint32_t i = 0; i < a->vocab.n_cutoffs; i++)
            json_array_append_new(cuts, json_integer(a->vocab.cutoffs[i]));
        for (unsigned c = 0; c < deq_clusters(&a->vocab); c++)
            json_array_append_new(projs, json_boolean(!a->vocab.proj_untied[c]));
        json_object_set_new(root, "embedding_size", json_integer(a->vocab.d_embed ? a->vocab.d_embed : a->vocab.d_model));
        json_object_set_new(root, "div_val", json_integer(DEQ_MAX(a->vocab.div_val, 1u)));
        json_object_set_new(root, "cutoffs", cuts);
        json_object_set_new(root, "tie_projections", projs);
    }
    if (a->chat_message[0])
        json_object_set_new(root, "chat",
                            json_pack("{s:s, s:s, s:s}", "message", a->chat_message, "reply", a->chat_reply, "stop",
                                      a->chat_stop));
    json_object_set(root, "deq", deq);
    json_object_set(root, "training", training);
    text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    if (!text) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    struct deq_part parts[2] = {{text, strlen(text)}, {"\n", 1}};
    rc = deq_io_replace(path, parts, 2, err);
out:
    free(text); /* jansson's */
    json_decref(training);
    json_decref(deq);
    json_decref(root);
    return rc;
}
