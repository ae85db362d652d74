/* A text with one thing changed, and what is then said of it. */
#ifndef TESTS_UNIT_DAMAGED_H
#define TESTS_UNIT_DAMAGED_H

#include <stddef.h>

struct damage {
    const char *from, *to, *message;
};

/* Copy of json with one occurrence of `from` replaced; NULL when it is not there. deq_free */
char *text_with(const char *json, const char *from, const char *to);
/* Each case makes a tokenizer.json that is refused by name, with that message. */
void check_damaged(const char *json, const struct damage *cases, size_t n);

#endif
