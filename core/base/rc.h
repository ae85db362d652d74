/* Return codes and the caller-owned error struct: the door's part of err.h.
 *
 * Functions that can fail return enum deq_rc: DEQ_OK or a negative code. Results go through parameters named
 * ret_*, written only on success. An optional last parameter `struct deq_err *err` (may be NULL) receives one
 * line that says what was wrong, where, and what was expected. It is fixed-size and the caller's: reporting
 * an error never allocates. */
#ifndef DEQ_BASE_RC_H
#define DEQ_BASE_RC_H

enum deq_rc {
    DEQ_OK = 0,
    DEQ_ENOMEM = -1,    /* allocation failed, or the memory budget is exhausted */
    DEQ_EINVAL = -2,    /* the caller's argument or request is wrong */
    DEQ_EFORMAT = -3,   /* a file is damaged or not what it should be */
    DEQ_EIO = -4,       /* the system refused a read, write, open, rename */
    DEQ_EFULL = -5,     /* no room now: try again later */
    DEQ_ENUMERIC = -6,  /* NaN or infinity */
    DEQ_ECANCELED = -7, /* the caller asked for it */
    DEQ_ENOTFOUND = -8
};

struct deq_err {
    enum deq_rc code;
    char text[480]; /* one line of UTF-8, no newline */
};

const char *deq_rc_name(enum deq_rc rc);

#endif
