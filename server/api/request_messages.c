/* The messages of a chat become the text that the model continues: each by the template's message, and its reply behind
 * them. */
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "server/api/request_impl.h"

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
    return fields_bad_value(o, f->name, "must be system, developer, user or assistant (tools are not supported)");
}

/* A part is {"type": "text", "text": ...}, of an item input_text or output_text; its other keys (cache_control,
 * annotations) are not looked at. */
static bool is_text_part(const struct object *o, const json_t *part)
{
    const char *type = fields_word(json_object_get(part, "type"));
    return type && json_is_string(json_object_get(part, "text")) &&
           (o->fields->body == BODY_ITEM ? !strcmp(type, "input_text") || !strcmp(type, "output_text")
                                         : !strcmp(type, "text"));
}

static bool take_content(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    bool ok = json_is_string(v) || (json_is_array(v) && json_array_size(v) <= JSON_ARRAY_MAX);
    for (size_t i = 0; ok && json_is_array(v) && i < json_array_size(v); i++)
        ok = is_text_part(o, json_array_get(v, i));
    ((struct message *)request)->content = v;
    return ok || fields_bad_type(o, f->name,
                                 o->fields->body == BODY_ITEM
                                     ? "a string or an array of parts of type input_text or output_text "
                                       "(others are not supported)"
                                     : "a string or an array of parts of type text (others are not "
                                       "supported)");
}

static bool take_item_type(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request;
    const bool message = fields_word(v) && !strcmp(fields_word(v), "message");
    return message || fields_unsupported(o, f->name, "items are messages of text");
}

static const struct field message_rows[] = {
    {"role", OTHER, 0, 0, 0, take_role, "string: system, developer, user, assistant"},
    {"content", OTHER, 0, 0, 0, take_content, "string or array of text parts"},
};

static const struct field item_rows[] = {
    {"type", OTHER, 0, 0, 0, take_item_type, "string: message"},
    {"role", OTHER, 0, 0, 0, take_role, "string: system, developer, user, assistant"},
    {"content", OTHER, 0, 0, 0, take_content, "string or array of text parts"},
};

const struct fields request_message_fields = {
    .rows = message_rows, .n = DEQ_COUNT(message_rows), .body = BODY_MESSAGE, .name = "messages"};
const struct fields request_item_fields = {
    .rows = item_rows, .n = DEQ_COUNT(item_rows), .body = BODY_ITEM, .name = "input"};

/* --- The text --- */

struct chat_template request_chat_template(const struct request_context *c)
{
    const struct deq_model_info i = deq_model_info(c->model);
    /* What a base model continues well is text: no words about who speaks, a line for each. A line end would begin the
     * next message, so it ends the answer. */
    struct chat_template t = {"default", "", "{content}\n", "", "\n"};
    if (c->conf->chat_message[0])
        t = (struct chat_template){"configuration", c->conf->chat_begin, c->conf->chat_message, c->conf->chat_reply,
                                   ""};
    else if (i.chat_message[0])
        t = (struct chat_template){"model", i.chat_begin, i.chat_message, i.chat_reply, i.chat_stop};
    if (c->conf->chat_stop[0])
        t.stop = c->conf->chat_stop;
    return t;
}

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

static size_t content_bytes(const json_t *v)
{
    size_t n = json_string_length(v);
    for (size_t i = 0; i < json_array_size(v); i++)
        n += json_string_length(json_object_get(json_array_get(v, i), "text"));
    return n;
}

/* The same without white space around it. */
static bool add_trimmed(const json_t *v, struct deq_buf *out)
{
    const size_t from = out->len;
    size_t begin, end;
    if (!add_content(v, out))
        return false;
    if (out->len == from)
        return true;
    deq_utf8_strip(out->data + from, out->len - from, &begin, &end);
    memmove(out->data + from, out->data + from + begin, end - begin);
    out->len = from + end - begin;
    out->data[out->len] = 0;
    return true;
}

