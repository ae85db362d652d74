/* Expressions of a template, by recursive descent. */
#include <string.h>

#include "core/base/utf8.h"
#include "core/import/jinja_impl.h"

/* --- What is not understood --- */

bool deq_jinja_fail(struct jinja_run *r, const char *what, const char *s, size_t n)
{
    const size_t max = 48, end = r->at < r->t->n ? r->at : r->t->n - 1;
    while (n && strchr(" \t\n", s[n - 1]))
        n--;
    if (!r->rc)
        r->rc = deq_fail(r->err, DEQ_EFORMAT, "line %u: %.*s%s%s", r->t->n ? r->t->node[end].line : 1,
                         (int)DEQ_MIN(n, max), s, n > max ? "..." : "", what);
    return false;
}

bool deq_jinja_refuse(struct jinja_run *r, const char *s, size_t n)
{
    return deq_jinja_fail(r, n ? " is not understood" : "a tag that is cut is not understood", s, n);
}

/* From here to the node's end. */
bool deq_jinja_refuse_rest(struct jinja_run *r, const char *from)
{
    return deq_jinja_refuse(r, from, (size_t)(r->end - from));
}

/* --- Words --- */

void deq_jinja_skip_blanks(struct jinja_run *r)
{
    while (r->s < r->end && strchr(" \t\n", *r->s))
        r->s++;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool deq_jinja_same(struct jinja_name w, const char *s)
{
    return w.n == strlen(s) && !memcmp(w.s, s, w.n);
}

/* The word that comes next, which stays; n 0: none does. */
struct jinja_name deq_jinja_peek(struct jinja_run *r)
{
    deq_jinja_skip_blanks(r);
    struct jinja_name w = {r->s, 0};
    while (w.s + w.n < r->end && (is_letter(w.s[w.n]) || (w.n && is_digit(w.s[w.n]))))
        w.n++;
    return w;
}

struct jinja_name deq_jinja_take_word(struct jinja_run *r)
{
    const struct jinja_name w = deq_jinja_peek(r);
    r->s += w.n;
    return w;
}

bool deq_jinja_take_this(struct jinja_run *r, const char *word)
{
    const struct jinja_name w = deq_jinja_peek(r);
    const bool is = deq_jinja_same(w, word);
    r->s += is ? w.n : 0;
    return is;
}

bool deq_jinja_take_sign(struct jinja_run *r, const char *sign)
{
    deq_jinja_skip_blanks(r);
    const size_t n = strlen(sign);
    const bool is = (size_t)(r->end - r->s) >= n && !memcmp(r->s, sign, n);
    r->s += is ? n : 0;
    return is;
}

bool deq_jinja_expect_end(struct jinja_run *r)
{
    deq_jinja_skip_blanks(r);
    return r->s == r->end || deq_jinja_refuse_rest(r, r->s);
}

/* --- Values --- */

static bool is_open(const struct jinja_value *v)
{
    return memchr(v->text, DEQ_JINJA_CONTENT, v->n) || memchr(v->text, DEQ_JINJA_TRIMMED, v->n);
}

static bool append(struct jinja_run *r, struct jinja_value *v, const char *s, size_t n)
{
    if (n > sizeof v->text - v->n)
        return deq_jinja_fail(r, "text that is too long", "", 0);
    memcpy(v->text + v->n, s, n);
    v->n += n;
    return true;
}

static bool set_text(struct jinja_run *r, struct jinja_value *v, const char *s, size_t n)
{
    v->type = TEXT;
    v->n = 0;
    return append(r, v, s, n);
}

static bool set_number(struct jinja_value *v, int type, long number)
{
    v->type = type;
    v->number = number;
    return true;
}

bool deq_jinja_to_truth(struct jinja_run *r, struct jinja_value *v, const char *from)
{
    if (v->type != TRUTH && (v->type != TEXT || is_open(v)))
        return deq_jinja_refuse_rest(r, from);
    return v->type == TRUTH || set_number(v, TRUTH, v->n != 0);
}

static bool trim(struct jinja_run *r, struct jinja_value *v, const char *from)
{
    size_t begin, end;
    if (v->type != TEXT || (is_open(v) && v->n != 1))
        return deq_jinja_refuse(r, from, (size_t)(r->s - from));
    if (is_open(v)) {
        v->text[0] = DEQ_JINJA_TRIMMED;
        return true;
    }
    deq_utf8_strip(v->text, v->n, &begin, &end);
    memmove(v->text, v->text + begin, end - begin);
    v->n = end - begin;
    return true;
}

/* --- Expressions: each leaves its value in *v, or false and an error --- */

bool deq_jinja_expression(struct jinja_run *r, struct jinja_value *v);

static bool literal(struct jinja_run *r, struct jinja_value *v)
{
    static const char escapes[][2] = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'\'', '\''}, {'"', '"'}};
    const char quote = *r->s++;
    set_text(r, v, "", 0);
    for (; r->s < r->end && *r->s != quote; r->s++) {
        char c = *r->s;
        if (c == '\\') {
            size_t i = 0;
            while (i < DEQ_COUNT(escapes) && (r->s + 1 == r->end || escapes[i][0] != r->s[1]))
                i++;
            if (i == DEQ_COUNT(escapes))
                return deq_jinja_refuse(r, r->s, DEQ_MIN((size_t)(r->end - r->s), (size_t)2));
            c = escapes[i][1];
            r->s++;
        }
        if (!append(r, v, &c, 1))
            return false;
    }
    return deq_jinja_take_sign(r, (const char[]){quote, 0}) || deq_jinja_refuse_rest(r, r->s);
}

