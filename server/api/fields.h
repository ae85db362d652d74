/* Reading JSON objects by a table of fields: name, type, range. Errors name the field; the first one counts. A key that
 * is null is absent, as OpenAI's specification has it: parsing drops such keys, at every depth. Tables are
 * constant; an object belongs to the thread that reads it. */
#ifndef DEQ_SERVER_FIELDS_H
#define DEQ_SERVER_FIELDS_H

#include <jansson.h>

#include "server/api/request.h"

enum { FIELDS_INNER_MAX = 6 };

enum body { /* objects that have fields of the table of neutral values (neutral.c) */
    BODY_COMPLETION = 1,
    BODY_CHAT = 2,
    BODY_STREAM_OPTIONS = 4,
    BODY_MESSAGE = 8,
    BODY_TOKENIZE = 16,
    BODY_RESPONSES = 32,
    BODY_ITEM = 64,
    BODY_STRUCTURED = 128,
    BODY_TEXT = 256,
};

struct object { /* a JSON object that is being read */
    const json_t *json;
    const char *prefix; /* "" or "deq." or "messages[3]." */
    const struct fields *fields;
    const struct request_context *context;
    struct request_error *err;
};

enum kind {
    BOOL,   /* bool */
    INT,    /* int64_t */
    NUMBER, /* float */
    OTHER,  /* `take` knows */
};

struct field {
    const char *name;
    enum kind kind;
    double lo, hi; /* hi < lo: a bound of the configuration, applied by `take` */
    size_t at;     /* in the request's struct */
    /* v: there and not null */
    bool (*take)(const struct object *o, const struct field *f, const json_t *v, void *request);
    const char *type; /* in words, of OTHER */
};

/* What an object may hold: the rows of its own table, and those of the table of neutral values that are for it. */
struct fields {
    const struct field *rows; /* [n] */
    size_t n;
    enum body body;           /* 0: no neutral ones */
    const char *name;         /* of an object that stands within others */
    const struct fields *inner[FIELDS_INNER_MAX]; /* such objects, as values of its rows; NULL behind the last */
};

/* The object in a body, without the keys that are null: depth is bounded before parsing, duplicates are refused.
 * Numbers that no type holds are there as +-1e308, which is out of the range of every field. NULL: *err says why. */
json_t *fields_parse(const char *body, size_t len, struct request_error *err);
/* Reads every field of the table, then looks for what is neither in it nor neutral. */
bool fields_take(const struct object *o, void *request);
/* The text of a string that is one of a few names, NULL when v is no string. A text with a NUL in it is no name: "". */
const char *fields_word(const json_t *v);
/* A whole number, also written like 16.0. Beyond int64_t: *ret is the nearest, and *ret_held false. */
bool fields_whole(const json_t *v, int64_t *ret, bool *ret_held);
bool fields_take_int(const struct object *o, const char *name, const json_t *v, json_int_t lo, json_int_t hi,
                     int64_t *ret);
bool fields_take_number(const struct object *o, const char *name, const json_t *v, double lo, double hi, float *ret);
/* A field that is not served: a value that asks for nothing, or an error. Not known: true, and nothing was done. */
bool fields_take_neutral(const struct object *o, const char *name, const json_t *v, bool *ret_known);
/* These fill the error and return false. */
bool fields_fail(struct request_error *e, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
bool fields_bad_type(const struct object *o, const char *name, const char *expected);
bool fields_bad_value(const struct object *o, const char *name, const char *expected);
bool fields_missing(const struct object *o, const char *name);
bool fields_unsupported(const struct object *o, const char *name, const char *why);
bool fields_no_memory(const struct object *o);
/* Name of the object, field, type and range of every row, also of the neutral ones, a line each. */
void fields_print(const char *where, const struct fields *f);
void fields_print_neutral(const char *where, enum body body);

#endif