/* One step through a template: how many of its bytes, and what stands there. */
enum piece { LITERAL = 1, ROLE = 6, CONTENT = 9, TRIMMED = 17 };

static enum piece piece_at(const char *at)
{
    return !strncmp(at, "{role}", ROLE)                ? ROLE
           : !strncmp(at, "{content}", CONTENT)         ? CONTENT
           : !strncmp(at, "{content_trimmed}", TRIMMED) ? TRIMMED
                                                        : LITERAL;
}

/* A text between quotes, [n]. */
static void jinja_literal(const char *s, size_t n, struct deq_buf *out)
{
    deq_buf_str(out, "'");
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n')
            deq_buf_str(out, "\\n");
        else
            deq_buf_fmt(out, s[i] == '\'' || s[i] == '\\' ? "\\%c" : "%c", s[i]);
    }
    deq_buf_str(out, "'");
}

void request_chat_jinja(const struct chat_template *t, struct deq_buf *out)
{
    deq_buf_str(out, "{{ ");
    jinja_literal(t->begin, strlen(t->begin), out);
    deq_buf_str(out, " }}{% for message in messages %}{{ ");
    for (const char *at = t->message; *at;) {
        const enum piece piece = piece_at(at);
        const char *end = at + piece;
        while (piece == LITERAL && *end && piece_at(end) == LITERAL)
            end++;
        deq_buf_str(out, at > t->message ? " + " : "");
        if (piece == LITERAL)
            jinja_literal(at, (size_t)(end - at), out);
        else
            deq_buf_str(out, piece == ROLE      ? "message['role']"
                             : piece == CONTENT ? "message['content']"
                                                : "message['content'] | trim");
        at = end;
    }
    deq_buf_str(out, " }}{% endfor %}{% if add_generation_prompt %}{{ ");
    jinja_literal(t->reply, strlen(t->reply), out);
    deq_buf_str(out, " }}{% endif %}");
}

/* A conversation on its way to text. */
struct conversation {
    const struct object *o; /* the body */
    const char *field;      /* messages, input */
    struct chat_template template;
    struct deq_buf text;
    struct deq_buf own; /* of struct deq_range: the template's parts of the text; special tokens are recognised there */
};

/* Text of the template's, or a role, which is one of four. */
static bool add_own(struct conversation *c, const char *s, size_t n)
{
    const size_t begin = c->text.len;
    struct deq_range *last = c->own.len ? (struct deq_range *)(void *)(c->own.data + c->own.len) - 1 : NULL;
    if (!n)
        return true;
    if (!deq_buf_add(&c->text, s, n))
        return false;
    if (!last || last->end != begin)
        return deq_buf_add(&c->own, &(struct deq_range){begin, c->text.len}, sizeof *last);
    last->end = c->text.len;
    return true;
}

/* {role} and {content} filled in. A template may repeat a long content many times: that is measured before memory is
 * asked for. */
static bool fill_in(struct conversation *c, const struct message *m)
{
    const char *const template = c->template.message;
    const size_t room = c->text.max - c->text.len, content = content_bytes(m->content);
    size_t n = 0;
    bool ok = true;
    for (const char *at = template; *at && n <= room; at += piece_at(at))
        n += piece_at(at) == ROLE ? strlen(m->role) : piece_at(at) == LITERAL ? 1 : content;
    if (n > room)
        return fields_fail(c->o->err, 400, "invalid_value", c->field,
                           "%s: the chat template (of the %s) makes more than %zu bytes of text of them", c->field,
                           c->template.source, c->text.max);
    for (const char *at = template; *at && ok; at += piece_at(at))
        ok = piece_at(at) == ROLE      ? add_own(c, m->role, strlen(m->role))
             : piece_at(at) == CONTENT ? add_content(m->content, &c->text)
             : piece_at(at) == TRIMMED ? add_trimmed(m->content, &c->text)
                                       : add_own(c, at, 1);
    return ok || fields_no_memory(c->o);
}

