#include "core/import/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/cell/config.h"
#include "core/import/chat_template.h"
#include "core/import/source.h"
#include "core/text/tokenizer_config.h"
#include "core/text/tokenizer.h"
#include "core/text/wordlevel.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

static const struct deq_source *const sources[] = {&deq_source_locuslab_transformer, &deq_source_torchdeq_seq,
                                                   &deq_source_torchdeq_lm, &deq_source_locuslab_deq_trellis,
                                                   &deq_source_locuslab_trellis, &deq_source_attractor,
                                                   &deq_source_parcae, &deq_source_huginn};

void deq_import_list(char *out, size_t cap)
{
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < DEQ_COUNT(sources) && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? ", " : "", sources[i]->model_type);
}

/* --- The constructor's arguments --- */

static bool is_class(const struct deq_source *s, const char *name)
{
    for (const char *const *c = s->classes; c && *c; c++)
        if (!strcmp(*c, name))
            return true;
    return false;
}

/* The keys that may say of which class a model is. */
static const char *const class_keys[] = {"_class_name", "model_class_name"};

static const struct deq_source *find_source(const json_t *root, const char *path, struct deq_err *err)
{
    char known[256];
    const json_t *v = json_object_get(root, "model_type");
    const char *type = json_string_value(v);
    for (size_t i = 0; i < DEQ_COUNT(sources) && type; i++)
        if (!strcmp(sources[i]->model_type, type))
            return sources[i];
    for (size_t k = 0; k < DEQ_COUNT(class_keys) && !v; k++) {
        const char *name = json_string_value(json_object_get(root, class_keys[k]));
        for (size_t i = 0; i < DEQ_COUNT(sources) && name; i++)
            if (is_class(sources[i], name))
                return sources[i];
    }
    const char *key = "model_type";
    for (size_t k = 0; k < DEQ_COUNT(class_keys) && !v; k++)
        if ((v = json_object_get(root, class_keys[k])))
            type = json_string_value(v), key = class_keys[k];
    deq_import_list(known, sizeof known);
    deq_fail(err, DEQ_EFORMAT, "%s: %s: %.80s, expected one of %s", path, key,
             type ? type : v ? "not a string" : "missing", known);
    return NULL;
}

/* Every key that names a class must name this one. */
static void check_classes(const struct deq_source *s, struct deq_fields *f)
{
    char text[80];
    for (size_t k = 0; k < DEQ_COUNT(class_keys); k++) {
        const json_t *v = deq_fields_take(f, class_keys[k], false);
        if (v && !is_class(s, deq_source_value(v, text, sizeof text)))
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s: %s is not of %s", f->file, class_keys[k], text,
                             s->model_type);
    }
}

/* A key that nobody asked for may be a misspelt one, or of a variant that the equations here are not. Where it is off,
 * the model is as if it were not there. */
static void refuse_others(struct deq_import_job *j, struct deq_fields *f)
{
    const char *key;
    json_t *v;
    char text[80];
    json_object_foreach((json_t *)f->obj, key, v) {
        bool known = f->rc;
        for (size_t i = 0; i < f->n_seen && !known; i++)
            known = !strcmp(key, f->seen[i]);
        if (known)
            continue;
        deq_source_value(v, text, sizeof text);
        if (json_is_null(v) || json_is_false(v))
            deq_entries_note(&j->entries, "note: %s: %s is not an argument that is known here, and off", key, text);
        else
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s: %s: not an argument of the constructor that is known here; "
                             "remove it if it has no influence on the model", f->file, key, text);
    }
}

static enum deq_rc read_arguments(struct deq_import_job *j, const json_t *root, const char *path, struct deq_err *err)
{
    struct deq_fields f = {.obj = root, .file = path, .prefix = "", .null_is_absent = true, .err = err,
                           .missing = "missing, expected the constructor's argument"};
    j->source = find_source(root, path, err);
    if (!j->source)
        return DEQ_EFORMAT;
    j->arch = deq_arch_new(j->source->kind);
    if (!j->arch)
        return deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    (void)deq_fields_take(&f, "model_type", false);
    check_classes(j->source, &f);
    for (const char *const *o = j->source->others; *o; o++)
        (void)deq_fields_take(&f, *o, false);
    deq_source_switches(j, &f, j->source->switches);
    j->source->arguments(j, &f);
    refuse_others(j, &f);
    return f.rc ? f.rc : deq_arch_check(j->arch, path, err);
}

