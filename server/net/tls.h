/* The certificate and key of TLS listeners, loaded from PEM files, replaced while connections go on. TLS 1.2 and 1.3
 * only. Any thread: a handshake holds the pair that it began with. */
#ifndef DEQ_SERVER_TLS_H
#define DEQ_SERVER_TLS_H

#include "core/base/err.h"

struct tls;

/* Both files must be there and belong together. */
enum deq_rc tls_new(const char *cert_path, const char *key_path, struct tls **ret, struct deq_err *err);
/* Reads the files again for handshakes from now on; on failure the old ones stay. */
enum deq_rc tls_reload(struct tls *t, struct deq_err *err);
void tls_free(struct tls *t);
/* What GnuTLS calls in a handshake (gnutls_certificate_retrieve_function3). */
void *tls_retrieve_function(void);
/* That function has no argument of ours: it serves this one. One at a time. */
void tls_serve(struct tls *t);
const char *tls_priorities(void);

#endif
