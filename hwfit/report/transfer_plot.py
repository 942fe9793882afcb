"""The calibration curve as a picture: regret against measurements, one line a regime of rows."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hwfit.latency_models.transfer import REGRET
from hwfit.latency_models.transfer_curve import Transfer

STYLES = {
    "m1": ("#0b5394", "o", "1 row"),
    "m2_32": ("#b45f06", "s", "2–32 rows"),
    "m33": ("#38761d", "^", "33 rows and more"),
}


def transfer_png(found: Transfer) -> bytes:
    """Mean regret in %, log scale, with the smallest and largest of the draws; the same curve gives the same bytes."""
    figure = Figure(figsize=(7, 4.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    at = list(range(len(found.points)))
    for i, regime in enumerate(r.regime for r in found.points[0].regimes):
        colour, marker, label = STYLES[regime]
        draws = [[100 * draw[i].regret for draw in point.draws] for point in found.points]
        means = [sum(d) / len(d) for d in draws]
        axes.plot(at, means, color=colour, marker=marker, label=label)
        axes.fill_between(at, [min(d) for d in draws], [max(d) for d in draws], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * REGRET, color="#666666", linestyle="--", linewidth=1, label=f"holds below {REGRET:.0%}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.yaxis.set_minor_formatter("{x:g} %")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.set_xticks(at, [str(point.shots) for point in found.points])
    axes.set_xlabel(f"cells measured on {found.b}")
    axes.set_ylabel("time lost by the chosen precision")
    axes.set_title(f"Decisions made with the table of {found.a}: {found.verdict}", fontsize=9, wrap=True)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