static enum deq_rc read_constructor(struct deq_import_job *j, const char *path, struct deq_err *err)
{
    char *text;
    size_t len;
    json_t *root = NULL;
    enum deq_rc rc = deq_text_read(path, CONFIG_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    rc = deq_fields_parse(text, len, path, &root, err);
    deq_free(text);
    if (!rc)
        rc = read_arguments(j, root, path, err);
    json_decref(root);
    return rc;
}

/* --- The directory --- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The kind's keys and values: "state_size 36, kernel_size 2" */
static void add_facts(const struct deq_arch *a, struct deq_buf *b)
{
    const struct deq_opt_table *t = &a->kind->config;
    char value[64];
    for (size_t i = 0; i < t->n; i++) {
        deq_opt_text(&t->opt[i], a, value, sizeof value);
        deq_buf_fmt(b, "%s%s %s", i ? ", " : "", t->opt[i].name, value);
    }
}

static enum deq_rc write_card(const struct deq_import_job *j, const struct deq_import_opts *o, const char *path,
                              const struct deq_import_report *r, struct deq_err *err)
{
    const struct deq_arch *a = j->arch;
    struct deq_buf b;
    deq_buf_init(&b, 1 << 16);
    deq_buf_fmt(&b, "# %s\n\nA %s, imported from `%s` (%s).\n\n| | |\n|---|---|\n", base_name(o->out_dir),
                j->source->what, base_name(o->checkpoint), r->variant);
    deq_buf_fmt(&b, "| parameters | %llu |\n| cell | ", (unsigned long long)r->parameters);
    if (j->source->card)
        j->source->card(a, &b);
    else
        add_facts(a, &b);
    deq_buf_fmt(&b, " |\n| vocabulary | %u tokens", a->vocab.size);
    for (uint32_t i = 0; i < a->vocab.n_cutoffs; i++)
        deq_buf_fmt(&b, "%s%u", i ? ", " : ", cut at ", a->vocab.cutoffs[i]);
    deq_buf_fmt(&b, "%s |\n", j->no_words ? "; no word list was given: tokens are shown as <0>, <1>, ..." : "");
    deq_buf_fmt(&b, "| solved by | %s, ", deq_solver_name(a->serving.solver.method));
    if (a->serving.solver.tol > 0)
        deq_buf_fmt(&b, "to a relative residual of %g, at most %u evaluations |\n", (double)a->serving.solver.tol,
                    a->serving.solver.max_iter);
    else
        deq_buf_fmt(&b, "exactly %u steps |\n", a->serving.solver.max_iter);
    deq_buf_fmt(&b, "| numeric class | %s |\n", deq_class_name(a->serving.numeric));
    deq_buf_str(&b, "\nData, licence and measured perplexity are not in a checkpoint: add them here.\n");
    enum deq_rc rc = b.failed ? deq_fail(err, DEQ_ENOMEM, "no memory for the card") : DEQ_OK;
    if (!rc)
        rc = deq_io_replace(path, &(struct deq_part){b.data, b.len}, 1, err);
    deq_buf_free(&b);
    return rc;
}

static enum deq_rc copy_file(const char *from, const char *to, size_t max, struct deq_err *err)
{
    char *data;
    size_t len;
    enum deq_rc rc = deq_io_read(from, max, &data, &len, err);
    if (rc)
        return rc;
    rc = deq_io_replace(to, &(struct deq_part){data, len}, 1, err);
    deq_free(data);
    return rc;
}

/* One that is not understood leaves a model that chats as those do that have none. */
static enum deq_rc take_chat_template(struct deq_import_job *j, const char *dir, const struct deq_tokenizer *tok,
                                      struct deq_err *err)
{
    const enum deq_rc rc = deq_chat_template_load(dir, tok, &j->arch->chat, err);
    if (rc == DEQ_EFORMAT) {
        deq_entries_note(&j->entries, "note: %s; a chat with this model is lines of text, unless config.json or the "
                         "daemon's is told another template", err->text);
        return DEQ_OK;
    }
    return rc;
}

/* The checkpoint's own, as it stands, with the tokenizer_config.json beside it; `to` is where the former goes. */
static enum deq_rc copy_tokenizer(struct deq_import_job *j, const char *from, const char *dir, const char *to,
                                  struct deq_err *err)
{
    char config[4096], path[4096];
    struct deq_vocab *v = &j->arch->vocab;
    int64_t bos = -1;
    struct deq_tokenizer *tok = NULL;
    enum deq_rc rc = deq_tokenizer_load(from, &tok, err);
    if (rc)
        return rc;
    if (deq_tokenizer_vocab_size(tok) > v->size)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: has ids up to %u, but the model has only %u tokens", from,
                      deq_tokenizer_vocab_size(tok) - 1, v->size);
    if (!rc)
        rc = deq_tokenizer_config_ends(dir, tok, &bos, &v->eos_id, err);
    v->has_bos = bos >= 0;
    v->bos_id = v->has_bos ? (uint32_t)bos : 0;
    if (!rc)
        rc = take_chat_template(j, dir, tok, err);
    deq_tokenizer_free(tok);
    if (!rc)
        rc = copy_file(from, to, DEQ_TOKENIZER_MAX_FILE_BYTES, err);
    if (rc)
        return rc;
    const size_t folder = (size_t)(strrchr(to, '/') - to);
    snprintf(path, sizeof path, "%.*s/tokenizer_config.json", (int)folder, to);
    return deq_io_join(config, sizeof config, dir, "tokenizer_config.json") && deq_io_exists(config)
               ? copy_file(config, path, CONFIG_MAX_BYTES, err)
               : deq_tokenizer_config_save(to, bos, v->eos_id, -1, err);
}

