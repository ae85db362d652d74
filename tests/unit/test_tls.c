/* server/net/tls.c: a certificate and its key are read together or not at all; what failed to be read again changes
 * nothing. */
#include "server/net/tls.h"

#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <time.h>

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* A key, and a certificate that it signed for itself. */
static void make_pair(const char *key_name, const char *cert_name, unsigned char serial)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t cert;
    gnutls_datum_t pem;
    REQUIRE(!gnutls_x509_privkey_init(&key) && !gnutls_x509_crt_init(&cert));
    CHECK(!gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
    CHECK(!gnutls_x509_crt_set_version(cert, 3) && !gnutls_x509_crt_set_serial(cert, &serial, 1) &&
          !gnutls_x509_crt_set_activation_time(cert, time(NULL)) &&
          !gnutls_x509_crt_set_expiration_time(cert, time(NULL) + 3600) && !gnutls_x509_crt_set_key(cert, key) &&
          !gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0));
    CHECK(!gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem));
    scratch_put(key_name, (const char *)pem.data);
    gnutls_free(pem.data);
    CHECK(!gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pem));
    scratch_put(cert_name, (const char *)pem.data);
    gnutls_free(pem.data);
    gnutls_x509_crt_deinit(cert);
    gnutls_x509_privkey_deinit(key);
}

/* The key, with another private half. */
static void damage(const char *key_name, const char *damaged_name)
{
    gnutls_x509_privkey_t key;
    gnutls_datum_t pem, x, y, k;
    gnutls_ecc_curve_t curve;
    REQUIRE(!gnutls_load_file(scratch_path(key_name), &pem) && !gnutls_x509_privkey_init(&key));
    CHECK(!gnutls_x509_privkey_import(key, &pem, GNUTLS_X509_FMT_PEM) &&
          !gnutls_x509_privkey_export_ecc_raw(key, &curve, &x, &y, &k));
    gnutls_free(pem.data);
    gnutls_x509_privkey_deinit(key);
    k.data[k.size - 1] ^= 1;
    CHECK(!gnutls_x509_privkey_init(&key) && !gnutls_x509_privkey_import_ecc_raw(key, curve, &x, &y, &k) &&
          !gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem));
    scratch_put(damaged_name, (const char *)pem.data);
    gnutls_free(pem.data);
    gnutls_free(x.data);
    gnutls_free(y.data);
    gnutls_free(k.data);
    gnutls_x509_privkey_deinit(key);
}

/* The serial number of the certificate that a handshake would get now; 0: none. */
static unsigned serial_served(void)
{
    gnutls_certificate_retrieve_function3 *retrieve = (gnutls_certificate_retrieve_function3 *)tls_retrieve_function();
    gnutls_pcert_st *certs = NULL;
    gnutls_ocsp_data_st *ocsp;
    gnutls_privkey_t key = NULL;
    unsigned n = 0, n_ocsp, flags;
    if (retrieve(NULL, NULL, &certs, &n, &ocsp, &n_ocsp, &key, &flags) || !n)
        return 0;
    gnutls_x509_crt_t cert;
    unsigned char serial[20] = {0};
    size_t size = sizeof serial;
    CHECK(!gnutls_x509_crt_init(&cert) && !gnutls_x509_crt_import(cert, &certs[0].cert, GNUTLS_X509_FMT_DER) &&
          !gnutls_x509_crt_get_serial(cert, serial, &size));
    gnutls_x509_crt_deinit(cert);
    for (unsigned i = 0; i < n; i++)
        gnutls_pcert_deinit(&certs[i]);
    gnutls_free(certs);
    gnutls_privkey_deinit(key);
    return serial[0];
}

TEST(tls_pairs)
{
    REQUIRE(scratch_begin());
    struct tls *t = NULL;
    struct deq_err err = {0};
    make_pair("key", "cert", 1);
    make_pair("other.key", "other.cert", 2);
    damage("key", "damaged.key");
    scratch_put("text", "no certificate\n");
    static const struct {
        const char *cert, *key;
        enum deq_rc rc;
        const char *says[2];
    } bad[] = {
        {"none", "key", DEQ_ENOTFOUND, {"tls.cert: ", "none"}},
        {"cert", "none", DEQ_ENOTFOUND, {"tls.key: ", "none"}},
        {"text", "key", DEQ_EFORMAT, {"tls.cert ", "text"}},
        {"cert", "text", DEQ_EFORMAT, {"tls.key ", "text"}},
        {"cert", "cert", DEQ_EFORMAT, {"tls.key ", "cert"}},
        {"cert", "damaged.key", DEQ_EFORMAT, {"tls.key: ", "damaged.key is damaged"}},
        {"cert", "other.key", DEQ_EFORMAT, {"other.key does not belong to the certificate", "cert"}},
    };
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        CHECK_EQ(tls_new(scratch_path(bad[i].cert), scratch_path(bad[i].key), &t, &err), bad[i].rc);
        CHECK_MSG(!t && strstr(err.text, bad[i].says[0]) && strstr(err.text, bad[i].says[1]), "case %zu: %s", i,
                  err.text);
    }
    CHECK_MSG(!tls_new(scratch_path("cert"), scratch_path("key"), &t, &err), "%s", err.text);
    REQUIRE(t);
    tls_serve(t);
    CHECK_EQ(serial_served(), 1);
    make_pair("key", "renewed.cert", 3); /* the key is new, its certificate not there yet */
    CHECK_EQ(tls_reload(t, &err), DEQ_EFORMAT);
    CHECK_EQ(serial_served(), 1);
    make_pair("key", "cert", 4);
    CHECK_EQ(tls_reload(t, &err), DEQ_OK);
    CHECK_EQ(serial_served(), 4);
    tls_serve(NULL);
    tls_free(t);
    tls_free(NULL);
    scratch_end("key", "cert", "other.key", "other.cert", "renewed.cert", "damaged.key", "text", NULL);
}
