# Memory that a call needs while it runs, from the heap: threads may have a stack of 64 KiB. It is taken before anything is written.

cdef enum:
    # So much is kept for the next calls, in pieces of this size at most.
    KEPT = 2
    KEPT_BYTES = 1 << 18

cdef struct Scratch:
    char* memory
    size_t size
    # For all threads of the call, and `room` bytes for each of them.
    char* shared
    char* each
    size_t room
    int threads

cdef char* kept_memory[KEPT]
cdef size_t[KEPT] kept_size
kept_size[0] = kept_size[1] = 0
# Below this much work, waking a second thread costs more than it saves.
cdef double SERIAL_NS = 50e3


cdef inline size_t whole_lines(size_t size) noexcept nogil:
    return (size + 63) // 64 * 64


cdef inline char* aligned(char* scratch) noexcept nogil:
    return scratch + (64 - <uintptr_t>scratch % 64) % 64


cdef inline char* carve(char** rest, size_t size) noexcept nogil:
    """The next `size` bytes, from a cache line's start."""
    cdef char* taken = rest[0]
    rest[0] += whole_lines(size)
    return taken


cdef int take_scratch(Scratch* scratch, size_t shared, size_t room, Py_ssize_t chunks, double nanoseconds) except -1:
    """Choose the threads for so much work, and take memory for them."""
    cdef int k
    scratch.threads = 1
    if nanoseconds > SERIAL_NS and chunks > 1:
        scratch.threads = <int>min(<Py_ssize_t>fastloss_get_num_threads(), chunks)
    shared = whole_lines(shared)
    scratch.room = whole_lines(room)
    scratch.size = shared + scratch.threads * scratch.room + 64
    scratch.memory = NULL
    for k in range(KEPT):
        if scratch.size <= kept_size[k]:
            scratch.memory, scratch.size = kept_memory[k], kept_size[k]
            kept_size[k] = 0
            break
    if scratch.memory == NULL:
        scratch.memory = <char*>PyMem_RawMalloc(scratch.size)
        if scratch.memory == NULL:
            raise MemoryError()
    scratch.shared = aligned(scratch.memory)
    scratch.each = scratch.shared + shared
    return 0


cdef void return_scratch(Scratch* scratch) noexcept:
    cdef int k
    for k in range(KEPT):
        if kept_size[k] == 0 and scratch.size <= KEPT_BYTES:
            kept_memory[k], kept_size[k] = scratch.memory, scratch.size
            return
    # Large pieces serve more calls than small ones.
    for k in range(KEPT):
        if kept_size[k] < scratch.size <= KEPT_BYTES:
            PyMem_RawFree(kept_memory[k])
            kept_memory[k], kept_size[k] = scratch.memory, scratch.size
            return
    PyMem_RawFree(scratch.memory)


cdef int ask_for_signals(void* context) noexcept nogil:
    with gil:
        return PyErr_CheckSignals()


cdef int run_chunks(fastloss_work work, void* job, Py_ssize_t chunks, const Scratch* scratch) except -1:
    """Run all chunks, on the threads that the scratch memory was taken for."""
    cdef int stopped
    if chunks == 1:
        work(job, 0, scratch.each)
    elif chunks:
        with nogil:
            stopped = fastloss_run(work, ask_for_signals, job, chunks, scratch.threads, scratch.each, scratch.room)
        if stopped:
            return -1
    return 0
