/* What bodies of requests are read against in tests: the tiny model, and the configuration's defaults to be changed. */
#ifndef DEQ_TEST_REQUESTS_H
#define DEQ_TEST_REQUESTS_H

#include "server/api/request.h"

struct requests {
    struct conf conf;
    struct deq_model *model;
    struct request_context context; /* 200 positions, 64 rows */
};

bool requests_begin(struct requests *r);
void requests_end(struct requests *r);

/* Why the body is refused, "" when it is taken; *err has the rest. */
const char *refusal(const struct requests *r, enum endpoint at, const char *body, struct request_error *err);

struct refused {
    enum endpoint at;
    const char *body, *param, *message;
};
/* Each is refused with 400 for this field (`param` NULL: for message's first word) with this message. */
void check_refused(const struct requests *r, const struct refused *cases, size_t n);

#endif
