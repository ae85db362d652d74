/* The messages of a chat become the text that the model continues: each by the template chat.message, and chat.reply
 * behind them. */
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "server/request_impl.h"

struct message {
    const char *role;
    const json_t *content; /* NULL: none; a string, or an array of parts */
};

static bool take_role(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant"};
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    for (size_t i = 0; i < DEQ_COUNT(roles); i++)
        if (!strcmp(fields_word(v), roles[i])) {
            ((struct message *)request)->role = roles[i];
            return true;
        }
    return fields_bad_value(o, f->name, "must be system, developer, user or assistant");
}

/* A part is {"type": "text", "text": ...}; its other keys (cache_control, annotations) are not looked at. */
static bool is_text_part(const json_t *part)
{
    const char *type = fields_word(json_object_get(part, "type"));
    return type && !strcmp(type, "text") && json_is_string(json_object_get(part, "text"));
}

static bool take_content(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    bool ok = json_is_string(v) || (json_is_array(v) && json_array_size(v) <= JSON_ARRAY_MAX);
    for (size_t i = 0; ok && json_is_array(v) && i < json_array_size(v); i++)
        ok = is_text_part(json_array_get(v, i));
    ((struct message *)request)->content = v;
    return ok || fields_bad_type(o, f->name, "a string or an array of parts of type text");
}

static const struct field message_fields[] = {
    {"role", OTHER, 0, 0, 0, take_role, "string: system, developer, user, assistant"},
    {"content", OTHER, 0, 0, 0, take_content, "string or array of text parts"},
};

static bool add_content(const json_t *v, struct deq_buf *out)
{
    if (json_is_string(v))
        return deq_buf_add(out, json_string_value(v), json_string_length(v));
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(v); i++) {
        const json_t *text = json_object_get(json_array_get(v, i), "text");
        ok = deq_buf_add(out, json_string_value(text), json_string_length(text));
    }
    return ok;
}

/* {role} and {content} filled in. */
static bool fill_in(const char *template, const struct message *m, struct deq_buf *out)
{
    bool ok = true;
    for (const char *at = template; *at && ok;) {
        const bool is_role = !strncmp(at, "{role}", 6), is_content = !strncmp(at, "{content}", 9);
        ok = is_role ? deq_buf_str(out, m->role) : is_content ? add_content(m->content, out) : deq_buf_add(out, at, 1);
        at += is_role ? 6 : is_content ? 9 : 1;
    }
    return ok;
}

static bool add_message(const struct object *outer, const char *template, const json_t *v, size_t i,
                        struct deq_buf *out)
{
    char prefix[32];
    struct message m = {0};
    snprintf(prefix, sizeof prefix, "messages[%zu].", i);
    const struct object o = {
        .json = v, .prefix = prefix, .body = BODY_MESSAGE, .context = outer->context, .err = outer->err};
    if (!json_is_object(v))
        return fields_bad_type(outer, "messages", "an array of objects with role and content");
    if (!fields_take_fields(&o, message_fields, DEQ_COUNT(message_fields), &m))
        return false;
    if (!m.role)
        return fields_missing(&o, "role");
    if (!m.content && strcmp(m.role, "assistant")) /* whose turn may be without text */
        return fields_missing(&o, "content");
    return fill_in(template, &m, out) || fields_no_memory(outer);
}

bool request_take_messages(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const struct conf *c = o->context->conf;
    struct deq_buf text;
    struct deq_err err;
    if (!c->chat_message[0])
        return fields_fail(o->err, 400, "chat_template_missing", NULL,
                           "this server has no chat template (chat.message); use /v1/completions");
    if (!json_is_array(v) || !json_array_size(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return fields_bad_type(o, f->name, "an array of at least one message");
    deq_buf_init(&text, c->max_body_bytes + 65536);
    bool ok = true;
    for (size_t i = 0; i < json_array_size(v) && ok; i++)
        ok = add_message(o, c->chat_message, json_array_get(v, i), i, &text);
    ok = ok && (deq_buf_str(&text, c->chat_reply) || fields_no_memory(o));
    if (ok && !(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
        ok = fields_no_memory(o);
    if (ok) {
        r->n_prompts = 1;
        if (deq_encode(o->context->model, text.data, text.len, false, &r->prompts[0], &err))
            ok = err.code == DEQ_ENOMEM ? fields_no_memory(o)
                                        : fields_fail(o->err, 400, "invalid_value", "messages", "messages: %s", err.text);
    }
    deq_buf_free(&text);
    return ok;
}

void request_print_message_fields(void)
{
    fields_print("messages", message_fields, DEQ_COUNT(message_fields));
    fields_print_neutral("messages", BODY_MESSAGE);
}
