/* Reads the keys of one JSON object: what is asked for is checked, what nobody asked for is refused. The first error is
 * kept and names file, object and key; after it nothing more is taken. Keys may be asked for one by one, or by a
 * table of options (options.h), which also writes an object. */
#ifndef DEQ_BASE_JSON_FIELDS_H
#define DEQ_BASE_JSON_FIELDS_H

#include <jansson.h>

#include "core/base/options.h"

enum { DEQ_FIELDS_MAX = 96 };

struct deq_fields {
    const json_t *obj;
    const char *file, *prefix;     /* "config.json", "deq." */
    /* what is said of a required key that is absent, of a key that nobody asked for; NULL: just that */
    const char *missing, *unknown;
    bool null_is_absent;
    const char *seen[DEQ_FIELDS_MAX];
    size_t n_seen;
    enum deq_rc rc;
    struct deq_err *err;
};

/* A text that is one object; name: for messages. The object is the caller's, json_decref. */
enum deq_rc deq_fields_parse(const char *text, size_t len, const char *name, json_t **ret, struct deq_err *err);
/* The value of a key, or NULL: absent, or an error stands already. */
const json_t *deq_fields_take(struct deq_fields *f, const char *key, bool required);
void deq_fields_u32(struct deq_fields *f, const char *key, bool required, uint32_t lo, uint32_t hi, uint32_t *ret);
void deq_fields_float(struct deq_fields *f, const char *key, float lo, float hi, float *ret);
void deq_fields_double(struct deq_fields *f, const char *key, double lo, double hi, double *ret);
void deq_fields_bool(struct deq_fields *f, const char *key, bool *ret);
/* Arrays of at most max items. */
void deq_fields_u32s(struct deq_fields *f, const char *key, uint32_t max, uint32_t lo, uint32_t hi, uint32_t *ret,
                     uint32_t *ret_n);
void deq_fields_bools(struct deq_fields *f, const char *key, uint32_t max, bool *ret, uint32_t *ret_n);
/* choices: "a|b|c"; *ret: the place of the text among them */
void deq_fields_enum(struct deq_fields *f, const char *key, bool required, const char *choices, int *ret);
void deq_fields_text(struct deq_fields *f, const char *key, bool required, char *ret, size_t size);
/* Another object inside this one; false: there is none, or an error stands. Its errors go back by deq_fields_close. */
bool deq_fields_open(struct deq_fields *f, const char *key, const char *prefix, struct deq_fields *ret);
void deq_fields_close(struct deq_fields *f, struct deq_fields *inner);
/* All options of a table (U32, FLOAT, BOOL, ENUM, STR), each required when it has no default. Defaults are not set here
 * (deq_opt_defaults). */
void deq_fields_table(struct deq_fields *f, const struct deq_opt_table *t, void *values);
/* Refuses keys that nobody asked for. */
void deq_fields_no_others(struct deq_fields *f);

/* Adds the options of a table to an object. False: no memory. */
bool deq_fields_write(const struct deq_opt_table *t, const void *values, json_t *obj);

#endif
