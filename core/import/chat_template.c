#include "core/import/chat_template.h"

#include <jansson.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/import/jinja.h"
#include "core/text/tokenizer_config.h"

enum { ROLES = 3, LONG = 5 };

static const char *const roles[ROLES] = {"system", "user", "assistant"};
/* Every role between two others: what stands around these is a message's alone. */
static const char *const between[LONG] = {"system", "system", "user", "assistant", "system"};

struct span {
    const char *s;
    size_t n;
};

static struct span message_of(const struct deq_jinja_output *o, size_t i)
{
    return (struct span){o->text + o->begin[i], o->end[i] - o->begin[i]};
}

static bool is_content(char c)
{
    return c == DEQ_JINJA_CONTENT || c == DEQ_JINJA_TRIMMED;
}

/* A fixed text into a key of the chat. */
static enum deq_rc put_text(struct span t, const char *key, char *ret, size_t size, struct deq_err *err)
{
    for (size_t i = 0; i < t.n; i++)
        if (is_content(t.s[i]))
            return deq_fail(err, DEQ_EFORMAT, "a message's content stands outside of its message");
    if (t.n >= size)
        return deq_fail(err, DEQ_EFORMAT, "%s: would have %zu bytes, of at most %zu", key, t.n, size - 1);
    memcpy(ret, t.s, t.n);
    ret[t.n] = 0;
    return DEQ_OK;
}

/* One message for all roles. Names of roles begin with different letters, so that where the texts differ there is only
 * one way to take them. */
static enum deq_rc join(const struct span form[ROLES], struct deq_chat *ret, struct deq_err *err)
{
    struct deq_buf b;
    size_t at[ROLES] = {0};
    bool ok = true, content = false;
    deq_buf_init(&b, sizeof ret->message - 1);
    while (ok && at[0] < form[0].n) {
        const char c = form[0].s[at[0]];
        bool role = true, equal = true;
        for (size_t i = 0; i < ROLES; i++) {
            const size_t n = strlen(roles[i]), left = form[i].n - at[i];
            role = role && left >= n && !memcmp(form[i].s + at[i], roles[i], n);
            equal = equal && left && form[i].s[at[i]] == c;
        }
        for (size_t i = 0; i < ROLES; i++)
            at[i] += role ? strlen(roles[i]) : 1;
        ok = role || equal;
        content = content || is_content(c);
        if (role)
            deq_buf_str(&b, "{role}");
        else if (is_content(c))
            deq_buf_str(&b, c == DEQ_JINJA_CONTENT ? "{content}" : "{content_trimmed}");
        else
            deq_buf_add(&b, &c, 1);
    }
    for (size_t i = 0; i < ROLES; i++)
        ok = ok && at[i] == form[i].n;
    enum deq_rc rc = DEQ_OK;
    if (!ok)
        rc = deq_fail(err, DEQ_EFORMAT, "messages of system, user and assistant differ in more than the role's name");
    else if (!content)
        rc = deq_fail(err, DEQ_EFORMAT, "messages are shown without their content");
    else if (b.failed)
        rc = deq_fail(err, b.full ? DEQ_EFORMAT : DEQ_ENOMEM, "message: would have more than %zu bytes", b.max);
    else
        memcpy(ret->message, b.data, b.len + 1);
    deq_buf_free(&b);
    return rc;
}

static bool equals(const struct deq_jinja_output *o, const struct deq_chat *c, const struct span form[ROLES],
                   const char *const *talk, size_t n)
{
    size_t at = strlen(c->begin);
    bool ok = o->len >= at && !memcmp(o->text, c->begin, at);
    for (size_t i = 0; i < n && ok; i++) {
        size_t k = 0;
        while (strcmp(roles[k], talk[i]))
            k++;
        ok = o->len - at >= form[k].n && !memcmp(o->text + at, form[k].s, form[k].n);
        at += form[k].n;
    }
    return ok && o->len - at == strlen(c->reply) && !memcmp(o->text + at, c->reply, o->len - at);
}

/* Every role first, last, and alone. */
static enum deq_rc prove(const struct deq_jinja *t, const char *bos, const char *eos, const struct span form[ROLES],
                         const struct deq_chat *c, struct deq_jinja_output *o, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    for (size_t first = 0; first < ROLES && !rc; first++)
        for (size_t last = 0; last <= ROLES && !rc; last++) {
            const size_t n = last < ROLES ? LONG : 1;
            const char *talk[LONG];
            memcpy(talk, between, sizeof talk);
            talk[0] = roles[first];
            talk[LONG - 1] = roles[DEQ_MIN(last, (size_t)ROLES - 1)];
            rc = deq_jinja_run(t, talk, n, bos, eos, o, err);
            if (!rc && !equals(o, c, form, talk, n))
                rc = deq_fail(err, DEQ_EFORMAT, "what stands around a message depends on its role and place");
        }
    return rc;
}

