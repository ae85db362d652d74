/* The end of an exchange: how what was made for it goes into its channel. The one place that looks whether there was
 * memory for all of it: a buffer that failed anywhere on the way (buf.h) is told as 503 or, in a stream, as an error
 * event, and never as an answer with a part missing. On whichever thread ends it: the connection's, or a reload's. */
#ifndef DEQ_SERVER_ANSWER_H
#define DEQ_SERVER_ANSWER_H

#include "server/net/channel.h"

enum { ANSWER_RETRY_MS = 1000 }; /* after want of memory */

/* An error's whole body, when there is no memory to write one. */
extern const char answer_no_memory[];
/* A whole response; takes the buffer's memory. */
void answer_whole(struct channel *c, int status, const char *content_type, struct deq_buf *b);
/* An error before a stream began has a status of its own; in a stream it is an event, and no [DONE] follows. */
void answer_error(struct channel *c, int status, const char *code, const char *message);
/* Nobody is there to read one, or memory ran out in the middle of a stream. */
void answer_cut(struct channel *c);

#endif
