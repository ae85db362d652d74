/* Statements of a template, and what it shows. */
#include <string.h>

#include "core/base/mem.h"
#include "core/import/jinja_impl.h"

/* Runs nodes up to the tag that ends them or is another branch; without `live` they are only passed. */
static bool block(struct jinja_run *r, bool live);

static bool show(struct jinja_run *r, const char *s, size_t n)
{
    struct deq_jinja_output *o = r->out;
    if (n > sizeof o->text - o->len)
        return deq_jinja_fail(r, "text that is too long", "", 0);
    memcpy(o->text + o->len, s, n);
    o->len += n;
    return true;
}

static bool put(struct jinja_run *r, struct jinja_name w, const struct jinja_value *v)
{
    if (r->n_set == JINJA_VARIABLES_MAX)
        return deq_jinja_fail(r, ": so many names are not understood", w.s, w.n);
    r->name[r->n_set] = w;
    r->value[r->n_set++] = *v;
    return true;
}

static bool output(struct jinja_run *r)
{
    struct jinja_value v;
    const char *const from = r->s;
    return deq_jinja_expression(r, &v) && deq_jinja_expect_end(r) &&
           (v.type == TEXT || deq_jinja_refuse_rest(r, from)) && show(r, v.text, v.n);
}

/* The first word of node `at`, which becomes the one that is read. */
static struct jinja_name open_node(struct jinja_run *r)
{
    const struct deq_jinja_node *p = &r->t->node[r->at];
    r->s = p->s;
    r->end = p->s + p->n;
    return deq_jinja_peek(r);
}

/* Passes the tag at hand, which must be this one; there may be none left. */
static bool expect_tag(struct jinja_run *r, const char *word)
{
    if (r->at == r->t->n)
        return deq_jinja_fail(r, " is missing", word, strlen(word));
    const struct jinja_name w = open_node(r);
    r->s += w.n;
    if (!deq_jinja_same(w, word))
        return deq_jinja_refuse_rest(r, w.s);
    if (!deq_jinja_expect_end(r))
        return false;
    r->at++;
    return true;
}

static bool set(struct jinja_run *r)
{
    struct jinja_value v;
    const char *const from = r->s;
    const struct jinja_name w = (deq_jinja_take_this(r, "set"), deq_jinja_take_word(r));
    if (!w.n || !deq_jinja_take_sign(r, "="))
        return deq_jinja_refuse_rest(r, from);
    return deq_jinja_expression(r, &v) && deq_jinja_expect_end(r) && put(r, w, &v);
}

/* if, elif, else: one of them, where the statement is alive. */
static bool branch(struct jinja_run *r, struct jinja_name w, bool live, bool *taken)
{
    struct jinja_value v;
    bool is = live && !*taken;
    r->s += w.n;
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    if (is && !deq_jinja_same(w, "else")) {
        if (!deq_jinja_expression(r, &v) || !deq_jinja_expect_end(r) || !deq_jinja_to_truth(r, &v, from))
            return false;
        is = v.number;
    }
    *taken = *taken || is;
    r->at++;
    return block(r, is);
}

static bool branches(struct jinja_run *r, bool live)
{
    bool taken = false;
    struct jinja_name w = open_node(r); /* if */
    do {
        if (!branch(r, w, live, &taken))
            return false;
        w = r->at < r->t->n ? open_node(r) : (struct jinja_name){"", 0};
    } while (deq_jinja_same(w, "elif") || deq_jinja_same(w, "else"));
    return expect_tag(r, "endif");
}

static bool loop(struct jinja_run *r, bool live)
{
    struct jinja_value v;
    const char *const from = r->s;
    const struct jinja_name w = (deq_jinja_take_this(r, "for"), deq_jinja_take_word(r));
    const size_t body = r->at + 1, n_set = r->n_set;
    if (live && (!w.n || !deq_jinja_take_this(r, "in") || !deq_jinja_expression(r, &v) || !deq_jinja_expect_end(r)))
        return deq_jinja_refuse_rest(r, from);
    if (live && (v.type != MESSAGES || r->looped))
        return deq_jinja_refuse_rest(r, from);
    r->looping = live;
    for (size_t i = 0; i < (live ? r->n_roles : 1); i++) {
        r->message = i;
        r->at = body;
        r->out->begin[i] = r->out->len;
        v.type = MESSAGE;
        if (!(live ? put(r, w, &v) && block(r, true) : block(r, false)))
            return false;
        r->out->end[i] = r->out->len;
        r->n_set = n_set;
    }
    r->looping = false;
    r->looped = r->looped || live;
    return expect_tag(r, "endfor");
}

static bool block(struct jinja_run *r, bool live)
{
    static const char *const ends[] = {"elif", "else", "endif", "endfor"};
    bool ok = ++r->depth <= JINJA_DEPTH_MAX || deq_jinja_fail(r, "nested too deep", "", 0);
    while (ok && r->at < r->t->n) {
        const struct deq_jinja_node *p = &r->t->node[r->at];
        const struct jinja_name w = open_node(r);
        bool end = false, passed = true;
        for (size_t i = 0; p->kind == DEQ_JINJA_TAG && i < DEQ_COUNT(ends); i++)
            end = end || deq_jinja_same(w, ends[i]);
        if (end)
            break;
        if (p->kind == DEQ_JINJA_TAG && deq_jinja_same(w, "if"))
            ok = branches(r, live), passed = false;
        else if (p->kind == DEQ_JINJA_TAG && deq_jinja_same(w, "for"))
            ok = loop(r, live), passed = false;
        else if (live)
            ok = p->kind == DEQ_JINJA_TEXT ? show(r, p->s, p->n) : p->kind == DEQ_JINJA_OUTPUT ? output(r)
                 : deq_jinja_same(w, "set")          ? set(r)
                                           : deq_jinja_refuse_rest(r, r->s);
        r->at += passed && ok;
    }
    r->depth--;
    return ok;
}

enum deq_rc deq_jinja_run(const struct deq_jinja *t, const char *const *roles, size_t n_roles, const char *bos,
                          const char *eos, struct deq_jinja_output *ret, struct deq_err *err)
{
    struct jinja_run *r = DEQ_NEW(struct jinja_run);
    if (!r)
        return deq_fail(err, DEQ_ENOMEM, "no memory to run a template");
    *r = (struct jinja_run){.t = t, .roles = roles, .n_roles = n_roles, .bos = bos, .eos = eos, .out = ret, .err = err};
    ret->len = 0;
    if (block(r, true) && r->at < t->n)
        deq_jinja_refuse_rest(r, r->s); /* an end of what did not begin */
    if (!r->rc && !r->looped)
        r->rc = deq_fail(err, DEQ_EFORMAT, "no loop over messages");
    const enum deq_rc rc = r->rc;
    deq_free(r);
    return rc;
}
