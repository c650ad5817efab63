cpdef int replace(list changes) except -1
