"""What Numba must know so that `@njit` code may say `fl.huber.jit.value(...)`: objects without contents, whose attributes are known."""

from numba import typeof, types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, lower_getattr_generic, models, register_model


class ObjectType(types.Dummy):
    """The type of one Python object; `names` says which of its attributes compiled code may mention."""

    def __init__(self, instance, names):
        self.instance, self.names = instance, names
        super().__init__(f"{type(instance).__name__}({instance!r}, {id(instance)})")


@register_model(ObjectType)
class _Model(models.OpaqueModel):
    pass


@infer_getattr
class _Attributes(AttributeTemplate):
    key = ObjectType

    def generic_resolve(self, typ, attr):
        return typeof(getattr(typ.instance, attr)) if attr in typ.names else None


@lower_getattr_generic(ObjectType)
def _attribute(context, builder, typ, value, attr):
    # A function or another such object: known by its type alone.
    return cgutils.get_null_value(context.get_value_type(typeof(getattr(typ.instance, attr))))
