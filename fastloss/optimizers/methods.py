"""The optimizers that can do more than a step."""

from ..api.methods import Averages, TakesHessian
from . import schedule_free, second_order


class Sophia(TakesHessian, second_order.Sophia):  # type: ignore[misc, valid-type]
    __doc__ = second_order.Sophia.__doc__
    # Under the name that its errors give.
    mean = type("Sophia.update_hessian", (second_order.RunningMean,), {})


class ScheduleFreeSGD(Averages, schedule_free.ScheduleFreeSGD):  # type: ignore[misc, valid-type]
    __doc__ = schedule_free.ScheduleFreeSGD.__doc__


class ScheduleFreeAdamW(Averages, schedule_free.ScheduleFreeAdamW):  # type: ignore[misc, valid-type]
    __doc__ = schedule_free.ScheduleFreeAdamW.__doc__