static bool add_message(struct conversation *c, const json_t *v, size_t i)
{
    char prefix[32];
    struct message m = {0};
    const bool item = c->o->fields->body == BODY_RESPONSES;
    snprintf(prefix, sizeof prefix, "%s[%zu].", c->field, i);
    const struct object o = {.json = v,
                             .prefix = prefix,
                             .fields = item ? &request_item_fields : &request_message_fields,
                             .context = c->o->context,
                             .err = c->o->err};
    if (!json_is_object(v))
        return fields_bad_type(c->o, c->field, "an array of objects with role and content");
    if (!fields_take(&o, &m))
        return false;
    if (!m.role)
        return fields_missing(&o, "role");
    if (!m.content && strcmp(m.role, "assistant")) /* whose turn may be without text */
        return fields_missing(&o, "content");
    return fill_in(c, &m);
}

static bool add_messages(struct conversation *c, const json_t *v)
{
    bool ok = true;
    if (!json_is_array(v) || !json_array_size(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return fields_fail(c->o->err, 400, "invalid_type", c->field, "%s: expected %san array of 1 to %d messages",
                           c->field,
                           c->o->fields->body == BODY_RESPONSES ? "a string or " : "", JSON_ARRAY_MAX);
    for (size_t i = 0; i < json_array_size(v) && ok; i++)
        ok = add_message(c, json_array_get(v, i), i);
    return ok;
}

/* Its text has its beginning, but behind a state, which has one; a failure of that is one of what comes behind. */
static struct conversation conversation(const struct object *o, const char *field, const struct completion_request *r)
{
    struct conversation c = {.o = o, .field = field, .template = request_chat_template(o->context)};
    const size_t templates = (JSON_ARRAY_MAX + 2) * sizeof o->context->conf->chat_message;
    deq_buf_init(&c.text, o->context->conf->max_body_bytes + templates);
    deq_buf_init(&c.own, 2 * templates); /* a part is one byte at least, and {content} before the next */
    if (!r->state[0])
        add_own(&c, c.template.begin, strlen(c.template.begin));
    return c;
}

/* The text becomes the request's prompt, unless there was an error; it is freed. */
static bool to_prompt(struct conversation *c, bool ok, struct completion_request *r)
{
    struct deq_err err;
    ok = ok && (add_own(c, c->template.reply, strlen(c->template.reply)) || fields_no_memory(c->o));
    if (ok && !(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
        ok = fields_no_memory(c->o);
    if (ok) {
        r->n_prompts = 1;
        if (deq_encode_ranges(c->o->context->model, c->text.data, c->text.len, (const void *)c->own.data,
                              c->own.len / sizeof(struct deq_range), &r->prompts[0], &err))
            ok = err.code == DEQ_ENOMEM
                     ? fields_no_memory(c->o)
                     : fields_fail(c->o->err, 400, "invalid_value", c->field, "%s: %s", c->field, err.text);
    }
    deq_buf_free(&c->text);
    deq_buf_free(&c->own);
    /* a model's own template says how its texts begin */
    if (ok && !r->state[0] && strcmp(c->template.source, "model") &&
        !deq_begin_text(c->o->context->model, &r->prompts[0]))
        ok = fields_no_memory(c->o);
    return ok && request_never_empty(c->o, "prompt", &r->prompts[0]);
}

bool request_take_messages(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct conversation c = conversation(o, f->name, request);
    return to_prompt(&c, add_messages(&c, v), request);
}

/* `instructions` are a system message in front; a string is a user's message. */
bool request_take_input(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct conversation c = conversation(o, f->name, request);
    const struct message instructions = {"system", json_object_get(o->json, "instructions")}, only = {"user", v};
    bool ok = !instructions.content || fill_in(&c, &instructions);
    ok = ok && (json_is_string(v) ? fill_in(&c, &only) : add_messages(&c, v));
    return to_prompt(&c, ok, request);
}
