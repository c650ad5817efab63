# How the tensors of a step are cut: into segments that lie together, gathered into tasks of about a chunk, each for one thread.

cdef struct TensorSegment:
    # Elements of a tensor that lie together in it and in its gradient, there `shift` elements earlier.
    Py_ssize_t update
    Py_ssize_t start
    Py_ssize_t stop
    Py_ssize_t shift
    # Whose numbers its kernel takes: a group's, a row's, or those of what its rule looks at as a whole.
    Py_ssize_t vector

cdef struct TensorSegments:
    # Gathered into tasks of about a chunk, the unit that a thread takes.
    TensorSegment* segments
    Py_ssize_t count
    Py_ssize_t room
    Py_ssize_t* tasks
    Py_ssize_t task_count
    Py_ssize_t filled
    Py_ssize_t elements
    # How many vectors of numbers they take.
    Py_ssize_t vectors


cdef int add_segment(TensorSegments* to, Py_ssize_t update, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t shift, Py_ssize_t vector) except -1:
    """Enter elements [start, stop) of a tensor, cut into chunks."""
    cdef Py_ssize_t end
    cdef void* memory
    while start < stop:
        end = min(start + CHUNK, stop)
        if to.count + 1 >= to.room:
            to.room = max(<Py_ssize_t>16, 2 * to.room)
            memory = PyMem_Realloc(to.segments, to.room * sizeof(TensorSegment))
            if memory == NULL:
                raise MemoryError()
            to.segments = <TensorSegment*>memory
            memory = PyMem_Realloc(to.tasks, to.room * sizeof(Py_ssize_t))
            if memory == NULL:
                raise MemoryError()
            to.tasks = <Py_ssize_t*>memory
        if to.task_count == 0 or to.filled >= CHUNK:
            to.tasks[to.task_count] = to.count
            to.task_count += 1
            to.filled = 0
        to.segments[to.count] = TensorSegment(update, start, end, shift, vector)
        to.count += 1
        to.tasks[to.task_count] = to.count
        to.filled += end - start
        to.elements += end - start
        start = end
    return 0


cdef void free_segments(TensorSegments* segments) noexcept:
    PyMem_Free(segments.segments)
    PyMem_Free(segments.tasks)
