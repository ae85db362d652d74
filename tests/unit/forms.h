/* Forms over a small vocabulary of their own: single bytes, and words that lie across what a form tells apart. */
#ifndef DEQ_TEST_FORMS_H
#define DEQ_TEST_FORMS_H

#include "core/form/form.h"
#include "tests/unit/test.h"

enum { FORMS_EOS = 0, FORMS_VOCAB = 600 };

/* The forms of that vocabulary, which live until the program ends; token 0 ends a text. */
struct deq_forms *some_forms(void);
const struct deq_spelling *some_spelling(void);

/* NULL: refused, and *ret_message [480] says why. */
struct deq_form *form_of(enum deq_form_kind kind, const char *text, char *ret_message);
/* Whether the text, byte by byte, is whole, the beginning of something that is, or neither: 2, 1, 0. */
int form_takes(const struct deq_form *f, const char *text);

/* CHECKs that the form takes all of the first and none of the second list, which NULL ends. */
void check_form(enum deq_form_kind kind, const char *form, const char *const *good, const char *const *bad);
/* CHECKs that it is refused with a message that has `words` in it. */
void check_form_refused(enum deq_form_kind kind, const char *form, const char *words);
/* A text by random picks from what is allowed, of at most max tokens, into out [cap]; whole: it came to an end. Where
 * the picks are checked against each token alone, `slow`. */
bool random_text(struct deq_form *f, uint64_t seed, uint32_t max, bool slow, char *out, size_t cap);

#endif
