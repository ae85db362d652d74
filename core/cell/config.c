#include "core/cell/config.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/json_fields.h"
#include "core/base/mem.h"
#include "core/base/text.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

#define AT(field) offsetof(struct deq_arch, field)
static const struct deq_opt common[] = {
    {"vocab_size", DEQ_OPT_U32, AT(vocab.size), 2, 1 << 22, NULL, NULL, "tokens V"},
    {"hidden_size", DEQ_OPT_U32, AT(vocab.d_model), 1, 1 << 14, NULL, NULL, "width D that tokens are embedded to"},
    {"predictor_hidden_size", DEQ_OPT_U32, AT(predictor_hidden), 0, 1 << 16, "0", NULL,
     "hidden width of the warm-start predictor"},
};
static const struct deq_opt_table common_table = {common, DEQ_COUNT(common)};

static const struct deq_opt segments[] = {
    {"segment_length", DEQ_OPT_U32, AT(segment_len), 0, 1 << 16, "0", NULL,
     "positions of a segment of its trainer's evaluation"},
    {"segment_memory", DEQ_OPT_U32, AT(segment_memory), 0, 1 << 16, "0", NULL, "positions of memory before it"},
};
static const struct deq_opt_table segment_table = {segments, DEQ_COUNT(segments)};

static const struct deq_opt serving[] = {
    {"solver", DEQ_OPT_ENUM, AT(serving.solver.method), 0, 0, "anderson", DEQ_SOLVER_CHOICES, "root finder"},
    {"stop_mode", DEQ_OPT_ENUM, AT(serving.solver.stop), 0, 0, "rel", "rel|abs", "what tol is compared with"},
    {"tol", DEQ_OPT_FLOAT, AT(serving.solver.tol), 0, 10, "1e-2", NULL, "residual"},
    {"max_iter", DEQ_OPT_U32, AT(serving.solver.max_iter), 1, 100000, "32", NULL, "evaluations at most"},
    {"min_iter", DEQ_OPT_U32, AT(serving.solver.min_iter), 0, 100000, "1", NULL, "evaluations at least"},
    {"memory", DEQ_OPT_U32, AT(serving.solver.memory), 1, DEQ_SOLVER_MEMORY_MAX, "3", NULL, "pairs kept"},
    {"beta", DEQ_OPT_FLOAT, AT(serving.solver.beta), 1e-3, 1, "1", NULL, "mixing"},
    {"reg", DEQ_OPT_FLOAT, AT(serving.solver.reg), 0, 1, "1e-4", NULL, "Anderson's regularisation"},
    {"window", DEQ_OPT_U32, AT(serving.row_window), 1, DEQ_ROW_WINDOW_MAX, "8", NULL,
     "rows solved behind the committed prefix"},
    {"prefill_window", DEQ_OPT_U32, AT(serving.prefill_window), 0, DEQ_ROW_WINDOW_MAX, "0", NULL,
     "the same while a prompt is read; 0: as window"},
    {"warm_start", DEQ_OPT_ENUM, AT(serving.warm), 0, 0, "zero", DEQ_WARM_CHOICES, "where rows begin"},
    {"stop", DEQ_OPT_ENUM, AT(serving.stop), 0, 0, "residual", DEQ_STOP_RULE_CHOICES, "when a position is solved"},
    {"numeric_class", DEQ_OPT_ENUM, AT(serving.numeric), 0, 0, "float32", DEQ_CLASS_CHOICES,
     "what products are computed in"},
};
static const struct deq_opt_table serving_table = {serving, DEQ_COUNT(serving)};

static const struct deq_opt presets[] = {
    {"fast", DEQ_OPT_FLOAT, AT(serving.tol_fast), 0, 10, "0", NULL, "tol of the preset fast; 0: ten times tol"},
    {"exact", DEQ_OPT_FLOAT, AT(serving.tol_exact), 0, 10, "0", NULL, "tol of exact; 0: a hundredth of tol"},
};
static const struct deq_opt_table preset_table = {presets, DEQ_COUNT(presets)};
#undef AT

