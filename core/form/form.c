#include "core/form/form.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/form/form_impl.h"
#include "core/form/gbnf.h"
#include "core/form/regex.h"
#include "core/form/schema.h"

struct deq_forms {
    const struct deq_spelling *spelling;
    int64_t eos_id;
    pthread_mutex_t lock; /* guards the rest */
    struct deq_form *kept[DEQ_FORMS_KEPT]; /* the latest asked for first */
    struct deq_form_stats stats;           /* but for what is kept */
};

/* --- From what is given to an automaton --- */

static enum deq_rc read_choice(struct deq_exprs *x, const char *text, size_t len, deq_expr *ret, struct deq_err *err)
{
    json_error_t where;
    json_t *list = NULL;
    const enum deq_rc rc = deq_json_parse(text, len, JSON_ALLOW_NUL, &list, &where);
    bool ok = json_is_array(list) && json_array_size(list);
    *ret = DEQ_NEVER;
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        ok = json_is_string(one) && json_string_length(one);
        if (ok)
            *ret = deq_expr_alt(x, *ret, deq_expr_text(x, json_string_value(one), json_string_length(one)));
    }
    json_decref(list);
    if (rc == DEQ_ENOMEM)
        return deq_fail(err, rc, "no memory for a form");
    return ok ? DEQ_OK : deq_fail(err, DEQ_EINVAL, "expected an array of strings that are not empty");
}

static enum deq_rc read_form(struct deq_exprs *x, enum deq_form_kind kind, const char *text, size_t len,
                             uint32_t *ret_root, struct deq_err *err)
{
    deq_expr body = DEQ_NEVER;
    enum deq_rc rc;
    if (kind == DEQ_FORM_GRAMMAR)
        return deq_gbnf_read(x, text, len, ret_root, err);
    if (kind == DEQ_FORM_SCHEMA)
        return deq_schema_read(x, text, len, ret_root, err);
    rc = kind == DEQ_FORM_CHOICE ? read_choice(x, text, len, &body, err)
                                 : deq_regex_read(x, text, len, DEQ_REGEX_TEXT, &body, err);
    *ret_root = deq_expr_declare(x);
    deq_expr_define(x, *ret_root, body);
    return rc;
}

static enum deq_rc make(const struct deq_forms *f, enum deq_form_kind kind, const char *text, size_t len,
                        struct deq_form **ret, struct deq_err *err)
{
    struct deq_exprs *x = DEQ_NEW(struct deq_exprs);
    struct deq_form *form = DEQ_NEW(struct deq_form);
    char *given = deq_alloc(len);
    uint32_t root = 0;
    enum deq_rc rc = x && form && given ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    if (!rc) {
        memcpy(given, text, len);
        deq_exprs_init(x);
        rc = read_form(x, kind, text, len, &root, err);
        rc = rc ? rc : deq_exprs_check(x, err);
        rc = rc ? rc : deq_automaton_make(x, root, f->spelling->alone, &form->automaton, err);
        rc = rc ? rc : deq_masks_init(&form->masks, f->spelling->vocab_size, err);
        deq_exprs_free(x);
    }
    deq_free(x);
    if (rc) {
        if (form)
            deq_automaton_free(&form->automaton);
        deq_free(form);
        deq_free(given);
        return rc;
    }
    form->spelling = f->spelling;
    form->eos_id = f->eos_id;
    form->kind = kind;
    form->text = given;
    form->len = len;
    atomic_store(&form->refs, 1);
    pthread_mutex_init(&form->lock, NULL);
    *ret = form;
    return DEQ_OK;
}

struct deq_form *deq_form_share(struct deq_form *f)
{
    atomic_fetch_add(&f->refs, 1);
    return f;
}

void deq_form_free(struct deq_form *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&f->lock);
    deq_masks_free(&f->masks);
    deq_automaton_free(&f->automaton);
    deq_free(f->text);
    deq_free(f);
}

/* --- Forms that are kept --- */

enum deq_rc deq_forms_new(const struct deq_spelling *spelling, int64_t eos_id, struct deq_forms **ret,
                          struct deq_err *err)
{
    struct deq_forms *f = DEQ_NEW(struct deq_forms);
    if (!f)
        return deq_fail(err, DEQ_ENOMEM, "no memory for forms");
    f->spelling = spelling;
    f->eos_id = eos_id;
    pthread_mutex_init(&f->lock, NULL);
    *ret = f;
    return DEQ_OK;
}

