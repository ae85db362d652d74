/* The part of Jinja2 that plain chat templates are written in, run over a conversation whose roles are known and whose
 * contents are not: each stands in the output as one byte. (https://jinja.palletsprojects.com/templates; blocks are
 * trimmed as Transformers asks for: trim_blocks, lstrip_blocks.)
 *
 *     text, {# comments #}, {%- and -%}
 *     {{ a + b ~ c }}   of 'literals', message['role'], message.content, bos_token, eos_token, names that were set
 *     x | trim, x.strip()
 *     {% set name = x %}
 *     {% for message in messages %}, once; loop.first, loop.last, loop.index0 == 0, loop.index == 1
 *     {% if x %}, elif, else: of these, == and != of texts, and, or, not; add_generation_prompt, which is true
 *
 * Whatever else is reached is refused, by its name and line; branches that are never taken are not looked at.
 *
 * Our own, for Debian 12 has no Jinja for C, and those for C++ (minja, inja) render a conversation that is known; here
 * the contents are left open, so that a template is read once and becomes tables. */
#ifndef DEQ_IMPORT_JINJA_H
#define DEQ_IMPORT_JINJA_H

#include "core/base/base.h"
#include "core/base/err.h"

enum { DEQ_JINJA_MAX_BYTES = 1 << 16, DEQ_JINJA_MESSAGES_MAX = 8, DEQ_JINJA_OUT_MAX = 1 << 14 };

/* A content in the output, as it is or without the white space around it. Templates have no such bytes. */
enum { DEQ_JINJA_CONTENT = 1, DEQ_JINJA_TRIMMED = 2 };

/* Inside: a template as a list. */
struct deq_jinja_node {
    enum { DEQ_JINJA_TEXT, DEQ_JINJA_OUTPUT, DEQ_JINJA_TAG } kind;
    unsigned line;
    const char *s; /* [n] in the template's text: what is shown, or what stands between the braces */
    size_t n;
};

struct deq_jinja {
    char *text; /* its lines end in "\n", without the last end; then a zero */
    struct deq_jinja_node *node;
    size_t n;
};

enum deq_rc deq_jinja_parse(const char *text, size_t len, struct deq_jinja *ret, struct deq_err *err);
void deq_jinja_free(struct deq_jinja *t);

struct deq_jinja_output {
    char text[DEQ_JINJA_OUT_MAX];
    size_t len;
    size_t begin[DEQ_JINJA_MESSAGES_MAX], end[DEQ_JINJA_MESSAGES_MAX]; /* of what the loop makes of each message */
};

/* bos, eos: texts of these tokens; NULL: there is none. DEQ_EFORMAT also when there is no loop. */
enum deq_rc deq_jinja_run(const struct deq_jinja *t, const char *const *roles, size_t n_roles, const char *bos,
                          const char *eos, struct deq_jinja_output *ret, struct deq_err *err);

#endif