/* path: of tokenizer.json in the new directory. */
static enum deq_rc write_tokenizer(struct deq_import_job *j, const struct deq_import_opts *o, const char *path,
                                   struct deq_err *err)
{
    char beside[4096];
    struct deq_vocab *v = &j->arch->vocab;
    struct deq_wordlevel_info words = {.eos_id = -1, .unk_id = -1};
    if (!o->vocab && deq_io_join(beside, sizeof beside, o->checkpoint, "tokenizer.json") && deq_io_exists(beside))
        return copy_tokenizer(j, beside, o->checkpoint, path, err);
    enum deq_rc rc = o->vocab ? deq_wordlevel_from_vocab(o->vocab, v->size, path, &words, err)
                              : deq_wordlevel_placeholder(v->size, path, err);
    if (!rc)
        rc = deq_tokenizer_config_save(path, -1, words.eos_id, words.unk_id, err);
    v->eos_id = words.eos_id;
    j->no_words = !o->vocab;
    return rc;
}

static enum deq_rc write_files(struct deq_import_job *j, const struct deq_import_opts *o, const char *dir,
                               const struct deq_import_report *r, struct deq_err *err)
{
    char path[4096];
    if (!deq_io_join(path, sizeof path, dir, "tokenizer_config.json"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    deq_io_join(path, sizeof path, dir, "tokenizer.json"); /* shorter names */
    enum deq_rc rc = write_tokenizer(j, o, path, err);
    json_t *from = json_pack("{s:s, s:s}", "imported_from", base_name(o->checkpoint), "model_type",
                             j->source->model_type);
    char *provenance = deq_json_text(from, 0);
    json_decref(from);
    if (!rc && !provenance && deq_utf8_valid(base_name(o->checkpoint), strlen(base_name(o->checkpoint))))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to say where it is from", dir);
    deq_io_join(path, sizeof path, dir, "config.json");
    if (!rc)
        rc = deq_config_save(path, j->arch, provenance, err);
    free(provenance); /* jansson's */
    deq_io_join(path, sizeof path, dir, "README.md");
    return rc ? rc : write_card(j, o, path, r, err);
}

/* --- The run --- */

/* Tensor by tensor from the checkpoint into the new file: gigabytes pass through pieces. */
static enum deq_rc write_weights(struct deq_import_job *j, const char *dir, struct deq_err *err)
{
    char path[4096];
    const bool bf16 = j->source->bf16 && deq_entries_all(&j->entries, DEQ_BF16, "freqs_cis");
    if (!deq_io_join(path, sizeof path, dir, "model.safetensors"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    enum deq_rc rc = deq_weights_create(path, j->weights, bf16, &j->file, err);
    if (!rc)
        rc = deq_weights_file_finish(j->file, j->source->weights(j), err);
    return rc ? rc : deq_entries_none_left(&j->entries);
}

static struct deq_import_report report(const struct deq_import_job *j)
{
    const struct deq_entries *e = &j->entries;
    const size_t all = deq_checkpoint_count(e->file) + deq_checkpoint_ignored_count(e->file);
    return (struct deq_import_report){.variant = j->source->variant(j), .parameters = j->weights->parameters,
                                      .tensors = e->n_used, .ignored = all - e->n_used};
}

static void tell_notes(const struct deq_import_opts *o, const struct deq_buf *notes)
{
    for (size_t at = 0; o->note && at < notes->len; at += strlen(notes->data + at) + 1)
        o->note(o->ctx, notes->data + at);
}

enum deq_rc deq_import(const struct deq_import_opts *o, struct deq_import_report *ret, struct deq_err *err)
{
    char beside[4096];
    if (deq_io_exists(o->out_dir))
        return deq_fail(err, DEQ_EINVAL, "%s: exists already; an import writes a new directory", o->out_dir);
    if (!deq_io_join(beside, sizeof beside, o->checkpoint, "config.json"))
        return deq_fail(err, DEQ_EINVAL, "%.100s...: path too long", o->checkpoint);
    struct deq_import_job j = {.entries = {.checkpoint = o->checkpoint, .config = o->config ? o->config : beside,
                                           .progress = o->progress, .ctx = o->ctx, .err = err}};
    deq_entries_init(&j.entries);
    enum deq_rc rc = read_constructor(&j, j.entries.config, err);
    if (!rc) {
        j.entries.model = j.source->model_type;
        rc = deq_entries_open(&j.entries, j.source->anchor);
    }
    if (!rc)
        rc = j.source->ties(&j);
    if (!rc)
        rc = deq_weights_table(j.arch, &j.weights, err);
    struct deq_new_dir dir;
    if (!rc)
        rc = deq_io_dir_begin(o->out_dir, &dir, err);
    if (!rc) {
        struct deq_import_report r = {0};
        if (!(rc = write_weights(&j, dir.part, err))) {
            r = report(&j);
            rc = write_files(&j, o, dir.part, &r, err);
        }
        rc = deq_io_dir_end(&dir, rc, err);
        r.vocab = j.arch->vocab;
        r.no_words = j.no_words;
        if (!rc) {
            tell_notes(o, &j.entries.notes);
            *ret = r;
        }
    }
    deq_entries_close(&j.entries);
    deq_weights_free(j.weights);
    deq_free(j.arch);
    return rc;
}
