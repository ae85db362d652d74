/* The form that answers are to fit: response_format, and text of /v1/responses, as OpenAI has them; structured_outputs
 * as vLLM has it. Made by the library, which keeps the last ones; what it does not support is refused by name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "server/api/request_impl.h"

/* What an object of either kind holds, as it is read. */
struct form_fields {
    enum form_type { AS_TEXT, AS_JSON, AS_SCHEMA } type;
    const json_t *json_schema, *schema;
    const char *name;              /* of the field that has a form */
    enum deq_form_kind kind;
    const json_t *given;           /* its value */
    size_t n_given;
    bool json_object, strict;
};

static bool take_object(const struct object *outer, const char *name, const char *prefix, const struct fields *fields,
                        const json_t *v, struct form_fields *ret)
{
    if (!json_is_object(v))
        return fields_bad_type(outer, name, "an object");
    const struct object o =
        {.json = v, .prefix = prefix, .fields = fields, .context = outer->context, .err = outer->err};
    return fields_take(&o, ret);
}

/* text: a string as it is, else the value's JSON. */
static bool compile(const struct object *o, const char *param, enum deq_form_kind kind, const json_t *v,
                    struct completion_request *r)
{
    struct deq_err err;
    char *made = json_is_string(v) ? NULL : deq_json_text(v, JSON_COMPACT | JSON_ENCODE_ANY);
    const char *text = made ? made : json_string_value(v);
    if (!text)
        return fields_no_memory(o);
    if (r->form) {
        free(made);
        return fields_bad_value(o, param, "an answer fits one form: response_format or structured_outputs, not both");
    }
    const size_t len = made ? strlen(made) : json_string_length(v);
    const enum deq_rc rc = deq_form_new(o->context->model, kind, text, len, &r->form, &err);
    free(made);
    if (!rc)
        return true;
    return rc == DEQ_EINVAL ? fields_fail(o->err, 400, "invalid_form", param, "%s: %s", param, err.text)
                            : fields_no_memory(o);
}

static bool any_object(const struct object *o, const char *param, struct completion_request *r)
{
    json_t *object = json_pack("{s:s}", "type", "object");
    if (!object)
        return fields_no_memory(o);
    const bool ok = compile(o, param, DEQ_FORM_SCHEMA, object, r);
    json_decref(object);
    return ok;
}

/* --- response_format --- */

static bool take_type(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char *const words[] = {[AS_TEXT] = "text", [AS_JSON] = "json_object", [AS_SCHEMA] = "json_schema"};
    const char *s = fields_word(v);
    if (!s)
        return fields_bad_type(o, f->name, "a string");
    for (size_t i = 0; i < DEQ_COUNT(words); i++)
        if (!strcmp(s, words[i])) {
            ((struct form_fields *)request)->type = (enum form_type)i;
            return true;
        }
    return fields_bad_value(o, f->name, "must be text, json_object or json_schema");
}

static bool take_schema(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    ((struct form_fields *)request)->schema = v;
    return json_is_object(v) || json_is_boolean(v) || fields_bad_type(o, f->name, "a JSON Schema");
}

static bool take_label(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request; /* says nothing of the form */
    return json_is_string(v) || fields_bad_type(o, f->name, "a string");
}

#define SCHEMA_FIELDS                                                           \
    {"name", OTHER, 0, 0, 0, take_label, "string"},                             \
    {"description", OTHER, 0, 0, 0, take_label, "string"},                      \
    {"strict", BOOL, 0, 0, offsetof(struct form_fields, strict), NULL, NULL},   \
    {"schema", OTHER, 0, 0, 0, take_schema, "JSON Schema"}
#define TYPE_FIELD {"type", OTHER, 0, 0, 0, take_type, "string: text, json_object, json_schema"}

static const struct field schema_rows[] = {SCHEMA_FIELDS};
const struct fields request_schema_fields = {.rows = schema_rows, .n = DEQ_COUNT(schema_rows), .name = "json_schema"};

static bool take_json_schema(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct form_fields *form = request;
    form->json_schema = v;
    return take_object(o, f->name, "response_format.json_schema.", &request_schema_fields, v, form);
}

static const struct field format_rows[] = {
    TYPE_FIELD,
    {"json_schema", OTHER, 0, 0, 0, take_json_schema, "object"},
};
const struct fields request_format_fields = {
    .rows = format_rows, .n = DEQ_COUNT(format_rows), .name = "response_format"};