/* s: what stands behind an assistant's content */
static enum deq_rc put_stop(struct span s, const struct deq_tokenizer *tok, struct deq_chat *ret, struct deq_err *err)
{
    struct deq_tokens t = {0};
    const enum deq_rc rc = deq_tokenizer_encode(tok, s.s, s.n, true, &t, err);
    for (size_t i = 0; i < t.n; i++)
        if (deq_tokenizer_is_special(tok, t.ids[i])) {
            s.s = deq_tokenizer_bytes(tok, t.ids[i], &s.n);
            break;
        }
    deq_tokens_free(&t);
    /* what has no tokens is only text */
    return rc == DEQ_ENOMEM ? rc : put_text(s, "stop", ret->stop, sizeof ret->stop, err);
}

/* From the run over `between`. */
static enum deq_rc derive(const struct deq_jinja *t, const char *bos, const char *eos, const struct deq_tokenizer *tok,
                          struct deq_jinja_output o[2], struct deq_chat *ret, struct deq_err *err)
{
    enum deq_rc rc = deq_jinja_run(t, between, LONG, bos, eos, &o[0], err);
    if (rc)
        return rc;
    const struct span form[ROLES] = {message_of(&o[0], 1), message_of(&o[0], 2), message_of(&o[0], 3)};
    const size_t n = form[0].n, last = o[0].begin[LONG - 1];
    if (o[0].end[0] < n || o[0].len - last < n)
        return deq_fail(err, DEQ_EFORMAT, "what stands around a message depends on its role and place");
    rc = join(form, ret, err);
    if (!rc)
        rc = put_text((struct span){o[0].text, o[0].end[0] - n}, "begin", ret->begin, sizeof ret->begin, err);
    if (!rc)
        rc = put_text((struct span){o[0].text + last + n, o[0].len - last - n}, "reply", ret->reply, sizeof ret->reply,
                      err);
    if (!rc)
        rc = prove(t, bos, eos, form, ret, &o[1], err);
    struct span end = form[ROLES - 1];
    for (size_t i = end.n; i-- && !rc;)
        if (is_content(end.s[i]))
            return put_stop((struct span){end.s + i + 1, end.n - i - 1}, tok, ret, err);
    return rc;
}

static bool has_placeholder(const char *text)
{
    return strstr(text, "{role}") || strstr(text, "{content}") || strstr(text, "{content_trimmed}");
}

enum deq_rc deq_chat_template_derive(const char *text, size_t len, const char *bos, const char *eos,
                                     const struct deq_tokenizer *tok, struct deq_chat *ret, struct deq_err *err)
{
    struct deq_jinja t = {0};
    struct deq_chat chat = {0};
    struct deq_jinja_output *o = DEQ_NEW_ARRAY(struct deq_jinja_output, 2);
    enum deq_rc rc = o ? deq_jinja_parse(text, len, &t, err) : deq_fail(err, DEQ_ENOMEM, "no memory for its text");
    if (!rc && has_placeholder(t.text))
        rc = deq_fail(err, DEQ_EFORMAT, "a text with {role} or {content} in it");
    if (!rc)
        rc = derive(&t, bos, eos, tok, o, &chat, err);
    if (!rc)
        *ret = chat;
    deq_jinja_free(&t);
    deq_free(o);
    return rc;
}

/* --- Where it stands --- */

/* A text, or that called default of a list; NULL: another thing. */
static const char *default_of(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *o = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(o, "name"));
        if (name && !strcmp(name, "default"))
            return json_string_value(json_object_get(o, "template"));
    }
    return json_string_value(v);
}

static enum deq_rc from_config(const json_t *root, const char *jinja, size_t len, const struct deq_tokenizer *tok,
                               struct deq_chat *ret, struct deq_err *err)
{
    const json_t *v = json_object_get(root, "chat_template");
    if (!jinja && (!v || json_is_null(v)))
        return DEQ_OK;
    const char *text = jinja ? jinja : default_of(v);
    if (!text)
        return deq_fail(err, DEQ_EFORMAT, "chat_template: expected a text, or a list with one that is called default");
    const enum deq_rc rc = deq_chat_template_derive(text, jinja ? len : strlen(text),
                                                    deq_tokenizer_config_token(root, "bos_token"),
                                                    deq_tokenizer_config_token(root, "eos_token"), tok, ret, err);
    return rc ? deq_fail_prefix(err, rc, jinja ? "chat_template.jinja" : "chat_template") : DEQ_OK;
}

enum deq_rc deq_chat_template_load(const char *dir, const struct deq_tokenizer *tok, struct deq_chat *ret,
                                   struct deq_err *err)
{
    char path[4096], *jinja = NULL;
    size_t len = 0;
    json_t *root;
    enum deq_rc rc = deq_tokenizer_config_read(dir, &root, err);
    if (rc)
        return rc;
    *ret = (struct deq_chat){0};
    if (!deq_io_join(path, sizeof path, dir, "chat_template.jinja"))
        rc = deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    else if (deq_io_exists(path))
        rc = deq_text_read(path, DEQ_JINJA_MAX_BYTES, &jinja, &len, err);
    if (!rc)
        rc = from_config(root, jinja, len, tok, ret, err);
    deq_free(jinja);
    json_decref(root);
    return rc;
}
