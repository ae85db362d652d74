/* What the parsers (request*.c) share. */
#ifndef DEQ_SERVER_REQUEST_IMPL_H
#define DEQ_SERVER_REQUEST_IMPL_H

#include "server/api/fields.h"

bool request_take_model(const struct object *o, const struct field *f, const json_t *v, void *request);
bool request_take_ids(const struct object *o, const char *name, const json_t *v, size_t most, struct deq_tokens *out);
/* Of the field of that name: a string, before which add_special puts the token that begins a text, or an array of
 * token ids. */
bool request_take_one_prompt(const struct object *o, const char *name, const json_t *v, bool add_special,
                             struct deq_tokens *out);
/* Four shapes: a string, an array of strings, of token ids, of arrays of token ids. They follow a state: begin nothing,
 * and may be empty. *prompts [*n] is the caller's, on failure too; what stood there is freed. */
bool request_take_prompts(const struct object *o, const char *name, const json_t *v, bool add_special, bool follow,
                          struct deq_tokens **prompts, size_t *n);
/* No field gave any: one, the start of a document, or nothing behind a state. */
bool request_no_prompt(const struct object *o, bool follow, struct deq_tokens **prompts, size_t *n);
void request_prompts_free(struct deq_tokens *prompts, size_t n);
/* Into the struct cache_salt at f->at of the request. */
bool request_take_salt(const struct object *o, const struct field *f, const json_t *v, void *request);
/* The name of a saved state, or of one to be, into [STATE_NAME_MAX + 1]. */
bool request_take_state_name(const struct object *o, const char *field, const json_t *v, char *ret);
/* Empty text is the start of a document. */
bool request_never_empty(const struct object *o, const char *name, struct deq_tokens *t);
/* The deq object; depth may be NULL: there is no text whose depth could change. */
extern const struct fields request_solve_fields;
bool request_take_solve_object(const struct object *outer, const json_t *v, struct deq_solve_params *p,
                               struct depth_request *depth);
/* The model's own settings, where the server's bounds allow them. */
struct deq_solve_params request_solve_defaults(const struct request_context *c);
/* Whether the prompt that the field of that name gave fits. */
bool request_prompt_fits(const struct request_context *c, const char *name, size_t n_prompt,
                         struct request_error *err);
/* response_format, structured_outputs and text become the form of a completion_request. */
extern const struct fields request_format_fields, request_schema_fields, request_structured_fields,
    request_text_fields, request_text_format_fields;
bool request_take_format(const struct object *o, const struct field *f, const json_t *v, void *request);
bool request_take_structured(const struct object *o, const struct field *f, const json_t *v, void *request);
bool request_take_text(const struct object *o, const struct field *f, const json_t *v, void *request);
/* A chat's messages, or the input of /v1/responses, become the prompt of a completion_request. */
extern const struct fields request_message_fields, request_item_fields;
bool request_take_messages(const struct object *o, const struct field *f, const json_t *v, void *request);
bool request_take_input(const struct object *o, const struct field *f, const json_t *v, void *request);
/* The field that says how long an answer may be. */
const char *request_length_field(const struct completion_request *r);

#endif