void deq_forms_free(struct deq_forms *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < DEQ_FORMS_KEPT; i++)
        deq_form_free(f->kept[i]);
    pthread_mutex_destroy(&f->lock);
    deq_free(f);
}

/* To the front; NULL: not kept. Caller holds the lock. */
static struct deq_form *find(struct deq_forms *f, enum deq_form_kind kind, const char *text, size_t len)
{
    for (size_t i = 0; i < DEQ_FORMS_KEPT && f->kept[i]; i++) {
        struct deq_form *form = f->kept[i];
        if (form->kind != kind || form->len != len || memcmp(form->text, text, len))
            continue;
        memmove(f->kept + 1, f->kept, i * sizeof *f->kept);
        f->kept[0] = form;
        return deq_form_share(form);
    }
    return NULL;
}

static size_t bytes_of(const struct deq_form *form)
{
    return form->len + deq_automaton_bytes(&form->automaton) + deq_masks_bytes(&form->masks);
}

/* In front; those behind go for which there is no room. Caller holds the lock. */
static void keep(struct deq_forms *f, struct deq_form *form)
{
    size_t bytes = 0;
    deq_form_free(f->kept[DEQ_FORMS_KEPT - 1]);
    memmove(f->kept + 1, f->kept, (DEQ_FORMS_KEPT - 1) * sizeof *f->kept);
    f->kept[0] = form;
    for (size_t i = 0; i < DEQ_FORMS_KEPT && f->kept[i]; i++) {
        bytes += bytes_of(f->kept[i]);
        if (!i || bytes <= DEQ_FORMS_KEPT_BYTES)
            continue;
        deq_form_free(f->kept[i]);
        f->kept[i] = NULL; /* nothing is kept behind it: what was asked for longer ago goes too */
        for (size_t k = i + 1; k < DEQ_FORMS_KEPT && f->kept[k]; k++) {
            deq_form_free(f->kept[k]);
            f->kept[k] = NULL;
        }
    }
}

enum deq_rc deq_forms_get(struct deq_forms *f, enum deq_form_kind kind, const char *text, size_t len,
                          struct deq_form **ret, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    pthread_mutex_lock(&f->lock);
    struct deq_form *form = find(f, kind, text, len);
    f->stats.found += form != NULL;
    pthread_mutex_unlock(&f->lock);
    if (!form) {
        rc = len > DEQ_FORM_TEXT_MAX ? deq_fail(err, DEQ_EINVAL, "too large: more than %d bytes", DEQ_FORM_TEXT_MAX)
                                     : make(f, kind, text, len, &form, err); /* others need not wait */
        pthread_mutex_lock(&f->lock);
        f->stats.made += !rc;
        f->stats.refused += rc == DEQ_EINVAL;
        if (!rc)
            keep(f, deq_form_share(form));
        pthread_mutex_unlock(&f->lock);
    }
    if (!rc)
        *ret = form;
    return rc;
}

struct deq_form_stats deq_forms_stats(struct deq_forms *f)
{
    pthread_mutex_lock(&f->lock);
    struct deq_form_stats s = f->stats;
    while (s.kept < DEQ_FORMS_KEPT && f->kept[s.kept])
        s.kept++;
    pthread_mutex_unlock(&f->lock);
    return s;
}

/* --- A text under way --- */

void deq_form_begin(const struct deq_form *f, struct deq_readings *ret)
{
    deq_readings_begin(&f->automaton, ret);
}

void deq_form_advance(const struct deq_form *f, const struct deq_readings *from, uint32_t token,
                      struct deq_readings *to)
{
    struct deq_readings other;
    const struct deq_token_text *t = &f->spelling->text[token];
    const bool ends = (int64_t)token == f->eos_id || token >= f->spelling->vocab_size || !t->bytes;
    to->n = 0;
    for (uint32_t i = 0; !ends && i < t->len; i++) {
        const unsigned char byte = (unsigned char)t->bytes[i];
        if (i)
            deq_readings_copy(&other, to);
        if (!deq_readings_step(&f->automaton, i ? &other : from, byte, to))
            return;
    }
}

bool deq_form_whole(const struct deq_form *f, const struct deq_readings *r)
{
    return deq_readings_whole(&f->automaton, r);
}

bool deq_form_spells(const struct deq_form *f, uint32_t token)
{
    return token < f->spelling->vocab_size && f->spelling->text[token].bytes;
}

bool deq_form_ended(const struct deq_form *f, const struct deq_readings *r)
{
    return deq_readings_ended(&f->automaton, r);
}