static bool number(struct jinja_run *r, struct jinja_value *v)
{
    long n = 0;
    for (; r->s < r->end && is_digit(*r->s); r->s++)
        n = DEQ_MIN(n * 10 + (*r->s - '0'), 1000000L);
    return set_number(v, NUMBER, n);
}

static bool special(struct jinja_run *r, struct jinja_value *v, struct jinja_name w, const char *text)
{
    return text ? set_text(r, v, text, strlen(text))
                : deq_jinja_fail(r, ": the tokenizer's configuration has none", w.s, w.n);
}

static bool named(struct jinja_run *r, struct jinja_value *v)
{
    const struct jinja_name w = deq_jinja_take_word(r);
    for (size_t i = r->n_set; i--;)
        if (w.n == r->name[i].n && !memcmp(w.s, r->name[i].s, w.n)) {
            *v = r->value[i];
            return true;
        }
    if (deq_jinja_same(w, "true") || deq_jinja_same(w, "True") || deq_jinja_same(w, "add_generation_prompt"))
        return set_number(v, TRUTH, true);
    if (deq_jinja_same(w, "false") || deq_jinja_same(w, "False"))
        return set_number(v, TRUTH, false);
    if (deq_jinja_same(w, "messages"))
        return set_number(v, MESSAGES, 0);
    if (deq_jinja_same(w, "loop") && r->looping)
        return set_number(v, LOOP, 0);
    if (deq_jinja_same(w, "bos_token"))
        return special(r, v, w, r->bos);
    if (deq_jinja_same(w, "eos_token"))
        return special(r, v, w, r->eos);
    return deq_jinja_refuse(r, w.s, w.n);
}

/* v.key, v['key']; from: where v began */
static bool attribute(struct jinja_run *r, struct jinja_value *v, struct jinja_name key, const char *from)
{
    const char *const role = r->looping ? r->roles[r->message] : "";
    if (v->type == MESSAGE && deq_jinja_same(key, "role"))
        return set_text(r, v, role, strlen(role));
    if (v->type == MESSAGE && deq_jinja_same(key, "content"))
        return set_text(r, v, (const char[]){DEQ_JINJA_CONTENT}, 1);
    if (v->type == LOOP && deq_jinja_same(key, "first"))
        return set_number(v, TRUTH, r->message == 0);
    if (v->type == LOOP && deq_jinja_same(key, "last"))
        return set_number(v, TRUTH, r->message + 1 == r->n_roles);
    if (v->type == LOOP && deq_jinja_same(key, "index0"))
        return set_number(v, INDEX, 0);
    if (v->type == LOOP && deq_jinja_same(key, "index"))
        return set_number(v, INDEX, 1);
    if (v->type == TEXT && deq_jinja_same(key, "strip") && deq_jinja_take_sign(r, "(") && deq_jinja_take_sign(r, ")"))
        return trim(r, v, from);
    return deq_jinja_refuse(r, from, (size_t)(r->s - from));
}

