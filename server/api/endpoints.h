/* The endpoints, as route.c's table names them. Each answers x, or hands work to the scheduler that will answer through
 * x->channel (x->status stays 0). m: the model at hand, theirs to release; NULL for endpoints that need none.
 * On a thread of the HTTP server, or on the one that large bodies have. */
#ifndef DEQ_SERVER_ENDPOINTS_H
#define DEQ_SERVER_ENDPOINTS_H

#include "server/api/service.h"
#include "server/net/http.h"

/* completion.c */
void ep_completions(struct service *s, struct served *m, struct exchange *x);
void ep_chat(struct service *s, struct served *m, struct exchange *x);
void ep_responses(struct service *s, struct served *m, struct exchange *x);
/* ep_logits.c */
void ep_logits(struct service *s, struct served *m, struct exchange *x);
/* ep_equilibria.c */
void ep_equilibria(struct service *s, struct served *m, struct exchange *x);
void ep_embeddings(struct service *s, struct served *m, struct exchange *x);
/* ep_states.c */
void ep_state_save(struct service *s, struct served *m, struct exchange *x);
void ep_states(struct service *s, struct served *m, struct exchange *x);
void ep_state(struct service *s, struct served *m, struct exchange *x);
void ep_state_put(struct service *s, struct served *m, struct exchange *x);
void ep_state_delete(struct service *s, struct served *m, struct exchange *x);
/* ep_tokens.c */
void ep_tokenize(struct service *s, struct served *m, struct exchange *x);
void ep_detokenize(struct service *s, struct served *m, struct exchange *x);
void ep_tokenizer_info(struct service *s, struct served *m, struct exchange *x);
/* ep_models.c */
void ep_models(struct service *s, struct served *m, struct exchange *x);
void ep_model(struct service *s, struct served *m, struct exchange *x);
/* ep_about.c */
void ep_version(struct service *s, struct served *m, struct exchange *x);
void ep_openapi(struct service *s, struct served *m, struct exchange *x);
/* ep_page.c */
void ep_page(struct service *s, struct served *m, struct exchange *x);
/* ep_health.c */
void ep_live(struct service *s, struct served *m, struct exchange *x);
void ep_ready(struct service *s, struct served *m, struct exchange *x);
void ep_startup(struct service *s, struct served *m, struct exchange *x);
void ep_metrics(struct service *s, struct served *m, struct exchange *x);
/* ep_sequences.c */
void ep_sequences(struct service *s, struct served *m, struct exchange *x);
void ep_end_sequence(struct service *s, struct served *m, struct exchange *x);
/* ep_admin.c */
void ep_reload(struct service *s, struct served *m, struct exchange *x);

#endif
