/* A tokenizer's chat template (Jinja2, as Transformers has it), as the chat of a model directory: what stands at the
 * beginning, around each message, before the answer, and what ends that.
 *
 * The template is run (jinja.h) over conversations of every role at every place. It is understood where all of them are
 *
 *     begin  message(role, content) ...  reply
 *
 * with one message(). Behind the content of an assistant's message stands what ends an answer: the first special token
 * there, else that text. */
#ifndef DEQ_IMPORT_CHAT_TEMPLATE_H
#define DEQ_IMPORT_CHAT_TEMPLATE_H

#include "core/cell/kind.h"
#include "core/text/tokenizer.h"

/* bos, eos: texts of these tokens, or NULL. DEQ_EFORMAT: not understood, and why. */
enum deq_rc deq_chat_template_derive(const char *text, size_t len, const char *bos, const char *eos,
                                     const struct deq_tokenizer *tok, struct deq_chat *ret, struct deq_err *err);

/* chat_template.jinja in `dir`, else chat_template in the tokenizer_config.json there: a text, or a list of {"name",
 * "template"} with one called default. Where there is none *ret has no message. */
enum deq_rc deq_chat_template_load(const char *dir, const struct deq_tokenizer *tok, struct deq_chat *ret,
                                   struct deq_err *err);

#endif