bool request_take_format(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct form_fields form = {0};
    if (!take_object(o, f->name, "response_format.", &request_format_fields, v, &form))
        return false;
    if (form.json_schema && form.type != AS_SCHEMA)
        return fields_bad_value(o, "response_format.json_schema", "only with type json_schema");
    if (form.type == AS_TEXT)
        return true;
    if (form.type == AS_JSON)
        return any_object(o, f->name, request);
    if (!form.json_schema)
        return fields_missing(o, "response_format.json_schema");
    if (!form.schema)
        return fields_missing(o, "response_format.json_schema.schema");
    return compile(o, "response_format.json_schema.schema", DEQ_FORM_SCHEMA, form.schema, request);
}

/* --- text of /v1/responses --- */

static const struct field text_format_rows[] = {TYPE_FIELD, SCHEMA_FIELDS};
const struct fields request_text_format_fields = {
    .rows = text_format_rows, .n = DEQ_COUNT(text_format_rows), .name = "format"};

static bool take_text_format(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_object(o, f->name, "text.format.", &request_text_format_fields, v, request);
}

static const struct field text_rows[] = {{"format", OTHER, 0, 0, 0, take_text_format, "object"}};
const struct fields request_text_fields = {
    .rows = text_rows, .n = DEQ_COUNT(text_rows), .body = BODY_TEXT, .name = "text"};

bool request_take_text(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char param[] = "text.format.schema";
    struct form_fields form = {0};
    if (!take_object(o, f->name, "text.", &request_text_fields, v, &form))
        return false;
    if (form.schema && form.type != AS_SCHEMA)
        return fields_bad_value(o, param, "only with type json_schema");
    if (form.type == AS_TEXT)
        return true;
    if (form.type == AS_JSON)
        return any_object(o, "text.format", request);
    return form.schema ? compile(o, param, DEQ_FORM_SCHEMA, form.schema, request) : fields_missing(o, param);
}

/* --- structured_outputs --- */

static bool take_form(struct form_fields *form, const struct field *f, enum deq_form_kind kind, const json_t *v)
{
    form->name = f->name;
    form->kind = kind;
    form->given = v;
    form->n_given++;
    return true;
}

static bool take_json(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    if (!json_is_object(v) && !json_is_boolean(v) && !json_is_string(v))
        return fields_bad_type(o, f->name, "a JSON Schema, or its text");
    return take_form(request, f, DEQ_FORM_SCHEMA, v);
}

static bool take_regex(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return json_is_string(v) ? take_form(request, f, DEQ_FORM_REGEX, v) : fields_bad_type(o, f->name, "a string");
}

static bool take_grammar(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return json_is_string(v) ? take_form(request, f, DEQ_FORM_GRAMMAR, v) : fields_bad_type(o, f->name, "a string");
}

static bool take_choice(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    bool ok = json_is_array(v);
    for (size_t i = 0; ok && i < json_array_size(v); i++)
        ok = json_is_string(json_array_get(v, i));
    return ok ? take_form(request, f, DEQ_FORM_CHOICE, v) : fields_bad_type(o, f->name, "an array of strings");
}

static const struct field structured_rows[] = {
    {"choice", OTHER, 0, 0, 0, take_choice, "array of texts"},
    {"regex", OTHER, 0, 0, 0, take_regex, "string"},
    {"json", OTHER, 0, 0, 0, take_json, "JSON Schema or its text"},
    {"grammar", OTHER, 0, 0, 0, take_grammar, "string"},
    {"json_object", BOOL, 0, 0, offsetof(struct form_fields, json_object), NULL, NULL},
};
const struct fields request_structured_fields = {.rows = structured_rows,
                                                 .n = DEQ_COUNT(structured_rows),
                                                 .body = BODY_STRUCTURED,
                                                 .name = "structured_outputs"};

bool request_take_structured(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct form_fields form = {0};
    char param[64];
    if (!take_object(o, f->name, "structured_outputs.", &request_structured_fields, v, &form))
        return false;
    if (form.n_given + form.json_object > 1)
        return fields_bad_value(o, f->name, "only one of choice, regex, json, grammar and json_object");
    if (form.json_object)
        return any_object(o, "structured_outputs.json_object", request);
    if (!form.n_given) /* asks for nothing */
        return true;
    snprintf(param, sizeof param, "structured_outputs.%s", form.name);
    return compile(o, param, form.kind, form.given, request);
}
