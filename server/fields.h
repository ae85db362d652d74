/* Reading JSON objects by a table of fields: name, type, range. Errors name the field; the first one counts. null counts as absent everywhere, as
 * OpenAI's specification has it. */
#ifndef DEQ_SERVER_FIELDS_H
#define DEQ_SERVER_FIELDS_H

#include <jansson.h>

#include "server/request.h"

struct object { /* a JSON object that is being read */
    const json_t *json;
    const char *prefix; /* "" or "deq." */
    const struct request_context *context;
    struct request_error *err;
};

enum kind {
    BOOL,    /* bool */
    INT,     /* int64_t */
    NUMBER,  /* float */
    OTHER,   /* `take` knows */
    NEUTRAL, /* of OpenAI's specification; not for this server: accepted where it asks for nothing */
};

struct field {
    const char *name;
    enum kind kind;
    double lo, hi; /* hi < lo: a bound of the configuration, applied by `take` */
    size_t at;     /* in the request's struct */
    bool (*take)(const struct object *o, const struct field *f, const json_t *v, void *request); /* v: there and not null */
    const char *type; /* in words, of OTHER and NEUTRAL */
};

/* The object in a body: depth is bounded before parsing, duplicates are refused. NULL: *err says why. */
json_t *fields_parse(const char *body, size_t len, struct request_error *err);
/* Reads every field of the table, then looks for what is not in it. */
bool fields_take_fields(const struct object *o, const struct field *table, size_t n, void *request);
bool fields_take_int(const struct object *o, const char *name, const json_t *v, json_int_t lo, json_int_t hi, int64_t *ret);
bool fields_take_number(const struct object *o, const char *name, const json_t *v, double lo, double hi, float *ret);
/* These fill the error and return false. */
bool fields_fail(struct request_error *e, int status, const char *code, const char *param, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
bool fields_bad_type(const struct object *o, const char *name, const char *expected);
bool fields_bad_range(const struct object *o, const char *name, double lo, double hi);
bool fields_bad_value(const struct object *o, const char *name, const char *expected);
bool fields_no_memory(const struct object *o);
/* Path, field, type and range of every row, a line each. */
void fields_print(const char *where, const struct field *table, size_t n);

#endif
