"""Answers built to hang or exhaust whoever parses or compares them, by what they are; and how they are put beside others."""

from __future__ import annotations

_TERMS = 120

HOSTILE: dict[str, str] = {
    "tower of powers": "A: 9**9**9**9",
    "tower of powers, LaTeX": "$9^{9^{9^{9}}}$",
    "tower of powers, modulo": "\\boxed{7^{7^{7^{7}}} \\mod 1000}",
    "huge exponent": "\\boxed{2^{10^{12}}}",
    "huge factorial": "\\boxed{(10^{9})!}",
    "nested factorials": "\\boxed{((((9!)!)!)!)}",
    "huge binomial": "\\boxed{\\binom{10^{9}}{5\\cdot10^{8}}}",
    "huge product": "\\boxed{\\prod_{k=1}^{10^{8}}k}",
    "long sum to a limit": "\\boxed{\\sum_{n=1}^{10^{9}}\\frac{1}{n^{3}+\\sqrt{n}}}",
    "integral without a closed form": "\\boxed{\\int_0^1 e^{-x^{7}}\\sin(x^{5})\\ln(x+\\sqrt{x})dx}",
    "limit of a high order": "\\boxed{\\lim_{x\\to 0}\\frac{\\sin(\\tan x)-\\tan(\\sin x)}{x^{7}}}",
    "nested radicals": "\\boxed{" + "\\sqrt{1+" * 35 + "1" + "}" * 35 + "}",
    "nested fractions": "\\boxed{" + "\\frac{1}{1+" * 38 + "1" + "}" * 38 + "}",
    "nested functions": "\\boxed{" + "\\sin(\\cos(" * 15 + "x" + "))" * 15 + "}",
    "nested logarithms": "\\boxed{\\log_{2}(\\log_{2}(2^{2^{2^{2^{2}}}}))}",
    "power of a long sum": "\\boxed{(a+b+c+d+e+f+g)^{60}-(a+b+c+d+e+f+h)^{60}}",
    "quotients of polynomials": "\\boxed{" + "\\frac{x^{50}-1}{x-1}\\cdot" * 10 + "1}",
    "sum of radicals": "\\boxed{" + "+".join(f"\\sqrt{{{n}}}" for n in range(2, _TERMS)) + "}",
    "polynomial of 300 terms": "\\boxed{" + "+".join(f"x^{{{n}}}" for n in range(1, 300)) + "}",
    "set of radicals": "\\boxed{\\{" + ",".join(f"\\sqrt{{{n}}}+\\sqrt{{{n + 1}}}" for n in range(2, 60)) + "\\}}",
    "power of a matrix": "\\boxed{\\begin{pmatrix}"
    + "\\\\".join("&".join(f"a_{{{row}{column}}}" for column in range(7)) for row in range(7))
    + "\\end{pmatrix}^{20}}",
    "fraction of 2,000 digits": "\\boxed{\\frac{" + "9" * 2000 + "}{" + "7" * 2000 + "}}",
    "5,000 brackets": "A: " + "(" * 5000 + "1" + ")" * 5000,
    "2,000 boxes": "\\boxed{" * 2000 + "5" + "}" * 2000,
    "4,000 dollars": "$" * 4000,
    "2,000 backslashes": "\\boxed{" + "\\" * 2000 + "}",
    "2,000 percent signs": "A: " + "5%" * 2000,
    "1,000 commas": "\\boxed{" + "1," * 1000 + "}",
    "120 equations": "A: " + "x=1," * _TERMS,
    "digits of another script": "A: " + "\u0663" * 2000 + "\u221e" * 500,
}
"""Some of them are harmless here: they would not be with a slower parser."""
