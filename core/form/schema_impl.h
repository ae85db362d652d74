/* What the files of the reader of JSON Schemas share: schema.c (a schema as a whole), schema_join.c (two as one),
 * schema_object.c, schema_number.c, schema_string.c (values of a type). */
#ifndef DEQ_FORM_SCHEMA_IMPL_H
#define DEQ_FORM_SCHEMA_IMPL_H

#include <jansson.h>

#include "core/form/expr.h"
#include "core/form/schema.h"

enum type { OBJECT, ARRAY, STRING, NUMBER, INTEGER, BOOLEAN, NUL, TYPES };
enum {
    ALL_TYPES = (1 << TYPES) - 1,
    SCHEMA_NEST_MAX = 64,
    SCHEMA_PROPERTIES_MAX = 1024, /* of an object */
    SCHEMA_WORK_MAX = 1 << 17,    /* words and values compared while schemas are joined and told apart: some 40 ms */
};

struct schema_reader {
    struct deq_exprs *x;
    json_t *root;
    struct node {          /* a schema that was met, and its rule */
        const json_t *json;
        uint32_t rule;
        bool read;
    } *node;               /* [n_nodes] */
    uint32_t n_nodes;
    json_t *made;          /* array of schemas that were joined, kept as long as their parts are looked at */
    uint32_t any;          /* the rule of any value, 1 + number; 0: not there yet */
    unsigned depth;
    uint32_t work;
    struct deq_err *err;
    enum deq_rc rc;        /* of the first error */
};

/* The first error is kept; message: "keyword: why". Returns NEVER. */
deq_expr schema_fail(struct schema_reader *r, const char *keyword, const char *why);
/* Counts; false, and an error: it is too much. */
bool schema_work(struct schema_reader *r, const char *keyword, size_t n);
deq_expr schema_no_memory(struct schema_reader *r);

/* schema.c */
deq_expr schema_value(struct schema_reader *r, const json_t *schema);
deq_expr schema_any(struct schema_reader *r);
deq_expr schema_literal(struct schema_reader *r, const json_t *value); /* its one text */
/* The schema that v refers to, through all references; NULL: an error. */
const json_t *schema_target(struct schema_reader *r, const json_t *v);
unsigned schema_types(struct schema_reader *r, const json_t *schema); /* that it allows: bits of enum type */
/* A count that a keyword gives, or `absent`. */
uint32_t schema_count(struct schema_reader *r, const json_t *schema, const char *keyword, uint32_t absent);

/* schema_join.c: a schema of what both say, owned by the reader; NULL: an error. what: the keyword that joins. */
const json_t *schema_join(struct schema_reader *r, const json_t *a, const json_t *b, const char *what);
bool schema_is_annotation(const char *keyword);
/* The same without one word; NULL: no memory. */
json_t *schema_without(struct schema_reader *r, const json_t *a, const char *keyword);

/* schema_object.c */
deq_expr schema_object(struct schema_reader *r, const json_t *schema);
deq_expr schema_array(struct schema_reader *r, const json_t *schema);

/* schema_number.c */
deq_expr schema_number(struct schema_reader *r, const json_t *schema, bool integer);

/* schema_string.c */
deq_expr schema_string(struct schema_reader *r, const json_t *schema);
deq_expr schema_any_string(struct schema_reader *r);
/* The text of a name, quotes included; and of any name but the n given. */
deq_expr schema_name(struct schema_reader *r, const char *name, size_t len);
deq_expr schema_other_name(struct schema_reader *r, const char *const *names, size_t n);

#endif
