"""Evolutionary: NSGA-II (Deb et al. 2002, pymoo's) on loss and share of the limits, one gene a choice."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwfit.search.discretise import Problem
from hwfit.search.strategies.base import Plan, Planned, used
from hwfit.search.strategies.draws import fitting, shrunk
from hwfit.search.strategies.genome import Genome

POPULATION = (8, 32)
GENERATIONS = 24
"""A population is so large that there are about this many generations, within these sizes."""
DRAWN = 4
"""One evaluation in so many is of random draws, the best of which are the first generation."""
USED = 0.95
"""Share of a limit below which using less gains nothing: there the front ends."""


class Evolutionary(Planned):
    guided = False
    needs = "pymoo"
    paced = True

    def plan(self) -> Plan:
        problem = self.problem()
        rng = random.Random(f"{self.seed} {sorted(self.limits.items())}")
        low, high = POPULATION
        population = min(high, max(low, self.evaluations // GENERATIONS))
        drawn = [fitting(problem, rng) for _ in range(max(population, self.evaluations // DRAWN))]
        yield drawn
        told = sorted(self.told.items(), key=lambda told: told[1].loss)
        first = [p for p, s in told if s.meets(self.limits)][:population]
        genome = Genome(problem.space)
        algorithm = _nsga2(problem, genome, np.array([genome.encode(p) for p in first]), rng, self.seed)
        while True:
            offspring = algorithm.ask()
            if offspring is None or not len(offspring):
                return
            picks = [genome.decode(codes) for codes in offspring.get("X")]
            scored = yield picks
            objectives = [(s.loss, max(USED, used(s.costs, self.limits))) for s in scored]
            _evaluate(algorithm, offspring, np.array(objectives))


def _nsga2(problem: Problem, genome: Genome, first: Any, rng: random.Random, seed: int) -> Any:
    from pymoo.algorithms.moo.nsga2 import NSGA2  # loads only when it is asked for
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem as Genes
    from pymoo.core.repair import Repair
    from pymoo.core.termination import NoTermination

    sizes = genome.sizes
    unit = np.empty(len(sizes), dtype=int)
    for i, genes in enumerate(genome.units):
        unit[genes] = i

    class Units(Crossover):
        """Each width, block and the LM head comes whole from either parent."""

        def _do(self, _, X, *args, random_state: Any = None, **kwargs):
            swap = (random_state.random((X.shape[1], len(genome.units))) < 0.5)[:, unit]
            return np.where(swap, X[::-1], X)

    class Step(Mutation):
        """A width one step up or down, or one precision for one linear, a block's or all of a kind; once or twice."""

        def _do(self, problem, X, *args, random_state: Any = None, **kwargs):
            X = X.copy()
            for row in X:
                for _ in range(random_state.integers(1, 3)):
                    if random_state.random() < 0.5:
                        gene = random_state.integers(genome.widths)
                        row[gene] = np.clip(row[gene] + random_state.choice((-1, 1)), 0, sizes[gene] - 1)
                    else:
                        genes = genome.precisions[random_state.integers(len(genome.precisions))]
                        genes = genes if random_state.random() < 0.5 else random_state.choice(genes, 1)
                        row[genes] = random_state.integers(sizes[genes[0]])
            return X

    class Shrunk(Repair):
        """Offspring beyond the limits is shrunk at random until it meets them: costs are known, scores are dear."""

        def _do(self, _, X, **kwargs):
            return np.array([genome.encode(shrunk(genome.decode(codes), problem, rng)) for codes in X])

    operators: dict[str, Any] = {"crossover": Units(2, 2), "mutation": Step(), "repair": Shrunk()}
    algorithm = NSGA2(len(first), sampling=first, **operators, eliminate_duplicates=True)
    algorithm.setup(
        Genes(n_var=len(sizes), n_obj=2, xl=0, xu=sizes - 1, vtype=int), termination=NoTermination(), seed=seed
    )
    return algorithm


def _evaluate(algorithm: Any, offspring: Any, objectives: NDArray[np.float64]) -> None:
    from pymoo.core.evaluator import Evaluator
    from pymoo.problems.static import StaticProblem

    Evaluator().eval(StaticProblem(algorithm.problem, F=objectives), offspring)
    algorithm.tell(infills=offspring)
