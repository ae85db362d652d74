/* What a form is written in: expressions over bytes, and rules that name them. The readers of regular expressions, of
 * grammars and of JSON Schemas (regex.h, gbnf.h, schema.h) make them; automaton.h makes an automaton of them.
 *
 * Expressions are numbers into a growing arena, shared freely: an expression that stands in two places is matched in
 * both. A rule that is small and complete is not called but stands in its place, so that what does not recur needs no
 * stack. Running out of memory, and forms that are too large, are found out once, at the end: x->failed.
 * Not thread-safe; lives as long as a compilation. */
#ifndef DEQ_FORM_EXPR_H
#define DEQ_FORM_EXPR_H

#include "core/base/base.h"
#include "core/base/err.h"

enum {
    DEQ_EXPRS_MAX = 1 << 18, /* expressions of a form */
    DEQ_RULES_MAX = 4096,
    DEQ_EXPR_ENDLESS = UINT32_MAX, /* of a repetition: no maximum */
};

typedef uint32_t deq_expr;

enum deq_expr_op {
    DEQ_EXPR_NEVER,  /* matches nothing, not even the empty text */
    DEQ_EXPR_EMPTY,
    DEQ_EXPR_BYTE,   /* one of lo..hi */
    DEQ_EXPR_TEXT,   /* the bytes [lo, lo + hi) of x->text */
    DEQ_EXPR_SEQ,    /* a, then b */
    DEQ_EXPR_ALT,    /* a or b */
    DEQ_EXPR_REPEAT, /* a, lo to hi times */
    DEQ_EXPR_MEMBER, /* of a list (deq_expr_list): a, required when lo; b: the next, or what may follow all */
    DEQ_EXPR_LIST,   /* members a, between them b */
    DEQ_EXPR_RULE,   /* whatever rule lo matches */
};

struct deq_expr_node {
    uint8_t op;
    deq_expr a, b;
    uint32_t lo, hi;
    uint32_t size; /* states that it takes, about */
};

struct deq_exprs {
    struct deq_expr_node *at; /* [n], 0 is NEVER, 1 is EMPTY */
    uint32_t n, cap;
    char *text;               /* [text_len] */
    uint32_t text_len, text_cap;
    deq_expr rule[DEQ_RULES_MAX]; /* [n_rules] the body; NEVER: not defined yet */
    uint32_t n_rules;
    bool failed;              /* no memory, or too large: nothing that was made is of use */
    bool too_large;
};

enum { DEQ_NEVER = 0, DEQ_EMPTY = 1 };

void deq_exprs_init(struct deq_exprs *x);
void deq_exprs_free(struct deq_exprs *x);

deq_expr deq_expr_byte(struct deq_exprs *x, unsigned lo, unsigned hi);
deq_expr deq_expr_text(struct deq_exprs *x, const char *bytes, size_t n);
deq_expr deq_expr_str(struct deq_exprs *x, const char *s);
deq_expr deq_expr_seq(struct deq_exprs *x, deq_expr a, deq_expr b);
deq_expr deq_expr_seq3(struct deq_exprs *x, deq_expr a, deq_expr b, deq_expr c);
deq_expr deq_expr_alt(struct deq_exprs *x, deq_expr a, deq_expr b);
deq_expr deq_expr_repeat(struct deq_exprs *x, deq_expr a, uint32_t min, uint32_t max);
deq_expr deq_expr_maybe(struct deq_exprs *x, deq_expr a);
/* The code points lo..hi in UTF-8; surrogates are left out. */
deq_expr deq_expr_chars(struct deq_exprs *x, uint32_t lo, uint32_t hi);
/* Members in order, of which those that are not required may be left out, `between` between those that are there, and
 * behind them any number of `more` (NEVER: none). Made from the last to the first: m = deq_expr_member(x, last, .., m).
 */
deq_expr deq_expr_member(struct deq_exprs *x, deq_expr a, bool required, deq_expr next);
deq_expr deq_expr_list(struct deq_exprs *x, deq_expr members, deq_expr between);

/* A rule, which may be used before it is defined. */
uint32_t deq_expr_declare(struct deq_exprs *x);
void deq_expr_define(struct deq_exprs *x, uint32_t rule, deq_expr body);
deq_expr deq_expr_rule(struct deq_exprs *x, uint32_t rule);

/* DEQ_OK, or why the arena failed. */
enum deq_rc deq_exprs_check(const struct deq_exprs *x, struct deq_err *err);

#endif