static const struct deq_kind *take_kind(const json_t *root, const char *file, struct deq_err *err)
{
    char known[256];
    const json_t *v = json_object_get(root, "model_type");
    const char *s = json_string_value(v);
    const struct deq_kind *kind = s ? deq_kind_find(s) : NULL;
    deq_kind_list(known, sizeof known, false);
    if (!v)
        deq_fail(err, DEQ_EFORMAT, "%s: model_type: missing, expected one of %s", file, known);
    else if (!kind)
        deq_fail(err, DEQ_EFORMAT,
                 "%s: model_type: %s%.40s%s is not one of %s; only deep equilibrium models are served, and checkpoints "
                 "of their authors' code after deq import",
                 file, s ? "\"" : "", s ? s : "a value that is no text", s ? "\"" : "", known);
    return kind;
}

static void take_projections(struct deq_fields *f, struct deq_vocab *v)
{
    bool tied[DEQ_CUTOFFS_MAX + 1];
    uint32_t n = UINT32_MAX;
    deq_fields_bools(f, "tie_projections", DEQ_CUTOFFS_MAX + 1, tied, &n);
    if (f->rc || n == UINT32_MAX)
        return;
    if (n != deq_clusters(v))
        f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: tie_projections: expected an array of %u booleans, one a cluster",
                         f->file, deq_clusters(v));
    for (uint32_t i = 0; i < n && !f->rc; i++)
        v->proj_untied[i] = !tied[i];
}

/* The vocabulary's clusters and the head. */
static void take_vocab(struct deq_fields *f, struct deq_vocab *v)
{
    bool tied = true;
    uint32_t eos = UINT32_MAX, bos = UINT32_MAX;
    deq_fields_u32(f, "eos_token_id", false, 0, 1 << 22, &eos);
    v->eos_id = eos == UINT32_MAX ? -1 : (int64_t)eos;
    deq_fields_u32(f, "bos_token_id", false, 0, 1 << 22, &bos);
    v->has_bos = bos != UINT32_MAX;
    v->bos_id = v->has_bos ? bos : 0;
    deq_fields_u32(f, "output_size", false, 1, 1 << 14, &v->d_out);
    deq_fields_u32(f, "embedding_size", false, 1, 1 << 14, &v->d_embed);
    deq_fields_u32(f, "div_val", false, 1, 1 << 10, &v->div_val);
    deq_fields_bool(f, "tie_word_embeddings", &tied);
    deq_fields_bool(f, "head_bias", &v->head_bias);
    v->head_untied = !tied;
    deq_fields_u32s(f, "cutoffs", DEQ_CUTOFFS_MAX, 1, v->size - 1, v->cutoffs, &v->n_cutoffs);
    take_projections(f, v);
}

static void take_chat(struct deq_fields *outer, struct deq_chat *c)
{
    struct deq_fields f;
    if (!deq_fields_open(outer, "chat", "chat.", &f))
        return;
    deq_fields_text(&f, "begin", false, c->begin, sizeof c->begin);
    deq_fields_text(&f, "message", true, c->message, sizeof c->message);
    deq_fields_text(&f, "reply", false, c->reply, sizeof c->reply);
    deq_fields_text(&f, "stop", false, c->stop, sizeof c->stop);
    if (!f.rc && !strstr(c->message, "{content}") && !strstr(c->message, "{content_trimmed}"))
        f.rc = deq_fail(f.err, DEQ_EFORMAT, "%s: chat.message: must hold {content} or {content_trimmed}", f.file);
    deq_fields_close(outer, &f);
}

static void take_all(struct deq_fields *f, struct deq_arch *a)
{
    struct deq_fields deq, named;
    uint32_t version = 1;
    (void)deq_fields_take(f, "model_type", true);
    deq_fields_u32(f, "format_version", false, 1, 1, &version);
    deq_fields_table(f, &common_table, a);
    deq_fields_table(f, &segment_table, a);
    deq_fields_table(f, &a->kind->config, a);
    take_vocab(f, &a->vocab);
    take_chat(f, &a->chat);
    (void)deq_fields_take(f, "training", false); /* provenance: any object */
    if (a->kind->serving)
        a->kind->serving(a, &a->serving);
    if (deq_fields_open(f, "deq", "deq.", &deq)) {
        deq_fields_table(&deq, &serving_table, a);
        if (deq_fields_open(&deq, "presets", "deq.presets.", &named)) {
            deq_fields_table(&named, &preset_table, a);
            deq_fields_close(&deq, &named);
        }
        deq_fields_close(f, &deq);
    }
    deq_fields_no_others(f);
}

