/* Text files: UTF-8 with lines that end in "\n". "\r\n" is read as one line end, and a byte order mark at the beginning
 * is none of the text; neither is trained on, scored or counted. A lone "\r" is a character as any other. UTF-16 and
 * UTF-32 are refused; whether the rest is UTF-8 is for the reader to ask. */
#ifndef DEQ_BASE_TEXT_H
#define DEQ_BASE_TEXT_H

#include "core/base/base.h"
#include "core/base/err.h"

/* Reads a text file by this rule. Free *ret_text with deq_free. */
enum deq_rc deq_text_read(const char *path, size_t max_bytes, char **ret_text, size_t *ret_len, struct deq_err *err);
/* The same of text [*len] that was read already, in place. name: for messages. */
enum deq_rc deq_text_clean(const char *name, char *text, size_t *len, struct deq_err *err);

#endif
