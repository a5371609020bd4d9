"""Published constants, to predict with and to test against.

Their N is counted as `paper` in `sparsedc.law.counts`.
"""

import math

#: The law of "When Data Is Scarce" (ICML 2026, arXiv 2606.01155), fitted by its authors in four stages to 500 runs of
#: LLaMA-style models on C4. From the released notebook (github.com/boqian333/sparse-dc-scaling at 94414a8,
#: fitting/fitting.ipynb), which states a = ln A, b = ln B, e = ln E.
WHEN_DATA_IS_SCARCE: dict[str, float] = {
    "E": math.exp(0.8535501324918354),
    "A": math.exp(5.240737178917673),
    "B": math.exp(6.103030891809012),
    "alpha": 0.3268217718148829,
    "epsilon": -0.009680437509279435,
    "mu": 0.8466179337054532,
    "c": -0.2728893199074849,
    "gamma1": 11.087637121468322,
    "gamma2": 4.404748822323469,
    "c11": 1.9039562899771467,
    "c21": 2.79909312658146,
    "c12": 1.8213812238803706,
    "c22": 1.3653091691735397,
}

#: form → published constants of it
PUBLISHED: dict[str, dict[str, float]] = {"sparse": WHEN_DATA_IS_SCARCE}
