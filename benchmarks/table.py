"""The table that a benchmark prints: times of fastloss and of a peer, their ratio, and the bar."""

from dataclasses import dataclass

from timing import show_time


@dataclass(frozen=True)
class Bar:
    """What a row is to reach: a ratio at least, a time at most, or both."""

    ratio: float | None = None
    seconds: float | None = None

    def __str__(self):
        ratio = f">= {self.ratio:g}x" if self.ratio else ""
        seconds = f"<= {show_time(self.seconds)}" if self.seconds else ""
        return ", ".join(filter(None, (ratio, seconds)))

    def is_met(self, seconds, ratio):
        return (self.ratio is None or ratio >= self.ratio) and (self.seconds is None or seconds <= self.seconds)


NO_BAR = Bar()


class Table:
    def __init__(self):
        self.missed = 0
        print(f"{'':60} {'fastloss':>9} {'best':>9} {'peer':>9} {'best':>9}  ratio {'[quartiles]':15} of best")

    def row(self, name, ours, peer=None, bar=NO_BAR):
        """`ours` and `peer` are Times."""
        line, ratio = f"{name:60} {ours}", None
        if peer:
            low, middle, high = peer.over(ours)
            of_best = peer.best / ours.best
            ratio = min(middle, of_best)
            line += f" {peer} {middle:6.2f} {f'[{low:.2f} {high:.2f}]':15} {of_best:7.2f}"
        self.end(line, None if bar == NO_BAR else bar.is_met(ours.median, ratio), str(bar))

    def end(self, line, met=None, bar=""):
        self.missed += met is False
        mark = {None: "", True: "pass", False: "MISS"}[met]
        print(f"{line:132} {bar:16} {mark}".rstrip(), flush=True)
