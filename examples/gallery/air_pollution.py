"""
Air pollution: twenty species, written as reactions
===================================================

The chemistry of smog over a city, as Verwer modelled it: twenty-five reactions, whose rates differ
by fifteen orders of magnitude. The right-hand side is made from the list of reactions, as a
chemist writes it down.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk

REACTIONS = """
0.35     NO2 -> NO + O3P            ; 26.6     NO + O3 -> NO2
1.23e4   HO2 + NO -> NO2 + OH       ; 8.6e-4   HCHO -> HO2 + HO2 + CO
8.2e-4   HCHO -> CO                 ; 1.5e4    HCHO + OH -> HO2 + CO
1.3e-4   ALD -> MEO2 + HO2 + CO     ; 2.4e4    ALD + OH -> C2O3
1.65e4   C2O3 + NO -> NO2 + MEO2 + CO2 ; 9e3   C2O3 + NO2 -> PAN
2.2e-2   PAN -> C2O3 + NO2          ; 1.2e4    MEO2 + NO -> CH3O + NO2
1.88     CH3O -> HCHO + HO2         ; 1.63e4   NO2 + OH -> HNO3
4.8e6    O3P -> O3                  ; 3.5e-4   O3 -> O1D
1.75e-2  O3 -> O3P                  ; 1e8      O1D -> OH + OH
4.44e11  O1D -> O3P                 ; 1.24e3   SO2 + OH -> SO4 + HO2
2.1      NO3 -> NO                  ; 5.78     NO3 -> NO2 + O3P
4.74e-2  NO2 + O3 -> NO3            ; 1.78e3   NO3 + NO2 -> N2O5
3.12     N2O5 -> NO3 + NO2
"""

# %%
# Each reaction takes one of each species on its left, and makes those on its right, at a rate that
# is the product of the concentrations on the left.

reactions = [line.split(maxsplit=1) for line in REACTIONS.replace(";", "\n").strip().splitlines()]
rates = np.array([float(rate) for rate, _ in reactions])
sides = [[side.split(" + ") for side in text.strip().split(" -> ")] for _, text in reactions]
species = list(dict.fromkeys(name for left, right in sides for name in left + right))
taken = np.zeros((len(species), len(sides)), dtype=int)
made = np.zeros_like(taken)
for j, (left, right) in enumerate(sides):
    for table, names in ((taken, left), (made, right)):
        for name in names:
            table[species.index(name), j] += 1


def chemistry(t, y):
    """Return the slopes of all concentrations."""
    return (made - taken) @ (rates * np.prod(np.where(taken > 0, y[:, None], 1.0), axis=0))


# %%

start = {"NO": 0.2, "O3": 0.04, "HCHO": 0.1, "CO": 0.3, "ALD": 0.01, "SO2": 0.007}
y0 = np.array([start.get(name, 0.0) for name in species])
solution = sk.solve(chemistry, (0.0, 60.0), y0, "rodas5p", rtol=1e-7, atol=1e-12, dense=True)
print(solution.message, solution.stats)
print("NO2 after an hour:", solution.y[-1, species.index("NO2")], "- published: 0.05646255480")

# %%
# Ozone is made while nitric oxide lasts; PAN, which makes the eyes water, comes with it.

t = np.logspace(-6, np.log10(60), 400)
y = solution(t)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for name in ("NO", "NO2", "O3", "HCHO", "PAN"):
    left.plot(t, y[:, species.index(name)], label=name)
left.set(xlabel="minutes", title="ppm")
left.legend()
for name in ("OH", "HO2", "O3P", "NO3", "O1D"):
    right.loglog(t, np.maximum(y[:, species.index(name)], 1e-20), label=name)
right.set(xlabel="minutes", title="radicals, ppm")
right.legend()
plt.show()
