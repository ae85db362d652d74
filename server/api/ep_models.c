/* GET /v1/models: what is served here, and how it may be asked. */
#include <string.h>

#include "core/base/json.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"

/* Numbers and booleans stand in facts as JSON has them. */
static json_t *fact_value(const struct deq_fact *f)
{
    json_t *v = NULL;
    json_error_t where;
    if (f->type == DEQ_FACT_TEXT)
        return json_string(f->value);
    (void)deq_json_parse(f->value, strlen(f->value), JSON_DECODE_ANY, &v, &where);
    return v;
}

/* The cell's sizes, and the keys of config.json that its kind has; NULL: no memory. */
static json_t *architecture(const struct deq_model_info *i)
{
    json_t *o = json_pack("{s:i, s:i}", "hidden_size", (int)i->d_model, "state_size", (int)i->state_dim);
    for (size_t k = 0; k < i->n_facts && o; k++)
        if (json_object_set_new(o, i->facts[k].key, fact_value(&i->facts[k]))) {
            json_decref(o);
            o = NULL;
        }
    return o;
}

static json_t *model_object(const struct service *s, const struct served *m)
{
    const struct deq_model_info *i = &m->info;
    static const char *const modes[] = {"fixed", "elastic"};
    json_t *presets = json_object();
    for (int k = 0; k < PRESETS && presets; k++)
        if (json_object_set_new(presets, request_preset_names[k],
                                json_pack("{s:o}", "tol", reply_setting(request_preset_tol(s->conf, i, k))))) {
            json_decref(presets); /* no memory: what holds it cannot be made either */
            presets = NULL;
        }
    const struct request_context c = service_context(s, m);
    const struct chat_template t = request_chat_template(&c);
    json_t *deq = json_pack("{s:s, s:o, s:s, s:s, s:s, s:o, s:i, s:i, s:i, s:s, s:b, s:b, s:I, s:s, s:i, s:o, s:o, "
                            "s:o, s:i, s:i, s:s, s:{s:s, s:s, s:s, s:s, s:s}}", "model_type", i->model_type,
                            "architecture", architecture(i), "numeric_class", deq_class_name(i->numeric), "solver",
                            deq_solver_name(i->solver), "stop", deq_stop_rule_name(i->stop), "tol",
                            reply_setting(i->tol), "max_iter", (int)i->max_iter,
                            "window", (int)i->window, "prefill_window", (int)i->prefill_window, "warm_start",
                            deq_warm_name(i->warm_start), "predictor", (int)i->has_predictor, "proposal",
                            (int)i->has_proposal, "parameters", (json_int_t)i->parameters, "fingerprint",
                            i->fingerprint, "vocab_size", (int)i->vocab_size, "presets", presets, "tol_min",
                            reply_setting(s->conf->tol_min), "tol_max", reply_setting(s->conf->tol_max),
                            "max_iter_max", (int)s->conf->max_iter_max, "max_window",
                            (int)s->conf->max_window, "depth", modes[s->conf->depth_mode],
                            "chat_template", "source", t.source, "begin", t.begin, "message", t.message, "reply",
                            t.reply, "stop", t.stop);
    return json_pack("{s:s, s:s, s:I, s:s, s:i, s:i, s:o}", "id", m->name, "object", "model", "created",
                     (json_int_t)(m->loaded_ms / 1000), "owned_by", "deqd", "max_model_len",
                     (int)sched_max_positions(m->sched), "attention_window", (int)i->lookback + 1, "deqd", deq);
}

void ep_models(struct service *s, struct served *m, struct exchange *x)
{
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(s, m)));
    store_release(m);
}

static int hex_digit(char c)
{
    const char low = c | 0x20;
    return c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* Whether the end of a path is this name, percent-encoded or not: clients write org/model either way. */
static bool path_is(const char *path, const char *name)
{
    for (; *path && *name; path++, name++) {
        char c = *path;
        if (c == '%' && hex_digit(path[1]) >= 0 && hex_digit(path[2]) >= 0) {
            c = (char)(hex_digit(path[1]) << 4 | hex_digit(path[2]));
            path += 2;
        }
        if (c != *name)
            return false;
    }
    return *path == *name;
}

void ep_model(struct service *s, struct served *m, struct exchange *x)
{
    if (!path_is(x->path + strlen("/v1/models/"), m->name)) {
        exchange_error(x, 404, "model_not_found", NULL, "no such model is served here; GET /v1/models lists what is");
    } else {
        x->status = 200;
        reply_json(&x->reply, model_object(s, m));
    }
    store_release(m);
}
