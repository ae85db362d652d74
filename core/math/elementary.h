/* exp, log, sine and cosine of doubles whose bits do not depend on the machine: the C library chooses between versions
 * of its own by CPU, whose last bits differ, so what ends in an answer's bits uses these. Only + - * / and integer
 * operations, in a fixed order (compiled without contraction). Errors below 1e-15 relative to the result (sine, cosine:
 * to 1). Pure; any thread. Vectors of floats: exp_sum in kern.h. */
#ifndef DEQ_MATH_ELEMENTARY_H
#define DEQ_MATH_ELEMENTARY_H

double deq_exp(double x);                  /* below -708: 0; above 709: infinity */
double deq_log(double x);                  /* x > 0 and normal; 0: -infinity; else NaN */
void deq_sincos(double x, double *ret_sin, double *ret_cos); /* |x| <= 2^20 */

#endif