static bool subscript(struct jinja_run *r, struct jinja_value *v, const char *from)
{
    struct jinja_value key;
    deq_jinja_skip_blanks(r);
    if (r->s == r->end || (*r->s != '\'' && *r->s != '"'))
        return deq_jinja_refuse_rest(r, from);
    return literal(r, &key) && (deq_jinja_take_sign(r, "]") || deq_jinja_refuse_rest(r, from)) &&
           attribute(r, v, (struct jinja_name){key.text, key.n}, from);
}

/* A literal or a name, and what is asked of it. */
static bool operand(struct jinja_run *r, struct jinja_value *v)
{
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    bool ok;
    if (r->s == r->end)
        return deq_jinja_refuse(r, from, 0);
    if (*r->s == '\'' || *r->s == '"')
        ok = literal(r, v);
    else if (is_digit(*r->s))
        ok = number(r, v);
    else if (is_letter(*r->s))
        ok = named(r, v);
    else if (deq_jinja_take_sign(r, "("))
        ok = deq_jinja_expression(r, v) && (deq_jinja_take_sign(r, ")") || deq_jinja_refuse_rest(r, from));
    else
        return deq_jinja_refuse_rest(r, from);
    while (ok) {
        if (deq_jinja_take_sign(r, "["))
            ok = subscript(r, v, from);
        else if (deq_jinja_take_sign(r, "."))
            ok = attribute(r, v, deq_jinja_take_word(r), from);
        else if (deq_jinja_take_sign(r, "|"))
            ok = deq_jinja_take_this(r, "trim") ? trim(r, v, from) : deq_jinja_refuse_rest(r, from);
        else
            break;
    }
    return ok;
}

static bool sum(struct jinja_run *r, struct jinja_value *v)
{
    struct jinja_value next;
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    bool ok = operand(r, v);
    while (ok && (deq_jinja_take_sign(r, "+") || deq_jinja_take_sign(r, "~"))) {
        ok = operand(r, &next);
        if (ok && (v->type != TEXT || next.type != TEXT))
            return deq_jinja_refuse(r, from, (size_t)(r->s - from));
        ok = ok && append(r, v, next.text, next.n);
    }
    return ok;
}

/* Of an index only whether it is the first message's can be asked: others are not tried. */
static bool comparison(struct jinja_run *r, struct jinja_value *v)
{
    struct jinja_value to;
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    if (!sum(r, v))
        return false;
    const bool equal = deq_jinja_take_sign(r, "==");
    if (!equal && !deq_jinja_take_sign(r, "!="))
        return true;
    if (!sum(r, &to))
        return false;
    if (v->type == INDEX && to.type == NUMBER && to.number == v->number)
        return set_number(v, TRUTH, equal == (r->message == 0));
    if (v->type != TEXT || to.type != TEXT || is_open(v) || is_open(&to))
        return deq_jinja_refuse(r, from, (size_t)(r->s - from));
    return set_number(v, TRUTH, equal == (v->n == to.n && !memcmp(v->text, to.text, v->n)));
}

static bool negation(struct jinja_run *r, struct jinja_value *v)
{
    bool flip = false, any = false;
    while (deq_jinja_take_this(r, "not"))
        flip = !flip, any = true;
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    bool ok = comparison(r, v);
    if (ok && any)
        ok = deq_jinja_to_truth(r, v, from) && set_number(v, TRUTH, v->number != flip);
    return ok;
}

static bool conjunction(struct jinja_run *r, struct jinja_value *v)
{
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    bool ok = negation(r, v);
    while (ok && deq_jinja_take_this(r, "and")) {
        ok = deq_jinja_to_truth(r, v, from);
        const bool before = ok && v->number;
        ok = ok && negation(r, v) && deq_jinja_to_truth(r, v, from) && set_number(v, TRUTH, before && v->number);
    }
    return ok;
}

bool deq_jinja_expression(struct jinja_run *r, struct jinja_value *v)
{
    deq_jinja_skip_blanks(r);
    const char *const from = r->s;
    if (++r->depth > JINJA_DEPTH_MAX)
        return deq_jinja_fail(r, "nested too deep", "", 0);
    bool ok = conjunction(r, v);
    while (ok && deq_jinja_take_this(r, "or")) {
        ok = deq_jinja_to_truth(r, v, from);
        const bool before = ok && v->number;
        ok = ok && conjunction(r, v) && deq_jinja_to_truth(r, v, from) && set_number(v, TRUTH, before || v->number);
    }
    r->depth--;
    return ok;
}
