"""Does the searched choice follow the table? Decode against prefill, and a CPU's table against an A100's.

    python -m benchmarks.choices --json

Before anything is searched, a rule that sees tables only (`rule`) says in which direction the choice must differ
between two settings (a device under a workload): a larger or smaller share of the weights at each precision, more or
fewer blocks, wider or narrower axes. Then the exact knapsack over SmolLM2-135M's measured damages picks a subnet for
every setting at equal relative budgets, shares of the setting's own fastest model of one precision. Counted is how many
of the directions come out. For a spread the same is done with prices drawn from the table's own intervals, and by
strategies on replays in which damages compound in a made-up way, one a seed.

What makes settings comparable, and what that leaves out:

- Linears only are priced, on both devices. The A100's published table has no attention of SmolLM2's heads and no norms,
  so what a whole forward call takes there is not known. `linears` is their part of a CPU's call; rows `all ops` show
  the CPU's choices with everything priced.
- Precisions are matched by what they store, not by kernel (`setting.CLASSES`), as no device has another's kernels.
- All settings share the damages that were measured at the CPU's precisions, so that a choice can differ for the table's
  sake alone. Rows `own damages` have those of the A100's own precisions (`--measure`), whose 4 bits have one scale a
  channel.
- Two-bit weights are left out: the A100's table has none.
- Most of SmolLM2's sizes lie between the A100 table's cells (`prices`): they are predicted by the contender that won on
  held-out shapes; what of its contests does not ship takes minutes once and is kept under `--out`. Widths below its
  smallest cell are extrapolated.
- At one sequence a linear of this size takes the A100 little more than its launch. `x64` is prefill of 64 prompts at
  once, as a GPU is used.
"""
