/* The module of one level of the processor: its kernels, found by name. Compiled once for each level, as all that it links. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define FASTLOSS_UNIT(name) extern const Kernel fastloss_##name[];
FASTLOSS_UNIT(tilework)
#include "units.h"
#undef FASTLOSS_UNIT

#define FASTLOSS_UNIT(name) fastloss_##name,
static const Kernel *const UNITS[] = {FASTLOSS_UNIT(tilework)
#include "units.h"
};
#undef FASTLOSS_UNIT

/* Open addressing; the table is never more than half full. */
enum { SLOTS = 1 << 13 };
static const Kernel *table[SLOTS];
static Py_ssize_t entered;

static const Kernel **slot(const char *name) {
    uint32_t hash = 2166136261u;
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (uint32_t k = (hash ^ (hash >> 15)) % SLOTS;; k = (k + 1) % SLOTS)
        if (!table[k] || strcmp(table[k]->name, name) == 0)
            return &table[k];
}

static int enter_units(PyObject *module) {
    if (entered)
        return 0; /* another interpreter has been here */
    for (size_t u = 0; u < sizeof UNITS / sizeof UNITS[0]; u++)
        for (const Kernel *kernel = UNITS[u]; kernel->name; kernel++) {
            const Kernel **free = slot(kernel->name);
            if (*free || 2 * ++entered > SLOTS) {
                PyErr_Format(PyExc_SystemError, "fastloss: %s must be there once, and %d kernels in all", kernel->name,
                             SLOTS / 2);
                return -1;
            }
            *free = kernel;
        }
    return 0;
}

static const Kernel *find(PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);
    const Kernel *found = text ? *slot(text) : NULL;
    if (text && !found)
        PyErr_SetObject(PyExc_KeyError, name);
    return found;
}

static PyObject *address(PyObject *module, PyObject *name) {
    const Kernel *found = find(name);
    return found ? PyLong_FromVoidPtr(found->address) : NULL;
}

static PyObject *cost(PyObject *module, PyObject *name) {
    const Kernel *found = find(name);
    return found ? PyLong_FromLong(found->cost) : NULL;
}

static PyObject *names(PyObject *module, PyObject *nothing) {
    PyObject *list = PyList_New(0);
    for (size_t u = 0; list && u < sizeof UNITS / sizeof UNITS[0]; u++)
        for (const Kernel *kernel = UNITS[u]; list && kernel->name; kernel++) {
            PyObject *name = PyUnicode_FromString(kernel->name);
            if (!name || PyList_Append(list, name))
                Py_CLEAR(list);
            Py_XDECREF(name);
        }
    return list;
}

static PyMethodDef METHODS[] = {
    {"address", address, METH_O, "Where the function of that name is, as an integer."},
    {"cost", cost, METH_O, "What a kernel costs per element, in additions."},
    {"names", names, METH_NOARGS, "The name of every function."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot MODULE_SLOTS[] = {
    {Py_mod_exec, (void *)enter_units},
#if defined(Py_mod_gil)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "tiles",       .m_doc = "The kernels of one level of the processor, by name.",
    .m_methods = METHODS,  .m_slots = MODULE_SLOTS,
};

PyMODINIT_FUNC PyInit_tiles(void) { return PyModuleDef_Init(&MODULE); }
