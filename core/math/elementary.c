#include "core/math/elementary.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static double from_bits(uint64_t b)
{
    double x;
    memcpy(&x, &b, 8);
    return x;
}

static uint64_t to_bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, 8);
    return b;
}

/* the nearest whole number, for |x| < 2^51 */
static double nearest(double x)
{
    const double big = 0x1.8p52;
    return (x + big) - big;
}

/* x = n ln 2 + r, |r| <= 0.35: 2^n times Taylor's series. ln 2 in two parts, the first with zeros behind 32 bits, so
 * that n times it is exact. */
double deq_exp(double x)
{
    static const double LN2_HI = 0x1.62e42feep-1, LN2_LO = 0x1.a39ef35793c76p-33, LOG2E = 0x1.71547652b82fep+0;
    if (x != x)
        return x;
    if (x < -708)
        return 0;
    if (x > 709)
        return INFINITY;
    const double n = nearest(x * LOG2E), r = (x - n * LN2_HI) - n * LN2_LO;
    double p = 1;
    for (int k = 14; k >= 1; k--) /* 0.35^15 / 15! < 2e-19 */
        p = 1 + p * r / k;
    return p * from_bits((uint64_t)((int64_t)n + 1022) << 52) * 2; /* n may be 1023 and, just, 1024 with p below 1 */
}

/* x = 2^n m, m in [sqrt(1/2), sqrt(2)): n ln 2 + 2 artanh(s), s = (m - 1) / (m + 1), |s| <= 0.172 */
double deq_log(double x)
{
    static const double LN2_HI = 0x1.62e42feep-1, LN2_LO = 0x1.a39ef35793c76p-33;
    if (!(x > 0))
        return x == 0 ? -INFINITY : (double)NAN;
    if (x > 0x1.fffffffffffffp1023)
        return x;
    uint64_t bits = to_bits(x);
    int n = (int)(bits >> 52) - 1023;
    double m = from_bits((bits & 0xfffffffffffffu) | (uint64_t)1023 << 52);
    if (m > 1.4142135623730951) {
        m /= 2;
        n++;
    }
    const double f = m - 1, s = f / (2 + f), q = s * s;
    double p = 0;
    for (int k = 25; k >= 3; k -= 2) /* 0.0296^12 / 27 < 2e-20 */
        p = (p + 1.0 / k) * q;
    return n * LN2_HI + (2 * s + (2 * s * p + n * LN2_LO));
}

/* x = n pi/2 + r, |r| <= pi/4. pi/2 in three parts, the first two with zeros behind 33 bits: n times them is exact. */
void deq_sincos(double x, double *ret_sin, double *ret_cos)
{
    static const double P1 = 0x1.921fb544p+0, P2 = 0x1.0b4611a6p-34, P3 = 0x1.3198a2e037073p-69,
                        TWO_OVER_PI = 0x1.45f306dc9c883p-1;
    const double n = nearest(x * TWO_OVER_PI), r = ((x - n * P1) - n * P2) - n * P3, q = r * r;
    double s = 1, c = 1;
    for (int k = 20; k >= 2; k -= 2) { /* pi/4 to the 21st over 21! < 1e-21 */
        s = 1 - s * q / (k * (k + 1));
        c = 1 - c * q / (k * (k - 1));
    }
    s *= r;
    switch ((int64_t)n & 3) {
    case 0: *ret_sin = s, *ret_cos = c; break;
    case 1: *ret_sin = c, *ret_cos = -s; break;
    case 2: *ret_sin = -s, *ret_cos = -c; break;
    default: *ret_sin = -c, *ret_cos = s; break;
    }
}
