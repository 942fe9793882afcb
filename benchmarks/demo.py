"""The front of a demo run: budgets kept, prediction errors, quality; makes the run first where there is none."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from benchmarks.common import parser, publish
from hwfit.demo import DemoSettings, run_demo
from hwfit.report.results import FILE, read_results
from hwfit.report.table import markdown


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a demo run, done or not")
    options = arguments.parse_args()
    if not (options.run / FILE).exists():
        run_demo(options.model, options.run, DemoSettings())
    results = read_results(options.run)
    print(markdown(results))
    rows = {row.name: row for row in results.rows}
    searched = [row for row in results.rows if row.kind == "joint"]
    figures = {
        f"{_slug(row.name)}.{what}": value
        for row in results.rows
        for what, value in (("decode_s", row.decode.measured), ("perplexity", row.perplexity))
    }
    figures |= {f"{_slug(r.name)}.over_budget": max(r.over_budget.values()) for r in searched}
    errors = [abs(row.decode.error) for row in results.rows if row.decode.error is not None]
    figures["decode.mape"] = fmean(errors)
    picked, sequential = results.picked, rows.get("sequential")
    if picked and sequential:
        figures["joint_over_sequential.perplexity"] = picked.perplexity / sequential.perplexity
        figures["joint_over_sequential.decode"] = picked.decode.measured / sequential.decode.measured
    figures["minutes"] = sum(stage.seconds for stage in results.stages) / 60
    publish("demo", figures, options.json)


def _slug(name: str) -> str:
    return name.replace(" ", "_").removesuffix("%")


if __name__ == "__main__":
    main()
