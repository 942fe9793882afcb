"""Does deciding architecture and precision together beat deciding them in turn, at the same measured latency?

Stages, each resumable and free to run on another machine with the same folder (see `__main__`):

    prepare  ->  input/        here: token ids, questions, the latency table, budgets
    search   ->  found/        CPU or GPU: a ladder of subnets for every method, budget and seed
    measure  ->  measured/     here: which rung of each ladder holds its budget as measured
    distil   ->  quality/      CPU or GPU: those, distilled with equal tokens and judged
    report   ->  a table, figures with paired intervals, and the results with their provenance
"""
