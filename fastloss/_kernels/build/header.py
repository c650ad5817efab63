"""The text of `fastloss.h`, every pointwise loss as inlined C functions, and of `__init__.pxd`, which lets Cython cimport them."""

from fastloss.formula import F64, PRECISIONS, VECTOR_FUNCTIONS, c

HEAD = """/* Losses and their derivatives as inlined functions, written by the build of fastloss from its formulas.
 *
 * double fastloss_huber_f64(double pred, double target, double delta);       the loss of one element
 * double fastloss_huber_grad_f64(double pred, double target, double delta);  its derivative by the first argument
 * double fastloss_huber_hess_f64(double pred, double target, double delta);  its second derivative
 *
 * The same in float with _f32. Arguments are a formula's inputs, then its hyperparameters; NaN stands for one that is None in Python.
 * Nothing is checked: outside a formula's domain the result is whatever the arithmetic gives. The functions of fastloss's vector math
 * are there too, as fastloss_math_exp_f64 and the like. Plain C99, with no Python in it. */

#ifndef FASTLOSS_H
#define FASTLOSS_H

#include "fastloss_machine.h"

#if defined(__FAST_MATH__)
#error "fastloss.h: must be compiled without -ffast-math, which makes wrong numbers of its vector math"
#endif
"""

PXD = """# Written by the build from the formulas: `from fastloss cimport huber_f64, huber_grad_f64`.
# The header lies in the folder `fastloss.get_include()`.

cdef extern from "fastloss.h" nogil:
"""


def header(formulas):
    """The header's text, and the declarations for Cython."""
    vectors = [
        c.function_text(function.trace(precision), precision, function.source, c.PortableC)
        for function in VECTOR_FUNCTIONS.values()
        for precision in PRECISIONS
    ]
    # They call each other, whichever comes first.
    prototypes = "\n".join(text.splitlines()[1].replace(" {", ";") for text in vectors)
    texts, declared = [HEAD.rstrip(), prototypes, *vectors], []
    for formula in formulas:
        for precision in PRECISIONS:
            for name, arguments, text in c.loss_texts(formula, F64, precision):
                texts.append(text)
                declared.append("    " + c.declaration(name, arguments, precision))
    return "\n\n".join([*texts, "#endif\n"]), PXD + "\n".join(declared) + "\n"
