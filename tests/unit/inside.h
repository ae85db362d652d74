/* The daemon from inside, without its sockets and on the tiny model: requests go through router, parser, scheduler and
 * engine as they do behind HTTP. */
#ifndef DEQ_TEST_INSIDE_H
#define DEQ_TEST_INSIDE_H

#include "server/api/service.h"
#include "server/net/http.h"

struct inside {
    struct conf conf;
    struct metrics metrics;
    struct deq_budget budget;
    struct service service;
};
extern struct inside inside;

/* The configuration's defaults with one thread, two sequences and the word of `set` on others ("key=value", up to a
 * NULL); the model is loaded. Only errors are logged. */
bool inside_begin(const char *const *set);
void inside_end(void);

struct outcome {
    int status; /* of a stream too; 0: cut */
    bool streamed;
    unsigned retry_after_ms;
    const char *type;
    size_t n;
    char text[1 << 18];
};

/* One request among others, step by step: its head is looked at, it is handed to its endpoint, its last byte is waited
 * for, taken. False: there is no memory for its exchange. */
struct asked {
    struct exchange x;
};
bool inside_open(struct asked *r, const struct exchange *head, const char *body);
void inside_handle(struct asked *r);
void inside_wait(struct asked *r);
void inside_close(struct asked *r, struct outcome *ret);
/* Waits until all that requests took is given back. */
void inside_rest(void);

/* Asks, and waits for the last byte; *ret is the test's, and large. */
void inside_ask(const char *method, const char *path, const char *body, struct outcome *ret);
/* The same for what a head may say beside. False: the nth allocation was not reached; 0 lets none fail. */
bool inside_ask_as(const struct exchange *head, const char *body, uint64_t nth, struct outcome *ret);

#endif
