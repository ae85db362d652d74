/* Inside of a template's run: what jinja_expr.c (expressions) and jinja_run.c (statements) share. Nobody else includes
 * it. Functions that can fail leave the error in the run and return false. */
#ifndef DEQ_IMPORT_JINJA_IMPL_H
#define DEQ_IMPORT_JINJA_IMPL_H

#include "core/import/jinja.h"

enum { JINJA_VALUE_MAX = 2048, JINJA_VARIABLES_MAX = 16, JINJA_DEPTH_MAX = 16 };

struct jinja_value {
    enum { TEXT, TRUTH, NUMBER, INDEX, MESSAGES, MESSAGE, LOOP } type;
    long number; /* of a truth or a number; of an index what the first message has */
    size_t n;
    char text[JINJA_VALUE_MAX]; /* [n] */
};

struct jinja_name {
    const char *s;
    size_t n;
};

struct jinja_run {
    const struct deq_jinja *t;
    const char *const *roles;
    size_t n_roles;
    const char *bos, *eos;
    struct deq_jinja_output *out;
    struct deq_err *err;
    enum deq_rc rc;

    size_t at; /* the node */
    unsigned depth;
    size_t message; /* of the loop */
    bool looping, looped;
    struct jinja_name name[JINJA_VARIABLES_MAX];
    struct jinja_value value[JINJA_VARIABLES_MAX]; /* [n_set] */
    size_t n_set;
    const char *s, *end; /* what is left of the node */
};

/* The line, s [n], and what is wrong with it; that it is not understood; the same of all to the node's end. */
bool deq_jinja_fail(struct jinja_run *r, const char *what, const char *s, size_t n);
bool deq_jinja_refuse(struct jinja_run *r, const char *s, size_t n);
bool deq_jinja_refuse_rest(struct jinja_run *r, const char *from);

bool deq_jinja_same(struct jinja_name w, const char *s);
/* Of the node at hand: the word that comes next, which stays (n 0: none does); the same, taken; whether it is this
 * word, or sign, which is taken then; that nothing is left. */
void deq_jinja_skip_blanks(struct jinja_run *r);
struct jinja_name deq_jinja_peek(struct jinja_run *r);
struct jinja_name deq_jinja_take_word(struct jinja_run *r);
bool deq_jinja_take_this(struct jinja_run *r, const char *word);
bool deq_jinja_take_sign(struct jinja_run *r, const char *sign);
bool deq_jinja_expect_end(struct jinja_run *r);

bool deq_jinja_expression(struct jinja_run *r, struct jinja_value *v);
/* A text that is known becomes a truth; from: where the expression began. */
bool deq_jinja_to_truth(struct jinja_run *r, struct jinja_value *v, const char *from);

#endif
