"""Elementary functions of the renderer for numba, one number at a time: the same operations as native/lanes.h.

Single precision throughout, no fused multiply-add, the same order of operations: the bits are those of the native core
(a test compares them). A constant wrapped in F stays single; a bare one would turn the sum into double precision.
"""

import math

import numpy as np

from operators.lab.compiled import inner

F = np.float32
_POWER = np.array([2.0**n for n in range(-126, 128)], F)
_MAGIC = F(12582912.0)
_WORD = F(5.9604644775390625e-8)  # 2**-24


@inner
def exp32(x):
    """exp(x); 0 below -87, argument limited to 88."""
    if x < F(-87.0):
        return F(0.0)
    x = min(x, F(88.0))
    f = (x * F(1.44269504) + _MAGIC) - _MAGIC
    r = x - f * F(0.693359375)
    r = r - f * F(-2.12194440e-4)
    p = r * F(1.9875691500e-4) + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * (r * r) + r + F(1.0)
    return p * _POWER[int(f) + 126]


@inner
def log32(x):
    """log(x) of positive normal numbers."""
    fraction, e = math.frexp(x)
    m = F(fraction)
    if m < F(0.70710678):
        e -= 1
        m = m + m - F(1.0)
    else:
        m = m - F(1.0)
    z = m * m
    p = m * F(7.0376836292e-2) + F(-1.1514610310e-1)
    p = p * m + F(1.1676998740e-1)
    p = p * m + F(-1.2420140846e-1)
    p = p * m + F(1.4249322787e-1)
    p = p * m + F(-1.6668057665e-1)
    p = p * m + F(2.0000714765e-1)
    p = p * m + F(-2.4999993993e-1)
    p = p * m + F(3.3333331174e-1)
    f = F(e)
    y = p * m * z
    y = y + f * F(-2.12194440e-4)
    y = y - z * F(0.5)
    return m + y + f * F(0.693359375)


@inner
def erf32(x):
    """erf(x)."""
    x = min(max(x, F(-4.0)), F(4.0))
    z = x * x
    p = z * F(-2.72614225801306e-10) + F(2.77068142495902e-08)
    p = p * z + F(-2.10102402082508e-06)
    p = p * z + F(-5.69250639462346e-05)
    p = p * z + F(-7.34990630326855e-04)
    p = p * z + F(-2.95459980854025e-03)
    p = p * z + F(-1.60960333262415e-02)
    q = z * F(-1.45660718464996e-05) + F(-2.13374055278905e-04)
    q = q * z + F(-1.68282697438203e-03)
    q = q * z + F(-7.37332916720468e-03)
    q = q * z + F(-1.42647390514189e-02)
    return x * p / q


@inner
def normals32(a, b):
    """Two independent normal numbers from two words."""
    u = F(np.int64((a >> np.uint32(8)) + np.uint32(1))) * _WORD
    radius = F(math.sqrt(log32(u) * F(-2.0)))
    t = F(np.int64(b >> np.uint32(8))) * F(2.384185791015625e-7)
    whole = (t + _MAGIC) - _MAGIC
    q = int(whole)
    r = (t - whole) * F(1.57079633)
    z = r * r
    s = z * F(-1.9515295891e-4) + F(8.3321608736e-3)
    s = s * z + F(-1.6666654611e-1)
    s = s * z * r + r
    c = z * F(2.443315711809948e-5) + F(-1.388731625493765e-3)
    c = c * z + F(4.166664568298827e-2)
    c = c * z * z - z * F(0.5) + F(1.0)
    if q & 1:
        s, c = c, s
    if (q + 1) & 2:
        c = -c
    if q & 2:
        s = -s
    return radius * c, radius * s


@inner
def quantile32(word):
    """The normal quantile of the centre of a word's cell."""
    x = F(np.int64(word >> np.uint32(8)) * 2 - 16777215) * _WORD
    w = log32((F(1.0) - x) * (F(1.0) + x)) * F(-1.0)
    if w < F(5.0):
        c = w - F(2.5)
        p = c * F(2.81022636e-08) + F(3.43273939e-07)
        p = p * c + F(-3.5233877e-06)
        p = p * c + F(-4.39150654e-06)
        p = p * c + F(0.00021858087)
        p = p * c + F(-0.00125372503)
        p = p * c + F(-0.00417768164)
        p = p * c + F(0.246640727)
        p = p * c + F(1.50140941)
    else:
        d = F(math.sqrt(w)) - F(3.0)
        p = d * F(-0.000200214257) + F(0.000100950558)
        p = p * d + F(0.00134934322)
        p = p * d + F(-0.00367342844)
        p = p * d + F(0.00573950773)
        p = p * d + F(-0.0076224613)
        p = p * d + F(0.00943887047)
        p = p * d + F(1.00167406)
        p = p * d + F(2.83297682)
    return p * x * F(1.41421356)


@inner
def unit32(word):
    """A word as a number in [0, 1), 24 bits."""
    return F(np.int64(word >> np.uint32(8))) * _WORD


@inner
def rounded32(v):
    """Round half to even, |v| < 2**22."""
    return (v + _MAGIC) - _MAGIC


@inner
def philox(c0, c1, c2, c3, k0, k1):
    """Philox-4x32-10: four words of a counter; every argument and result is uint32."""
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a = np.uint64(0xD2511F53) * np.uint64(c0)
        b = np.uint64(0xCD9E8D57) * np.uint64(c2)
        c0 = np.uint32(np.uint32(b >> np.uint64(32)) ^ c1 ^ k0)
        c1 = np.uint32(b & mask)
        c2 = np.uint32(np.uint32(a >> np.uint64(32)) ^ c3 ^ k1)
        c3 = np.uint32(a & mask)
        k0 = np.uint32((np.uint64(k0) + np.uint64(0x9E3779B9)) & mask)
        k1 = np.uint32((np.uint64(k1) + np.uint64(0xBB67AE85)) & mask)
    return c0, c1, c2, c3
