/* Inside of a form: form.c (its life), mask.c (what it allows). */
#ifndef DEQ_FORM_FORM_IMPL_H
#define DEQ_FORM_FORM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/form/form.h"

enum { DEQ_MASK_KEY = 62 };

/* What was allowed where, for as many places as there is room: sets of a few slots, in each of which the one
 * asked for longest ago goes. Only places whose readings fit in a key are kept. */
struct deq_masks {
    size_t n_slots, words;
    uint32_t *mask;     /* [n_slots, words] */
    struct deq_mask_slot {
        uint32_t used;  /* when it was asked for last; 0: free */
        uint16_t n;     /* of the key */
        uint16_t key[DEQ_MASK_KEY];
    } *slot;            /* [n_slots] */
    uint32_t clock;
};

struct deq_form {
    atomic_uint refs;
    const struct deq_spelling *spelling; /* borrowed */
    int64_t eos_id;
    struct deq_automaton automaton;
    enum deq_form_kind kind;
    char *text;           /* [len] that it was made of */
    size_t len;
    pthread_mutex_t lock; /* guards masks */
    struct deq_masks masks;
};

enum deq_rc deq_masks_init(struct deq_masks *m, size_t vocab_size, struct deq_err *err);
void deq_masks_free(struct deq_masks *m);
size_t deq_masks_bytes(const struct deq_masks *m);

#endif
