/* POST /admin/reload: keys and certificate at once, the model on a thread of its own, which answers. */
#include "server/api/answer.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"
#include "server/log.h"

/* On the reload's thread; ctx: the channel that waits, held. */
static void answer(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint)
{
    struct channel *c = ctx;
    struct deq_buf b;
    deq_buf_init(&b, 4096);
    if (rc)
        reply_error(&b, rc == DEQ_ECANCELED ? 503 : 500, "reload_failed", NULL, err->text);
    else
        reply_json(&b, json_pack("{s:s, s:s}", "status", "ok", "fingerprint", fingerprint));
    answer_whole(c, rc == DEQ_ECANCELED ? 503 : rc ? 500 : 200, "application/json", &b);
    deq_buf_free(&b);
    channel_unref(c);
}

void ep_reload(struct service *s, struct served *m, struct exchange *x)
{
    (void)m;
    struct deq_err err;
    log_line(LOG_INFO, "reload asked for", log_text("request_id", x->request_id));
    if (service_reload_secrets(s, &err)) { /* the weights stay too: whoever asked mends the file first */
        exchange_error(x, 500, "reload_failed", NULL, err.text);
        return;
    }
    channel_ref(x->channel);
    if (store_reload(s->store, answer, x->channel))
        return;
    channel_unref(x->channel);
    x->retry_after_ms = 1000;
    exchange_error(x, 503, "reload_in_progress", NULL, "a reload is under way, or four earlier models still have work");
}
