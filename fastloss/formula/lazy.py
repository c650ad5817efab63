"""Attributes that are computed when first asked for."""


class lazy:
    """As `functools.cached_property`, which in Python 3.11 holds a lock meanwhile: a child forked then would wait for it for ever."""

    def __init__(self, function):
        self.function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        # What is found in the instance is not asked of the class again.
        value = vars(instance)[self.name] = self.function(instance)
        return value