enum deq_rc deq_config_parse(const char *text, size_t len, const char *name, struct deq_arch **ret, struct deq_err *err)
{
    json_t *root;
    const enum deq_rc rc = deq_fields_parse(text, len, name, &root, err);
    if (rc)
        return rc;
    const struct deq_kind *kind = take_kind(root, name, err);
    struct deq_arch *a = kind ? deq_arch_new(kind) : NULL;
    struct deq_fields f = {.obj = root, .file = name, .prefix = "", .err = err};
    if (a)
        take_all(&f, a);
    else
        f.rc = kind ? deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", name) : DEQ_EFORMAT;
    json_decref(root);
    if (!f.rc)
        f.rc = deq_arch_check(a, name, err);
    if (f.rc)
        deq_free(a);
    else
        *ret = a;
    return f.rc;
}

enum deq_rc deq_config_load(const char *path, struct deq_arch **ret, struct deq_err *err)
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

static bool write_vocab(const struct deq_vocab *v, json_t *root)
{
    bool ok = !json_object_set_new(root, "tie_word_embeddings", json_boolean(!v->head_untied)) &&
              !json_object_set_new(root, "head_bias", json_boolean(v->head_bias));
    if (v->eos_id >= 0)
        ok = ok && !json_object_set_new(root, "eos_token_id", json_integer(v->eos_id));
    if (v->has_bos)
        ok = ok && !json_object_set_new(root, "bos_token_id", json_integer(v->bos_id));
    if (v->d_out)
        ok = ok && !json_object_set_new(root, "output_size", json_integer(v->d_out));
    if (!v->n_cutoffs && !deq_projects(v))
        return ok;
    json_t *cuts = json_array(), *projs = json_array();
    for (uint32_t i = 0; i < v->n_cutoffs; i++)
        ok = !json_array_append_new(cuts, json_integer(v->cutoffs[i])) && ok;
    for (unsigned c = 0; c < deq_clusters(v); c++)
        ok = !json_array_append_new(projs, json_boolean(!v->proj_untied[c])) && ok;
    ok = !json_object_set_new(root, "embedding_size", json_integer(v->d_embed ? v->d_embed : v->d_model)) && ok;
    ok = !json_object_set_new(root, "div_val", json_integer(DEQ_MAX(v->div_val, 1u))) && ok;
    ok = !json_object_set_new(root, "cutoffs", cuts) && ok;
    return !json_object_set_new(root, "tie_projections", projs) && ok;
}

/* NULL: no memory */
static char *to_text(const struct deq_arch *a, const char *training_json)
{
    json_t *root = json_pack("{s:s, s:i}", "model_type", a->kind->model_type, "format_version", 1),
           *deq = json_object();
    bool ok = deq_fields_write(&common_table, a, root) && deq_fields_write(&a->kind->config, a, root) &&
              write_vocab(&a->vocab, root) && deq_fields_write(&serving_table, a, deq);
    if (a->segment_len || a->segment_memory)
        ok = ok && deq_fields_write(&segment_table, a, root);
    if (a->chat.message[0])
        ok = ok && !json_object_set_new(root, "chat",
                                        json_pack("{s:s, s:s, s:s, s:s}", "begin", a->chat.begin, "message",
                                                  a->chat.message, "reply", a->chat.reply, "stop", a->chat.stop));
    if (a->serving.tol_fast > 0 || a->serving.tol_exact > 0) {
        json_t *named = json_object();
        ok = deq_fields_write(&preset_table, a, named) && !json_object_set_new(deq, "presets", named) && ok;
    }
    ok = !json_object_set_new(root, "deq", deq) && ok;
    json_t *training = training_json ? NULL : json_object();
    json_error_t where;
    if (training_json)
        ok = !deq_json_parse(training_json, strlen(training_json), 0, &training, &where) && ok;
    ok = !json_object_set_new(root, "training", training) && ok;
    char *text = deq_json_text(ok ? root : NULL, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    json_decref(root);
    return text;
}

enum deq_rc deq_config_save(const char *path, const struct deq_arch *a, const char *training_json, struct deq_err *err)
{
    char *text = to_text(a, training_json);
    if (!text)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
    const struct deq_part parts[2] = {{text, strlen(text)}, {"\n", 1}};
    const enum deq_rc rc = deq_io_replace(path, parts, 2, err);
    free(text); /* jansson's */
    return rc;
}
